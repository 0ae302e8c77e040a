# usage: QUERN=build/quern cli.sh [FILTER ...]      FILTER: a shell pattern held against the case's name
# The program as a user sees it. A case is a folder tests/cli/NAME:
#   cmd      run by sh in an empty folder; sees $QUERN, $SAMPLE (the shipped checkpoint), $TMP (that folder), $ROOT
#   stdout, stderr   what it must print (absent: nothing); status: how it must end (absent: 0)
# In what is expected, a line "~ REGEX" is a pattern for the whole line, and a line "..." stands for any lines.
# The values of $SAMPLE, $TMP and $ROOT are printed as those names. A cmd that exits 77 is a skip, and says why.
# ACCEPT=1 writes what was seen as what is expected: read the difference before you commit it.
set -u
ROOT=$(cd "$(dirname "$0")/.." && pwd -P)
case $QUERN in /*) ;; *) QUERN=$ROOT/$QUERN ;; esac
SAMPLE=$ROOT/samples/tiny-v3
export ROOT QUERN SAMPLE
unset QUERN_CPU
LC_ALL=C
export LC_ALL

scratch=$(cd "$(mktemp -d)" && pwd -P)
trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT
passed=0 failed=0 skipped=0

# matches EXPECTED ACTUAL
matches() {
    awk -v expected="$1" -v actual="$2" -f "$ROOT/tests/matches.awk"
}

# visible FILE: what it holds, with the machine taken out of it
visible() {
    sed -e "s|$SAMPLE|\$SAMPLE|g" -e "s|$TMP|\$TMP|g" -e "s|$ROOT|\$ROOT|g" "$1"
}

# check KIND: expected against seen
check() {
    expected=$case/$1
    [ -f "$expected" ] || expected=/dev/null
    matches "$expected" "$seen/$1" && return
    echo "  $1 differs (- expected, + seen):"
    diff -u "$expected" "$seen/$1" | sed -n '3,60s/^/    /p'
    ok=no
}

accept() {
    for kind in stdout stderr status; do
        rm -f "$case/$kind"
        [ ! -s "$seen/$kind" ] || cp "$seen/$kind" "$case/$kind"
    done
}

run() {
    case=$1
    name=${case##*/}
    TMP=$scratch/$name
    seen=$scratch/$name.seen
    export TMP
    mkdir -p "$TMP" "$seen"
    (cd "$TMP" && exec sh "$case/cmd") >"$seen/out" 2>"$seen/err" </dev/null
    status=$?
    visible "$seen/out" >"$seen/stdout"
    visible "$seen/err" >"$seen/stderr"
    : >"$seen/status"
    [ $status = 0 ] || echo $status >"$seen/status"
    if [ $status = 77 ]; then
        skipped=$((skipped + 1))
        echo "SKIPPED $name: $(cat "$seen/stdout" "$seen/stderr")"
        return
    fi
    [ -z "${ACCEPT:-}" ] || accept
    ok=yes
    problems=$(check stdout; check stderr; check status)
    [ -z "$problems" ] || ok=no
    if [ $ok = yes ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED %s\n%s\n' "$name" "$problems"
    fi
    chmod -R u+w "$TMP"
    rm -rf "$TMP" "$seen"
}

wanted() {
    [ $# = 1 ] && return
    name=$1
    shift
    for filter; do
        case $name in $filter) return ;; esac
    done
    return 1
}

for case in "$ROOT"/tests/cli/*/; do
    case=${case%/}
    if wanted "${case##*/}" "$@"; then run "$case"; fi
done

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
