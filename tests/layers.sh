# usage: layers.sh [ROOT]
# The tree's arrows. Includes point one way, formats/base <- formats <- quant <- verify <- convert; each is written
# from the root; file names are unique; each package has one door. Then the same check over a tree with one planted
# violation of each kind, because a check that cannot fail checks nothing.
set -u

# Prints "file:line: what is wrong" for each violation under $1.
violations() (
    cd "$1" || exit
    find formats quant verify convert samples tests -type f \( -name '*.c' -o -name '*.h' -o -name '*.cc' \) 2>/dev/null |
        LC_ALL=C sort >"$scratch/files"
    awk '
    function rank(path) {
        if (path ~ /^formats\/base\//) return 0
        if (path ~ /^formats\//) return 1
        if (path ~ /^quant\//) return 2
        if (path ~ /^verify\//) return 3
        if (path ~ /^convert\//) return 4
        return 5 # tests and samples see everything; nothing sees them
    }
    function say(what) { printf "%s:%d: %s\n", file, line, what }
    function door(prefix, allowed) {
        if (index(name, prefix) == 1 && file !~ allowed) say("<" name "> has its door elsewhere: " allowed)
    }
    function look(text) {
        if (text !~ /^[ \t]*#[ \t]*include[ \t]*["<]/) return
        quoted = text ~ /include[ \t]*"/
        name = text
        sub(/^[^"<]*["<]/, "", name)
        sub(/[">].*$/, "", name)
        if (!quoted) {
            door("openssl/", "^formats/base/hash[.]c$")
            door("zlib.h", "^formats/base/gzip[.]c$")
            door("cjson/", "^formats/json[a-z_]*[.]c$")
            door("cJSON", "^formats/json[a-z_]*[.]c$")
            door("onig", "^formats/base/pattern[.]c$")
            door("gtest/", "^tests/ct[.]cc$")
            door("gmock/", "^$")
            if (name in known) say("<" name "> is ours: write it in quotes")
            return
        }
        if (!(name in known)) {
            say("\"" name "\" is not a file seen from the root")
            return
        }
        if (rank(name) > rank(file)) say("\"" name "\" is above this folder")
        if (name == "verify/commands.h" && file ~ /^convert\// && file != "convert/main.c")
            say("\"" name "\" is for convert/main.c alone")
    }
    {
        known[$0] = 1
        order[++count] = $0
        base = $0
        sub(/.*\//, "", base)
        if (base == "commands.h") next # one for each folder that has commands
        if (base in first) printf "%s:1: there is a %s already\n", $0, first[base]
        else first[base] = $0
    }
    END {
        for (i = 1; i <= count; i++) {
            file = order[i]
            line = 0
            while ((getline text < file) > 0) { line++; look(text) }
            close(file)
        }
    }' "$scratch/files"
)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0

root=${1:-$(dirname "$0")/..}
violations "$root" >"$scratch/found"
if [ -s "$scratch/found" ]; then
    cat "$scratch/found"
    failed=1
else
    passed=1
fi

# plant FILE INCLUDE WANTED: FILE with that one include must be refused with WANTED.
plant() {
    tree=$scratch/tree
    rm -rf "$tree"
    mkdir -p "$tree/formats/base" "$tree/quant" "$tree/verify" "$tree/convert" "$tree/tests" "$tree/samples"
    for header in formats/base/err.h formats/arch.h quant/kernel.h verify/report.h verify/commands.h convert/plan.h tests/ct.h; do
        : >"$tree/$header"
    done
    printf '#include "formats/base/err.h"\n' >"$tree/formats/arch.c"
    [ -z "$(violations "$tree")" ] || wrong="$wrong [refuses a clean tree]"
    printf '/* line 1 */\n#include %s\n' "$2" >"$tree/$1"
    case $(violations "$tree") in
    "$1:$3"*) ;;
    *) wrong="$wrong [$1: $2]" ;;
    esac
}
wrong=
plant formats/base/a.c '"formats/arch.h"' '2: "formats/arch.h" is above'
plant formats/a.c '"quant/kernel.h"' '2: "quant/kernel.h" is above'
plant quant/a.c '"verify/report.h"' '2: "verify/report.h" is above'
plant verify/a.c '"convert/plan.h"' '2: "convert/plan.h" is above'
plant convert/a.c '"tests/ct.h"' '2: "tests/ct.h" is above'
plant convert/a.c '"verify/commands.h"' '2: "verify/commands.h" is for'
plant formats/a.c '"arch.h"' '2: "arch.h" is not a file'
plant formats/a.c '"base/err.h"' '2: "base/err.h" is not a file'
plant formats/a.c '<formats/base/err.h>' '2: <formats/base/err.h> is ours'
plant quant/arch.c '"formats/arch.h"' '1: there is a formats/arch.c'
plant quant/a.c '<openssl/evp.h>' '2: <openssl/evp.h> has its door'
plant formats/a.c '<zlib.h>' '2: <zlib.h> has its door'
plant formats/a.c '<cjson/cJSON.h>' '2: <cjson/cJSON.h> has its door'
plant formats/a.c '<oniguruma.h>' '2: <oniguruma.h> has its door'
plant tests/a_test.cc '<gtest/gtest.h>' '2: <gtest/gtest.h> has its door'
if [ -n "$wrong" ]; then
    echo "layers: planted, and not found:$wrong"
    failed=$((failed + 1))
else
    passed=$((passed + 1))
fi

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
