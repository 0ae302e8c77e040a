#include <string.h>

#include "formats/json.h"
#include "verify/builtin_text.h"
#include "verify/chat.h"
#include "verify/corpus_private.h"
#include "verify/id_lines.h"
#include "verify/text_input.h"

void spans_add(struct spans *s, size_t first, size_t count)
{
    if (s->count == s->room) {
        s->room = s->room ? s->room * 2 : 64;
        s->items = mem_grow(s->items, s->room, sizeof *s->items);
    }
    s->items[s->count++] = (struct span){.first = first, .count = count};
}

void texts_release(struct texts *x)
{
    id_list_release(&x->ids);
    mem_free(x->spans.items);
    *x = (struct texts){0};
}

/* ---- texts ---- */

struct reading {
    struct texts *x;
    const struct tokenizer *t;
    uint64_t ids_wanted; /* 0: all */
    struct buf rendered; /* scratch for a conversation */
};

static bool is_full(const struct reading *r)
{
    return r->ids_wanted && r->x->ids.count >= r->ids_wanted;
}

/* A BOS that the text has itself would stand behind the one that its contexts get. */
static void drop_own_bos(const struct tokenizer *t, struct id_list *ids, size_t first)
{
    if (!t->add_bos || ids->count == first || ids->ids[first] != t->bos_id)
        return;
    memmove(&ids->ids[first], &ids->ids[first + 1], (ids->count - first - 1) * sizeof *ids->ids);
    ids->count--;
}

static bool add_text(struct reading *r, const char *text, size_t bytes, struct err *e)
{
    struct id_list *ids = &r->x->ids;
    size_t first = ids->count;
    /* One more, since one may be dropped. */
    struct tokenizer_encode how = {.ids_wanted = r->ids_wanted ? (size_t)r->ids_wanted - first + 1 : 0};

    if (!tokenizer_encode(r->t, text, bytes, &how, ids, e))
        return false;
    drop_own_bos(r->t, ids, first);
    if (is_full(r))
        ids->count = (size_t)r->ids_wanted;
    if (ids->count > first)
        spans_add(&r->x->spans, first, ids->count - first);
    return true;
}

static bool add_record(struct reading *r, const struct json *record, struct err *e)
{
    const struct json *text = json_get(record, "text"), *messages = json_get(record, "messages");

    if (text && json_string(text))
        return add_text(r, json_string(text), strlen(json_string(text)), e);
    if (text)
        return err_set(e, ERR_FORMAT, "text is %s, not a string", json_type_name(json_type(text)));
    if (!messages)
        return err_set(e, ERR_FORMAT, "there is neither text nor messages in it");
    r->rendered.bytes = 0;
    return chat_render(r->t, messages, &r->rendered, e) &&
           add_text(r, r->rendered.data ? r->rendered.data : "", r->rendered.bytes, e);
}

static bool add_line(struct reading *r, const char *line, size_t bytes, struct err *e)
{
    struct json_doc d = {0};
    bool ok = json_parse(&d, line, bytes, JSON_STRICT, e) && add_record(r, d.root, e);

    json_release(&d);
    return ok;
}

static bool is_blank(const char *line, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    return true;
}

static size_t line_length(const char *text, size_t bytes)
{
    const char *end = memchr(text, '\n', bytes);

    return end ? (size_t)(end - text) : bytes;
}

static bool add_lines(struct reading *r, const char *text, size_t bytes, struct err *e)
{
    size_t number = 0;

    for (size_t at = 0; at < bytes && !is_full(r);) {
        size_t line_bytes = line_length(text + at, bytes - at);
        number++;
        if (!is_blank(text + at, line_bytes) && !add_line(r, text + at, line_bytes, e))
            return err_in(e, "line %zu", number);
        at += line_bytes + 1;
    }
    return true;
}

/* Whether the first line is a record on its own; then the text is not meant to be read as it stands. */
static bool begins_with_record(const char *text, size_t bytes)
{
    struct json_doc d = {0};
    bool is = false;

    if (!bytes || text[0] != '{' || !json_parse(&d, text, line_length(text, bytes), JSON_STRICT, NULL))
        return false;
    is = json_get(d.root, "text") || json_get(d.root, "messages");
    json_release(&d);
    return is;
}

static bool ends_with(const char *name, const char *ending)
{
    size_t bytes = strlen(name), ending_bytes = strlen(ending);

    return bytes >= ending_bytes && strcmp(name + bytes - ending_bytes, ending) == 0;
}

static bool is_jsonl_name(const char *name)
{
    return ends_with(name, ".jsonl") || ends_with(name, ".jsonl.gz") || ends_with(name, ".ndjson") ||
           ends_with(name, ".ndjson.gz");
}

bool corpus_read_texts(struct texts *x, const struct tokenizer *t, const char *path, uint64_t ids_wanted, struct err *e)
{
    struct reading r = {.x = x, .t = t, .ids_wanted = ids_wanted};
    struct buf text = {0};
    bool ok = text_input_read(path, &text, e);

    if (ok && text.bytes) {
        if (is_jsonl_name(path) || begins_with_record(text.data, text.bytes))
            ok = add_lines(&r, text.data, text.bytes, e);
        else
            ok = add_text(&r, text.data, text.bytes, e);
        if (!ok)
            err_in(e, "'%s'", path);
    }
    buf_release(&text);
    buf_release(&r.rendered);
    return ok;
}

bool corpus_read_builtin(struct texts *x, const struct tokenizer *t, uint64_t ids_wanted, struct err *e)
{
    struct reading r = {.x = x, .t = t, .ids_wanted = ids_wanted};
    bool ok = true;

    for (const struct builtin_text *b = builtin_texts; ok && b->name && !is_full(&r); b++) {
        size_t bytes = strlen(b->text);
        ok = b->is_record ? add_line(&r, b->text, bytes, e) : add_text(&r, b->text, bytes, e);
        if (!ok)
            err_in(e, "built-in text '%s'", b->name);
    }
    buf_release(&r.rendered);
    return ok;
}

/* ---- ids ---- */

bool corpus_read_ids(struct texts *x, const char *path, uint64_t id_limit, struct err *e)
{
    struct id_lines l = {0};
    struct buf text = {0};
    bool ok = text_input_read(path, &text, e);

    if (ok && text.bytes)
        ok = id_lines_parse(&l, text.data, text.bytes, id_limit, e) || err_in(e, "'%s'", path);
    for (size_t i = 0; ok && i < l.line_count; i++)
        spans_add(&x->spans, l.lines[i].first, l.lines[i].count);
    if (ok) {
        x->ids = l.ids;
        l.ids = (struct id_list){0};
    }
    id_lines_release(&l);
    buf_release(&text);
    return ok;
}
