/* The table of kernels, and which of them this machine is given. */
#include "quant/kernel.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "quant/bf16.h"
#include "quant/e2m1.h"
#include "quant/e4m3.h"
#include "quant/e4m3_int4.h"
#include "quant/e5m2.h"
#include "quant/e8m0.h"
#include "quant/f16.h"
#include "quant/gemm_kernel.h"
#include "quant/int4.h"
#include "quant/nearest.h"
#include "quant/reduce.h"
#include "quant/tile.h"
#include "quant/vecmath.h"

static bool ref_usable(void)
{
    return true;
}

#if defined(__x86_64__)
/* __builtin_cpu_supports also asks whether the OS keeps the registers. It does not know f16c by name in every
 * compiler; those registers are AVX's. */
static bool avx2_usable(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
           (c & bit_F16C);
}

static bool avx512_usable(void)
{
    return avx2_usable() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

/* Linux keeps the tiles of a process that has asked for it, and of its threads from then on: the first answer stands.
 */
static bool tiles_permitted(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    unsigned a, d;

    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a >> 17 & 3) == 3 && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* Of CPUID's leaf 7; avx512_usable has seen that the OS keeps registers at all. */
static bool amx_usable(void)
{
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AVX512_BF16 = 1 << 5 };
    unsigned a, b, c, d, sub_a;

    return avx512_usable() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_BF16) && (d & AMX_TILE) &&
           __get_cpuid_count(7, 1, &sub_a, &b, &c, &d) && (sub_a & AVX512_BF16) && tiles_permitted();
}

/* All but products of a forward pass. */
#define AVX512_EXACT                                                                                                   \
    .bf16_decode = bf16_decode_avx512, .bf16_encode = bf16_encode_avx512, .f16_decode = f16_decode_avx512,             \
    .f16_encode = f16_encode_avx512, .f32_check = f32_check_avx512, .codes8_check = codes8_check_avx2,                 \
    .codes16_check = codes16_check_avx2, .absmax = absmax_avx512, .e4m3_decode = e4m3_decode_avx512,                   \
    .e4m3_encode = e4m3_encode_avx512, .e4m3_to_bf16 = e4m3_to_bf16_avx512, .e4m3_to_int4 = e4m3_to_int4_avx512,       \
    .e5m2_decode = e5m2_decode_avx512, .e5m2_encode = e5m2_encode_avx512, .e8m0_decode = e8m0_decode_avx512,           \
    .e2m1_decode = e2m1_decode_avx512, .e2m1_encode = e2m1_encode_avx512, .row_error = row_error_avx512,               \
    .logits_pair = logits_pair_avx512, .int4_decode = int4_decode_avx512, .int4_absmax = int4_absmax_avx512,           \
    .int4_search = int4_search_avx512, .tile_fma = tile_fma_avx512, .tile_row_fma = tile_row_fma_avx512,               \
    .int4_nearest = int4_nearest_avx512, .feedback_step = feedback_step_avx512, .vec = &vecmath_avx512
#endif

