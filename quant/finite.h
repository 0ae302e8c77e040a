/* Numbers that are copied as they are stored, looked at without decoding: a
 * code is NaN or infinite when all bits of its dtype's mask are set. Integers,
 * and floats that have neither, are always finite. */
#ifndef QUANT_FINITE_H
#define QUANT_FINITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/dtype.h"
#include "quant/kernel.h"

/* count elements of a dtype, aligned as it. false: *bad is the first that is not finite. */
bool finite_check(const struct kernel *k, enum dtype_id dtype, const void *data, size_t count, size_t *bad);

#endif
