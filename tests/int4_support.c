#include "tests/int4_support.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/e4m3.h"
#include "tests/kernel_support.h"

#define FILL 0xAB

static void *filled(size_t bytes)
{
    void *p = malloc(bytes);

    if (!p)
        abort();
    return memset(p, FILL, bytes);
}

void int4_out_init(struct int4_out *o, size_t rows, size_t cols, size_t group_cols, bool asym)
{
    size_t stride = (cols + 7) / 8 + 2, groups = cols / group_cols * rows;

    *o = (struct int4_out){.words_count = rows * stride, .groups_count = groups};
    o->zeros = filled(groups);
    o->err = filled(rows * sizeof *o->err);
    o->q = (struct int4_rows){.words = filled(rows * stride * sizeof(uint32_t)),
                              .scales = filled(groups * sizeof(uint16_t)),
                              .zeros = asym ? o->zeros : NULL,
                              .words_stride = stride,
                              .rows = rows,
                              .cols = cols,
                              .group_cols = group_cols};
}

void int4_out_release(struct int4_out *o)
{
    free(o->q.words);
    free(o->q.scales);
    free(o->zeros);
    free(o->err);
    *o = (struct int4_out){0};
}

void int4_out_expect_eq(const struct int4_out *want, const struct int4_out *got)
{
    EXPECT_MEM_EQ(want->q.scales, got->q.scales, want->groups_count * sizeof(uint16_t));
    EXPECT_MEM_EQ(want->zeros, got->zeros, want->groups_count);
    EXPECT_MEM_EQ(want->q.words, got->q.words, want->words_count * sizeof(uint32_t));
    EXPECT_MEM_EQ(want->err, got->err, want->q.rows * sizeof *want->err);
}

int int4_code(const struct int4_rows *q, size_t row, size_t col)
{
    return (int)(q->words[row * q->words_stride + col / 8] >> (4 * (col % 8)) & 15) - 8;
}

static size_t group_at(const struct int4_rows *q, size_t row, size_t group)
{
    return row * (q->cols / q->group_cols) + group;
}

float int4_scale(const struct int4_rows *q, size_t row, size_t group)
{
    return bits_float((uint32_t)q->scales[group_at(q, row, group)] << 16);
}

int int4_zero(const struct int4_rows *q, size_t row, size_t group)
{
    return q->zeros ? q->zeros[group_at(q, row, group)] : 0;
}

double int4_loss(const struct int4_rows *q, const float *x, size_t x_stride, const float *h)
{
    double sum = 0;

    for (size_t row = 0; row < q->rows; row++)
        for (size_t c = 0; c < q->cols; c++) {
            size_t g = c / q->group_cols;
            double z = int4_code(q, row, c) - int4_zero(q, row, g);
            double d = (double)x[row * x_stride + c] - z * (double)int4_scale(q, row, g);

            sum += (h ? (double)h[c] : 1) * d * d;
        }
    return sum;
}

static float uniform(uint64_t *seed)
{
    return (float)(support_random(seed) >> 40) * 0x1p-23f - 1;
}

static float bell(uint64_t *seed)
{
    float sum = 0;

    for (int i = 0; i < 6; i++)
        sum += uniform(seed);
    return 0.02f * sum;
}

static float any(uint64_t *seed)
{
    return support_any_float(seed);
}

static float quarters(uint64_t *seed)
{
    return 0.25f * (float)((int)(support_random(seed) % 61) - 30);
}

/* With an amax of 7.5 the scale is 1 and these are halves: every code is a tie. */
static float halves(uint64_t *seed)
{
    return (float)((int)(support_random(seed) % 16) - 8) + 0.5f;
}

static float near_the_floor(uint64_t *seed)
{
    return uniform(seed) * 0x1p-18f;
}

static float denormal(uint64_t *seed)
{
    return uniform(seed) * 1e-39f;
}

static float huge(uint64_t *seed)
{
    return uniform(seed) * FLT_MAX;
}

static float squares_overflow(uint64_t *seed)
{
    return uniform(seed) * 3e18f;
}

static float one_magnitude(uint64_t *seed)
{
    return support_random(seed) % 2 ? 0.5f : -0.5f;
}

static float outliers(uint64_t *seed)
{
    return uniform(seed) * (support_random(seed) % 50 == 0 ? 100 : 0.01f);
}

static float zero(uint64_t *seed)
{
    return support_random(seed) % 2 ? 0.0f : -0.0f;
}

static float sparse(uint64_t *seed)
{
    return support_random(seed) % 40 == 0 ? uniform(seed) : 0;
}

static float above_zero(uint64_t *seed)
{
    return fabsf(uniform(seed)) + 1;
}

