#include "formats/base/opt.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"
#include "formats/base/units.h"

#define NAME_BYTES_MAX  40 /* of an option, for "did you mean" */
#define HELP_COLUMN_MIN 25

/* Numbers */

/* Digits only: no sign, no space, no hexadecimal. *rest is what comes behind them. */
static bool parse_digits(const char *text, uint64_t *value, const char **rest)
{
    uint64_t v = 0;
    const char *c = text;

    for (; *c >= '0' && *c <= '9'; c++)
        if (__builtin_mul_overflow(v, 10u, &v) || __builtin_add_overflow(v, (uint64_t)(*c - '0'), &v))
            return false;
    *value = v;
    *rest = c;
    return c > text;
}

static bool parse_u64(const char *text, uint64_t *value)
{
    const char *rest;

    return parse_digits(text, value, &rest) && !*rest;
}

static bool parse_f64(const char *text, double *value)
{
    char *rest;

    if (!*text || strspn(text, "0123456789+-.eE") != strlen(text)) /* no nan, inf, hexadecimal */
        return false;
    errno = 0;
    double v = strtod(text, &rest);
    if (*rest || rest == text || !isfinite(v))
        return false;
    *value = v;
    return true;
}

bool opt_parse_size(const char *text, uint64_t *bytes)
{
    static const char letters[] = "KMGT";
    const char *unit, *letter;
    uint64_t count, scale = 1;

    if (!parse_digits(text, &count, &unit))
        return false;
    if (*unit) {
        letter = strchr(letters, *unit);
        bool thousands = unit[1] == 'B';
        if (!letter || unit[thousands ? 2 : 1])
            return false;
        for (const char *l = letters; l <= letter; l++)
            scale *= thousands ? 1000 : 1024;
    }
    return !__builtin_mul_overflow(count, scale, bytes);
}

/* Values */

static bool in_range(const struct opt *o, uint64_t value)
{
    return value >= o->min && (!o->max || value <= o->max);
}

/* "option '--threads' wants a number from 1 to 1024, not 'x'" */
static bool wants(const struct opt *o, const char *what, const char *text, struct err *e)
{
    if (o->max)
        return err_set(e, ERR_USAGE, "option '--%s' wants %s from %" PRIu64 " to %" PRIu64 ", not '%s'", o->name, what,
                       o->min, o->max, text);
    if (o->min)
        return err_set(e, ERR_USAGE, "option '--%s' wants %s of at least %" PRIu64 ", not '%s'", o->name, what, o->min,
                       text);
    return err_set(e, ERR_USAGE, "option '--%s' wants %s, not '%s'", o->name, what, text);
}

static bool set_number(const struct opt *o, const char *text, struct err *e)
{
    uint64_t value;
    bool is_size = o->kind == OPT_SIZE;

    if (!(is_size ? opt_parse_size(text, &value) : parse_u64(text, &value)) || !in_range(o, value))
        return wants(o, is_size ? "a size such as 4096, 5G or 500MB" : "a number", text, e);
    *(uint64_t *)o->value = value;
    return true;
}

static bool set_value(const struct opt *o, const char *text, struct err *e)
{
    struct opt_list *list;

    switch (o->kind) {
    case OPT_FLAG:
        *(bool *)o->value = true;
        return true;
    case OPT_MAYBE:
    case OPT_STRING:
        *(const char **)o->value = text ? text : "";
        return true;
    case OPT_LIST:
        list = o->value;
        list->items = mem_grow(list->items, list->count + 1, sizeof *list->items);
        list->items[list->count++] = text;
        return true;
    case OPT_U64:
    case OPT_SIZE:
        return set_number(o, text, e);
    case OPT_F64:
        return parse_f64(text, o->value) ||
               err_set(e, ERR_USAGE, "option '--%s' wants a number, not '%s'", o->name, text);
    }
    return false;
}

/* Names */

static const struct opt *find_name(const struct opt *opts, const char *name, size_t bytes)
{
    for (const struct opt *o = opts; o->name; o++)
        if (strlen(o->name) == bytes && !memcmp(o->name, name, bytes))
            return o;
    return NULL;
}

static const struct opt *find_letter(const struct opt *opts, char letter)
{
    for (const struct opt *o = opts; o->name; o++)
        if (o->letter && o->letter == letter)
            return o;
    return NULL;
}

static size_t least(size_t a, size_t b, size_t c)
{
    a = a < b ? a : b;
    return a < c ? a : c;
}

/* Levenshtein's distance, row by row. */
static size_t distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    size_t row[NAME_BYTES_MAX + 1];

    if (a_bytes > NAME_BYTES_MAX || b_bytes > NAME_BYTES_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= b_bytes; j++)
        row[j] = j;
    for (size_t i = 0; i < a_bytes; i++) {
        size_t diagonal = row[0];

        row[0] = i + 1;
        for (size_t j = 0; j < b_bytes; j++) {
            size_t here = least(row[j] + 1, row[j + 1] + 1, diagonal + (a[i] != b[j]));

            diagonal = row[j + 1];
            row[j + 1] = here;
        }
    }
    return row[b_bytes];
}

