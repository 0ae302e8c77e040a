# usage: QUERN=build/quern docs.sh
# What the program says of itself and what the manual says are the same: the options of each command, its one-line
# summary, the built-in recipes. And the manual is well-formed.
set -u
cd "$(dirname "$0")/.."
passed=0 failed=0

# result NAME PROBLEMS
result() {
    if [ -n "$2" ]; then
        failed=$((failed + 1))
        printf 'FAILED %s\n%s\n' "$1" "$2"
    else
        passed=$((passed + 1))
    fi
}

# "-n --threads", one row of --help a line, sorted
help_options() {
    "$QUERN" "$1" --help |
        sed -n 's/^  \(-.\), --\([a-z][a-z0-9-]*\).*/\1 --\2/p; s/^      --\([a-z][a-z0-9-]*\).*/--\1/p' | sort
}

# The same from the items of the page's option list: .It Fl n , Fl -threads Ar N
man_options() {
    sed -n 's/^\.It Fl \(.\) , Fl -\([a-z][a-z0-9-]*\).*/-\1 --\2/p; s/^\.It Fl -\([a-z][a-z0-9-]*\).*/--\1/p' "$1" | sort
}

# differ WHERE-A A WHERE-B B: the lines that only one has
differ() {
    printf '%s\n%s\n' "$2" "$4" | sed '/^$/d' | sort | uniq -u | while read -r line; do
        case "
$2
" in
        *"
$line
"*) echo "  only in $1: $line" ;;
        *) echo "  only in $3: $line" ;;
        esac
    done
}

commands=$("$QUERN" help | sed -n '/^commands:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p')
result "quern help names commands" "$([ -n "$commands" ] || echo "  none")"

for command in $commands; do
    page=man/quern-$command.1
    if [ ! -f "$page" ]; then
        result "$command has a page" "  $page is missing"
        continue
    fi
    result "$command: --help and $page list the same options" \
        "$(differ --help "$(help_options "$command")" "$page" "$(man_options "$page")")"
    summary=$("$QUERN" help | sed -n "s/^  $command  *//p")
    result "$command: one summary" "$(differ "quern help" "$summary" "$page" "$(sed -n 's/^\.Nd //p' "$page")")"
    result "$command is in quern(1)" "$(grep -q "^\.It .*Xr quern-$command 1" man/quern.1 || echo "  it is not")"
done

# The built-in recipes, as the rows of their table.
recipes=$(sed -n '/ builtins\[\] = {/,/^};/s/^    {"\([a-zA-Z0-9_-]*\)",.*/\1/p; / aliases\[\] = {/,/^};/s/^    {"\([a-zA-Z0-9_-]*\)",.*/\1/p' \
    convert/recipe_builtin.c)
result "convert/recipe_builtin.c names recipes" "$([ -n "$recipes" ] || echo "  none")"
for recipe in $recipes; do
    result "recipe $recipe is in quern-recipe(5)" "$(grep -q "^\.It .*\b$recipe\b" man/quern-recipe.5 || echo "  it is not")"
done

# What lint finds, as the rows of its table: the same names, severities and lines in the manual. And every name that
# formats/ and quant/ give to what they refuse is one of them.
rules=$(sed -n 's/^    \[RULE_[A-Z0-9_]*\] *= {"\([a-z0-9-]*\)", *\([A-Z]*\), *"\(.*\)"},$/\1 \2: \3/p' verify/finding.c | tr 'A-Z' 'a-z')
told=$(sed -n '/^\.It Cm [a-z0-9-]* Pq /{s/^\.It Cm \([a-z0-9-]*\) Pq \(.*\)/\1 \2: /;N;s/\n//;s/\.$//;p;}' man/quern-verify.1 | tr 'A-Z' 'a-z')
result "verify/finding.c has rules" "$([ -n "$rules" ] || echo "  none")"
result "verify/finding.c and quern-verify(1) have the same rules" "$(differ verify/finding.c "$rules" quern-verify.1 "$told")"
for name in $(sed -n 's/.*err_broken([^"]*"\([a-z0-9-]*\)".*/\1/p; s/.*err_rule([^"]*"\([a-z0-9-]*\)".*/\1/p; s/^ *add_note([^"]*"\([a-z0-9-]*\)".*/\1/p' formats/*.c quant/*.c | sort -u); do
    result "'$name' is a rule" "$(printf '%s\n' "$rules" | grep -q "^$name " || echo "  it is not")"
done

# mandoc knows only the pages of the system, so it cannot tell whether ours exist.
for page in man/*.[1-9]; do
    result "mandoc -Tlint $page" "$(mandoc -Tlint -Wwarning "$page" 2>&1)"
    result "$page refers to pages that exist" "$(sed -n 's/.*\.*Xr \(quern[a-z-]*\) \([1-9]\).*/\1.\2/p' "$page" | sort -u |
        while read -r name; do [ -f "man/$name" ] || echo "  $name"; done)"
done

echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
