#include <string.h>

#include "formats/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define FIXED_TEXT "It's <l> 12345 \xe6\xbc\xa2\xe5\xad\x97\xe3\x81\x8b  and\r\n\n\tso on..."

static void encode(const struct tokenizer *t, const char *text, size_t bytes, bool comes_back)
{
    struct tokenizer_encode how = {0};
    struct id_list ids = {0};
    struct buf back = {0};

    if (tokenizer_encode(t, text, bytes, &how, &ids, NULL)) {
        for (size_t i = 0; i < ids.count; i++) {
            size_t id_bytes = 0;
            const char *part = tokenizer_bytes(t, ids.ids[i], &id_bytes);
            if (!part)
                __builtin_trap();
            buf_add(&back, part, id_bytes);
        }
        if (comes_back && (back.bytes != bytes || (bytes && memcmp(back.data, text, bytes) != 0)))
            __builtin_trap();
    }
    buf_release(&back);
    id_list_release(&ids);
}

/* The first byte picks what the rest is: a tokenizer.json, a tiktoken.model, or text for the shipped ones, where it
 * comes back as it went in. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const char *const dirs[] = {"samples/tiny-v3", "tests/fixtures/tokenizer/kimi"};
    static struct tokenizer shipped[2];
    const char *text = (const char *)data + 1;
    struct tokenizer t = {0};

    if (!bytes)
        return 0;
    if (data[0] % 4 < 2) {
        bool ok = data[0] % 4 == 0 ? tokenizer_parse_json(&t, text, bytes - 1, NULL)
                                   : tokenizer_parse_tiktoken(&t, text, bytes - 1, NULL, 0, NULL);
        if (ok)
            encode(&t, FIXED_TEXT, strlen(FIXED_TEXT), false);
        tokenizer_release(&t);
        return 0;
    }
    struct tokenizer *s = &shipped[data[0] % 4 - 2];
    if (!s->bpe.tokens && !tokenizer_open(s, dirs[data[0] % 4 - 2], NULL))
        __builtin_trap();
    encode(s, text, bytes - 1, true);
    return 0;
}
