#include "verify/golden.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* What is accepted can be used: every id is in range, contexts tile the tokens. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct golden g = {0};

    if (!golden_parse(&g, data, bytes, NULL))
        return 0;
    for (size_t i = 0; i < g.tokens; i++)
        for (uint32_t k = 0; k < g.rows[i].count; k++)
            if (g.rows[i].ids[k] >= g.vocab || g.ids[i] >= g.vocab)
                __builtin_trap();
    if (g.starts[g.contexts] != g.tokens)
        __builtin_trap();
    golden_release(&g);
    return 0;
}
