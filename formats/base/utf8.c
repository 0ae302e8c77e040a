#include "formats/base/utf8.h"

/* Bytes that a first byte asks for, 0: it cannot be one. */
static size_t wanted_bytes(unsigned char c)
{
    return c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
}

/* How many bytes from p on are as the first byte asks, at most `bytes`. */
static size_t fitting_bytes(const unsigned char *p, size_t bytes)
{
    unsigned char low = 0x80, high = 0xbf;

    if (p[0] == 0xe0)
        low = 0xa0; /* shorter forms exist */
    if (p[0] == 0xed)
        high = 0x9f; /* surrogates */
    if (p[0] == 0xf0)
        low = 0x90;
    if (p[0] == 0xf4)
        high = 0x8f; /* past U+10FFFF */
    for (size_t i = 1; i < bytes; i++) {
        if (p[i] < low || p[i] > high)
            return i;
        low = 0x80;
        high = 0xbf;
    }
    return bytes;
}

size_t utf8_step(const char *text, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t wanted = wanted_bytes(p[0]);

    return wanted <= bytes && fitting_bytes(p, wanted) == wanted ? wanted : 0;
}

size_t utf8_end(const char *text, size_t bytes)
{
    size_t at = 0;

    while (at < bytes) {
        size_t step = (unsigned char)text[at] < 0x80 ? 1 : utf8_step(text + at, bytes - at);
        if (!step)
            break;
        at += step;
    }
    return at;
}

size_t utf8_unfinished(const char *text, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)text + bytes;

    for (size_t back = 1; back < UTF8_BYTES_MAX && back <= bytes; back++) {
        if ((p[-(ptrdiff_t)back] & 0xc0) == 0x80)
            continue;
        if (wanted_bytes(p[-(ptrdiff_t)back]) > back && fitting_bytes(p - back, back) == back)
            return back;
        return 0;
    }
    return 0;
}

uint32_t utf8_code(const char *text, size_t bytes)
{
    static const unsigned char first_bits[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    const unsigned char *p = (const unsigned char *)text;
    uint32_t code = p[0] & first_bits[bytes];

    for (size_t i = 1; i < bytes; i++)
        code = code << 6 | (p[i] & 0x3f);
    return code;
}

size_t utf8_put(uint32_t code, char text[UTF8_BYTES_MAX])
{
    size_t bytes = 0;

    if (code < 0x80) {
        text[bytes++] = (char)code;
        return bytes;
    }
    if (code < 0x800) {
        text[bytes++] = (char)(0xc0 | code >> 6);
    } else if (code < 0x10000) {
        text[bytes++] = (char)(0xe0 | code >> 12);
        text[bytes++] = (char)(0x80 | (code >> 6 & 0x3f));
    } else {
        text[bytes++] = (char)(0xf0 | code >> 18);
        text[bytes++] = (char)(0x80 | (code >> 12 & 0x3f));
        text[bytes++] = (char)(0x80 | (code >> 6 & 0x3f));
    }
    text[bytes++] = (char)(0x80 | (code & 0x3f));
    return bytes;
}

bool utf8_is_space(uint32_t code)
{
    if (code < 0x80)
        return code == ' ' || (code >= 0x09 && code <= 0x0d);
    return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}
