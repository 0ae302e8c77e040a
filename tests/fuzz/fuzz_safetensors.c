#include "formats/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* What is accepted tiles the file. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct arena a = {0};
    struct safetensors s = {0};
    uint64_t at = 0;

    if (safetensors_parse(&s, &a, data, bytes, bytes, NULL)) {
        at = s.data_offset;
        for (size_t i = 0; i < s.tensor_count; at += s.tensors[i++].bytes)
            if (s.tensors[i].offset != at)
                __builtin_trap();
        if (at != bytes)
            __builtin_trap();
    }
    arena_release(&a);
    return 0;
}
