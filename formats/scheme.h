/* A scheme: how the numbers of one weight matrix are stored, and under which
 * names, dtypes and shapes its parts stand in a checkpoint. The same struct
 * says how a source weight is stored and how a target is to be written. Facts
 * about bytes only; quant/ does the arithmetic. */
#ifndef FORMATS_SCHEME_H
#define FORMATS_SCHEME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/tensor.h"

#define FP8_BLOCK_ELEMS 128u /* rows and columns of DeepSeek's FP8 blocks */

enum scheme_kind {
    SCHEME_RAW,         /* bytes as they are: any dtype, any rank; no arithmetic known or wanted */
    SCHEME_PLAIN,       /* F32, F16 or BF16 in `dtype` */
    SCHEME_FP8_BLOCK,   /* e4m3 codes, a scale per block_rows x block_cols, edge blocks smaller */
    SCHEME_FP8_CHANNEL, /* e4m3 codes, a scale per row */
    SCHEME_FP8_TENSOR,  /* e4m3 codes, one scale */
    SCHEME_INT4,        /* compressed-tensors pack-quantized, 4 bits */
    SCHEME_KIND_COUNT
};

enum scale_kind {
    SCALE_NONE,
    SCALE_F32,
    SCALE_F32_POW2, /* F32 words whose values are powers of two (UE8M0 as V3.1 stores it) */
    SCALE_E8M0,     /* F8_E8M0 bytes, value 2^(b-127) */
    SCALE_BF16,
    SCALE_F16,
};

/* How codes were, or are to be, chosen. */
enum method {
    METHOD_COPY,   /* bytes copied */
    METHOD_ROUND,  /* one rounding to nearest even (float targets) */
    METHOD_ABSMAX, /* scale from the largest magnitude, round to nearest */
    METHOD_SEARCH, /* scale search with least squares: quant/search.h */
    METHOD_GPTQ,   /* calibrated: the textbook's error feedback, for comparison: quant/calibrated.h */
    METHOD_LDLQ,   /* calibrated: searched scales and error feedback through shrunk moments */
    METHOD_COUNT
};

struct scheme {
    enum scheme_kind kind;
    enum dtype_id dtype;      /* RAW, PLAIN: the stored dtype. FP8: F8_E4M3. INT4: I32 */
    enum scale_kind scale;
    uint32_t block_rows, block_cols; /* FP8_BLOCK */
    uint32_t group_cols;      /* INT4; 0: one group per row ("channel") */
    bool asymmetric;          /* INT4: has zero points */
    bool shape_i64;           /* INT4: weight_shape is I64 (else I32, as Kimi has it) */
    bool compressed_tensors;  /* FP8_BLOCK: scales are called weight_scale, not weight_scale_inv */
    bool positive_scales;     /* INT4 by search: no negative scales */
    bool static_input;        /* FP8_TENSOR, target: a calibrated input_scale stands beside it; source: unused */
    enum method method;       /* target: how; source: unused */
};

/* The tensors that together are one weight. */
enum part {
    PART_CODES,
    PART_SCALE,
    PART_ZERO_POINT,
    PART_SHAPE,
    PART_INPUT_SCALE, /* one number; of targets only: what a source has is struct weight's input_scale */
    PART_COUNT
};

struct part_layout {
    bool present;
    const char *suffix; /* behind the module name: ".weight_packed" */
    enum dtype_id dtype;
    uint32_t rank;
    uint64_t dims[TENSOR_RANK_MAX];
    uint64_t bytes;
};

const char *scheme_kind_name(enum scheme_kind kind); /* "fp8_block", "int4", ... */
bool method_is_calibrated(enum method method); /* needs the inputs of the linear: gptq, ldlq */
bool scheme_is_calibrated(const struct scheme *s); /* the same, or a scale of them: static_input */
const char *scheme_method_name(enum method method);  /* "copy", "round", "absmax", "search", "gptq", "ldlq" */
/* "int4 g128", "int4 g32 asym", "fp8 128x128 pow2", "BF16": for tables and quern.json; returns text. */
#define SCHEME_TEXT 64
const char *scheme_text(const struct scheme *s, char text[SCHEME_TEXT]);
bool scheme_same_storage(const struct scheme *a, const struct scheme *b); /* method, positive_scales, static_input aside */

/* The parts of a [rows, cols] matrix under a scheme. Refuses (ERR_UNSUPPORTED, with the groups that fit)
 * an INT4 group that does not divide cols. RAW and PLAIN of other ranks: use the tensor itself. */
bool scheme_layout(const struct scheme *s, uint64_t rows, uint64_t cols, struct part_layout parts[PART_COUNT],
                   struct err *e) CHECKED;

/* Rows a slice must begin at a multiple of: 1, 8 (packed zero points), or block_rows. */
uint32_t scheme_row_multiple(const struct scheme *s);
/* Where rows [row, row + count) of a [rows, cols] matrix stand in a part, as one byte range. PART_SHAPE is
 * never sliced (bytes 0), a per-tensor scale is in every slice, and so is an input scale. row obeys scheme_row_multiple; row + count
 * does too, or is rows. */
void scheme_slice(const struct scheme *s, enum part part, uint64_t rows, uint64_t cols, uint64_t row, uint64_t count,
                  uint64_t *offset, uint64_t *bytes);
/* Columns a window must begin at a multiple of: 1, 8 (packed codes), the group, or block_cols. */
uint32_t scheme_col_multiple(const struct scheme *s);
/* Where the window [row, row + count) x [col, col + width) of a [rows, cols] matrix stands in a part: `lines` byte
 * ranges of line_bytes each, stride_bytes apart. A part without a share in the window has no lines; a per-tensor or
 * per-row scale is the same whatever the columns. rows as for scheme_slice; col obeys scheme_col_multiple, and
 * col + width does too, or is cols. */
struct scheme_window {
    uint64_t offset, line_bytes, stride_bytes, lines;
};
struct scheme_window scheme_window(const struct scheme *s, enum part part, uint64_t rows, uint64_t cols, uint64_t row,
                                   uint64_t count, uint64_t col, uint64_t width);
/* Bits per weight of all parts but the shape. */
double scheme_bits_per_weight(const struct scheme *s, uint64_t rows, uint64_t cols);

#endif
