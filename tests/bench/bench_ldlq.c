/* One real-size expert of DeepSeek-V3 by LDLQ to int4 g128 on one core: gate and up 2048 x 7168 with one input, down
 * 7168 x 2048, from block FP8; 4,096 tokens reach it, and a prior stands for all the layer's tokens. Core-seconds of
 * each stage, and what the whole model would take by these: all experts of its 59 MoE layers, each with its share of
 * 131,072 tokens, and the forward pass. An argument scales the widths down, to whole groups: `build/bench/ldlq 4`.
 * What the textbook needs: tests/bench/gptq_torch.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "convert/calibration_rates.h"
#include "formats/base/mem.h"
#include "quant/calibrated.h"
#include "samples/generate/v3_layout.h"

#define TOKENS 4096
#define GROUP  128u /* columns of a scale */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Touched before the clock runs, in large pages where the system gives them. */
static void *room(size_t bytes)
{
    size_t align = bytes >= 1u << 22 ? 1u << 21 : MEM_ALIGN;
    void *p = aligned_alloc(align, (bytes + align - 1) / align * align);

    if (!p)
        exit(4);
    madvise(p, bytes, MADV_HUGEPAGE);
    return memset(p, 0, bytes);
}

static uint64_t seed = 1;

static float bell(void)
{
    float sum = 0;

    for (int i = 0; i < 4; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(seed >> 40) * 0x1p-24f;
    }
    return 1.7f * (sum - 2);
}

/* Eight shared directions and noise. */
static float *inputs(size_t tokens, size_t cols)
{
    float *x = room(tokens * cols * sizeof *x), *mix = room(8 * cols * sizeof *mix);

    for (size_t i = 0; i < 8 * cols; i++)
        mix[i] = bell();
    for (size_t t = 0; t < tokens; t++) {
        float common[8];

        for (size_t s = 0; s < 8; s++)
            common[s] = bell();
        for (size_t c = 0; c < cols; c++) {
            float v = bell();
            for (size_t s = 0; s < 8; s++)
                v += 0.4f * common[s] * mix[s * cols + c];
            x[t * cols + c] = v;
        }
    }
    free(mix);
    return x;
}

static struct loss_matrix matrix(size_t rows, size_t cols)
{
    struct loss_matrix m = {
        .from = {.kind = SCHEME_FP8_BLOCK,
                 .dtype = DTYPE_F8_E4M3,
                 .scale = SCALE_F32,
                 .block_rows = 128,
                 .block_cols = 128},
        .to = {.kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = GROUP},
        .rows = rows,
        .cols = cols,
    };
    struct slices *sides[] = {&m.in, &m.out};
    const struct scheme *schemes[] = {&m.from, &m.to};
    uint8_t *codes;
    float *scales;

    for (int side = 0; side < 2; side++)
        for (enum part p = PART_CODES; p < PART_SHAPE; p++) {
            uint64_t offset, bytes;
            scheme_slice(schemes[side], p, rows, cols, 0, rows, &offset, &bytes);
            sides[side]->part[p] = bytes ? room(bytes) : NULL;
        }
    codes = m.in.part[PART_CODES];
    scales = m.in.part[PART_SCALE];
    for (size_t i = 0; i < rows * cols; i++) {
        float v = 100 * bell();
        m.from.method = METHOD_COPY;
        kernel_get()->e4m3_encode(codes + i, &v, 1, &(float){1}, 1);
    }
    for (size_t i = 0; i < ((rows + 127) / 128) * ((cols + 127) / 128); i++)
        scales[i] = 2e-4f * (1 + (float)(i % 7) * 0.1f);
    return m;
}

struct stage {
    double moments, spread, factor, solve;
};

static struct stage measure(const char *name, struct loss_matrix *m, size_t count, size_t tokens, bool prior)
{
    const struct kernel *k = kernel_get();
    size_t cols = m->cols, round_bytes = calibrated_round_scratch_bytes(m);
    size_t scratch_bytes = moments_scratch_bytes(cols);
    struct calibrated_options o = calibrated_defaults(METHOD_LDLQ);
    float *x = inputs(tokens, cols);
    float *sum = room(moments_bytes(cols)), *all = prior ? room(moments_bytes(cols)) : NULL;
    void *memory = room(calibrated_bytes(cols)), *scratch;
    struct moments own, layer;
    struct calibrated c;
    struct stage s = {0};
    struct err e = {0};
    double start;

