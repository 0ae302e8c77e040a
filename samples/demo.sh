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
run "$QUERN" quantize samples/tiny-v3 build/demo/tiny-v3-int4 --recipe int4 \
    --text samples/text/calibration.txt --tokens 16384 --context 256 --force
run "$QUERN" verify build/demo/tiny-v3-int4 --source samples/tiny-v3
run "$QUERN" diff samples/tiny-v3 build/demo/tiny-v3-int4 \
    --text samples/text/evaluation.txt --tokens 4096 --context 256 --html build/demo/diff.html
echo
echo "The same report as a page: build/demo/diff.html"
