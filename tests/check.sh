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

# As many processes as CPUs, up to 8, each with its share of the tests; its report counts them, and a crash leaves none.
unit() {
    shards=$(nproc)
    [ "$shards" -le 8 ] || shards=8
    status=0 pids=
    rm -f "$OUT"/unit.*.xml
    for i in $(seq 0 $((shards - 1))); do
        GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$i \
            "$TEST_BIN" --gtest_brief=1 --gtest_output=xml:"$OUT/unit.$i.xml" >"$OUT/unit.$i.log" 2>&1 &
        pids="$pids $!"
    done
    for pid in $pids; do
        wait "$pid" || status=$?
    done
    for i in $(seq 0 $((shards - 1))); do
        cat "$OUT/unit.$i.log"
        [ -s "$OUT/unit.$i.xml" ] && continue
        echo "unit: ended with status $status before it could report"
        echo "0 passed, 1 failed, 0 skipped"
        return
    done
    awk '/<testcase / {
             in_case = /status="run"/
             all += in_case
             if (/result="skipped"/) skipped++
         }
         /<failure / && in_case { failed++; in_case = 0 }
         END { printf "%d passed, %d failed, %d skipped\n", all - failed - skipped, failed, skipped }' "$OUT"/unit.*.xml
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
