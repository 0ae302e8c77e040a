#include "quant/vecmath.h"

#include <math.h>

#include "tests/gemm_support.h"
#include "tests/kernel_support.h"

#define N ROW_MAX

/* ---- every variant, every length ---- */

struct inputs {
    float a[N + GUARD], b[N + GUARD], c[N + GUARD], y[N + GUARD];
    float rows[9 * (N + 1)];
};

static void inputs_make(struct inputs *in, uint64_t seed)
{
    support_floats(in->a, N + GUARD, &seed, -8, 5);
    support_floats(in->b, N + GUARD, &seed, -8, 4);
    support_floats(in->c, N + GUARD, &seed, -8, 4);
    support_floats(in->y, N + GUARD, &seed, -8, 4);
    support_floats(in->rows, 9 * (N + 1), &seed, -8, 4);
}

enum call {
    CALL_ADD,
    CALL_SCALE,
    CALL_FMA,
    CALL_ROWS_FMA,
    CALL_RMS_NORM,
    CALL_EXP,
    CALL_SIGMOID,
    CALL_SILU_MUL,
    CALL_ROUND_BF16,
    CALL_DOTS,
    CALL_COUNT
};

static void call(enum call which, const struct vecmath *v, float *y, const struct inputs *in, size_t n)
{
    switch (which) {
    case CALL_ADD:
        v->add(y, in->a, n);
        break;
    case CALL_SCALE:
        v->scale(y, in->a, 0.3f, n);
        break;
    case CALL_FMA:
        v->fma(y, 0.7f, in->a, n);
        break;
    case CALL_ROWS_FMA:
        v->rows_fma(y, in->b, in->rows, N + 1, 9, n);
        break;
    case CALL_RMS_NORM:
        v->rms_norm(y, in->a, in->b, n, 1e-6);
        break;
    case CALL_EXP:
        v->exp(y, in->a, n);
        break;
    case CALL_SIGMOID:
        v->sigmoid(y, in->a, n);
        break;
    case CALL_SILU_MUL:
        v->silu_mul(y, in->a, in->b, n);
        break;
    case CALL_ROUND_BF16:
        v->round_bf16(y, in->a, n);
        break;
    case CALL_DOTS:
        v->dots(y, in->a, in->rows, N + 1, 9, n);
        break;
    case CALL_COUNT:
        break;
    }
}

TEST(vecmath, rows_of_every_length_have_the_bits_of_the_reference_and_keep_to_themselves)
{
    static struct inputs in;
    static float want[N + GUARD], got[N + GUARD];

    inputs_make(&in, 1);
    for (size_t i = 1; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        for (size_t n = 0; k && n <= N; n++)
            for (enum call c = 0; c < CALL_COUNT; c++) {
                ct_case("%s, call %d, %zu elements", k->name, (int)c, n);
                memcpy(want, in.y, sizeof want);
                memcpy(got, in.y, sizeof got);
                call(c, kernel_at(0)->vec, want, &in, n);
                call(c, k->vec, got, &in, n);
                ASSERT_MEM_EQ(want, got, sizeof want);
            }
    }
}

TEST(vecmath, sums_of_every_length_have_the_bits_of_the_reference)
{
    static struct inputs in;
    static float want[N], got[N];
    const struct vecmath *ref = kernel_at(0)->vec;

    inputs_make(&in, 2);
    for (size_t i = 1; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        for (size_t n = 0; k && n <= N; n++) {
            ct_case("%s, %zu elements", k->name, n);
            EXPECT_EQ_F32(ref->max(in.a, n), k->vec->max(in.a, n));
            EXPECT_EQ_F32(ref->dot(in.a, in.b, n), k->vec->dot(in.a, in.b, n));
            EXPECT_TRUE(ref->sum2(in.a, n) == k->vec->sum2(in.a, n));
            EXPECT_TRUE(ref->exp_sum(want, in.a, 3.0f, n) == k->vec->exp_sum(got, in.a, 3.0f, n));
            EXPECT_MEM_EQ(want, got, n * sizeof *want);
        }
    }
}

