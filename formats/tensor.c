#include "formats/tensor.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

uint64_t tensor_elems(const struct tensor *t)
{
    uint64_t elems = 1;

    for (uint32_t i = 0; i < t->rank; i++)
        elems *= t->dims[i]; /* the reader refused a product above 2^64-1 */
    return elems;
}

const char *tensor_shape_text(uint32_t rank, const uint64_t *dims, char text[TENSOR_SHAPE_TEXT])
{
    size_t used = 1;

    /* Eight numbers of 20 digits, seven ", ", two brackets and NUL: 177. */
    assert(rank <= TENSOR_RANK_MAX);
    text[0] = '[';
    for (uint32_t i = 0; i < rank; i++)
        used += (size_t)snprintf(text + used, TENSOR_SHAPE_TEXT - used, "%s%" PRIu64, i ? ", " : "", dims[i]);
    snprintf(text + used, TENSOR_SHAPE_TEXT - used, "]");
    return text;
}
