/* A pushdown automaton over the bytes: an explicit stack of open containers,
 * one word for what may come next. Strings and keys are next door. */
#include "formats/json_scan.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/utf8.h"
#include "formats/json_scan_private.h"

/* cJSON copies a number into 64 bytes; what is longer gets a stand-in. */
#define CJSON_NUMBER_BYTES_MAX 60u

enum expect { EXPECT_VALUE, EXPECT_VALUE_OR_END, EXPECT_KEY, EXPECT_KEY_OR_END, EXPECT_COMMA_OR_END, EXPECT_NOTHING };

/* ---- messages ---- */

static void position(const struct scan *s, size_t at, size_t *line, size_t *column)
{
    *line = 1;
    *column = 1;
    for (size_t i = 0; i < at; i++) {
        (*column)++;
        if (s->text[i] == '\n') {
            (*line)++;
            *column = 1;
        }
    }
}

int json_scan_shown_bytes(size_t bytes)
{
    return bytes < 200 ? (int)bytes : 200;
}

bool json_scan_refuse(const struct scan *s, size_t at, const char *what)
{
    size_t line = 0, column = 0;

    position(s, at, &line, &column);
    if (s->depth > 1 && s->stack[0].is_object) {
        const struct key *k = &s->keys[s->stack[1].first_key - 1];
        return err_set(s->e, ERR_FORMAT, "%s at line %zu column %zu, in '%.*s'", what, line, column,
                       json_scan_shown_bytes(k->bytes), json_scan_key_text(s, k));
    }
    return err_set(s->e, ERR_FORMAT, "%s at line %zu column %zu", what, line, column);
}

static bool refuse_byte(const struct scan *s, const char *wanted)
{
    unsigned char c = (unsigned char)s->text[s->at];
    char what[100];

    if (s->at >= s->bytes)
        snprintf(what, sizeof what, "the text ends where %s should be", wanted);
    else if (c > 0x20 && c < 0x7f)
        snprintf(what, sizeof what, "'%c' stands where %s should be", c, wanted);
    else
        snprintf(what, sizeof what, "byte 0x%02x stands where %s should be", c, wanted);
    return json_scan_refuse(s, s->at, what);
}

/* ---- numbers ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t digits_end(const struct scan *s, size_t at)
{
    while (is_digit(s->text[at])) /* ends at the text's NUL */
        at++;
    return at;
}

/* false: above 2^64-1 */
static bool digits_value(const char *p, size_t count, uint64_t *value)
{
    *value = 0;
    for (size_t i = 0; i < count; i++)
        if (__builtin_mul_overflow(*value, 10u, value) || __builtin_add_overflow(*value, (uint64_t)(p[i] - '0'), value))
            return false;
    return true;
}

static void add_number(struct json_numbers *n, struct json_number number)
{
    if (n->count == n->room) {
        n->room = n->room ? n->room * 2 : 64;
        n->items = mem_grow(n->items, n->room, sizeof *n->items);
    }
    n->items[n->count++] = number;
}

/* -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)? */
static bool number_end(struct scan *s, size_t *end, bool *plain)
{
    size_t at = s->at, first = 0;

    *plain = s->text[at] != '-';
    first = *plain ? at : at + 1;
    at = digits_end(s, first);
    if (at == first)
        return json_scan_refuse(s, s->at, "minus sign without digits");
    if (s->text[first] == '0' && at > first + 1)
        return json_scan_refuse(s, s->at, "number with a leading zero");
    if (s->text[at] == '.') {
        *plain = false;
        first = at + 1;
        at = digits_end(s, first);
        if (at == first)
            return json_scan_refuse(s, s->at, "no digit behind the decimal point");
    }
    if (s->text[at] == 'e' || s->text[at] == 'E') {
        *plain = false;
        first = at + 1;
        if (s->text[first] == '+' || s->text[first] == '-')
            first++;
        at = digits_end(s, first);
        if (at == first)
            return json_scan_refuse(s, s->at, "no digit in the exponent");
    }
    *end = at;
    return true;
}

static bool scan_number(struct scan *s)
{
    struct json_number n = {0};
    size_t end = 0, begin = s->at;

    if (!number_end(s, &end, &n.is_u64))
        return false;
    n.is_u64 = n.is_u64 && digits_value(s->text + begin, end - begin, &n.u64);
    if (!n.is_u64 && (s->flags & JSON_INTEGERS_ONLY)) {
        char what[120];
        snprintf(what, sizeof what, "'%.*s' is not an integer from 0 to 2^64-1",
                 (int)(end - begin < 40 ? end - begin : 40), s->text + begin);
        return json_scan_refuse(s, begin, what);
    }
    n.value = n.is_u64 ? (double)n.u64 : strtod(s->text + begin, NULL);
    add_number(s->numbers, n);
    if (end - begin > CJSON_NUMBER_BYTES_MAX) {
        memset(s->text + begin, ' ', end - begin);
        s->text[begin] = '0';
    }
    s->at = end;
    return true;
}

/* ---- space and comments ---- */

static void blank(struct scan *s, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        if (s->text[i] != '\n')
            s->text[i] = ' ';
}

/* at stands on a slash. */
static bool scan_comment(struct scan *s)
{
    size_t begin = s->at;
    const char *end = NULL;

    if (s->text[begin + 1] == '/') {
        end = memchr(s->text + begin, '\n', s->bytes - begin);
        s->at = end ? (size_t)(end - s->text) : s->bytes;
    } else if (s->text[begin + 1] == '*') {
        end = memmem(s->text + begin + 2, s->bytes - begin - 2, "*/", 2);
        if (!end)
            return json_scan_refuse(s, begin, "comment without an end");
        s->at = (size_t)(end - s->text) + 2;
    } else {
        return refuse_byte(s, "a comment");
    }
    blank(s, begin, s->at);
    return true;
}

