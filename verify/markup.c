#include "verify/markup.h"

#include <stdint.h>
#include <string.h>

/* Bytes of a well-formed UTF-8 character that XML 1.0 allows, at s; 0: there is none. */
static size_t character(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t more = s[0] < 0x80 ? 0 : s[0] >= 0xC2 && s[0] < 0xE0 ? 1 : s[0] >= 0xE0 && s[0] < 0xF0 ? 2 : 3;
    uint32_t code = more == 0 ? s[0] : s[0] & (0x3Fu >> more);

    if (s[0] < 0x20 && s[0] != '\t' && s[0] != '\n')
        return 0;
    if (more > 0 && (s[0] < 0xC2 || s[0] > 0xF4))
        return 0;
    for (size_t i = 1; i <= more; i++) {
        if ((s[i] & 0xC0) != 0x80) /* also the NUL at the end */
            return 0;
        code = code << 6 | (s[i] & 0x3Fu);
    }
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    bool is_surrogate = code >= 0xD800 && code < 0xE000, is_noncharacter = code == 0xFFFE || code == 0xFFFF;
    if (code < least[more] || code > 0x10FFFF || is_surrogate || is_noncharacter || code == 0x7F)
        return 0;
    return more + 1;
}

static const char *entity(char c)
{
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return NULL;
    }
}

void markup_escape(struct buf *out, const char *text)
{
    while (*text) {
        size_t bytes = character(text);
        if (bytes == 0)
            buf_puts(out, "\xEF\xBF\xBD");
        else if (entity(*text))
            buf_puts(out, entity(*text));
        else
            buf_add(out, text, bytes);
        text += bytes ? bytes : 1;
    }
}

void markdown_escape(struct buf *out, const char *text)
{
    struct buf plain = {0};

    for (const char *c = text; *c; c++) {
        if (strchr("\\`*_[]|#<>~", *c))
            buf_printf(&plain, "\\%c", *c);
        else if (*c == '\n' || *c == '\r')
            buf_puts(&plain, " ");
        else
            buf_add(&plain, c, 1);
    }
    for (const char *c = plain.data ? plain.data : ""; *c;) {
        size_t bytes = character(c);
        if (bytes)
            buf_add(out, c, bytes);
        else
            buf_puts(out, "\xEF\xBF\xBD");
        c += bytes ? bytes : 1;
    }
    buf_release(&plain);
}
