#include "tests/ldlq_support.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"
#include "quant/bits.h"
#include "tests/ct.h"
#include "tests/int4_support.h"
#include "tests/kernel_support.h"

void coded_init(struct coded_matrix *m, const struct scheme *s, uint64_t rows, uint64_t cols)
{
    *m = (struct coded_matrix){.scheme = *s, .rows = rows, .cols = cols};
    for (enum part p = PART_CODES; p < PART_SHAPE; p++) {
        uint64_t offset, bytes;

        scheme_slice(s, p, rows, cols, 0, rows, &offset, &bytes);
        if (bytes > 0)
            m->parts.part[p] = memset(mem_aligned(bytes), 0xAB, bytes);
    }
}

void coded_release(struct coded_matrix *m)
{
    for (enum part p = PART_CODES; p < PART_COUNT; p++)
        mem_free(m->parts.part[p]);
    *m = (struct coded_matrix){0};
}

float *coded_values(const struct coded_matrix *m)
{
    float *x = malloc(m->rows * m->cols * sizeof *x);
    void *scratch = mem_aligned(decode_scratch_bytes(&m->scheme, m->cols));
    struct err e = {0};

    EXPECT_OK(decode_rows(kernel_at(0), &m->scheme, 0, m->rows, m->rows, m->cols, &m->parts, x, scratch, &e), e);
    mem_free(scratch);
    return x;
}

void coded_expect_eq(const struct coded_matrix *want, const struct coded_matrix *got)
{
    for (enum part p = PART_CODES; p < PART_SHAPE; p++) {
        uint64_t offset, bytes;

        scheme_slice(&want->scheme, p, want->rows, want->cols, 0, want->rows, &offset, &bytes);
        if (bytes > 0)
            EXPECT_MEM_EQ(want->parts.part[p], got->parts.part[p], bytes);
    }
}

struct scheme scheme_of_int4(uint32_t group, bool asymmetric)
{
    return (struct scheme){.kind = SCHEME_INT4,
                           .dtype = DTYPE_I32,
                           .scale = SCALE_BF16,
                           .group_cols = group,
                           .asymmetric = asymmetric,
                           .method = METHOD_LDLQ};
}

struct scheme scheme_of_fp8(enum scale_kind scale)
{
    return (struct scheme){.kind = SCHEME_FP8_BLOCK,
                           .dtype = DTYPE_F8_E4M3,
                           .scale = scale,
                           .block_rows = FP8_BLOCK_ELEMS,
                           .block_cols = FP8_BLOCK_ELEMS,
                           .method = METHOD_LDLQ};
}

bool ldlq_fixture_weights(struct coded_matrix *m, const char *name)
{
    struct scheme s = scheme_of_fp8(SCALE_F32);

    coded_init(m, &s, FIXTURE_ROWS, FIXTURE_COLS);
    return int4_fixture(m->parts.part[PART_CODES], FIXTURE_ROWS * FIXTURE_COLS, "%s_w_e4m3.u8", name) &&
           int4_fixture(m->parts.part[PART_SCALE], FIXTURE_COLS / 128 * sizeof(float), "%s_w_scale.f32", name);
}

bool ldlq_fixture_moments(struct moments *m, const struct kernel *k, const char *name)
{
    size_t n = FIXTURE_COLS, floats = n * (n + 1) / 2;
    float *upper = malloc(floats * sizeof *upper), *at = upper;
    bool ok = int4_fixture(upper, floats * sizeof *upper, "%s_hcal_upper.f32", name);

    moments_init(m, k, n, mem_aligned(moments_bytes(n)));
    for (size_t i = 0; ok && i < n; i++)
        for (size_t j = i; j < n; j++)
            m->sum[i * m->stride + j] = *at++;
    m->tokens = 1;
    free(upper);
    return ok && moments_close(m);
}

/* About a bell: the sum of four even ones. */
static float bell(uint64_t *seed)
{
    float sum = 0;

    for (int i = 0; i < 4; i++)
        sum += (float)(support_random(seed) >> 40) * 0x1p-24f;
    return 1.7f * (sum - 2);
}

/* Each token mixes a few shared directions with noise of its own. */
void ldlq_inputs(float *x, size_t tokens, size_t cols, uint64_t seed)
{
    enum { SHARED = 8 };
    float *mix = malloc(cols * (SHARED + 1) * sizeof *mix);

    for (size_t i = 0; i < cols * (SHARED + 1); i++)
        mix[i] = bell(&seed);
    for (size_t t = 0; t < tokens; t++) {
        float common[SHARED];

        for (size_t s = 0; s < SHARED; s++)
            common[s] = bell(&seed);
        for (size_t c = 0; c < cols; c++) {
            float v = 0.7f * bell(&seed);

            for (size_t s = 0; s < SHARED; s++)
                v += 0.5f * common[s] * mix[c * SHARED + s];
            v *= c % 97 == 5 ? 6 : 0.5f + mix[cols * SHARED + c] * mix[cols * SHARED + c];
            x[t * cols + c] = bits_float(float_bits(v) & 0xFFFF0000u);
        }
    }
    free(mix);
}

void ldlq_weights(struct coded_matrix *m, uint64_t rows, uint64_t cols, uint64_t seed)
{
    struct scheme s = {.kind = SCHEME_PLAIN, .dtype = DTYPE_F32, .method = METHOD_ROUND};
    float *w;

    coded_init(m, &s, rows, cols);
    w = m->parts.part[PART_CODES];
    for (size_t i = 0; i < rows * cols; i++)
        w[i] = 0.02f * bell(&seed);
}

void ldlq_moments(struct moments *m, const struct kernel *k, const float *x, size_t tokens, size_t cols)
{
    void *scratch = mem_aligned(moments_scratch_bytes(cols));

    moments_init(m, k, cols, mem_aligned(moments_bytes(cols)));
    moments_add(m, x, cols, tokens, 1, scratch);
    EXPECT_TRUE(moments_close(m));
    moments_spread(m, x, cols, tokens, scratch);
    mem_free(scratch);
}

double ldlq_energy(const struct moments *m, const float *w, const float *q, size_t rows)
{
    double *e = malloc(m->cols * sizeof *e), all = 0;

    for (size_t r = 0; r < rows; r++) {
        for (size_t j = 0; j < m->cols; j++)
            e[j] = (double)w[r * m->cols + j] - (q ? (double)q[r * m->cols + j] : 0);
        for (size_t i = 0; i < m->cols; i++) {
            double sum = 0;

            for (size_t j = 0; j < m->cols; j++)
                sum += (double)m->sum[i * m->stride + j] * e[j];
            all += e[i] * sum;
        }
    }
    free(e);
    return all / (double)m->tokens;
}
