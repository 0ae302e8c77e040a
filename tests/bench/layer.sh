# usage: QUERN=build/quern MAKE_CHECKPOINT=build/synthetic_checkpoint GEMM=build/bench/gemm layer.sh [DIR]
# (by `make bench-layer`)
# A layer of DeepSeek-V3's size, 256 experts, 11.5 GB, in DIR (build): 2,048 tokens through it, beside reading it and
# beside its FLOP at the rate of a product of the 64 tokens that an expert gets, on all CPUs.
# Both cold where the page cache may be dropped (root), which the first line says. Cleans up behind.
set -eu
dir=${1:-build}/bench-layer
trap 'rm -rf "$dir" "$dir.ids" "$dir.out" "$dir.log"' EXIT
drop() { sync; { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null || true; }
seconds() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f", b - a }'; }

[ -w /proc/sys/vm/drop_caches ] && echo "cold: the page cache is dropped before each" || echo "warm: not root"
rm -rf "$dir"
"$MAKE_CHECKPOINT" --layers 1 --dense 0 --experts 256 "$dir"
awk 'BEGIN { srand(3); for (s = 0; s < 8; s++) { for (i = 0; i < 256; i++) printf "%d ", int(rand() * 2000) + 1; print "" } }' >"$dir.ids"

drop
start=$(date +%s.%N)
cat "$dir"/*.safetensors >/dev/null
reading=$(seconds "$start" "$(date +%s.%N)")
drop
start=$(date +%s.%N)
"$QUERN" logits "$dir" --ids "$dir.ids" --memory 4G -o "$dir.out" 2>"$dir.log"
running=$(seconds "$start" "$(date +%s.%N)")
grep 'peak memory' "$dir.log"
rate=$("$GEMM" --rate 64)
awk -v a="$running" -v reading="$reading" -v rate="$rate" -v cpus="$(nproc)" 'BEGIN {
    tokens = 2048; context = 256
    expert = 3 * 7168 * 2048
    attention = 7168 * (1536 + 576) + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168
    pairs = context / 2 * 128 * (192 + 128)
    flop = tokens * 2 * (9 * expert + attention + pairs + 7168 * (256 + 2048))
    work = flop / rate / cpus
    bound = work > reading ? work : reading
    printf "2,048 tokens: %.1f s; reading alone %.1f s, %.2f TFLOP at %d x %.0f GFLOP/s %.1f s: %.2fx of the larger (goal 1.3x)\n",
        a, reading, flop / 1e12, cpus, rate / 1e9, work, a / bound
    printf "61 such layers: %.0f minutes\n", 61 * a / 60
}'
