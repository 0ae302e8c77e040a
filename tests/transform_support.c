#include "tests/transform_support.h"

#include <math.h>

#include "formats/base/mem.h"

bool matrix_init(struct matrix *m, const struct scheme *s, uint64_t rows, uint64_t cols)
{
    struct err e = {0};

    *m = (struct matrix){.scheme = *s, .rows = rows, .cols = cols};
    if (!scheme_layout(s, rows, cols, m->layout, &e))
        return ct_err(__FILE__, __LINE__, "scheme_layout", &e, ERR_NONE, NULL);
    for (enum part p = PART_CODES; p < PART_COUNT; p++)
        if (m->layout[p].present) {
            m->parts.part[p] = mem_aligned(m->layout[p].bytes);
            memset(m->parts.part[p], 0x5A, m->layout[p].bytes);
        }
    return true;
}

void matrix_release(struct matrix *m)
{
    for (enum part p = PART_CODES; p < PART_COUNT; p++)
        mem_free(m->parts.part[p]);
    *m = (struct matrix){0};
}

static struct slices matrix_slices(const struct matrix *m, uint64_t row, uint64_t count)
{
    struct slices s = {0};

    for (enum part p = PART_CODES; p < PART_COUNT; p++) {
        uint64_t offset, bytes;
        scheme_slice(&m->scheme, p, m->rows, m->cols, row, count, &offset, &bytes);
        if (m->layout[p].present)
            s.part[p] = (uint8_t *)m->parts.part[p] + offset;
    }
    return s;
}

static void fill_scales(struct matrix *m, uint64_t *seed)
{
    struct part_layout *l = &m->layout[PART_SCALE];

    for (uint64_t i = 0; i < l->bytes / dtype_get(l->dtype)->block_bytes; i++) {
        float scale = fabsf(support_float(seed, -9, -3));
        uint8_t *at = (uint8_t *)m->parts.part[PART_SCALE] + i * dtype_get(l->dtype)->block_bytes;
        uint16_t code;
        if (m->scheme.kind == SCHEME_INT4 && i % 3 == 0)
            scale = -scale;
        if (m->scheme.scale == SCALE_F32_POW2)
            scale = ldexpf(1.0f, -9 + (int)(i % 5));
        if (l->dtype == DTYPE_F32) {
            memcpy(at, &scale, sizeof scale);
        } else if (l->dtype == DTYPE_F8_E8M0) {
            *at = (uint8_t)(118 + i % 5);
        } else {
            const struct kernel *k = kernel_at(0);
            bool ok = l->dtype == DTYPE_BF16 ? k->bf16_encode(&code, &scale, 1) : k->f16_encode(&code, &scale, 1);
            EXPECT_TRUE(ok);
            memcpy(at, &code, sizeof code);
        }
    }
}

void matrix_fill(struct matrix *m, uint64_t seed)
{
    struct part_layout *codes = &m->layout[PART_CODES];
    uint8_t *bytes = m->parts.part[PART_CODES];
    float x;

    for (uint64_t i = 0; i < codes->bytes; i++)
        bytes[i] = (uint8_t)support_random(&seed);
    if (m->scheme.kind == SCHEME_PLAIN)
        for (uint64_t i = 0; i < m->rows * m->cols; i++) {
            const struct kernel *k = kernel_at(0);
            support_floats(&x, 1, &seed, -12, 1);
            if (codes->dtype == DTYPE_F32)
                memcpy(bytes + i * 4, &x, 4);
            else if (codes->dtype == DTYPE_F16)
                EXPECT_TRUE(k->f16_encode((uint16_t *)(void *)bytes + i, &x, 1));
            else
                EXPECT_TRUE(k->bf16_encode((uint16_t *)(void *)bytes + i, &x, 1));
        }
    if (codes->dtype == DTYPE_F8_E4M3)
        for (uint64_t i = 0; i < codes->bytes; i++)
            bytes[i] = (uint8_t)((bytes[i] & 0x7F) == 0x7F ? bytes[i] & 0x80 : bytes[i]);
    if (m->layout[PART_SCALE].present)
        fill_scales(m, &seed);
    if (m->layout[PART_ZERO_POINT].present)
        for (uint64_t i = 0; i < m->layout[PART_ZERO_POINT].bytes; i++)
            ((uint8_t *)m->parts.part[PART_ZERO_POINT])[i] = (uint8_t)support_random(&seed);
}

bool matrix_convert_rows(const struct kernel *k, const struct matrix *from, const struct matrix *to, uint64_t row,
                         uint64_t count, struct weight_error *error, struct err *e)
{
    struct transform t = {.kernel = k, .from = from->scheme, .to = to->scheme, .cols = from->cols};
    struct slices in = matrix_slices(from, row, count), out = matrix_slices(to, row, count);
    void *scratch = mem_aligned(transform_scratch_bytes(&t) + 64);

    memset((uint8_t *)scratch + transform_scratch_bytes(&t), 0x5A, 64);
    bool ok = transform_run(&t, row, count, from->rows, &in, &out, scratch, error, e);
    for (size_t i = 0; i < 64; i++)
        EXPECT_EQ_U64(0x5A, ((uint8_t *)scratch + transform_scratch_bytes(&t))[i]);
    mem_free(scratch);
    return ok;
}

bool matrix_convert(const struct kernel *k, const struct matrix *from, const struct matrix *to,
                    struct weight_error *error, struct err *e)
{
    return matrix_convert_rows(k, from, to, 0, from->rows, error, e);
}

float *matrix_decoded(const struct kernel *k, const struct matrix *m)
{
    struct err e = {0};
    float *x = mem_aligned(m->rows * m->cols * sizeof *x);
    void *scratch = mem_aligned(decode_scratch_bytes(&m->scheme, m->cols) + 1);

    EXPECT_OK(decode_rows(k, &m->scheme, 0, m->rows, m->rows, m->cols, &m->parts, x, scratch, &e), e);
    mem_free(scratch);
    return x;
}

void expect_same_parts(const struct matrix *want, const struct matrix *got)
{
    for (enum part p = PART_CODES; p < PART_SHAPE; p++)
        if (want->layout[p].present)
            EXPECT_MEM_EQ(want->parts.part[p], got->parts.part[p], want->layout[p].bytes);
}
