#include "tests/gemm_support.h"

#include <math.h>

#include "formats/base/mem.h"
#include "tests/kernel_support.h"

#define PLAIN(dtype_)                                                                                                  \
    {                                                                                                                  \
        .kind = SCHEME_PLAIN, .dtype = (dtype_), .method = METHOD_ROUND                                                \
    }
#define FP8(kind_, scale_, block_)                                                                                     \
    {                                                                                                                  \
        .kind = (kind_), .dtype = DTYPE_F8_E4M3, .scale = (scale_), .block_rows = (block_), .block_cols = (block_),    \
        .method = METHOD_ABSMAX                                                                                        \
    }
#define INT4(group_, asym_, scale_)                                                                                    \
    {                                                                                                                  \
        .kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = (scale_), .group_cols = (group_), .asymmetric = (asym_),     \
        .method = METHOD_ABSMAX                                                                                        \
    }

const struct gemm_case gemm_cases[] = {
    {"F32", PLAIN(DTYPE_F32)},
    {"BF16", PLAIN(DTYPE_BF16)},
    {"F16", PLAIN(DTYPE_F16)},
    {"FP8 blocks", FP8(SCHEME_FP8_BLOCK, SCALE_F32, 128)},
    {"FP8 blocks of 48, E8M0", FP8(SCHEME_FP8_BLOCK, SCALE_E8M0, 48)},
    {"FP8 by channel", FP8(SCHEME_FP8_CHANNEL, SCALE_BF16, 0)},
    {"FP8, one scale", FP8(SCHEME_FP8_TENSOR, SCALE_F32, 0)},
    {"int4 g128", INT4(128, false, SCALE_BF16)},
    {"int4 g32", INT4(32, false, SCALE_BF16)},
    {"int4 g8", INT4(8, false, SCALE_BF16)},
    {"int4 g40", INT4(40, false, SCALE_BF16)},
    {"int4 g32 asym", INT4(32, true, SCALE_BF16)},
    {"int4 g64, F16 scales", INT4(64, false, SCALE_F16)},
    {"int4 by channel", INT4(0, false, SCALE_F32)},
};
const size_t gemm_case_count = sizeof gemm_cases / sizeof gemm_cases[0];

/* Scales as the encoder cannot write them: in other kinds, or one for all. */
static void restate_scales(struct matrix_coded *m, const float *x, uint64_t count)
{
    if (m->coded.scheme.kind == SCHEME_FP8_TENSOR) {
        memcpy(m->parts[PART_SCALE], x, sizeof *x);
    } else if (m->coded.scheme.scale == SCALE_F16) {
        EXPECT_TRUE(kernel_at(0)->f16_encode(m->parts[PART_SCALE], x, count));
    } else {
        for (uint64_t i = 0; i < count; i++)
            ((float *)m->parts[PART_SCALE])[i] = x[i] * 1.001f;
    }
}

static void encode(struct matrix_coded *m, const float *x, uint64_t rows, uint64_t cols)
{
    struct err e = {0};
    struct weight_error err2 = {0};
    struct scheme to = m->coded.scheme;
    bool restate = to.kind == SCHEME_FP8_TENSOR || (to.kind == SCHEME_INT4 && to.scale != SCALE_BF16);
    uint64_t count = rows * (to.group_cols ? cols / to.group_cols : 1);
    uint16_t *bf16 = mem_alloc(count * sizeof *bf16);
    float *scales = mem_alloc(count * sizeof *scales);
    struct slices in = {.part = {[PART_CODES] = (void *)(uintptr_t)x}}, out = m->coded.parts;

    if (restate) {
        to.kind = to.kind == SCHEME_FP8_TENSOR ? SCHEME_FP8_CHANNEL : to.kind;
        to.scale = SCALE_BF16;
        out.part[PART_SCALE] = bf16;
    }
    struct transform t = {
        .kernel = kernel_at(0), .from = {.kind = SCHEME_PLAIN, .dtype = DTYPE_F32}, .to = to, .cols = cols};
    void *scratch = mem_aligned(transform_scratch_bytes(&t) + MEM_ALIGN);
    EXPECT_OK(transform_check(&t.from, &t.to, &e), e);
    EXPECT_OK(transform_run(&t, 0, rows, rows, &in, &out, scratch, &err2, &e), e);
    if (restate) {
        EXPECT_TRUE(kernel_at(0)->bf16_decode(scales, bf16, count));
        restate_scales(m, scales, count);
    }
    mem_free(scratch);
    mem_free(scales);
    mem_free(bf16);
}

void matrix_coded_make(struct matrix_coded *m, const struct scheme *scheme, uint64_t rows, uint64_t cols, uint64_t seed)
{
    struct part_layout layout[PART_COUNT];
    struct err e = {0};

    *m = (struct matrix_coded){.coded = {.scheme = *scheme, .rows = rows, .cols = cols}};
    ASSERT_OK(scheme_layout(scheme, rows, cols, layout, &e), e);
    for (size_t p = 0; p < PART_COUNT; p++)
        if (layout[p].present && p != PART_SHAPE)
            m->coded.parts.part[p] = m->parts[p] = mem_aligned(layout[p].bytes);
    float *x = mem_alloc(rows * cols * sizeof *x);
    support_floats(x, rows * cols, &seed, -12, 0);
    encode(m, x, rows, cols);
    mem_free(x);
    m->decoded = mem_alloc(rows * cols * sizeof *m->decoded);
    matrix_coded_decode(m);
}

void matrix_coded_decode(struct matrix_coded *m)
{
    const struct coded *c = &m->coded;
    void *scratch = mem_aligned(decode_scratch_bytes(&c->scheme, c->cols) + MEM_ALIGN);
    struct err e = {0};

    EXPECT_OK(decode_rows(kernel_at(0), &c->scheme, 0, c->rows, c->rows, c->cols, &c->parts, m->decoded, scratch, &e),
              e);
    mem_free(scratch);
}

void matrix_coded_release(struct matrix_coded *m)
{
    for (size_t p = 0; p < PART_COUNT; p++)
        mem_free(m->parts[p]);
    mem_free(m->decoded);
    *m = (struct matrix_coded){0};
}

const struct kernel *gemm_support_tiles(const struct kernel *with, const struct gemm_tiles *tiles)
{
    static struct gemm_kernel products;
    static struct kernel kernel;

    products = (struct gemm_kernel){.tiles = tiles, .others = with->gemm->tiles ? with->gemm->others : with->gemm};
    kernel = *with;
    kernel.kernel_class = KERNEL_AMX;
    kernel.gemm = &products;
    return &kernel;
}

float gemm_support_dot(const float *x, const float *w, size_t cols)
{
    float acc[16] = {0}, eight[8], four[4];

    for (size_t c = 0; c < cols; c++)
        acc[c & 15] = fmaf(x[c], w[c], acc[c & 15]);
    for (size_t i = 0; i < 8; i++)
        eight[i] = acc[i] + acc[i + 8];
    for (size_t i = 0; i < 4; i++)
        four[i] = eight[i] + eight[i + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}
