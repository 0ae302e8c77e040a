#include "quant/moments.h"

#include <assert.h>
#include <string.h>

#include "formats/base/pool.h"
#include "quant/bits.h"
#include "quant/tile.h"

#define LANES 16
/* Panels whose columns are one side of a group of tiles: 16 x 32 KB stay in the second-level cache. */
#define GROUP_PANELS 16u
#define MIRROR       16u

size_t moments_bytes(size_t cols)
{
    return tile_padded(cols) * tile_padded(cols) * sizeof(float);
}

size_t moments_scratch_bytes(size_t cols)
{
    return tile_padded(cols) * TILE_STEPS * sizeof(float);
}

void moments_init(struct moments *m, const struct kernel *k, size_t cols, float *sum)
{
    *m = (struct moments){.kernel = k, .cols = cols, .stride = tile_padded(cols), .sum = sum};
    memset(sum, 0, moments_bytes(cols));
}

/* Without branches, so that loops over it become vectors. A NaN stays one. */
static float to_bf16(float x)
{
    uint32_t bits = float_bits(x), nan = 0u - (uint32_t)((int32_t)(bits & 0x7FFFFFFFu) > 0x7F800000);

    return bits_float(((bits + 0x7FFFu + (bits >> 16 & 1)) & 0xFFFF0000u & ~nan) | (bits & nan));
}

/* Some tokens as panels of columns, [panel][token][TILE_COLS], rounded to BF16. */
static void pack(float *restrict panels, const struct moments *m, const float *restrict x, size_t x_stride,
                 size_t tokens)
{
    for (size_t p = 0; p < m->stride / TILE_COLS; p++)
        for (size_t t = 0; t < tokens; t++) {
            const float *restrict from = x + t * x_stride + p * TILE_COLS;
            float *restrict to = panels + (p * TILE_STEPS + t) * TILE_COLS;
            size_t left = m->cols - p * TILE_COLS;

            if (left >= TILE_COLS) {
                for (size_t v = 0; v < TILE_COLS; v++)
                    to[v] = to_bf16(from[v]);
                continue;
            }
            for (size_t v = 0; v < TILE_COLS; v++)
                to[v] = v < left ? to_bf16(from[v]) : 0.0f;
        }
}

struct update {
    const struct moments *m;
    const float *panels;
    size_t tokens;
};

/* The tiles whose rows of H are the columns of one group of panels, and which reach the upper triangle. */
static bool update_group(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct update *u = ctx;
    const struct moments *m = u->m;
    size_t panels = m->stride / TILE_COLS, first = job * GROUP_PANELS;

    (void)worker, (void)e;
    for (size_t p = first; p < panels; p++) {
        const float *b = u->panels + p * TILE_STEPS * TILE_COLS;

        for (size_t q = first; q <= p && q < first + GROUP_PANELS; q++)
            for (size_t r = 0; r < TILE_COLS; r += TILE_ROWS)
                m->kernel->tile_fma(m->sum + (q * TILE_COLS + r) * m->stride + p * TILE_COLS, m->stride,
                                    u->panels + q * TILE_STEPS * TILE_COLS + r, 1, TILE_COLS, b, u->tokens);
    }
    return true;
}

static void update(const struct update *u, unsigned threads)
{
    size_t panels = u->m->stride / TILE_COLS, jobs = (panels + GROUP_PANELS - 1) / GROUP_PANELS;

    if (threads != 1) {
        (void)!pool_run(threads, jobs, update_group, (void *)(uintptr_t)u, NULL); /* its jobs cannot fail */
        return;
    }
    for (size_t job = 0; job < jobs; job++)
        (void)update_group((void *)(uintptr_t)u, job, 0, NULL);
}

void moments_add(struct moments *m, const float *x, size_t x_stride, size_t tokens, unsigned threads, void *scratch)
{
    for (size_t t = 0; t < tokens; t += TILE_STEPS) {
        struct update u = {.m = m, .panels = scratch, .tokens = tokens - t < TILE_STEPS ? tokens - t : TILE_STEPS};

        pack(scratch, m, x + t * x_stride, x_stride, u.tokens);
        update(&u, threads);
    }
    m->tokens += tokens;
}

/* The square of MIRROR columns at (row, col), turned over the diagonal. */
static void mirror(float *sum, size_t stride, size_t row, size_t col)
{
    for (size_t j = col; j < col + MIRROR; j++)
        for (size_t i = row; i < row + MIRROR && i < j; i++)
            sum[j * stride + i] = sum[i * stride + j];
}

bool moments_close(struct moments *m)
{
    for (size_t row = 0; row < m->stride; row += MIRROR)
        for (size_t col = row; col < m->stride; col += MIRROR)
            mirror(m->sum, m->stride, row, col);
    /* |H[i][j]| is at most the root of H[i][i] H[j][j], so the diagonal knows. */
    for (size_t j = 0; j < m->cols; j++)
        if ((float_bits(m->sum[j * m->stride + j]) & 0x7F800000u) == 0x7F800000u)
            return false;
    return true;
}

static float fold(float lanes[LANES])
{
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

static double token_spread(const float *x, const float *inverse, size_t cols)
{
    float u[LANES] = {0}, f[LANES] = {0};
    size_t j = 0;

    for (; j + LANES <= cols; j += LANES)
        for (size_t l = 0; l < LANES; l++) {
            float b = to_bf16(x[j + l]), z2 = b * b * inverse[j + l];

            u[l] += z2;
            f[l] += z2 * z2;
        }
    for (size_t l = 0; j + l < cols; l++) {
        float b = to_bf16(x[j + l]), z2 = b * b * inverse[j + l];

        u[l] += z2;
        f[l] += z2 * z2;
    }
    double sum = (double)fold(u);

    return sum * sum - (double)fold(f);
}

void moments_spread(struct moments *m, const float *x, size_t x_stride, size_t tokens, void *scratch)
{
    float *inverse = scratch;

    for (size_t j = 0; j < m->cols; j++) {
        float square = m->sum[j * m->stride + j];
        inverse[j] = square > 0 ? (float)m->tokens / square : 0;
    }
    for (size_t t = 0; t < tokens; t++)
        m->spread += token_spread(x + t * x_stride, inverse, m->cols);
    m->spread_tokens += tokens;
}

bool moments_takes(uint64_t index, uint64_t count, uint64_t cap)
{
    assert(index < count);
    if (cap == 0 || count <= cap)
        return true;
    return (index + 1) * cap / count != index * cap / count;
}

float moments_variance(const struct moments *m, size_t col)
{
    return m->tokens > 0 ? m->sum[col * m->stride + col] / (float)m->tokens : 0;
}
