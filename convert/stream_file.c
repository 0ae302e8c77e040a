#include "convert/stream_file.h"

#include "formats/base/file.h"
#include "formats/base/mem.h"

#define BLOCK_TOKENS 256u

static size_t block_tokens(const struct stream *s, size_t first)
{
    return s->tokens - first < BLOCK_TOKENS ? s->tokens - first : BLOCK_TOKENS;
}

bool stream_save(const char *path, const struct stream *s, struct err *e)
{
    struct output o = {0};
    size_t row_bytes = s->width * sizeof(float);
    float *block = mem_aligned(BLOCK_TOKENS * row_bytes);
    bool ok = output_open(&o, path, s->tokens * row_bytes, false, e);

    for (size_t t = 0; t < s->tokens && ok; t += BLOCK_TOKENS) {
        size_t count = block_tokens(s, t);
        const float *rows = NULL;
        ok = stream_read(s, t, count, block, &rows, e) && output_write(&o, t * row_bytes, rows, count * row_bytes, e);
    }
    ok = ok && output_commit(&o, e);
    output_release(&o);
    mem_free(block);
    return ok;
}

bool stream_load(const char *path, struct stream *s, struct err *e)
{
    struct file f = {0};
    size_t row_bytes = s->width * sizeof(float);
    float *block = mem_aligned(BLOCK_TOKENS * row_bytes);
    bool ok = file_open(&f, path, e);

    if (ok && f.bytes != s->tokens * row_bytes)
        ok = err_set(e, ERR_IO, "'%s' has %llu bytes, not the %llu of this run; --restart begins anew", f.path,
                     (unsigned long long)f.bytes, (unsigned long long)(s->tokens * row_bytes));
    for (size_t t = 0; t < s->tokens && ok; t += BLOCK_TOKENS) {
        size_t count = block_tokens(s, t);
        float *rows = stream_place(s, t, block);
        ok = file_read(&f, t * row_bytes, rows, count * row_bytes, e) && stream_write(s, t, count, rows, e);
    }
    file_close(&f);
    mem_free(block);
    return ok;
}