static bool skip_space(struct scan *s)
{
    for (;;) {
        char c = s->text[s->at];
        if (s->at < s->bytes && (c == ' ' || c == '\n' || c == '\r' || c == '\t'))
            s->at++;
        else if (c == '/' && (s->flags & JSON_COMMENTS)) {
            if (!scan_comment(s))
                return false;
        } else
            return true;
    }
}

/* ---- containers ---- */

static bool open_container(struct scan *s, bool is_object)
{
    if (s->depth == JSON_DEPTH_MAX)
        return json_scan_refuse(s, s->at, "nesting deeper than 127");
    s->stack[s->depth++] = (struct frame){
        .is_object = is_object,
        .first_key = s->key_count,
        .unescaped_bytes = s->unescaped.bytes,
    };
    s->at++;
    return true;
}

static void close_container(struct scan *s)
{
    struct frame *f = &s->stack[--s->depth];

    s->key_count = f->first_key;
    s->unescaped.bytes = f->unescaped_bytes;
    mem_free(f->slots);
    f->slots = NULL;
}

static bool scan_word(struct scan *s, const char *word)
{
    size_t bytes = strlen(word);

    if (s->bytes - s->at < bytes || memcmp(s->text + s->at, word, bytes) != 0)
        return refuse_byte(s, "a value");
    s->at += bytes;
    return true;
}

static enum expect after_value(const struct scan *s)
{
    return s->depth ? EXPECT_COMMA_OR_END : EXPECT_NOTHING;
}

static bool scan_value(struct scan *s, enum expect *next)
{
    char c = s->text[s->at];
    size_t begin = 0;
    bool escaped = false, ok = false;

    if (c == '{' || c == '[') {
        *next = c == '{' ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
        return open_container(s, c == '{');
    }
    *next = after_value(s);
    if (c == '"')
        ok = json_scan_string(s, &begin, &escaped);
    else if (c == '-' || is_digit(c))
        ok = scan_number(s);
    else
        ok = scan_word(s, c == 't' ? "true" : c == 'f' ? "false" : "null");
    return ok;
}

static bool scan_member(struct scan *s, enum expect *next)
{
    if (s->text[s->at] != '"')
        return refuse_byte(s, *next == EXPECT_KEY ? "a key" : "a key or '}'");
    if (!json_scan_key(s) || !skip_space(s))
        return false;
    if (s->text[s->at] != ':')
        return refuse_byte(s, "':'");
    s->at++;
    *next = EXPECT_VALUE;
    return true;
}

static bool may_close(const struct scan *s, enum expect expect)
{
    bool comma_allowed = s->flags & JSON_COMMENTS;

    switch (expect) {
    case EXPECT_VALUE_OR_END:
    case EXPECT_KEY_OR_END:
    case EXPECT_COMMA_OR_END:
        return true;
    case EXPECT_KEY:
        return comma_allowed;
    case EXPECT_VALUE: /* a colon comes before a value too: only a comma directly before counts */
        return comma_allowed && !s->stack[s->depth - 1].is_object;
    case EXPECT_NOTHING:
        break;
    }
    return false;
}

/* One token, at the first byte that is not space. */
static bool scan_token(struct scan *s, enum expect *expect)
{
    const struct frame *f = s->depth ? &s->stack[s->depth - 1] : NULL;
    char c = s->text[s->at];

    if (f && c == (f->is_object ? '}' : ']') && may_close(s, *expect)) {
        if (*expect == EXPECT_KEY || *expect == EXPECT_VALUE)
            blank(s, s->comma_at, s->comma_at + 1);
        s->at++;
        close_container(s);
        *expect = after_value(s);
        return true;
    }
    switch (*expect) {
    case EXPECT_KEY:
    case EXPECT_KEY_OR_END:
        return scan_member(s, expect);
    case EXPECT_COMMA_OR_END:
        if (c != ',')
            return refuse_byte(s, f->is_object ? "',' or '}'" : "',' or ']'");
        s->comma_at = s->at++;
        *expect = f->is_object ? EXPECT_KEY : EXPECT_VALUE;
        return true;
    case EXPECT_NOTHING:
        return refuse_byte(s, "the end of the text");
    case EXPECT_VALUE:
    case EXPECT_VALUE_OR_END:
        break;
    }
    return scan_value(s, expect);
}

static bool scan_text(struct scan *s)
{
    enum expect expect = EXPECT_VALUE;
    size_t valid_bytes = utf8_end(s->text, s->bytes);

    if (valid_bytes < s->bytes)
        return json_scan_refuse(s, valid_bytes, "invalid UTF-8");
    if (s->bytes >= 3 && !memcmp(s->text, "\xef\xbb\xbf", 3))
        return json_scan_refuse(s, 0, "byte order mark");
    if ((s->flags & JSON_NO_LEADING_SPACE) && s->bytes && strchr(" \t\r\n/", s->text[0]))
        return refuse_byte(s, "the first byte of a value");
    for (;;) {
        if (!skip_space(s))
            return false;
        if (s->at == s->bytes && expect == EXPECT_NOTHING)
            return true;
        if (!scan_token(s, &expect))
            return false;
    }
}

bool json_scan(char *text, size_t bytes, unsigned flags, struct json_numbers *n, struct err *e)
{
    struct scan s = {.text = text, .bytes = bytes, .flags = flags, .e = e, .numbers = n};
    bool ok = false;

    assert(text[bytes] == 0);
    ok = scan_text(&s);
    while (s.depth)
        close_container(&s);
    mem_free(s.keys);
    buf_release(&s.unescaped);
    if (!ok) {
        mem_free(n->items);
        *n = (struct json_numbers){0};
    }
    return ok;
}
