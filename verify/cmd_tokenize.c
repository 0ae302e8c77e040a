#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/utf8.h"
#include "formats/byte_level.h"
#include "formats/json.h"
#include "formats/tokenizer.h"
#include "verify/commands.h"
#include "verify/id_lines.h"
#include "verify/text_input.h"

#define OPERANDS_MAX 1000

static struct {
    const char *prompt;
    bool decode, pieces, count, json, bos, no_bos;
} opts;

static const struct opt rows[] = {
    {.name = "prompt",
     .letter = 'p',
     .kind = OPT_STRING,
     .value = &opts.prompt,
     .arg = "TEXT",
     .help = "the text itself, instead of files"},
    {.name = "decode", .letter = 'd', .kind = OPT_FLAG, .value = &opts.decode, .help = "ids to text"},
    {.name = "pieces",
     .kind = OPT_FLAG,
     .value = &opts.pieces,
     .help = "a line for each token: its id, and what it stands for"},
    {.name = "count",
     .letter = 'c',
     .kind = OPT_FLAG,
     .value = &opts.count,
     .help = "print how many tokens, not which"},
    {.name = "json", .kind = OPT_FLAG, .value = &opts.json, .help = "print JSON, with ids and pieces"},
    {.name = "bos", .kind = OPT_FLAG, .value = &opts.bos, .help = "put the beginning-of-sequence token first"},
    {.name = "no-bos", .kind = OPT_FLAG, .value = &opts.no_bos, .help = "do not put it first, whatever the files say"},
    {.name = NULL},
};

static const struct opt_command spec = {
    .name = "tokenize",
    .operands = "CKPT [FILE ...]",
    .summary = "text to token ids, and back, as the checkpoint's tokenizer has it",
    .operand_min = 1,
    .operand_max = OPERANDS_MAX,
    .opts = rows,
};

/* ---- text to ids ---- */

/* A token for the eye: printable text as it is, the rest as C has it, in quotes. */
static void add_quoted(struct buf *out, const char *bytes, size_t byte_count)
{
    buf_puts(out, "\"");
    for (size_t at = 0; at < byte_count;) {
        const char *c = bytes + at;
        size_t step = utf8_step(c, byte_count - at);
        uint32_t code = step ? utf8_code(c, step) : 0;

        if (!step || code < 0x20 || (code >= 0x7f && code < 0xa0)) {
            const char *letter = step ? memchr("\n\r\t", (int)code, 3) : NULL;
            if (letter)
                buf_printf(out, "\\%c", *letter == '\n' ? 'n' : *letter == '\r' ? 'r' : 't');
            else
                buf_printf(out, "\\x%02x", (unsigned char)c[0]);
            at++;
            continue;
        }
        if (*c == '"' || *c == '\\')
            buf_puts(out, "\\");
        buf_add(out, c, step);
        at += step;
    }
    buf_puts(out, "\"");
}

static void print_pieces(const struct tokenizer *t, const struct id_list *ids)
{
    struct buf out = {0};

    for (size_t i = 0; i < ids->count; i++) {
        size_t bytes = 0;
        const char *text = tokenizer_bytes(t, ids->ids[i], &bytes);
        buf_printf(&out, "%u\t", ids->ids[i]);
        add_quoted(&out, text, bytes);
        buf_puts(&out, "\n");
    }
    if (out.bytes)
        fwrite(out.data, 1, out.bytes, stdout); /* main looks whether it got there */
    buf_release(&out);
}

static void print_ids(const struct id_list *ids)
{
    for (size_t i = 0; i < ids->count; i++)
        printf(i ? " %u" : "%u", ids->ids[i]);
    printf("\n");
}

/* A piece as tokenizer.json spells it, since JSON has no bytes. */
static void put_piece(struct json_writer *w, const struct tokenizer *t, uint32_t id)
{
    size_t bytes = 0;
    const char *text = tokenizer_bytes(t, id, &bytes);
    struct buf spelled = {0};

    if (t->bpe.tokens[id].unmatched)
        buf_add(&spelled, text, bytes);
    else
        byte_level_write(&spelled, text, bytes);
    json_put_string(w, NULL, spelled.data ? spelled.data : "");
    buf_release(&spelled);
}

static void put_text(struct json_writer *w, const struct tokenizer *t, const char *name, size_t text_bytes,
                     const struct id_list *ids)
{
    json_begin_object(w, NULL);
    if (name)
        json_put_string(w, "file", name);
    json_put_u64(w, "bytes", text_bytes);
    json_put_u64(w, "tokens", ids->count);
    json_begin_array(w, "ids");
    w->compact = true;
    for (size_t i = 0; i < ids->count; i++)
        json_put_u64(w, NULL, ids->ids[i]);
    json_end(w, ']');
    w->compact = false;
    json_begin_array(w, "pieces");
    w->compact = true;
    for (size_t i = 0; i < ids->count; i++)
        put_piece(w, t, ids->ids[i]);
    json_end(w, ']');
    w->compact = false;
    json_end(w, '}');
}