static float below_zero(uint64_t *seed)
{
    return -fabsf(uniform(seed)) - 0x1p-20f;
}

static const struct {
    const char *name;
    float (*make)(uint64_t *seed);
} kinds[] = {
    {"bell-shaped", bell},
    {"any finite float", any},
    {"quarters", quarters},
    {"halves", halves},
    {"near the floor of scales", near_the_floor},
    {"denormals", denormal},
    {"up to FLT_MAX", huge},
    {"squares that overflow", squares_overflow},
    {"one magnitude, both signs", one_magnitude},
    {"outliers", outliers},
    {"zeros", zero},
    {"mostly zeros", sparse},
    {"above zero", above_zero},
    {"below zero", below_zero},
};

size_t int4_weights_count(void)
{
    return sizeof kinds / sizeof kinds[0];
}

const char *int4_weights_name(size_t kind)
{
    return kinds[kind].name;
}

float int4_weight(size_t kind, uint64_t *seed)
{
    return kinds[kind].make(seed);
}

struct int4_shape int4_shape_random(uint64_t *seed)
{
    static const size_t groups[] = {32, 32, 64, 128, 128, 8, 24, 96, 256, 288};
    size_t rows = 1 + support_random(seed) % 40, pick = support_random(seed) % 13;

    if (pick < sizeof groups / sizeof groups[0])
        return (struct int4_shape){rows, groups[pick] * (1 + support_random(seed) % 6), groups[pick]};

    size_t cols = 1 + support_random(seed) % 600;

    return (struct int4_shape){rows, cols, cols};
}

bool int4_fixture(void *bytes, size_t size, const char *fmt, ...)
{
    char path[256] = "tests/fixtures/quant/";
    size_t used = strlen(path);
    va_list args;

    va_start(args, fmt);
    vsnprintf(path + used, sizeof path - used, fmt, args);
    va_end(args);

    FILE *f = fopen(path, "rb");
    bool ok = f && fread(bytes, 1, size, f) == size && fgetc(f) == EOF;

    if (f)
        fclose(f);
    if (!ok)
        ct_str(__FILE__, __LINE__, "the fixture at hand", path, f ? "of another size" : "missing");
    return ok;
}

bool int4_fixture_weights(float w[FIXTURE_ROWS * FIXTURE_COLS], const char *name)
{
    uint8_t codes[FIXTURE_COLS];
    float scales[FIXTURE_COLS / 128];
    uint8_t *all = filled(FIXTURE_ROWS * FIXTURE_COLS);
    bool ok = int4_fixture(all, FIXTURE_ROWS * FIXTURE_COLS, "%s_w_e4m3.u8", name) &&
              int4_fixture(scales, sizeof scales, "%s_w_scale.f32", name);

    for (size_t row = 0; ok && row < FIXTURE_ROWS; row++) {
        memcpy(codes, all + row * FIXTURE_COLS, sizeof codes);
        ok = e4m3_decode_ref(w + row * FIXTURE_COLS, codes, FIXTURE_COLS, scales, 128);
    }
    free(all);
    return ok;
}

bool int4_fixture_compare(struct int4_agreement *a, const struct int4_rows *q, const float *w, const float *h,
                          const char *name, const char *method)
{
    size_t g = q->group_cols, groups = FIXTURE_COLS / g;
    int8_t *codes = filled(FIXTURE_ROWS * FIXTURE_COLS);
    float *scales = filled(FIXTURE_ROWS * groups * sizeof *scales);
    size_t codes_same = 0, scales_same = 0;
    bool ok = int4_fixture(codes, FIXTURE_ROWS * FIXTURE_COLS, "%s_g%zu_%s_codes.i8", name, g, method) &&
              int4_fixture(scales, FIXTURE_ROWS * groups * sizeof *scales, "%s_g%zu_%s_scales.f32", name, g, method);

    *a = (struct int4_agreement){.loss = int4_loss(q, w, FIXTURE_COLS, h)};
    for (size_t row = 0; ok && row < FIXTURE_ROWS; row++)
        for (size_t c = 0; c < FIXTURE_COLS; c++) {
            size_t i = row * FIXTURE_COLS + c;
            float scale = scales[row * groups + c / g];
            double d = (double)w[i] - (double)scale * codes[i];

            a->fixture_loss += (h ? (double)h[c] : 1) * d * d;
            codes_same += codes[i] == int4_code(q, row, c);
            scales_same += c % g == 0 && float_bits(scale) == float_bits(int4_scale(q, row, c / g));
        }
    a->codes = (double)codes_same / (FIXTURE_ROWS * FIXTURE_COLS);
    a->scales = (double)scales_same / (double)(FIXTURE_ROWS * groups);
    free(codes);
    free(scales);
    return ok;
}