/* The orders of the header, written a second time. */
TEST(vecmath, the_sums_have_the_written_order)
{
    static struct inputs in;
    double lanes[16] = {0}, exp_lanes[16] = {0};
    float y[N];

    inputs_make(&in, 3);
    kernel_at(0)->vec->exp(y, in.b, N);
    for (size_t i = 0; i < N; i++) {
        lanes[i & 15] += (double)in.a[i] * (double)in.a[i];
        exp_lanes[i & 15] += (double)y[i];
    }
    for (size_t half = 8; half; half /= 2)
        for (size_t l = 0; l < half; l++) {
            lanes[l] += lanes[l + half];
            exp_lanes[l] += exp_lanes[l + half];
        }
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        if (!k)
            continue;
        EXPECT_EQ_F32(gemm_support_dot(in.a, in.b, N), k->vec->dot(in.a, in.b, N));
        EXPECT_TRUE(lanes[0] == k->vec->sum2(in.a, N));
        EXPECT_TRUE(exp_lanes[0] == k->vec->exp_sum(y, in.b, 0.0f, N));
        float s = (float)(1.0 / sqrt(lanes[0] / N + 1e-5));
        k->vec->rms_norm(y, in.a, in.b, N, 1e-5);
        for (size_t j = 0; j < N; j++)
            EXPECT_EQ_F32(in.a[j] * s * in.b[j], y[j]);
    }
}

TEST(vecmath, max_is_the_largest_wherever_it_stands)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        for (size_t n = 1; k && n <= 70; n++)
            for (size_t at = 0; at < n; at++) {
                float x[70];
                for (size_t j = 0; j < 70; j++)
                    x[j] = j < n ? -7.0f : 9.0f;
                x[at] = -2.5f;
                ct_case("%s, %zu of %zu", k->name, at, n);
                EXPECT_EQ_F32(-2.5f, k->vec->max(x, n));
            }
        if (k)
            EXPECT_EQ_F32(-INFINITY, k->vec->max(NULL, 0));
    }
}

/* ---- accuracy ---- */

/* Distance in places of want's last digit. */
static double ulps(double want, float got)
{
    float near = (float)want;
    double place = fabsf(near) < 0x1p-126f ? 0x1p-149 : ldexp(1.0, ilogbf(near) - 23);

    return fabs((double)got - want) / place;
}

/* libm's float64 functions are the judge: they are good to far below a float32's last place. */
TEST(vecmath, exp_is_within_one_ulp)
{
    double worst = 0.0;

    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        float x[64], y[64];
        size_t n = 0;
        for (uint32_t bits = 0; k && bits < 0x42D00000u; bits += 1801) /* to 104 */
            for (uint32_t sign = 0; sign < 2; sign++) {
                x[n++] = bits_float(bits | sign << 31);
                if (n < 64)
                    continue;
                k->vec->exp(y, x, n);
                for (size_t j = 0; j < n; j++)
                    if (x[j] < 88.7f) {
                        double off = ulps(exp((double)x[j]), y[j]);
                        worst = off > worst ? off : worst;
                    }
                n = 0;
            }
    }
    EXPECT_TRUE(worst > 0.4 && worst < 1.0);
}

