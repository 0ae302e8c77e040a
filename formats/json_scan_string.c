/* Strings: what may stand between two quotes, and what it means. */
#include <string.h>

#include "formats/base/utf8.h"
#include "formats/json_scan_private.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The four digits behind "\u"; -1: not four hex digits. */
static int32_t hex4(const char *p)
{
    int32_t value = 0;

    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(p[i]); /* a NUL ends it before the text does */
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

static bool is_surrogate(int32_t code, int32_t first)
{
    return code >= first && code < first + 0x400;
}

/* at stands on the backslash; moves behind the escape. */
static bool scan_escape(struct scan *s)
{
    const char *p = s->text + s->at;
    int32_t code = 0, low = 0;

    if (s->at + 1 < s->bytes && p[1] && strchr("\"\\/bfnrt", p[1])) {
        s->at += 2;
        return true;
    }
    if (s->at + 1 >= s->bytes || p[1] != 'u')
        return json_scan_refuse(s, s->at, "unknown escape");
    code = hex4(p + 2);
    if (code < 0)
        return json_scan_refuse(s, s->at, "\\u without four hex digits");
    if (code == 0)
        return json_scan_refuse(s, s->at, "\\u0000 in a string");
    s->at += 6;
    if (is_surrogate(code, 0xdc00))
        return json_scan_refuse(s, s->at - 6, "lone low surrogate");
    if (!is_surrogate(code, 0xd800))
        return true;
    low = p[6] == '\\' && p[7] == 'u' ? hex4(p + 8) : -1;
    if (!is_surrogate(low, 0xdc00))
        return json_scan_refuse(s, s->at - 6, "lone high surrogate");
    s->at += 6;
    return true;
}

bool json_scan_string(struct scan *s, size_t *begin, bool *escaped)
{
    size_t opening = s->at;

    *escaped = false;
    *begin = ++s->at;
    while (s->at < s->bytes) {
        unsigned char c = (unsigned char)s->text[s->at];
        if (c == '"') {
            s->at++;
            return true;
        }
        if (c < 0x20)
            return json_scan_refuse(s, s->at, "raw control character in a string");
        if (c == '\\') {
            *escaped = true;
            if (!scan_escape(s))
                return false;
        } else {
            s->at++;
        }
    }
    return json_scan_refuse(s, opening, "string without an end");
}

void json_unescape(struct buf *out, const char *content, size_t bytes)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    size_t at = 0;

    while (at < bytes) {
        const char *p = content + at;
        const char *backslash = memchr(p, '\\', bytes - at);
        size_t plain = backslash ? (size_t)(backslash - p) : bytes - at;
        char character[UTF8_BYTES_MAX];
        uint32_t code = 0;

        if (plain) {
            buf_add(out, p, plain);
            at += plain;
            continue;
        }
        if (p[1] != 'u') {
            buf_add(out, &meanings[strchr(letters, p[1]) - letters], 1);
            at += 2;
            continue;
        }
        code = (uint32_t)hex4(p + 2);
        at += 6;
        if (code >= 0xd800 && code < 0xdc00) {
            code = 0x10000 + ((code - 0xd800) << 10) + ((uint32_t)hex4(p + 8) - 0xdc00);
            at += 6;
        }
        buf_add(out, character, utf8_put(code, character));
    }
}
