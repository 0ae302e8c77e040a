#include "formats/json.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/utf8.h"

static void line_break(struct json_writer *w)
{
    if (w->compact)
        return;
    buf_puts(w->out, "\n");
    for (unsigned i = 0; i < w->depth; i++)
        buf_puts(w->out, "  ");
}

/* Whatever comes between the member before and the value. */
static void begin_member(struct json_writer *w, const char *key)
{
    if (w->depth) {
        if (w->has_member[w->depth])
            buf_puts(w->out, ",");
        line_break(w);
    }
    w->has_member[w->depth] = true;
    if (key) {
        json_quote(w->out, key);
        buf_puts(w->out, w->compact ? ":" : ": ");
    }
}

static void begin_container(struct json_writer *w, const char *key, const char *bracket)
{
    begin_member(w, key);
    buf_puts(w->out, bracket);
    assert(w->depth < JSON_DEPTH_MAX);
    w->has_member[++w->depth] = false;
}

void json_begin_object(struct json_writer *w, const char *key)
{
    begin_container(w, key, "{");
}

void json_begin_array(struct json_writer *w, const char *key)
{
    begin_container(w, key, "[");
}

void json_end(struct json_writer *w, char bracket)
{
    bool has_member = w->has_member[w->depth];

    assert(w->depth > 0 && (bracket == '}' || bracket == ']'));
    w->depth--;
    if (has_member)
        line_break(w);
    buf_add(w->out, &bracket, 1);
}

void json_put_raw(struct json_writer *w, const char *key, const char *json_text)
{
    begin_member(w, key);
    buf_puts(w->out, json_text);
}

/* A path may be any bytes, and JSON has no text for those that are no UTF-8. */
static void quote_repaired(struct buf *out, const char *value)
{
    struct buf repaired = {0};
    size_t bytes = strlen(value);

    for (size_t at = 0; at < bytes;) {
        size_t good = utf8_end(value + at, bytes - at);
        buf_add(&repaired, value + at, good);
        at += good;
        if (at < bytes)
            buf_puts(&repaired, "\xEF\xBF\xBD");
        at++;
    }
    json_quote(out, repaired.data);
    buf_release(&repaired);
}

void json_put_string(struct json_writer *w, const char *key, const char *value)
{
    begin_member(w, key);
    if (!value)
        buf_puts(w->out, "null");
    else if (utf8_end(value, strlen(value)) == strlen(value))
        json_quote(w->out, value);
    else
        quote_repaired(w->out, value);
}

void json_put_u64(struct json_writer *w, const char *key, uint64_t value)
{
    begin_member(w, key);
    buf_printf(w->out, "%" PRIu64, value);
}

void json_put_i64(struct json_writer *w, const char *key, int64_t value)
{
    begin_member(w, key);
    buf_printf(w->out, "%" PRId64, value);
}

void json_put_bool(struct json_writer *w, const char *key, bool value)
{
    json_put_raw(w, key, value ? "true" : "false");
}

/* 17 digits always read back, 15 look like what a person wrote. */
void json_put_double(struct json_writer *w, const char *key, double value)
{
    char text[40] = "null";

    if (isfinite(value))
        for (int digits = 15; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, value);
            if (strtod(text, NULL) == value)
                break;
        }
    json_put_raw(w, key, text);
}

void json_quote(struct buf *out, const char *s)
{
    static const char letters[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";

    buf_puts(out, "\"");
    while (*s) {
        size_t plain = 0;
        const char *letter = NULL;
        while ((unsigned char)s[plain] >= 0x20 && s[plain] != '"' && s[plain] != '\\')
            plain++;
        buf_add(out, s, plain);
        s += plain;
        if (!*s)
            break;
        letter = strchr(letters, *s);
        if (letter)
            buf_printf(out, "\\%c", names[letter - letters]);
        else
            buf_printf(out, "\\u%04x", (unsigned char)*s);
        s++;
    }
    buf_puts(out, "\"");
}