TEST(vecmath, exp_ends_in_zero_and_infinity)
{
    static const float x[] = {0.0f, -0.0f, -200.0f, -1e30f, -INFINITY, 89.0f, 1e30f, INFINITY};
    static const float want[] = {1.0f, 1.0f, 0.0f, 0.0f, 0.0f, INFINITY, INFINITY, INFINITY};
    static const float sigmoid[] = {0.5f, 0.5f, 0.0f, 0.0f, 0.0f, 1.0f, 1.0f, 1.0f};

    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        float y[8], nan[17];
        if (!k)
            continue;
        k->vec->exp(y, x, 8);
        for (size_t j = 0; j < 8; j++)
            EXPECT_EQ_F32(want[j], y[j]);
        k->vec->sigmoid(y, x, 8);
        for (size_t j = 0; j < 8; j++)
            EXPECT_EQ_F32(sigmoid[j], y[j]);
        for (size_t j = 0; j < 17; j++)
            nan[j] = NAN;
        k->vec->exp(nan, nan, 17);
        for (size_t j = 0; j < 17; j++)
            EXPECT_TRUE(isnan(nan[j]));
    }
}

TEST(vecmath, sigmoid_silu_and_softmax_are_good_to_a_few_ulps)
{
    static struct inputs in;

    inputs_make(&in, 4);
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        float y[N];
        double sum = 0.0, total = 0.0;
        if (!k)
            continue;
        k->vec->sigmoid(y, in.a, N);
        for (size_t j = 0; j < N; j++)
            EXPECT_TRUE(ulps(1.0 / (1.0 + exp(-(double)in.a[j])), y[j]) < 2.5);
        k->vec->silu_mul(y, in.a, in.b, N);
        for (size_t j = 0; j < N; j++)
            EXPECT_TRUE(ulps((double)in.a[j] / (1.0 + exp(-(double)in.a[j])) * (double)in.b[j], y[j]) < 4.0);
        softmax(k, y, in.a, N); /* x - max is rounded, too: up to 2^-24 of 60 */
        for (size_t j = 0; j < N; j++)
            sum += exp((double)in.a[j]);
        for (size_t j = 0; j < N; j++) {
            EXPECT_NEAR_F64(exp((double)in.a[j]) / sum, (double)y[j], 4e-6 * exp((double)in.a[j]) / sum);
            total += (double)y[j];
        }
        EXPECT_NEAR_F64(1.0, total, 1e-6);
    }
}

TEST(vecmath, rounding_to_bf16_is_the_codec_and_keeps_nan)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        uint64_t seed = 6;
        for (size_t round = 0; k && round < 500; round++) {
            float x[37], y[37], want[37];
            uint16_t codes[37];
            for (size_t j = 0; j < 37; j++)
                x[j] = support_float(&seed, -126, 127);
            ASSERT_TRUE(k->bf16_encode(codes, x, 37) && k->bf16_decode(want, codes, 37));
            k->vec->round_bf16(y, x, 37);
            ASSERT_MEM_EQ(want, y, sizeof y);
        }
        if (!k)
            continue;
        float odd[3] = {bits_float(0x7FFFFFFFu), bits_float(0xFF800001u), INFINITY};
        k->vec->round_bf16(odd, odd, 3);
        EXPECT_TRUE(isnan(odd[0]) && isnan(odd[1]));
        EXPECT_EQ_F32(INFINITY, odd[2]);
    }
}

/* ---- FP8 activations ---- */

/* Worked by hand from kernel.py: |x|max 3.5 gives 3.5 / 448 = 0.0078125 = 2^-7; 3.6 rounds up to 2^-6 with pow2. */
TEST(vecmath, fp8_activations_round_per_128_and_floor_the_largest_magnitude)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        float x[200] = {0}, y[200], pow2[200];
        if (!k)
            continue;
        x[0] = -3.5f;
        x[1] = 0.1f;   /* 12.8 steps: 13, of a grid of 1 from 8 to 16 */
        x[127] = 2.1f; /* 268.8: 256 or 288, of a grid of 32 */
        x[128] = 3.6f;
        x[129] = 1e-5f;
        EXPECT_TRUE(fp8_activations(k, y, x, 200, false));
        EXPECT_TRUE(fp8_activations(k, pow2, x, 200, true));
        EXPECT_EQ_F32(-3.5f, y[0]);
        EXPECT_EQ_F32(13.0f * 0x1p-7f, y[1]);
        EXPECT_EQ_F32(256.0f * 0x1p-7f, y[127]);
        EXPECT_MEM_EQ(y, pow2, 128 * sizeof *y);
        EXPECT_EQ_F32(448.0f * (3.6f / 448.0f), y[128]);
        EXPECT_EQ_F32(224.0f * 0x1p-6f, pow2[128]); /* 230.4 of a grid of 16 */
        EXPECT_EQ_F32(0.0f, pow2[129]);

        float small[3] = {1e-6f, -1e-6f, 0.0f}; /* scale 1e-4 / 448: 4.48 steps of a grid of 1/2 */
        EXPECT_TRUE(fp8_activations(k, small, small, 3, false));
        EXPECT_EQ_F32(4.5f * (1e-4f / 448.0f), small[0]);
        x[130] = NAN;
        EXPECT_FALSE(fp8_activations(k, y, x, 200, false));
    }
}

