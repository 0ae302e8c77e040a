#include "verify/text_input.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/gzip.h"
#include "formats/tokenizer.h"

#define PART_BYTES ((size_t)64 << 10)

static bool unpack(struct buf *text, struct err *e)
{
    struct buf plain = {0};
    bool ok = gzip_unpack(&plain, text->data, text->bytes, TOKENIZER_TEXT_BYTES_MAX, e);

    buf_release(text);
    *text = plain;
    return ok;
}

static bool read_standard_input(struct buf *text, struct err *e)
{
    char *part = mem_alloc(PART_BYTES);
    size_t got = 0;

    while ((got = fread(part, 1, PART_BYTES, stdin)) > 0 && text->bytes <= TOKENIZER_TEXT_BYTES_MAX)
        buf_add(text, part, got);
    mem_free(part);
    if (ferror(stdin))
        return err_sys(e, "cannot read standard input");
    if (text->bytes > TOKENIZER_TEXT_BYTES_MAX)
        return err_set(e, ERR_LIMIT, "standard input has more than the limit of %zu bytes", TOKENIZER_TEXT_BYTES_MAX);
    return !gzip_is(text->data, text->bytes) || unpack(text, e) || err_in(e, "standard input");
}

bool text_input_read(const char *path, struct buf *text, struct err *e)
{
    char *data = NULL;
    size_t bytes = 0;

    text->bytes = 0;
    if (strcmp(path, "-") == 0)
        return read_standard_input(text, e);
    if (!gzip_slurp(path, TOKENIZER_TEXT_BYTES_MAX, &data, &bytes, e))
        return false;
    buf_add(text, data, bytes);
    mem_free(data);
    return true;
}
