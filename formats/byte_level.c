#include "formats/byte_level.h"

#include "formats/base/utf8.h"

/* The bytes that are no character of their own, in three ranges: 0x00-0x20, 0x7f-0xa0, 0xad. */
#define FIRST_BYTES  0x21u
#define SECOND_BEGIN 0x7fu
#define SECOND_END   0xa1u
#define SECOND_BYTES (SECOND_END - SECOND_BEGIN)
#define THIRD        0xadu
#define MOVED_BYTES  (FIRST_BYTES + SECOND_BYTES + 1u)
#define MOVED_CODE   0x100u

uint32_t byte_level_code(unsigned char byte)
{
    if (byte < FIRST_BYTES)
        return MOVED_CODE + byte;
    if (byte >= SECOND_BEGIN && byte < SECOND_END)
        return MOVED_CODE + FIRST_BYTES + (byte - SECOND_BEGIN);
    return byte == THIRD ? MOVED_CODE + MOVED_BYTES - 1 : byte;
}

/* The byte that a code point stands for, -1: none. */
static int byte_of(uint32_t code)
{
    if (code < MOVED_CODE)
        return byte_level_code((unsigned char)code) == code ? (int)code : -1;
    code -= MOVED_CODE;
    if (code < FIRST_BYTES)
        return (int)code;
    if (code < FIRST_BYTES + SECOND_BYTES)
        return (int)(SECOND_BEGIN + (code - FIRST_BYTES));
    return code < MOVED_BYTES ? (int)THIRD : -1;
}

bool byte_level_read(struct buf *out, const char *text, size_t bytes)
{
    out->bytes = 0;
    for (size_t at = 0; at < bytes;) {
        size_t step = utf8_step(text + at, bytes - at);
        int byte = step ? byte_of(utf8_code(text + at, step)) : -1;
        char c = (char)byte;

        if (byte < 0)
            return false;
        buf_add(out, &c, 1);
        at += step;
    }
    return true;
}

void byte_level_write(struct buf *out, const char *data, size_t bytes)
{
    char character[UTF8_BYTES_MAX];

    for (size_t i = 0; i < bytes; i++)
        buf_add(out, character, utf8_put(byte_level_code((unsigned char)data[i]), character));
}
