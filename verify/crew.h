/* The threads of a forward pass, what each of them owns, and what is done row
 * by row or block by block on all of them. */
#ifndef VERIFY_CREW_H
#define VERIFY_CREW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/weight.h"
#include "quant/gemm.h"
#include "quant/kernel.h"
#include "verify/forward.h"

/* Tokens that a worker takes through a product at a time: what quant/gemm.h keeps the sums of. */
#define CREW_TOKENS 256u

struct crew {
    const struct kernel *kernel;
    unsigned threads;
    enum emulate emulate;
    uint8_t *scratch; /* [threads][scratch_bytes], for gemm with any matrix of the model */
    size_t scratch_bytes;
    float *rounded;  /* inputs of FP8 linears, rounded; NULL unless emulated */
    uint8_t *slices; /* [threads][slice_bytes], for rows of matrices that are not in memory; NULL: all are */
    size_t slice_bytes;
};

/* max_cols: of the widest matrix. */
void crew_init(struct crew *c, unsigned threads, enum emulate emulate, uint64_t max_cols);
void crew_release(struct crew *c);
void *crew_scratch(const struct crew *c, unsigned worker);
/* Memory for slices; without it no matrix may be read by them. */
void crew_take_slices(struct crew *c, size_t slice_bytes);
/* Rows that a product reads at a time. */
uint64_t crew_slice_rows(const struct weight *w);

/* Calls fn for ranges of tokens that together are [0, tokens). */
typedef bool crew_rows_fn(void *ctx, size_t first, size_t count, unsigned worker, struct err *e);
bool crew_rows(const struct crew *c, size_t tokens, crew_rows_fn *fn, void *ctx, struct err *e) CHECKED;

/* A matrix of the checkpoint: in memory, or, when it has a source, without parts and read by slices of rows, each by
 * the worker that needs it. Both give the same bits. */
struct matrix {
    const char *name;
    struct coded coded;
    float input_scale; /* of its inputs, static; 0: as they come */
    const struct source *source;
    const struct weight *weight;
};
void matrix_by_slices(struct matrix *m, const struct source *s, const struct weight *w);

/* y = x W^T on all threads; with emulation, inputs or outputs rounded. */
bool crew_linear(const struct crew *c, const struct matrix *w, const float *x, size_t x_stride, size_t tokens, float *y,
                 size_t y_stride, struct err *e) CHECKED;
/* The same on the calling worker alone. x may be rounded in place. */
bool worker_linear(const struct crew *c, unsigned worker, const struct matrix *w, float *x, size_t tokens, float *y,
                   struct err *e) CHECKED;
/* All of a matrix in memory as float32 [rows][cols]. */
bool crew_decode(const struct crew *c, const struct matrix *w, float *x, struct err *e) CHECKED;
/* Rows [row, row + count) of one read by slices: *rows points into x, which has room for worker_decode_rows rows, as a
 * slice has. */
uint64_t worker_decode_rows(const struct weight *w, uint64_t count);
bool worker_decode(const struct crew *c, unsigned worker, const struct matrix *w, uint64_t row, uint64_t count,
                   float *x, const float **rows, struct err *e) CHECKED;

/* One row each, with what emulation rounds. */
void crew_norm(const struct crew *c, float *y, const float *x, const float *w, size_t n, double eps);
void crew_silu_mul(const struct crew *c, float *gate, const float *up, size_t n); /* gate = silu(gate) * up */
void crew_add(const struct crew *c, float *y, const float *x, size_t n);          /* y += x */
void crew_round(const struct crew *c, float *x, size_t n);                        /* as outputs of a step are */
/* The input of an FP8 linear, in place; nothing for others, or without that emulation. scale: a static one, or 0. */
bool crew_round_input(const struct crew *c, const struct scheme *s, float scale, float *x, size_t n,
                      struct err *e) CHECKED;

#endif
