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

void feedback_step_ref(float *e, float *sums, const float *t, const float *q, const float *w, float r2)
{
    for (size_t i = 0; i < TILE_COLS; i++) {
        float d = t[i] - q[i];

        e[i] = w[i] - q[i];
        sums[i] += r2 * (d * d);
        sums[TILE_COLS + i] += e[i] * e[i];
        sums[2 * TILE_COLS + i] += w[i] * w[i];
    }
}
