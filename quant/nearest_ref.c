#include "quant/nearest.h"

#include <math.h>

#include "quant/tile.h"

void int4_nearest_ref(uint8_t *codes, float *q, const float *t, const float *s, const float *zero)
{
    for (size_t i = 0; i < TILE_COLS; i++) {
        float z = t[i] / s[i] + zero[i];

        z = z > -8.0f ? z : -8.0f;
        z = nearbyintf(z < 7.0f ? z : 7.0f);
        codes[i] = (uint8_t)(z + 8.0f);
        q[i] = (z - zero[i]) * s[i];
    }
}
