# usage: check.sh        (by `make check`, which sets QUERN, TEST_BIN, FAULTS, SHIM and OUT)
# Runs every kind of test and adds up. Each script's last line is "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/.."
mkdir -p "$OUT"
passed=0 failed=0 skipped=0

add() { passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3)); }

# Adds what the script's last line says; a script that ends otherwise has failed once.
script() {
    name=$1
    shift
    echo "== $name"
    "$@" >"$OUT/$name.log" 2>&1
    status=$?
    cat "$OUT/$name.log"
    counts=$(tail -n 1 "$OUT/$name.log" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p')
    case "$counts/$status" in
    ?*/0) add $counts ;;
    ?*' 0 '*/*) add $counts; add 0 1 0; echo "$name: ended with status $status" ;;
    ?*/*) add $counts ;;
    *) add 0 1 0; echo "$name: ended with status $status before it could count" ;;
    esac
}

# GoogleTest counts in its report; a crash leaves none.
unit() {
    report=$OUT/unit.xml
    rm -f "$report"
    "$TEST_BIN" --gtest_brief=1 --gtest_output=xml:"$report"
    status=$?
    if [ ! -s "$report" ]; then
        echo "unit: ended with status $status before it could report"
        echo "0 passed, 1 failed, 0 skipped"
        return
    fi
    awk '/<testcase / {
             all++
             if (/result="skipped"/) skipped++
             if (/status="notrun"/) skipped++
             in_case = 1
         }
         /<failure / && in_case { failed++; in_case = 0 }
         END { printf "%d passed, %d failed, %d skipped\n", all - failed - skipped, failed, skipped }' "$report"
    return $status
}

script layers sh tests/layers.sh
script unit unit
script cli sh tests/cli.sh
script docs sh tests/docs.sh
script completion bash tests/completion.sh
script faults env QUICK=1 "$FAULTS" "$QUERN" "$SHIM" samples/tiny-v3

echo "== all"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