/* Of numpy, by the grid of the format's definition; 100 and -7.77 are past 448 scales. */
TEST(vecmath, fp8_activations_by_a_static_scale_are_cut_off_behind_it)
{
    static const float x[] = {0.3f, -1.7f, 5.0f, 100.0f, -7.77f, 0.001f, 0.0f, -0.02f};
    static const float want[] = {0x1.333334p-2f,  -0x1.99999ap+0f, 0x1.333334p+2f, 0x1.666666p+2f,
                                 -0x1.666666p+2f, 0x1p-10f,        0.0f,           -0x1.4ccccep-6f};

    for (size_t i = 0; i < kernel_count(); i++) {
        const struct kernel *k = support_kernel(i);
        float y[8];
        if (!k)
            continue;
        EXPECT_TRUE(fp8_static_activations(k, y, x, 8, 0x1.99999ap-7f));
        EXPECT_MEM_EQ(want, y, sizeof want);
        y[7] = INFINITY;
        EXPECT_FALSE(fp8_static_activations(k, y, y, 8, 1.0f));
    }
}

/* V3.2's kernel multiplies by 1/448 where V3's divides: once rounded up to powers of two they are the same. */
TEST(vecmath, both_ways_to_the_power_of_two_scale_agree_for_every_fraction)
{
    for (uint32_t fraction = 0; fraction < 0x800000u; fraction++) {
        float most = bits_float(0x3F800000u | fraction);
        uint32_t divided = (float_bits(most / 448.0f) + 0x7FFFFFu) & 0x7F800000u;
        uint32_t multiplied = (float_bits(most * (1.0f / 448.0f)) + 0x7FFFFFu) & 0x7F800000u;
        if (divided != multiplied)
            ct_case("fraction %06x", fraction);
        ASSERT_EQ_U64(divided, multiplied);
    }
}

/* ---- float64 ---- */

