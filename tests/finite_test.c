#include "quant/finite.h"

#include <string.h>

#include "tests/kernel_support.h"

#define LENGTH_MAX 140u

/* What the decoders say of one code. */
static bool decodes(const struct kernel *k, enum dtype_id dtype, uint32_t code)
{
    const float one = 1.0f;
    uint16_t half = (uint16_t)code;
    uint8_t byte = (uint8_t)code;
    float x;

    switch ((int)dtype) {
    case DTYPE_F16:
        return k->f16_decode(&x, &half, 1);
    case DTYPE_BF16:
        return k->bf16_decode(&x, &half, 1);
    case DTYPE_F8_E4M3:
        return k->e4m3_decode(&x, &byte, 1, &one, 1);
    case DTYPE_F8_E5M2:
        return k->e5m2_decode(&x, &byte, 1, one);
    default:
        return k->e8m0_decode(&x, &byte, 1);
    }
}

static const enum dtype_id coded[] = {DTYPE_F16, DTYPE_BF16, DTYPE_F8_E4M3, DTYPE_F8_E5M2, DTYPE_F8_E8M0};

TEST(finite, a_code_is_refused_where_its_decoder_refuses_it)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        for (size_t d = 0; k && d < sizeof coded / sizeof coded[0]; d++) {
            size_t bytes = dtype_get(coded[d])->block_bytes, bad, wrong = 0;
            for (uint32_t code = 0; code < 1u << (8 * bytes); code++)
                wrong += finite_check(k, coded[d], &code, 1, &bad) != decodes(kernel_at(0), coded[d], code);
            ct_case("%s, %s", k->name, dtype_get(coded[d])->name);
            EXPECT_EQ_U64(0, wrong);
        }
    }
}

/* NaN, wherever it stands, in rows of any length. */
static const struct planted {
    enum dtype_id dtype;
    size_t bytes;
    uint64_t fine, bad;
} planted[] = {
    {DTYPE_F8_E4M3, 1, 0x7E, 0xFF},
    {DTYPE_F8_E5M2, 1, 0x7B, 0xFC},
    {DTYPE_F8_E8M0, 1, 0xFE, 0xFF},
    {DTYPE_F16, 2, 0xFBFF, 0x7C00},
    {DTYPE_BF16, 2, 0xFF7F, 0x7F80},
    {DTYPE_F32, 4, 0xFF7FFFFF, 0x7F800000},
    {DTYPE_F64, 8, 0xFFEFFFFFFFFFFFFF, 0x7FF0000000000000},
};

static void put(uint8_t *row, const struct planted *p, size_t at, uint64_t code)
{
    memcpy(row + at * p->bytes, &code, p->bytes);
}

TEST(finite, the_first_bad_number_is_found_in_rows_of_any_length)
{
    _Alignas(8) uint8_t row[LENGTH_MAX * 8];

    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        for (size_t c = 0; k && c < sizeof planted / sizeof planted[0]; c++) {
            const struct planted *p = &planted[c];
            size_t wrong = 0, bad = 0;
            for (size_t n = 0; n < LENGTH_MAX; n++)
                put(row, p, n, p->fine);
            for (size_t n = 0; n < LENGTH_MAX; n++) {
                wrong += !finite_check(k, p->dtype, row, n, &bad);
                put(row, p, n, p->bad); /* behind the end */
                wrong += !finite_check(k, p->dtype, row, n, &bad);
                for (size_t at = 0; at < n; at++) {
                    put(row, p, at, p->bad);
                    wrong += finite_check(k, p->dtype, row, n, &bad) || bad != at;
                    put(row, p, at, p->fine);
                }
                put(row, p, n, p->fine);
            }
            ct_case("%s, %s", k->name, dtype_get(p->dtype)->name);
            EXPECT_EQ_U64(0, wrong);
        }
    }
}

TEST(finite, integers_always_are)
{
    static const enum dtype_id integers[] = {DTYPE_BOOL, DTYPE_U8, DTYPE_I8, DTYPE_I32, DTYPE_U32, DTYPE_I64, DTYPE_F4};
    uint64_t ones[4];
    size_t bad = 0;

    memset(ones, 0xFF, sizeof ones);
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++)
        EXPECT_TRUE(finite_check(support_best(), integers[i], ones, 4, &bad));
}