    scratch_bytes = calibrated_scratch_bytes(cols) > scratch_bytes ? calibrated_scratch_bytes(cols) : scratch_bytes;
    scratch = room(round_bytes > scratch_bytes ? round_bytes : scratch_bytes);
    moments_init(&own, k, cols, sum);
    start = now();
    moments_add(&own, x, cols, tokens, 1, scratch);
    (void)!moments_close(&own);
    s.moments = now() - start;
    start = now();
    moments_spread(&own, x, cols, tokens, scratch);
    s.spread = now() - start;
    if (prior) {
        layer = own;
        layer.sum = memcpy(all, own.sum, moments_bytes(cols));
        layer.tokens = 4 * tokens;
        layer.spread = 4 * own.spread;
    }
    start = now();
    calibrated_make(&c, k, &o, &own, prior ? &layer : NULL, 1, memory, scratch);
    s.factor = now() - start;
    start = now();
    for (size_t i = 0; i < count; i++) {
        struct rounded r;
        if (!calibrated_round(&c, &m[i], scratch, &r, &e)) {
            fprintf(stderr, "%s\n", e.text);
            exit(1);
        }
        printf("  %-8s relative output error %.5f, loss measured / running %.6f\n", name, loss_relative(&r.loss),
               r.loss.error / r.running);
    }
    s.solve = now() - start;
    printf("  %-8s moments %.3f s, spread %.3f s, factor %.3f s, solve %.3f s\n", name, s.moments, s.spread, s.factor,
           s.solve);
    free(x);
    free(sum);
    free(all);
    free(memory);
    free(scratch);
    return s;
}

/* ---- the whole model ---- */

#define CONTEXT      2048u
#define MODEL_TOKENS (64u * CONTEXT) /* 4,096 for an expert in the mean */

static bool count_model(struct calibration_work *w, struct arch *arch, struct err *e)
{
    struct arena a = {0};
    struct v3_layout l = {0};
    struct sequence sequences[MODEL_TOKENS / CONTEXT];
    struct batch b = {.tokens = MODEL_TOKENS, .sequences = sequences, .sequence_count = MODEL_TOKENS / CONTEXT};
    uint64_t roles[64] = {0};

    v3_layout_published(&l);
    const char *config = v3_layout_config(&l, &a);
    bool ok = arch_parse(arch, &a, config, strlen(config), e);
    for (size_t i = 0; i < b.sequence_count; i++)
        sequences[i] = (struct sequence){.first = i * CONTEXT, .tokens = CONTEXT};
    for (uint64_t layer = l.dense_layers; layer <= l.layers; layer++)
        roles[layer] = UINT64_C(7) << ROLE_EXPERT_GATE;
    if (ok)
        calibration_work_count(w, arch, roles, &b);
    arena_release(&a);
    return ok;
}

/* By the expert just measured; the pass, and the moments of all of a layer's tokens, by a core's rates. */
static bool project(double expert, struct err *e)
{
    struct arch arch;
    struct calibration_work w;
    struct calibration_rates r;

    if (!count_model(&w, &arch, e))
        return false;
    calibration_rates_measure(&r, &arch);
    double experts = 59.0 * (double)arch.experts, all = 59.0 * 4 * 7168 * 7168 * 7168;
    double pass = (w.forward + w.twice) / r.product + all / r.moments;
    printf("the model, %u tokens in contexts of %u: experts %.1f core-hours, the pass %.1f (%.1f GFLOP/s), together "
           "%.1f\n",
           MODEL_TOKENS, CONTEXT, experts * expert / 3600, pass / 3600, r.product * 1e-9,
           (experts * expert + pass) / 3600);
    printf("the same as --dry-run estimates it, by small measurements: %.1f\n",
           calibration_core_seconds(&w, &r) / 3600);
    return true;
}

/* A share of a width, in whole groups, of which int4 has no parts. */
static size_t scaled(size_t width, size_t by)
{
    return by < width / GROUP ? width / by / GROUP * GROUP : GROUP;
}

int main(int argc, char **argv)
{
    size_t by = argc > 1 ? strtoul(argv[1], NULL, 10) : 1;
    size_t hidden = scaled(7168, by ? by : 1), inner = scaled(2048, by ? by : 1);
    struct err e = {0};

    if (!kernel_pick(&e)) {
        fprintf(stderr, "%s\n", e.text);
        return 2;
    }
    struct loss_matrix gate_up[] = {matrix(inner, hidden), matrix(inner, hidden)}, down = matrix(hidden, inner);

    printf("expert of %zu x %zu, %d tokens, int4 g128, %s, one core\n", inner, hidden, TOKENS, kernel_get()->name);
    struct stage a = measure("gate, up", gate_up, 2, TOKENS, true), b = measure("down", &down, 1, TOKENS, false);
    double moments = a.moments + a.spread + b.moments + b.spread;

    printf("core-seconds: moments %.2f, factor %.2f, solve %.2f, together %.2f\n", moments, a.factor + b.factor,
           a.solve + b.solve, moments + a.factor + b.factor + a.solve + b.solve);
    if (by == 1 && !project(moments + a.factor + b.factor + a.solve + b.solve, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 3;
    }
    return 0;
}
