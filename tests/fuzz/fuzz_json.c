#include "formats/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* The first byte picks the flags. What is accepted is walked, and its spans looked up. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct json_doc d = {0};
    size_t begin = 0, end = 0;

    if (!bytes || !json_parse(&d, (const char *)data + 1, bytes - 1, data[0] & 7, NULL))
        return 0;
    for (const struct json *m = json_first(d.root); m; m = json_next(m))
        if (json_type(d.root) == JSON_OBJECT && data[0] == 0)
            if (!json_member_span((const char *)data + 1, bytes - 1, json_key(m), &begin, &end) || begin >= end)
                __builtin_trap();
    json_release(&d);
    return 0;
}
