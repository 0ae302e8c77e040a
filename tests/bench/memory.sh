# usage: QUERN=build/quern MAKE_CHECKPOINT=build/synthetic_checkpoint memory.sh [DIR [SECONDS]]     (by `make bench-memory`)
# Peak memory of a calibrated run on a layer of DeepSeek-V3's size, 256 experts of hidden 7168, 11.5 GB, in DIR (build):
# int4, 32,768 tokens in contexts of 2,048, --memory 6G. The whole layer takes an hour of two cores, so that the run is
# stopped after SECONDS (600): all that it holds is there before the first expert. Cleans up behind.
set -eu
dir=${1:-build}/bench-memory
seconds=${2:-600}
trap 'rm -rf "$dir" "$dir.ids" "$dir.out" "$dir.log" "$dir.peak"' EXIT

rm -rf "$dir" "$dir.out"
"$MAKE_CHECKPOINT" --layers 1 --dense 0 --experts 256 "$dir"
awk 'BEGIN { srand(3); for (s = 0; s < 16; s++) { for (i = 0; i < 2048; i++) printf "%d ", int(rand() * 2000) + 1; print "" } }' >"$dir.ids"
calibrate() { # in a shell of its own, and instead of it: the process that is looked at is quern
    exec "$QUERN" quantize -q --recipe int4 --ids "$dir.ids" --tokens 32768 --context 2048 --memory 6G --no-fingerprint "$@" "$dir" "$dir.out"
}
calibrate --dry-run | grep '^model'
calibrate >"$dir.log" 2>&1 &
run=$!
begin=$(date +%s)
peak=0
while kill -0 $run 2>/dev/null && [ $(($(date +%s) - begin)) -lt "$seconds" ]; do
    sleep 5
    now=$(awk '/^VmHWM/ { print $2 }' /proc/$run/status 2>/dev/null || true)
    [ -z "$now" ] || peak=$now
    cpu=$(awk '{ print ($14 + $15) / 100 }' /proc/$run/stat 2>/dev/null || true)
done
kill $run 2>/dev/null || true
wait $run || true
grep -v interrupted "$dir.log" || true
echo "$peak" "$(($(date +%s) - begin))" "${cpu:-0}" | awk '{
    printf "peak resident %.2f GiB of 6, after %d s and %.0f s of CPU\n", $1 / 1048576, $2, $3
    exit $1 > 6 * 1048576
}'