static const struct kernel kernels[] = {
    {
        .name = "ref",
        .kernel_class = KERNEL_EXACT,
        .usable = ref_usable,
        .bf16_decode = bf16_decode_ref,
        .bf16_encode = bf16_encode_ref,
        .f16_decode = f16_decode_ref,
        .f16_encode = f16_encode_ref,
        .f32_check = f32_check_ref,
        .codes8_check = codes8_check_ref,
        .codes16_check = codes16_check_ref,
        .absmax = absmax_ref,
        .e4m3_decode = e4m3_decode_ref,
        .e4m3_encode = e4m3_encode_ref,
        .e4m3_to_bf16 = e4m3_to_bf16_ref,
        .e4m3_to_int4 = e4m3_to_int4_ref,
        .e5m2_decode = e5m2_decode_ref,
        .e5m2_encode = e5m2_encode_ref,
        .e8m0_decode = e8m0_decode_ref,
        .e2m1_decode = e2m1_decode_ref,
        .e2m1_encode = e2m1_encode_ref,
        .row_error = row_error_ref,
        .logits_pair = logits_pair_ref,
        .int4_decode = int4_decode_ref,
        .int4_absmax = int4_absmax_ref,
        .int4_search = int4_search_ref,
        .tile_fma = tile_fma_ref,
        .tile_row_fma = tile_row_fma_ref,
        .int4_nearest = int4_nearest_ref,
        .feedback_step = feedback_step_ref,
        .vec = &vecmath_ref,
        .gemm = &gemm_ref,
    },
#if defined(__x86_64__)
    {
        .name = "avx2",
        .kernel_class = KERNEL_EXACT,
        .usable = avx2_usable,
        .bf16_decode = bf16_decode_avx2,
        .bf16_encode = bf16_encode_avx2,
        .f16_decode = f16_decode_avx2,
        .f16_encode = f16_encode_avx2,
        .f32_check = f32_check_avx2,
        .codes8_check = codes8_check_avx2,
        .codes16_check = codes16_check_avx2,
        .absmax = absmax_avx2,
        .e4m3_decode = e4m3_decode_avx2,
        .e4m3_encode = e4m3_encode_avx2,
        .e4m3_to_bf16 = e4m3_to_bf16_avx2,
        .e4m3_to_int4 = e4m3_to_int4_avx2,
        .e5m2_decode = e5m2_decode_avx2,
        .e5m2_encode = e5m2_encode_avx2,
        .e8m0_decode = e8m0_decode_avx2,
        .e2m1_decode = e2m1_decode_avx2,
        .e2m1_encode = e2m1_encode_avx2,
        .row_error = row_error_avx2,
        .logits_pair = logits_pair_avx2,
        .int4_decode = int4_decode_avx2,
        .int4_absmax = int4_absmax_avx2,
        .int4_search = int4_search_avx2,
        .tile_fma = tile_fma_avx2,
        .tile_row_fma = tile_row_fma_avx2,
        .int4_nearest = int4_nearest_avx2,
        .feedback_step = feedback_step_avx2,
        .vec = &vecmath_avx2,
        .gemm = &gemm_avx2,
    },
    {
        .name = "avx512",
        .kernel_class = KERNEL_EXACT,
        .usable = avx512_usable,
        AVX512_EXACT,
        .gemm = &gemm_avx512,
    },
    {
        .name = "amx",
        .kernel_class = KERNEL_AMX,
        .usable = amx_usable,
        AVX512_EXACT,
        .gemm = &gemm_amx,
    },
#endif
};

static const struct kernel *picked = &kernels[0];

size_t kernel_count(void)
{
    return sizeof kernels / sizeof kernels[0];
}

const struct kernel *kernel_at(size_t i)
{
    return &kernels[i];
}

static bool pick_named(const char *name, struct err *e)
{
    for (size_t i = 0; i < kernel_count(); i++) {
        if (strcmp(kernels[i].name, name) != 0)
            continue;
        if (!kernels[i].usable())
            return err_set(e, ERR_USAGE, "QUERN_CPU is '%s', which this machine cannot run", name);
        picked = &kernels[i];
        return true;
    }
    return err_set(e, ERR_USAGE, "QUERN_CPU is '%s', which is none of 'ref', 'avx2', 'avx512', 'amx'", name);
}

/* The table goes from slow to fast; what is not exact must be asked for. */
bool kernel_pick(struct err *e)
{
    const char *name = getenv("QUERN_CPU");

    if (name)
        return pick_named(name, e);
    for (size_t i = 0; i < kernel_count(); i++)
        if (strcmp(kernels[i].kernel_class, KERNEL_EXACT) == 0 && kernels[i].usable())
            picked = &kernels[i];
    return true;
}

void kernel_use(const struct kernel *k)
{
    picked = k;
}

const struct kernel *kernel_get(void)
{
    return picked;
}
