#include "verify/rope.h"

#include <math.h>

#include "quant/vecmath.h"

#define TWO_PI 6.283185307179586

/* The pair whose wave turns n times over the original context. */
static double correction(const struct arch *a, double turns)
{
    double dims = (double)a->qk_rope_dim;

    return dims * math_log((double)a->yarn_original_positions / (turns * TWO_PI)) / (2.0 * math_log(a->rope_theta));
}

static double mscale(double factor, double m)
{
    return factor <= 1.0 ? 1.0 : 0.1 * m * math_log(factor) + 1.0;
}

static bool has_all_dim(const struct arch *a)
{
    return a->yarn_has_mscale_all_dim && a->yarn_mscale_all_dim > 0.0;
}

/* How much of a pair's frequency stays as it is: 1 for fast ones, 0 for slow ones. */
static double kept(const struct arch *a, size_t pair)
{
    double low = floor(correction(a, a->yarn_beta_fast)), high = ceil(correction(a, a->yarn_beta_slow));
    double last = (double)a->qk_rope_dim - 1.0;

    low = low > 0.0 ? low : 0.0;
    high = high < last ? high : last;
    if (low == high)
        high += 0.001;
    double ramp = ((double)pair - low) / (high - low);
    return 1.0 - (ramp < 0.0 ? 0.0 : ramp > 1.0 ? 1.0 : ramp);
}

void rope_init(struct rope *r, struct arena *arena, const struct arch *a)
{
    double scale = 1.0 / sqrt((double)(a->qk_nope_dim + a->qk_rope_dim)), cos_scale = 1.0;

    r->pairs = a->qk_rope_dim / 2;
    r->inverse = arena_array(arena, r->pairs + 1, sizeof *r->inverse);
    for (size_t i = 0; i < r->pairs; i++) {
        double f = math_exp(-2.0 * (double)i / (double)a->qk_rope_dim * math_log(a->rope_theta));
        if (a->yarn)
            f = f / a->yarn_factor * (1.0 - kept(a, i)) + f * kept(a, i);
        r->inverse[i] = (float)f;
    }
    if (a->yarn) {
        double all = has_all_dim(a) ? mscale(a->yarn_factor, a->yarn_mscale_all_dim) : 1.0;
        cos_scale = mscale(a->yarn_factor, a->yarn_has_mscale ? a->yarn_mscale : 1.0) / all;
        scale *= all * all;
    }
    r->cos_scale = (float)cos_scale;
    r->softmax_scale = (float)scale;
}

void rope_turns(const struct rope *r, uint64_t position, float *turns)
{
    for (size_t i = 0; i < r->pairs; i++) {
        float cosine, sine;
        math_cos_sin((float)position * r->inverse[i], &cosine, &sine);
        turns[i] = cosine * r->cos_scale;
        turns[r->pairs + i] = sine * r->cos_scale;
    }
}

static float to_bf16(float x)
{
    float y;

    kernel_get()->vec->round_bf16(&y, &x, 1);
    return y;
}

static void turn_bf16(size_t pairs, const float *turns, float *v)
{
    for (size_t i = 0; i < pairs; i++, v += 2) {
        float cosine = to_bf16(turns[i]), sine = to_bf16(turns[pairs + i]), a = v[0], b = v[1];
        v[0] = to_bf16(to_bf16(a * cosine) - to_bf16(b * sine));
        v[1] = to_bf16(to_bf16(a * sine) + to_bf16(b * cosine));
    }
}

void rope_turn(const struct rope *r, const float *turns, float *v, bool bf16)
{
    if (bf16) {
        turn_bf16(r->pairs, turns, v);
        return;
    }
    for (size_t i = 0; i < r->pairs; i++, v += 2) {
        float cosine = turns[i], sine = turns[r->pairs + i], a = v[0], b = v[1];
        v[0] = a * cosine - b * sine;
        v[1] = a * sine + b * cosine;
    }
}
