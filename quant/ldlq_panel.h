/* Some rows on their way through ldlq.c: panels of TILE_COLS rows that lie
 * column by column, so that vectors run across rows. Private to quant/ldlq*.c. */
#ifndef QUANT_LDLQ_PANEL_H
#define QUANT_LDLQ_PANEL_H

#include "quant/decode.h"
#include "quant/ldlq.h"

struct panel {
    uint64_t row, count; /* rows of the matrix; lanes past count hold weights 0 and scales 1 */
    float *w;            /* [cols][TILE_COLS], columns as they stand */
    float *e;            /* [cols][TILE_COLS], in the factor's order */
    float *t;            /* [LDLQ_BLOCK][TILE_COLS] */
    float *scale, *zero; /* [groups][TILE_COLS] */
    uint8_t *kept;       /* FP8: [groups][TILE_COLS], 1 where codes stay as they are */
    uint8_t *codes;      /* [cols][TILE_COLS], columns as they stand: int4 + 8, or E4M3 */
    float *sums;         /* [3][TILE_COLS]: loss, error, energy of quant/nearest.h */
};

/* One worker's state for one call. */
struct rows {
    const struct ldlq *l;
    const struct slices *in, *out;
    uint64_t first, all;         /* the call's first row, which the slices begin with; rows of the matrix */
    uint64_t groups, group_cols; /* scales of a row, and columns of one */
    uint64_t slice;              /* rows at once: LDLQ_ROWS, in whole blocks of both schemes */
    struct transform transform;  /* chooses the scales */
    void *transform_scratch;
    struct decoder source, target;
    float *x; /* [TILE_COLS][x_stride], rows as they stand */
    uint64_t x_stride;
    struct int4_rows group; /* one group of TILE_COLS rows, for LDLQ_DYNAMIC */
    struct row_error *group_error;
    struct panel *panels;
    size_t panel_count;
};

/* Takes the memory for `count` rows at most, or measures. */
void rows_place(struct rows *r, const struct ldlq *l, uint64_t count, struct scratch *s);
bool rows_dynamic(const struct ldlq *l);
/* Decodes, chooses scales: everything but t and e of the panels for rows [row, row + count). */
bool rows_load(struct rows *r, uint64_t row, uint64_t count, struct err *e) CHECKED;
/* Scales of the group that begins at column `col`, from the first group_cols rows of p->t; stores them. */
void panel_rescale(struct rows *r, struct panel *p, uint64_t col);
/* Writes the codes; adds to *err2 and sets row_loss[0 .. count). */
void panel_store(const struct rows *r, const struct panel *p, struct weight_error *err2, float *row_loss);

#endif