static bool unknown(const struct opt *opts, const char *name, size_t bytes, struct err *e)
{
    const struct opt *nearest = NULL;
    size_t nearest_distance = bytes > 3 ? 3 : 2; /* two slips, or one in a short name */

    for (const struct opt *o = opts; o->name; o++) {
        size_t d = distance(name, bytes, o->name, strlen(o->name));

        if (d < nearest_distance) {
            nearest_distance = d;
            nearest = o;
        }
    }
    if (nearest)
        return err_set(e, ERR_USAGE, "unknown option '--%.*s'; did you mean '--%s'?", (int)least(bytes, 200, 200), name,
                       nearest->name);
    return err_set(e, ERR_USAGE, "unknown option '--%.*s'", (int)least(bytes, 200, 200), name);
}

/* The command line */

struct cursor {
    int argc;
    char **argv;
    int at;
    bool help;
};

static bool next_value(struct cursor *c, const struct opt *o, const char **value, struct err *e)
{
    if (c->at + 1 >= c->argc)
        return err_set(e, ERR_USAGE, "option '--%s' wants a value: %s", o->name, o->arg ? o->arg : "VALUE");
    *value = c->argv[++c->at];
    return true;
}

static bool stands_alone(const struct opt *o)
{
    return o->kind == OPT_FLAG || o->kind == OPT_MAYBE;
}

/* --name, --name=value, --name value */
static bool parse_long(struct cursor *c, const struct opt *opts, const char *text, struct err *e)
{
    const char *equals = strchr(text, '='), *value = NULL;
    size_t bytes = equals ? (size_t)(equals - text) : strlen(text);

    c->help = strcmp(text, "help") == 0;
    if (c->help)
        return true;
    const struct opt *o = find_name(opts, text, bytes);
    if (!o)
        return unknown(opts, text, bytes, e);
    if (o->kind == OPT_FLAG && equals)
        return err_set(e, ERR_USAGE, "option '--%s' takes no value, not '%s'", o->name, equals + 1);
    if (equals)
        value = equals + 1;
    else if (!stands_alone(o) && !next_value(c, o, &value, e))
        return false;
    return set_value(o, value, e);
}

/* -f, -fv, -n 4, -n4 */
static bool parse_letters(struct cursor *c, const struct opt *opts, const char *text, struct err *e)
{
    for (; *text; text++) {
        const struct opt *o = find_letter(opts, *text);
        const char *value = text + 1;

        c->help = *text == 'h';
        if (c->help)
            return true;
        if (!o)
            return err_set(e, ERR_USAGE, "unknown option '-%c'", *text);
        if (stands_alone(o)) {
            if (!set_value(o, NULL, e))
                return false;
            continue;
        }
        if (!*value && !next_value(c, o, &value, e))
            return false;
        return set_value(o, value, e);
    }
    return true;
}

bool opt_parse(const struct opt_command *cmd, int argc, char **argv, const char **operands, size_t *operand_count,
               bool *help, struct err *e)
{
    struct cursor c = {.argc = argc, .argv = argv, .at = 1};
    bool options_over = false;

    *operand_count = 0;
    *help = false;
    for (; c.at < argc; c.at++) {
        const char *arg = argv[c.at];

        if (!options_over && strcmp(arg, "--") == 0) {
            options_over = true;
        } else if (!options_over && arg[0] == '-' && arg[1]) {
            if (!(arg[1] == '-' ? parse_long(&c, cmd->opts, arg + 2, e) : parse_letters(&c, cmd->opts, arg + 1, e)))
                return false;
            *help = c.help;
            if (c.help)
                return true;
        } else if (*operand_count == cmd->operand_max) {
            return err_set(e, ERR_USAGE, "'%s' is one operand too many for 'quern %s %s'", arg, cmd->name,
                           cmd->operands ? cmd->operands : "");
        } else {
            operands[(*operand_count)++] = arg;
        }
    }
    if (*operand_count < cmd->operand_min)
        return err_set(e, ERR_USAGE, "'quern %s %s' wants %zu operand%s, not %zu", cmd->name,
                       cmd->operands ? cmd->operands : "", cmd->operand_min, plural(cmd->operand_min), *operand_count);
    return true;
}

/* Help */

/* "  -f, --force" or "      --shard-size SIZE" */
static void add_left(struct buf *line, const struct opt *o)
{
    if (o->letter)
        buf_printf(line, "  -%c, --%s", o->letter, o->name);
    else
        buf_printf(line, "      --%s", o->name);
    if (o->arg)
        buf_printf(line, o->kind == OPT_MAYBE ? "[=%s]" : " %s", o->arg);
}

static size_t help_column(const struct opt *opts)
{
    size_t column = HELP_COLUMN_MIN;

    for (const struct opt *o = opts; o->name; o++) {
        struct buf left = {0};

        add_left(&left, o);
        if (left.bytes + 2 > column)
            column = left.bytes + 2;
        buf_release(&left);
    }
    return column;
}

void opt_print_help(const struct opt_command *c)
{
    static const struct opt help = {.name = "help", .letter = 'h', .help = "print this help"};
    int column = (int)help_column(c->opts);
    struct buf left = {0};
    const char *operands = c->operands ? c->operands : "";

    printf("usage: quern %s [options]%s%s\n\n%s\n\n", c->name, *operands ? " " : "", operands, c->summary);
    for (const struct opt *o = c->opts;; o++) {
        const struct opt *row = o->name ? o : &help;

        left.bytes = 0;
        add_left(&left, row);
        printf("%-*s%s\n", column, left.data, row->help);
        if (!o->name)
            break;
    }
    buf_release(&left);
}