/* Of mpmath 1.3 at 60 digits: the nearest float64. */
static const struct {
    double x, exp, log;
} golden64[] = {
    {0x1.56e1fc2f8f359p-997, 0x1.0000000000000p+0, -0x1.5963447f87fb5p+9},
    {0x1.70ef54646d497p-57, 0x1.0000000000000p+0, -0x1.3926cd770aa67p+5},
    {-0x1.70ef54646d497p-57, 0x1.0000000000000p+0, 0.0},
    {0x1.999999999999ap-4, 0x1.1aec7b35a00d4p+0, -0x1.26bb1bbb55515p+1},
    {-0x1.999999999999ap-4, 0x1.cf46d99d52b3ap-1, 0.0},
    {0x1.62eb1c432ca58p-2, 0x1.6a0c5906bc779p+0, -0x1.0f40e3fd2c1b3p+0},
    {-0x1.62e429e0a41a2p-2, 0x1.6a09e88c50119p-1, 0.0},
    {0x1.0000000000000p-1, 0x1.a61298e1e069cp+0, -0x1.62e42fefa39efp-1},
    {0x1.6a09e667f3bcdp-1, 0x1.0399458f5a0d7p+1, -0x1.62e42fefa39eep-2},
    {0x1.6a09e667f3bcdp-1, 0x1.0399458f5a0d7p+1, -0x1.62e42fefa39eep-2},
    {0x1.ffffde7210be9p-1, 0x1.5bf091e3cef8bp+1, -0x1.0c6f82d74d230p-20},
    {0x1.000001ad7f29bp+0, 0x1.5bf0aaf904984p+1, 0x1.ad7f2847b6492p-24},
    {0x1.6a09e667f3bcdp+0, 0x1.073f7e8448776p+2, 0x1.62e42fefa39f0p-2},
    {0x1.8000000000000p+0, 0x1.1ed3fe64fc541p+2, 0x1.9f323ecbf984cp-2},
    {0x1.0000000000000p+1, 0x1.d8e64b8d4ddaep+2, 0x1.62e42fefa39efp-1},
    {0x1.8000000000000p+1, 0x1.415e5bf6fb106p+4, 0x1.193ea7aad030bp+0},
    {-0x1.d99999999999ap+1, 0x1.9511fc6871044p-6, 0.0},
    {0x1.4000000000000p+3, 0x1.5829dcf950560p+14, 0x1.26bb1bbb55516p+1},
    {-0x1.4800000000000p+4, 0x1.57a3afeed00abp-30, 0.0},
    {0x1.62ccccccccccdp+6, 0x1.f4705bbffae5cp+127, 0x1.1f0e7f7eaaee6p+2},
    {0x1.edd2f1a9fbe77p+6, 0x1.1428e1cbc0143p+178, 0x1.343774f3e2362p+2},
    {-0x1.5e00000000000p+9, 0x1.14f2b0fb9307fp-1010, 0.0},
    {0x1.5e20000000000p+9, 0x1.2fd8e4cbfa413p+1010, 0x1.a34ac026e1799p+2},
    {0x1.62c0000000000p+9, 0x1.81e9b4b52d0c9p+1023, 0x1.a421c25960b33p+2},
    {-0x1.6200000000000p+9, 0x1.7c8ab2288c9abp-1022, 0.0},
    {0x1.581fef5567df4p+7, 0x1.2cfb5197662f1p+248, 0x1.49767d64027e6p+2},
    {0x1.528074fabe640p+8, 0x1.4762ae6cc8871p+488, 0x1.74c516d0da5d8p+2},
    {0x1.9d455fb7d404cp+8, 0x1.2b007689e8ef3p+596, 0x1.818ae98aadaf1p+2},
    {0x1.35b7174221d86p+9, 0x1.917950a637783p+893, 0x1.9b7176fd0a5dbp+2},
    {0x1.4fdba6311b050p+8, 0x1.746450fefe458p+484, 0x1.74449fb277c08p+2},
    {0x1.27a0a3afe0e48p+9, 0x1.001d84b73a5d5p+853, 0x1.9876bdc02f196p+2},
    {-0x1.49b24359f833dp+9, 0x1.9f2388bc65396p-952, 0.0},
    {-0x1.8106b9b1a8740p+5, 0x1.7adf04a9e7a2bp-70, 0.0},
    {0x1.365986104ac78p+9, 0x1.650add09638dap+895, 0x1.9b92feee1ba30p+2},
    {0x1.a120f5ae260ccp+7, 0x1.dbfd8a4ccf8d9p+300, 0x1.55c69e78e52bbp+2},
    {0x1.d9f21f378763ap+0, 0x1.97941fc1a8548p+2, 0x1.3b5946ccd7847p-1},
    {0x1.56f132c3b1318p-1, 0x1.f4306e404d2aap+0, -0x1.9a618da030c2ep-2},
    {0x1.341f5d19af753p+0, 0x1.aa82581447da4p+1, 0x1.7b8911d134993p-3},
    {0x1.bd5e31048d81ap-1, 0x1.317b4970ca2a9p+1, -0x1.1d8a4227e88f7p-3},
    {0x1.50cdde14e50fcp+0, 0x1.dd12efb6ee12fp+1, 0x1.18e872b28228ep-2},
    {0x1.5c64b6ebf7c6ap+0, 0x1.f32aec3d8ab58p+1, 0x1.3b8cf5797e13cp-2},
    {0x1.0a125ac631922p-1, 0x1.ae752273a9467p+0, -0x1.4f22552bcefbdp-1},
    {0x1.a672d0072eb86p-1, 0x1.241bc0122db05p+1, -0x1.89be18909d870p-3},
    {0x1.d6a478117ab0fp-1, 0x1.40f09be9faf7ep+1, -0x1.58fd4aee49d91p-4},
    {0x1.dfe06a59a3566p+0, 0x1.a1219fa164176p+2, 0x1.41b74cb724e27p-1},
    {0x1.a609dff2b167dp+0, 0x1.4cc6cc5a7096cp+2, 0x1.ffead668aa236p-2},
    {0x1.7a93770925144p-1, 0x1.0c1eda6cfe6c9p+1, -0x1.352749e8b6477p-2},
    {0x1.b21abce373e5bp+0, 0x1.5cd62a5692ae2p+2, 0x1.0e642277d14f1p-1},
    {0x1.6a92c8db52276p-1, 0x1.03deb65ee7885p+1, -0x1.61614e09ff8a7p-2},
    {0x1.6d1a0d755a241p+0, 0x1.0a6ab1092a977p+2, 0x1.6b84c68f01596p-2},
};

