# usage: QUERN=build/quern bpw.sh        (by `make bench-bpw`)
# What choosing widths by measured losses is worth on the sample: mean KL against the source at several targets, beside
# one scheme for all. calibration.txt measures the losses and fits, evaluation.txt measures the result; 16,384 tokens of
# each, contexts of 256. The sample has three layers of experts besides MTP's, so that few mixtures exist; `split` lets
# down differ from gate and up, `all` is every linear layer but kv_b_proj.
set -eu
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fit="--text samples/text/calibration.txt --tokens 16384 --context 256"
evaluate="--text samples/text/evaluation.txt --tokens 16384 --context 256"

# recipe NAME MATCH GROUP
recipe() {
    printf '{"name": "%s", "rules": [{"match": "kv_b_proj", "scheme": "bf16"},
        {"match": %s, "scheme": "int4", "group": %s, "method": "ldlq"}, {"match": "*", "scheme": "bf16"}]}\n' \
        "$1" "$2" "$3" >"$scratch/$1.json"
}

# field OBJECT MEMBER, of the JSON on standard input
field() {
    awk -v object="\"$1\":" -v member="\"$2\":" '
        $1 == object { inside = 1 }
        inside && $1 == member { sub(/,$/, "", $2); print $2; exit }'
}

# show NAME RECIPE [OPTION ...]
show() {
    name=$1 recipe=$2
    shift 2
    rm -rf "$scratch/out"
    "$QUERN" quantize -q samples/tiny-v3 "$scratch/out" $fit --recipe "$scratch/$recipe.json" "$@" >"$scratch/log" 2>&1 ||
        { cat "$scratch/log"; exit 1; }
    "$QUERN" diff -q $evaluate --json samples/tiny-v3 "$scratch/out" >"$scratch/diff.json"
    printf '%-30s %-18s KL %.3e +- %.1e\n' "$name" "$(sed -n 's/^widths *\([0-9.]* bits\).*/\1/p' "$scratch/log")" \
        "$(field kl mean <"$scratch/diff.json")" "$(field kl standard_error <"$scratch/diff.json")"
}

"$QUERN" calibrate -q --losses $fit -o "$scratch/stats" samples/tiny-v3 >"$scratch/log"
experts='"routed_expert"'
all='["routed_expert", "shared_expert", "dense_mlp", "attention"]'
recipe experts "$experts" 128
recipe experts-g32 "$experts" 32
recipe all "$all" 128
recipe all-g32 "$all" 32
for what in experts all; do
    show "$what, int4 g128 (4.125)" "$what"
    show "$what, int4 g32 (4.5)" "$what-g32"
    for bits in 4.25 4.5 5 6; do
        show "$what, at $bits" "$what" --target-bpw $bits --stats "$scratch/stats"
        show "$what, split, at $bits" "$what" --target-bpw $bits --stats "$scratch/stats" --allow-unfused
    done
done
