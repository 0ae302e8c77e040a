# usage: QUERN=build/quern quality.sh        (by `make bench-quality`)
# What calibration is worth on the sample: mean KL of each method against the source, as ratios, and the paired
# differences with their standard errors; "stats" is the search by statistics in place of a text; for FP8 the errors of
# layers too. calibration.txt fits, evaluation.txt measures, contexts of 256, the length that the sample was trained
# with.
set -eu
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
evaluate="--text samples/text/evaluation.txt --tokens 16384 --context 256"

# recipe NAME MATCH METHOD
recipe() {
    printf '{"name": "%s", "rules": [{"match": "kv_b_proj", "scheme": "bf16"},
        {"match": %s, "scheme": "int4", "group": 128, "method": "%s"}, {"match": "*", "scheme": "bf16"}]}\n' \
        "$1" "$2" "$3" >"$scratch/$1.json"
}

# fp8 NAME MATCH METHOD: power-of-two scales from the sample's own, which are none
fp8() {
    printf '{"name": "%s", "rules": [{"match": %s, "scheme": "fp8-ue8m0", "method": "%s"},
        {"match": "*", "scheme": "keep"}]}\n' "$1" "$2" "$3" >"$scratch/$1.json"
}

# bundle NAME TOKENS
bundle() {
    "$QUERN" quantize -q --allow-unfused samples/tiny-v3 "$scratch/$1-$2" --recipe "$scratch/$1.json" \
        --text samples/text/calibration.txt --tokens "$2" --context 256 >"$scratch/log"
}

# by_statistics RECIPE TOKENS
by_statistics() {
    [ -e "$scratch/statistics-$2" ] || "$QUERN" calibrate -q samples/tiny-v3 -o "$scratch/statistics-$2" \
        --text samples/text/calibration.txt --tokens "$2" --context 256 >"$scratch/log"
    "$QUERN" quantize -q --allow-unfused samples/tiny-v3 "$scratch/stats-$1-$2" --recipe "$scratch/$1.json" \
        --stats "$scratch/statistics-$2" >"$scratch/log"
}

# field OBJECT MEMBER, of the JSON on standard input
field() {
    awk -v object="\"$1\":" -v member="\"$2\":" '
        $1 == object { inside = 1 }
        inside && $1 == member { sub(/,$/, "", $2); print $2; exit }'
}

# compare NAME OTHER BAR
compare() {
    "$QUERN" diff -q $evaluate --json --paired "$scratch/$2" samples/tiny-v3 "$scratch/$1" >"$scratch/pair.json"
    a=$(field kl mean <"$scratch/pair.json")
    difference=$(field kl_difference mean <"$scratch/pair.json")
    error=$(field kl_difference standard_error <"$scratch/pair.json")
    awk -v name="$1" -v other="$2" -v a="$a" -v d="$difference" -v e="$error" -v bar="$3" 'BEGIN {
        b = a - d
        printf "%-20s KL %.3e, %-20s %.3e: %.3fx, paired difference %.2e +- %.2e (goal %sx)\n", name, a, other, b,
            a / b, d, e, bar
    }'
}

# layers NAME OTHER BAR, of the last compare: squared errors of what a layer adds, its input being the source's
layers() {
    awk -v name="$1" -v other="$2" -v bar="$3" '
        /"local_error":/ { sub(/.*"local_error":/, ""); sub(/,.*/, ""); error[n++] = $0 * $0 }
        END {
            for (i = 0; i < n / 2; i++) {
                a += error[i]
                b += error[n / 2 + i]
                each = each sprintf(" %.3f", error[i] / error[n / 2 + i])
            }
            printf "%-20s layer output error, squared, against %s: %.3fx (goal %sx), by layer%s\n", name, other,
                a / b, bar, each
        }' "$scratch/pair.json"
}

experts='"routed_expert"'
all='["routed_expert", "shared_expert", "dense_mlp", "attention"]'
for method in absmax search gptq ldlq; do
    recipe "$method" "$experts" "$method"
    recipe "all-$method" "$all" "$method"
done
for tokens in 16384 2048; do
    for method in absmax search gptq ldlq; do bundle "$method" $tokens; done
done
for method in absmax search gptq ldlq; do bundle "all-$method" 16384; done
for tokens in 16384 2048; do by_statistics search $tokens; done
by_statistics all-search 16384

echo "routed experts int4 g128, 16,384 calibration tokens"
compare ldlq-16384 absmax-16384 0.50
compare ldlq-16384 gptq-16384 0.85
compare ldlq-16384 search-16384 -
compare stats-search-16384 search-16384 1
compare ldlq-16384 stats-search-16384 1
echo "the same, 2,048 calibration tokens"
compare ldlq-2048 absmax-2048 0.57
compare ldlq-2048 gptq-2048 0.78
compare stats-search-2048 search-2048 -
echo "all linear layers but kv_b_proj int4 g128, 16,384 calibration tokens"
compare all-ldlq-16384 all-absmax-16384 0.55
compare all-ldlq-16384 all-gptq-16384 -
compare stats-all-search-16384 all-search-16384 -

residual='["q_a_proj", "kv_a_proj", "dense_gate", "dense_up", "shared_gate", "shared_up", "expert_gate", "expert_up"]'
for method in absmax ldlq; do
    fp8 "fp8-$method" '"*"' "$method"
    fp8 "residual-$method" "$residual" "$method"
    bundle "fp8-$method" 16384
    bundle "residual-$method" 16384
done
echo "FP8 to power-of-two scales, 16,384 calibration tokens: linear layers whose input is the residual stream"
compare residual-ldlq-16384 residual-absmax-16384 -
layers residual-ldlq-16384 residual-absmax-16384 0.50
echo "all linear layers"
compare fp8-ldlq-16384 fp8-absmax-16384 -
layers fp8-ldlq-16384 fp8-absmax-16384 -
