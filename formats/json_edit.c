#include "formats/json_edit.h"

#include <string.h>

#include "formats/json.h"

const char *json_edit_indent(struct arena *a, const char *text, size_t bytes)
{
    const char *brace = memchr(text, '{', bytes);
    const char *line = brace ? memchr(brace, '\n', bytes - (size_t)(brace - text)) : NULL;

    if (!line)
        return NULL;
    return arena_strndup(a, line + 1, strspn(line + 1, " \t"));
}

/* Replaces [begin, end) of b. */
static void splice(struct buf *b, size_t begin, size_t end, const char *text)
{
    struct buf spliced = {0};

    buf_add(&spliced, b->data, begin);
    buf_puts(&spliced, text);
    buf_add(&spliced, b->data + end, b->bytes - end);
    buf_release(b);
    *b = spliced;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static size_t back_over_space(const struct buf *b, size_t at)
{
    while (at > 0 && is_space(b->data[at - 1]))
        at--;
    return at;
}

/* Where the key of the value at `at` begins: back over the colon to the string's opening quote. */
static size_t key_begin(const struct buf *b, size_t at)
{
    at = back_over_space(b, at) - 1; /* the colon */
    at = back_over_space(b, at) - 1; /* the closing quote */
    do
        at--;
    while (b->data[at] != '"' || b->data[at - 1] == '\\');
    return at;
}

bool json_edit_copy(const struct buf *b, const char *key, struct buf *inner)
{
    size_t begin, end;

    if (!json_member_span(b->data, b->bytes, key, &begin, &end) || b->data[begin] != '{')
        return false;
    buf_add(inner, b->data + begin, end - begin);
    return true;
}

void json_edit_remove(struct buf *b, const char *key)
{
    size_t begin, end;

    if (!json_member_span(b->data, b->bytes, key, &begin, &end))
        return;
    begin = back_over_space(b, key_begin(b, begin));
    if (b->data[begin - 1] == ',') {
        begin--;
    } else { /* the first member: the comma behind it goes */
        size_t comma = end;
        while (is_space(b->data[comma]))
            comma++;
        if (b->data[comma] == ',')
            end = comma + 1;
    }
    splice(b, begin, end, "");
}

void json_edit_put(struct buf *b, const char *key, const char *value, const char *indent)
{
    size_t begin, end;
    struct buf member = {0};

    if (json_member_span(b->data, b->bytes, key, &begin, &end)) {
        splice(b, begin, end, value);
        return;
    }
    for (begin = b->bytes; b->data[begin - 1] != '}';)
        begin--;
    begin = back_over_space(b, begin - 1);
    if (b->data[begin - 1] != '{')
        buf_puts(&member, ",");
    if (indent)
        buf_printf(&member, "\n%s", indent);
    json_quote(&member, key);
    buf_printf(&member, "%s%s", indent ? ": " : ":", value);
    splice(b, begin, begin, member.data);
    buf_release(&member);
}

void json_edit_shift(struct buf *b, const char *indent)
{
    struct buf lines = {0};

    for (size_t i = 0; i < b->bytes; i++) {
        buf_add(&lines, &b->data[i], 1);
        if (b->data[i] == '\n')
            buf_puts(&lines, indent);
    }
    buf_release(b);
    *b = lines;
}
