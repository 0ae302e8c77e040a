#include <assert.h>

#include "quant/e4m3.h"
#include "quant/e4m3_int4.h"
#include "quant/int4.h"

static bool row_ref(const struct int4_rows *q, size_t row, const uint8_t *codes, const float *scales, size_t block_cols,
                    struct row_error *err)
{
    struct int4_sums sums = {0};
    float w[E4M3_INT4_COLS_MAX];
    bool finite = true;

    for (size_t g = 0; g < q->cols / q->group_cols; g++) {
        size_t begin = g * q->group_cols;

        finite &= e4m3_decode_ref(w, codes + begin, q->group_cols, scales + begin / block_cols, q->group_cols);
        if (finite)
            int4_group_ref(q, row, g, w, &sums);
    }
    *err = int4_sums_fold(&sums);
    return finite;
}

bool e4m3_to_int4_ref(const struct int4_rows *q, const uint8_t *codes, size_t stride, const float *scales,
                      size_t block_cols, struct row_error *err)
{
    bool finite = true;

    assert(e4m3_int4_takes(q->group_cols, block_cols));
    for (size_t row = 0; row < q->rows; row++)
        finite &= row_ref(q, row, codes + row * stride, scales, block_cols, &err[row]);
    return finite;
}