static bool encode_text(const struct tokenizer *t, struct json_writer *w, const char *name, const struct buf *text,
                        struct err *e)
{
    struct tokenizer_encode how = {.bos = opts.bos || (t->add_bos && !opts.no_bos)};
    struct id_list ids = {0};
    bool ok = tokenizer_encode(t, text->data ? text->data : "", text->bytes, &how, &ids, e);

    if (!ok) {
        if (name)
            err_in(e, "'%s'", name);
    } else if (opts.json) {
        put_text(w, t, name, text->bytes, &ids);
    } else if (opts.count) {
        printf(name ? "%zu\t%s\n" : "%zu\n", ids.count, name);
    } else if (opts.pieces) {
        print_pieces(t, &ids);
    } else {
        print_ids(&ids);
    }
    id_list_release(&ids);
    return ok;
}

/* ---- ids to text ---- */

static bool decode_line(const struct tokenizer *t, const struct id_lines *l, const struct id_line *line, struct err *e)
{
    for (size_t i = line->first; i < line->first + line->count; i++) {
        size_t bytes = 0;
        const char *text = tokenizer_bytes(t, l->ids.ids[i], &bytes);
        if (!text)
            return err_set(e, ERR_FORMAT, "line %zu: no token has id %u", line->number, l->ids.ids[i]);
        if (bytes)
            fwrite(text, 1, bytes, stdout);
    }
    return true;
}

/* The text and nothing else, so that it comes back as it was; lines between sequences, and one for a terminal. */
static bool decode_text(const struct tokenizer *t, const char *name, const struct buf *text, struct err *e)
{
    struct id_lines l = {0};
    bool ok = id_lines_parse(&l, text->data ? text->data : "", text->bytes, t->bpe.id_limit, e);

    for (size_t i = 0; ok && i < l.line_count; i++) {
        if (i)
            printf("\n");
        ok = decode_line(t, &l, &l.lines[i], e);
    }
    if (ok && isatty(STDOUT_FILENO))
        printf("\n");
    id_lines_release(&l);
    return ok || (name ? err_in(e, "'%s'", name) : false);
}

/* ---- the command ---- */

static bool check_options(size_t file_count, struct err *e)
{
    if (opts.prompt && file_count)
        return err_set(e, ERR_USAGE, "give -p or files, not both");
    if (opts.bos && opts.no_bos)
        return err_set(e, ERR_USAGE, "--bos and --no-bos contradict each other");
    if (opts.decode && (opts.pieces || opts.json || opts.count || opts.bos || opts.no_bos))
        return err_set(e, ERR_USAGE, "--decode prints text alone: leave out the other options");
    if (opts.json + opts.count + opts.pieces > 1)
        return err_set(e, ERR_USAGE, "give one of --json, --count and --pieces");
    return true;
}

static bool handle(const struct tokenizer *t, struct json_writer *w, const char *name, const struct buf *text,
                   struct err *e)
{
    return opts.decode ? decode_text(t, name, text, e) : encode_text(t, w, name, text, e);
}

static bool handle_all(const struct tokenizer *t, struct json_writer *w, const char *const *files, size_t file_count,
                       struct err *e)
{
    static const char *const standard_input[] = {"-"};
    struct buf text = {0};
    bool ok = true;

    if (opts.prompt) {
        buf_puts(&text, opts.prompt);
        ok = handle(t, w, NULL, &text, e);
    } else {
        if (!file_count)
            files = standard_input;
        for (size_t i = 0; ok && i < (file_count ? file_count : 1); i++)
            ok = text_input_read(files[i], &text, e) &&
                 handle(t, w, strcmp(files[i], "-") == 0 ? NULL : files[i], &text, e);
    }
    buf_release(&text);
    return ok;
}

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    struct tokenizer t = {0};
    struct buf out = {0};
    struct json_writer w = {.out = &out};

    if (!check_options(operand_count - 1, e) || !tokenizer_open(&t, operands[0], e))
        goto done;
    if (opts.json)
        json_begin_array(&w, NULL);
    if (!handle_all(&t, &w, operands + 1, operand_count - 1, e))
        goto done;
    if (opts.json) {
        json_end(&w, ']');
        buf_puts(&out, "\n");
        fwrite(out.data, 1, out.bytes, stdout); /* main looks whether it got there */
    }
done:
    buf_release(&out);
    tokenizer_release(&t);
    return 0;
}

const struct command command_tokenize = {.spec = &spec, .run = run};