static double ulps64(double want, double got)
{
    return fabs(got - want) / ldexp(1.0, ilogb(want) - 52);
}

TEST(vecmath, float64_exp_and_log_agree_with_mpmath_within_an_ulp)
{
    for (size_t i = 0; i < sizeof golden64 / sizeof golden64[0]; i++) {
        ct_case("x = %a", golden64[i].x);
        EXPECT_TRUE(ulps64(golden64[i].exp, math_exp(golden64[i].x)) <= 1.0);
        if (golden64[i].x > 0.0)
            EXPECT_TRUE(ulps64(golden64[i].log, math_log(golden64[i].x)) <= 1.0);
    }
    EXPECT_TRUE(math_exp(0.0) == 1.0 && math_log(1.0) == 0.0);
    EXPECT_TRUE(math_exp(-1000.0) == 0.0 && isinf(math_exp(1000.0)) && isnan(math_exp(NAN)));
    EXPECT_TRUE(isinf(math_log(0.0)) && isnan(math_log(-1.0)) && isinf(math_log(INFINITY)));
}

/* libm's are within an ulp themselves. */
TEST(vecmath, float64_exp_and_log_stay_next_to_libm)
{
    uint64_t seed = 7;

    for (size_t i = 0; i < 200000; i++) {
        double x = (double)(int64_t)support_random(&seed) * 0x1p-63 * 700.0;
        double y =
            ldexp(1.0 + (double)(support_random(&seed) >> 12) * 0x1p-52, (int)(support_random(&seed) % 2000) - 1000);
        ct_case("%a, %a", x, y);
        ASSERT_TRUE(ulps64(exp(x), math_exp(x)) <= 1.5);
        ASSERT_TRUE(ulps64(log(y), math_log(y)) <= 1.5);
    }
}

