#include "convert/completion.h"

#include <stdio.h>

#include "convert/recipe.h"

/* ---- what the tables say ---- */

static void print_words(const char *variable, const char *(*name)(size_t i))
{
    printf("_quern_%s='", variable);
    for (size_t i = 0; name(i); i++)
        printf("%s%s", i > 0 ? " " : "", name(i));
    printf("'\n");
}

static void print_commands(const struct command *const *commands, size_t count)
{
    printf("_quern_commands='");
    for (size_t i = 0; i < count; i++)
        printf("%s ", commands[i]->spec->name);
    printf("help version'\n");
}

static void print_options(const struct opt *opts)
{
    for (const struct opt *o = opts; o->name; o++) {
        if (o->letter)
            printf("-%c ", o->letter);
        printf("--%s ", o->name);
    }
    printf("-h --help");
}

static void print_wants(const struct opt_command *c)
{
    for (const struct opt *o = c->opts; o->name; o++) {
        if (o->kind == OPT_FLAG || o->kind == OPT_MAYBE) /* the next word is not its value */
            continue;
        printf("    '%s --%s'", c->name, o->name);
        if (o->letter)
            printf(" | '%s -%c'", c->name, o->letter);
        printf(") wants='%s' ;;\n", o->arg ? o->arg : "VALUE");
    }
}

static void print_tables(const struct command *const *commands, size_t count)
{
    print_commands(commands, count);
    print_words("recipes", recipe_builtin_name);
    print_words("types", recipe_to_name);
    printf("\n# COMMAND: its options\n_quern_options()\n{\n    case $1 in\n");
    for (size_t i = 0; i < count; i++) {
        printf("    %s) options='", commands[i]->spec->name);
        print_options(commands[i]->spec->opts);
        printf("' ;;\n");
    }
    printf("    esac\n}\n\n# COMMAND OPTION: what follows it\n_quern_wants()\n{\n    case \"$1 $2\" in\n");
    for (size_t i = 0; i < count; i++)
        print_wants(commands[i]->spec);
    printf("    esac\n}\n\n");
}

/* ---- what is always the same ---- */

/* Readline breaks words at '=' and ':', which stand inside ours: they are put together again from the line, and what
 * readline takes for an earlier word is cut from the replies. Folders and files are left to bash, which quotes them. */
static const char script[] =
    "# words: the command line up to the cursor, broken at spaces only\n"
    "_quern_words()\n"
    "{\n"
    "    local i word gap line=${COMP_LINE:0:COMP_POINT}\n"
    "    words=()\n"
    "    for ((i = 0; i <= COMP_CWORD; i++)); do\n"
    "        gap=${line%%[![:space:]]*}\n"
    "        line=${line:${#gap}}\n"
    "        word=${COMP_WORDS[i]}\n"
    "        ((i < COMP_CWORD)) || word=$line\n"
    "        line=${line:${#word}}\n"
    "        if [[ -n $gap || $i = 0 ]]; then\n"
    "            words+=(\"$word\")\n"
    "        else\n"
    "            words[${#words[@]} - 1]+=$word\n"
    "        fi\n"
    "    done\n"
    "}\n"
    "\n"
    "# The words that, behind $head, begin with $value; less what readline has as words of their own\n"
    "_quern_reply()\n"
    "{\n"
    "    local word breaks='' cut=''\n"
    "    [[ $COMP_WORDBREAKS != *:* ]] || breaks+=:\n"
    "    [[ $COMP_WORDBREAKS != *=* ]] || breaks+==\n"
    "    [[ -z $breaks || $value != *[$breaks]* ]] || cut=${value%\"${value##*[$breaks]}\"}\n"
    "    for word; do\n"
    "        word=$head$word\n"
    "        [[ $word != \"$value\"* || $word = \"$cut\" ]] || COMPREPLY+=(\"${word#\"$cut\"}\")\n"
    "    done\n"
    "}\n"
    "\n"
    "# With no reply, bash completes by these, or not at all.\n"
    "_quern_only() { compopt +o bashdefault +o default \"$@\"; }\n"
    "\n"
    "_quern_value()\n"
    "{\n"
    "    case $wants in\n"
    "    TYPE) _quern_only; _quern_reply $_quern_types ;;\n"
    "    'NAME|FILE') _quern_reply $_quern_recipes ;;\n"
    "    RECIPE:DIR)\n"
    "        local recipes=\"$_quern_recipes\"\n"
    "        [[ $command != convert ]] || recipes+=\" $_quern_types\"\n"
    "        _quern_only -o nospace\n"
    "        [[ $value != *:* ]] || _quern_only -o plusdirs\n"
    "        _quern_reply $(printf '%s:\\n' $recipes | sort -u)\n"
    "        ;;\n"
    "    *DIR) _quern_only -o dirnames ;;\n"
    "    *FILE | *CKPT) ;;\n"
    "    *) _quern_only ;;\n"
    "    esac\n"
    "}\n"
    "\n"
    "_quern()\n"
    "{\n"
    "    local words command value last options head='' wants=''\n"
    "    COMPREPLY=()\n"
    "    _quern_words\n"
    "    command=${words[1]} value=${words[${#words[@]} - 1]} last=${words[${#words[@]} - 2]}\n"
    "    if ((${#words[@]} <= 2)); then\n"
    "        _quern_only\n"
    "        [[ $value != -* ]] || _quern_reply --help --version\n"
    "        _quern_reply $_quern_commands\n"
    "        return\n"
    "    fi\n"
    "    if [[ $command = help ]]; then\n"
    "        _quern_only\n"
    "        _quern_reply ${_quern_commands%help*}\n"
    "        return\n"
    "    fi\n"
    "    _quern_wants \"$command\" \"$last\"\n"
    "    if [[ -z $wants && $value = --*=* ]]; then\n"
    "        _quern_wants \"$command\" \"${value%%=*}\"\n"
    "        head=${value%%=*}=\n"
    "    fi\n"
    "    if [[ -n $wants ]]; then\n"
    "        _quern_value\n"
    "    elif [[ $value = -* ]]; then\n"
    "        _quern_only\n"
    "        _quern_options \"$command\"\n"
    "        _quern_reply $options\n"
    "    fi\n"
    "}\n"
    "\n"
    "complete -o bashdefault -o default -F _quern quern\n";

void completion_print_bash(const struct command *const *commands, size_t count)
{
    printf("# Completion for bash, as `quern completion bash` prints it.\n\n");
    print_tables(commands, count);
    fputs(script, stdout);
}
