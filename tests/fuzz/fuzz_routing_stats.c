#include "formats/routing_stats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* What is accepted adds up: a trace's choices are in range, and merging it with itself doubles every count. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct routing_stats s = {0}, twice = {0};

    if (!routing_stats_parse(&s, data, bytes, NULL))
        return 0;
    routing_stats_init(&twice, s.experts, s.experts_per_token, s.layers, s.config_sha256, s.with_trace);
    if (!routing_stats_merge(&twice, &s, NULL) || !routing_stats_merge(&twice, &s, NULL))
        __builtin_trap();
    for (size_t i = 0; i < s.count; i++)
        for (size_t k = 0; k < s.experts; k++)
            if (twice.items[i].counts[k] != 2 * s.items[i].counts[k])
                __builtin_trap();
    routing_stats_release(&twice);
    routing_stats_release(&s);
    return 0;
}
