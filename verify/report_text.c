#include "verify/report_text.h"

void report_disarm(struct buf *out, size_t from)
{
    for (size_t i = from; i < out->bytes; i++) {
        unsigned char c = (unsigned char)out->data[i];
        if ((c < 0x20 && c != '\n') || c == 0x7f)
            out->data[i] = '?';
    }
}
