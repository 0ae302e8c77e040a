# usage: demo.sh        (by `make demo`, which sets QUERN)
# The main job on the shipped sample, each command shown before it runs.
set -eu
cd "$(dirname "$0")/.."

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

mkdir -p build/demo
run "$QUERN" inspect samples/tiny-v3
run "$QUERN" quantize samples/tiny-v3 build/demo/tiny-v3-int4 --recipe int4-fast --force
run "$QUERN" inspect build/demo/tiny-v3-int4
run "$QUERN" diff --weights samples/tiny-v3 build/demo/tiny-v3-int4
