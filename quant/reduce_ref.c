#include "quant/reduce.h"

#include "quant/bits.h"

bool f32_check_ref(const float *x, size_t n)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++)
        finite &= (float_bits(x[i]) & 0x7F800000u) != 0x7F800000u;
    return finite;
}

bool codes8_check_ref(const uint8_t *x, size_t n, uint8_t mask)
{
    bool ok = true;
    for (size_t i = 0; i < n; i++)
        ok &= (x[i] & mask) != mask;
    return ok;
}

bool codes16_check_ref(const uint16_t *x, size_t n, uint16_t mask)
{
    bool ok = true;
    for (size_t i = 0; i < n; i++)
        ok &= (x[i] & mask) != mask;
    return ok;
}

/* Finite magnitudes are in the order of their bits. */
float absmax_ref(const float *x, size_t n)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = float_bits(x[i]) & 0x7FFFFFFFu;
        most = bits > most ? bits : most;
    }
    return bits_float(most);
}

static float fold(float lanes[16])
{
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

struct row_error row_error_ref(const float *x, const float *y, size_t n)
{
    float error2[16] = {0}, energy2[16] = {0};
    for (size_t i = 0; i < n; i++) {
        float d = x[i] - y[i];
        error2[i % 16] += d * d;
        energy2[i % 16] += x[i] * x[i];
    }
    return (struct row_error){.error2 = fold(error2), .energy2 = fold(energy2)};
}
