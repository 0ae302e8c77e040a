#include <string.h>

#include "formats/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* What is accepted is written again, and that is accepted and writes the same. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct arena a = {0};
    struct manifest m, again;
    struct buf first = {0}, second = {0};

    if (manifest_parse(&m, &a, (const char *)data, bytes, NULL)) {
        manifest_write(&first, &m);
        if (!manifest_parse(&again, &a, first.data, first.bytes, NULL))
            __builtin_trap();
        manifest_write(&second, &again);
        if (strcmp(first.data, second.data) != 0)
            __builtin_trap();
    }
    buf_release(&second);
    buf_release(&first);
    arena_release(&a);
    return 0;
}
