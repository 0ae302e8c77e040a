/* Kernels: one table per instruction set, picked once, before any thread
 * starts. Kernels are of the exact class: every variant gives the bytes and the
 * sums of the reference, NOUN_ref.c, which is the specification. But for one:
 * products by a matrix unit have sums of their own (quant/gemm_tiles.h), and
 * are there for those who ask for them by name.
 *
 * Rules that make this so: float32, no FMA but where a contract writes it, rounding to nearest even, true
 * division where the reference divides; sums of errors run in sixteen float
 * lanes over a row (lane = column % 16) and fold as a tree (8, 4, 2, 1), sums
 * inside a search group run by column, with vectors across rows. Tails go
 * through masks or the reference itself.
 *
 * Decoders return false when a value is not finite (NaN or infinity, in the
 * codes or the product); x is then unspecified, and the caller looks for the
 * index with the reference. Encoders never see such values. */
#ifndef QUANT_KERNEL_H
#define QUANT_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "quant/logits.h"

/* Sums over a row, for the manifest's error: |w - w'|^2 and |w|^2. */
struct row_error {
    float error2, energy2;
};

struct vecmath;     /* quant/vecmath.h */
struct gemm_kernel; /* quant/gemm_kernel.h */

/* How int4 groups of one row, or of some rows, are stored. words: 8 codes each, low nibble first, code + 8.
 * group_cols divides cols; it is a multiple of 8, except that it may be cols itself, of any size. */
struct int4_rows {
    uint32_t *words;     /* [rows][words_stride] */
    uint16_t *scales;    /* BF16 [rows][cols / group_cols] */
    int8_t *zeros;       /* -8..7, the same shape, or NULL when symmetric; packing them is the caller's */
    size_t words_stride; /* words per row: ceil(cols / 8) */
    size_t rows, cols, group_cols;
};

struct kernel {
    const char *name; /* "ref", "avx2", "avx512", "amx": also what QUERN_CPU says */
    /* KERNEL_EXACT, or whose order the sums of products have: what calibrates or runs a model says so, for its numbers
     * are those of a class. */
    const char *kernel_class;
    bool (*usable)(void);

    /* ---- float codecs, n elements ---- */
    bool (*bf16_decode)(float *x, const uint16_t *codes, size_t n);
    bool (*bf16_encode)(uint16_t *codes, const float *x, size_t n); /* false: a value rounds to infinity */
    bool (*f16_decode)(float *x, const uint16_t *codes, size_t n);
    bool (*f16_encode)(uint16_t *codes, const float *x, size_t n);  /* false: a value is past 65504 after rounding */
    bool (*f32_check)(const float *x, size_t n);                    /* all finite */
    bool (*codes8_check)(const uint8_t *x, size_t n, uint8_t mask); /* no code has all bits of mask: quant/finite.h */
    bool (*codes16_check)(const uint16_t *x, size_t n, uint16_t mask);
    float (*absmax)(const float *x, size_t n); /* 0 for n = 0; of finite values */

    /* x[i] = e4m3(codes[i]) * scales[i / block_cols]: one float32 product. */
    bool (*e4m3_decode)(float *x, const uint8_t *codes, size_t n, const float *scales, size_t block_cols);
    /* codes[i] = e4m3(clamp(x[i] / scales[i / block_cols], +-448)), ties to even. */
    void (*e4m3_encode)(uint8_t *codes, const float *x, size_t n, const float *scales, size_t block_cols);
    /* The whole way from block FP8 to BF16 in one pass: bf16(e4m3 * scale). */
    bool (*e4m3_to_bf16)(uint16_t *out, const uint8_t *codes, size_t n, const float *scales, size_t block_cols);

    bool (*e5m2_decode)(float *x, const uint8_t *codes, size_t n, float scale);
    void (*e5m2_encode)(uint8_t *codes, const float *x, size_t n, float scale);  /* saturates at 57344 */
    bool (*e8m0_decode)(float *x, const uint8_t *codes, size_t n);               /* 2^(b-127); 255 is NaN */
    void (*e2m1_decode)(float *x, const uint8_t *packed, size_t n, float scale); /* low nibble first */
    void (*e2m1_encode)(uint8_t *packed, const float *x, size_t n, float scale); /* ties to the even code; keeps -0 */

    /* sum of (x - y)^2 and of x^2, in the written order. */
    struct row_error (*row_error)(const float *x, const float *y, size_t n);

    /* Sums over two rows of logits, in float64: quant/logits.h. */
    struct logits_sums (*logits_pair)(const float *a, double m, const float *b, double n, size_t count);

    /* ---- int4 ---- */
    void (*int4_decode)(float *x, size_t x_stride, const struct int4_rows *q);
    /* Scale 2*amax/15 per group, rounded to BF16 before codes are made: q = rint(clamp(w / s, -8, 7)).
     * With q->zeros: min-max asymmetric. err: one per row. */
    void (*int4_absmax)(const struct int4_rows *q, const float *x, size_t x_stride, struct row_error *err);
    /* The whole way from FP8 to symmetric int4: e4m3_decode, then int4_absmax, of rows that share their scales
     * (positive and finite, one per block_cols columns). codes: [rows][stride]. group_cols is 32, 64 or 128 and divides
     * block_cols. false: a value is not finite; *q and *err are then unspecified. */
    bool (*e4m3_to_int4)(const struct int4_rows *q, const uint8_t *codes, size_t stride, const float *scales,
                         size_t block_cols, struct row_error *err);
    /* The scale search of quant/search.h; h: column weights [cols], or NULL for 1. */
    void (*int4_search)(const struct int4_rows *q, const float *x, size_t x_stride, const float *h, bool positive,
                        struct row_error *err);

    /* ---- calibrated rounding: quant/tile.h, quant/nearest.h ---- */
    void (*tile_fma)(float *c, size_t c_stride, const float *a, size_t a_row, size_t a_step, const float *b,
                     size_t steps);
    void (*tile_row_fma)(float *c, const float *a, const float *b, size_t steps);
    void (*int4_nearest)(uint8_t *codes, float *q, const float *t, const float *s, const float *zero);
    void (*feedback_step)(float *e, float *sums, const float *t, const float *q, const float *w, float r2);

    /* ---- a forward pass: fused multiply-adds where their headers say so ---- */
    const struct vecmath *vec;
    const struct gemm_kernel *gemm;
};

#define KERNEL_EXACT "exact"
#define KERNEL_AMX   "amx"

size_t kernel_count(void);                /* variants compiled in */
const struct kernel *kernel_at(size_t i); /* 0 is the reference */

/* The best usable one of the exact class, or what QUERN_CPU names; an unknown or unusable name is ERR_USAGE. Call once,
 * early. */
bool kernel_pick(struct err *e) CHECKED;
/* For tests, which may have a table of their own. */
void kernel_use(const struct kernel *k);
const struct kernel *kernel_get(void); /* what was picked; the reference before that */

#endif
