#include "verify/id_lines.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* What is accepted: lines that tile the ids, each below the limit. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct id_lines l = {0};
    size_t at = 0;

    if (id_lines_parse(&l, (const char *)data, bytes, 129280, NULL)) {
        for (size_t i = 0; i < l.line_count; at += l.lines[i++].count)
            if (l.lines[i].first != at || !l.lines[i].count)
                __builtin_trap();
        for (size_t i = 0; i < l.ids.count; i++)
            if (l.ids.ids[i] >= 129280)
                __builtin_trap();
        if (at != l.ids.count)
            __builtin_trap();
    }
    id_lines_release(&l);
    return 0;
}