/* Of mpmath 1.3, theta being the float32; the last rows are those closest to multiples of pi/2 below 2^20. */
static const struct {
    float theta;
    double cosine, sine;
} golden_angles[] = {
    {0x0.0p+0f, 0x1.0000000000000p+0, 0.0},
    {0x1.79ca100000000p-67f, 0x1.0000000000000p+0, 0x1.79ca100000000p-67},
    {0x1.0000000000000p+0f, 0x1.14a280fb5068cp-1, 0x1.aed548f090ceep-1},
    {-0x1.0000000000000p+0f, 0x1.14a280fb5068cp-1, -0x1.aed548f090ceep-1},
    {0x1.921fb60000000p-1f, 0x1.6a09e5e333598p-1, 0x1.6a09e6ecb41fep-1},
    {0x1.921fb40000000p-1f, 0x1.6a09e74d3d3fcp-1, 0x1.6a09e582aa394p-1},
    {0x1.921fb60000000p+0f, -0x1.777a5cf72ceccp-25, 0x1.ffffffffffff7p-1},
    {0x1.921fb60000000p+1f, -0x1.fffffffffffdep-1, -0x1.777a5cf72cec6p-24},
    {0x1.9000000000000p+6f, 0x1.b981dbf665fdfp-1, -0x1.03425b78c4db8p-1},
    {-0x1.81cd6c0000000p+13f, 0x1.6b7c3f7d685d6p-1, 0x1.689610f38680cp-1},
    {0x1.4000000000000p+17f, 0x1.e2adadc668101p-1, -0x1.558ef180e4b21p-2},
    {0x1.ffff800000000p+16f, -0x1.c4ac0840e0011p-2, -0x1.cb4185081f8c6p-1},
    {0x1.869ffe0000000p+17f, 0x1.fe0eb32682cc7p-1, -0x1.64770e1cd562dp-4},
    {0x1.0000000000000p+20f, 0x1.e33ada92fe2aep-1, 0x1.526ccb2fc8656p-2},
    {0x1.fffffc0000000p+19f, 0x1.f48e5c8107c00p-1, 0x1.ae952c5308fd1p-3},
    {0x1.f9cbe20000000p+7f, -0x1.1fa3bb9a07e78p-28, 0x1.0000000000000p+0},
    {0x1.f9cbe20000000p+8f, -0x1.0000000000000p+0, -0x1.1fa3bb9a07e78p-27},
    {0x1.2d97c80000000p+2f, 0x1.99bc5b961b1adp-27, -0x1.fffffffffffffp-1},
    {0x1.9a48de0000000p+15f, -0x1.16ae29144d3b2p-26, 0x1.fffffffffffffp-1},
    {0x1.f9cbe20000000p+9f, 0x1.fffffffffffffp-1, 0x1.1fa3bb9a07e78p-26},
    {0x1.2d97c80000000p+3f, -0x1.ffffffffffffdp-1, -0x1.99bc5b961b1acp-26},
    {0x1.9a48de0000000p+16f, -0x1.ffffffffffffbp-1, -0x1.16ae29144d3b1p-25},
    {0x1.f9cbe20000000p+10f, 0x1.ffffffffffffbp-1, 0x1.1fa3bb9a07e77p-25},
    {0x1.04ccbc0000000p+18f, -0x1.270da18b198e7p-25, -0x1.ffffffffffffbp-1},
    {0x1.c463ac0000000p+3f, -0x1.334d44b094540p-25, 0x1.ffffffffffffap-1},
    {0x1.921fb60000000p+0f, -0x1.777a5cf72ceccp-25, 0x1.ffffffffffff7p-1},
    {0x1.2d97c80000000p+4f, 0x1.ffffffffffff6p-1, 0x1.99bc5b961b1aap-25},
};

TEST(vecmath, cosine_and_sine_agree_with_mpmath_also_far_out_and_at_their_zeros)
{
    for (size_t i = 0; i < sizeof golden_angles / sizeof golden_angles[0]; i++) {
        float c, s;
        ct_case("theta = %a", (double)golden_angles[i].theta);
        math_cos_sin(golden_angles[i].theta, &c, &s);
        EXPECT_TRUE(ulps(golden_angles[i].cosine, c) <= 0.51);
        EXPECT_TRUE(golden_angles[i].sine == 0.0 ? s == 0.0f : ulps(golden_angles[i].sine, s) <= 0.51);
    }
}
