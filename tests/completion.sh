# usage: QUERN=build/quern bash completion.sh
# What bash offers behind a command line, by the script that `quern completion bash` prints.
set -u
case $QUERN in /*) ;; *) QUERN=$PWD/$QUERN ;; esac
passed=0 failed=0
script=$("$QUERN" completion bash) || exit
eval "$script" || exit

# What bash does with no reply; only a completion that is under way has it.
compopt() { fallback=$*; }

# offers LINE REPLIES: the cursor is at the line's end, and LINE is broken into words as readline does.
offers() {
    local COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=() COMP_CWORD COMPREPLY=() rest=$1 word
    fallback=
    while [[ $rest =~ ^[[:space:]]*([:=]+|[^[:space:]:=]+) ]]; do
        word=${BASH_REMATCH[1]}
        COMP_WORDS+=("$word")
        rest=${rest:${#BASH_REMATCH[0]}}
    done
    [[ $COMP_LINE != *[[:space:]] ]] || COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _quern
    check "'$1' offers" "$2" "${COMPREPLY[*]}"
}

# check WHAT WANTED SEEN
check() {
    if [[ $3 = $2 ]]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED %s\n  wanted: %s\n  seen:   %s\n' "$@"
    fi
}

offers 'quern ' '* convert *'
offers 'quern co' convert
offers 'quern --v' --version
offers 'quern help dif' diff
offers 'quern convert --also-' ''
offers 'quern convert --a' '--also --allow-unfused'
offers 'quern convert --delete' --delete-source
offers 'quern quantize --to' --tokens
offers 'quern inspect --' '--json --tensors --quiet --help'
offers 'quern diff a b --w' --weights

offers 'quern convert --to fp8-' 'fp8-ue8m0 fp8-channel'
offers 'quern convert --to=fp8-' 'fp8-ue8m0 fp8-channel'
offers 'quern convert --to int4:g' 'g32 g64 g128'
offers 'quern convert --to=int4:g6' g64
offers 'quern convert --to ' 'bf16 *'
check 'after --to, files are' '*+o default*' "$fallback"
offers 'quern quantize --recipe int4-a' 'int4-absmax int4-all'
offers 'quern quantize -r int4-a' 'int4-absmax int4-all'
offers 'quern quantize --recipe=fp8-b' fp8-block
offers 'quern quantize --recipe ./mi' ''
check 'after --recipe, files are' '' "$fallback"

offers 'quern convert --to bf16 --also int4-f' 'int4-fast: int4-fp8:'
check 'after --also RECIPE there is' '*nospace*' "$fallback"
offers 'quern quantize --also bf1' ''
offers 'quern convert --also bf16:' ''
check 'after --also RECIPE: there are' '*plusdirs*' "$fallback"
offers 'quern convert --also int4:g3' g32:

offers 'quern convert --threads ' ''
check 'after --threads, files are' '*+o default*' "$fallback"
offers 'quern inspect ' ''
check 'operands are' '' "$fallback"
offers 'quern inspect Deep' ''
check 'operands are' '' "$fallback"

# Readline's words may be larger, where a user has set it so.
COMP_WORDBREAKS=${COMP_WORDBREAKS//[:=]/}
offers 'quern convert --to=fp8-u' --to=fp8-ue8m0
offers 'quern convert --also int4:g3' int4:g32:

# Every option that --help lists is offered, and the other way around.
for command in ${_quern_commands%help*}; do
    listed=$("$QUERN" "$command" --help | sed -n 's/^  \(-.\), \(--[a-z0-9-]*\).*/\1\n\2/p; s/^      \(--[a-z0-9-]*\).*/\1/p' | sort)
    _quern_options "$command"
    check "$command: options are" "$listed" "$(printf '%s\n' $options | sort)"
done

echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
