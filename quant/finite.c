#include "quant/finite.h"

#include <string.h>

/* E4M3 has NaN where exponent and fraction are all ones, and no infinity; E5M2 is as IEEE's; of E8M0 one code is NaN.
 * FNUZ has one NaN, which is a bit pattern of its own and in no checkpoint of this family. */
static const struct form {
    size_t bytes;
    uint64_t mask;
} forms[DTYPE_COUNT] = {
    [DTYPE_F8_E5M2] = {1, 0x7C},
    [DTYPE_F8_E4M3] = {1, 0x7F},
    [DTYPE_F8_E8M0] = {1, 0xFF},
    [DTYPE_F16] = {2, 0x7C00},
    [DTYPE_BF16] = {2, 0x7F80},
    [DTYPE_F32] = {4, 0x7F800000},
    [DTYPE_F64] = {8, 0x7FF0000000000000},
};

static bool code_is_finite(const struct form *f, const uint8_t *code)
{
    uint64_t bits = 0;

    memcpy(&bits, code, f->bytes);
    return (bits & f->mask) != f->mask;
}

static bool all_finite(const struct kernel *k, const struct form *f, const void *data, size_t count)
{
    switch (f->bytes) {
    case 0:
        return true;
    case 1:
        return k->codes8_check(data, count, (uint8_t)f->mask);
    case 2:
        return k->codes16_check(data, count, (uint16_t)f->mask);
    case 4:
        return k->f32_check(data, count);
    default:
        return false; /* rare: one by one */
    }
}

bool finite_check(const struct kernel *k, enum dtype_id dtype, const void *data, size_t count, size_t *bad)
{
    const struct form *f = &forms[dtype];

    if (all_finite(k, f, data, count))
        return true;
    for (*bad = 0; *bad < count; ++*bad)
        if (!code_is_finite(f, (const uint8_t *)data + *bad * f->bytes))
            return false;
    return true;
}
