/* Statistics in place of a text: the sample over a few token ids. */
#include "convert/measured.h"

#include <math.h>
#include <string.h>

#include "convert/calibrate.h"
#include "convert/calibration.h"
#include "formats/base/file.h"
#include "formats/manifest.h"
#include "quant/shrink.h"
#include "tests/convert_support.h"
#include "tests/ct.h"
#include "verify/weight_slices.h"

#define SAMPLE "samples/tiny-v3"
#define REST   ", {\"match\": \"*\", \"scheme\": \"bf16\"}]"
#define INT4(method)                                                                                                   \
    "[{\"match\": \"routed_expert\", \"layers\": \"2\", \"scheme\": \"int4\", \"group\": 128, \"method\": \"" method   \
    "\"}" REST
#define STATIC                                                                                                         \
    "[{\"match\": \"kv_b_proj\", \"scheme\": \"bf16\"}, "                                                              \
    "{\"match\": [\"attention\", \"routed_expert\"], \"scheme\": \"fp8-static\"}" REST

/* The first `count` of these, as one context; with six of them some experts of four choices each get none. */
static const uint32_t ids[] = {3, 400, 17, 2048, 99, 5, 1000, 77, 12, 640, 2222, 31, 8, 150, 3000, 42};

static const char *make_statistics(struct arena *a, size_t count)
{
    struct sequence one = {.tokens = count};
    struct batch b = {.ids = ids, .tokens = count, .sequences = &one, .sequence_count = 1};
    struct calibrate_options o = {.threads = 2, .batch = &b};
    const char *path = arena_printf(a, "%s/%zu.stats", ct_temp_dir(), count);
    struct source source = {0};
    struct calib_stats s = {0};
    struct err e = {0};

    EXPECT_OK(source_open(&source, SAMPLE, true, &e) && calib_stats_plan(&s, &source, false, &e) &&
                  calibrate_run(&s, &source, &o, path, NULL, &e),
              e);
    calib_stats_release(&s);
    source_close(&source);
    return path;
}

/* Opens the sample's statistics and its plan by them; both are closed by fed_close. */
struct fed {
    struct planned planned;
    struct statistics statistics;
};

static bool fed_open(struct fed *f, const char *path, const char *dst, const char *recipe, struct err *e)
{
    struct conversion_case c = {.recipe = recipe, .options = {.statistics = &f->statistics}};
    struct source source = {0};

    *f = (struct fed){0};
    bool ok = source_open(&source, SAMPLE, true, e) && statistics_open(&f->statistics, path, &source, e) &&
              planned_open(&f->planned, SAMPLE, dst, &c, e);
    source_close(&source);
    return ok;
}

static void fed_close(struct fed *f)
{
    planned_close(&f->planned);
    statistics_close(&f->statistics);
}

static bool by_statistics(struct fed *f, const char *on_starved, uint64_t min_tokens, struct err *e)
{
    struct calibration c = {.on_starved = on_starved, .min_tokens = min_tokens};

    return calibration_by_statistics(&c, &f->planned.plan, e);
}

static bool convert(const char *path, const char *dst, const char *recipe, unsigned threads, uint64_t memory_bytes,
                    struct err *e)
{
    struct fed f;
    bool ok = fed_open(&f, path, dst, recipe, e) && by_statistics(&f, "warn", 1, e) &&
              support_run(&f.planned.plan, dst, threads, memory_bytes, e);

    fed_close(&f);
    return ok;
}

/* ---- the search ---- */

/* D of quant/shrink.h once more. NULL of both: nothing is weighed. */
static float *weights_of(struct arena *a, const struct calib_stats *s, const struct calib_input *own, size_t index,
                         const struct calib_input *prior)
{
    double *mine = arena_array(a, own->cols, sizeof *mine), *all = arena_array(a, own->cols, sizeof *all);
    double n = (double)own->seen[index], d0 = prior ? 32 : 0;
    float *d = arena_array(a, own->cols, sizeof *d);
    struct err e = {0};

    EXPECT_OK(calib_stats_sum2(s, own, index, mine, &e), e);
    if (prior)
        EXPECT_OK(calib_stats_sum2(s, prior, 0, all, &e), e);
    for (size_t j = 0; j < own->cols; j++)
        d[j] = (float)((mine[j] + (prior ? d0 * (all[j] / (double)prior->seen[0]) : 0)) / (n + d0));
    return d;
}

/* Codes and scales of a whole matrix of the sample, as the search with these weights gives them. */
static void search(const struct weight *w, const struct source *source, const float *weights, uint32_t *codes,
                   uint16_t *scales)
{
    struct transform t = {.kernel = kernel_get(),
                          .from = w->stored,
                          .to = {.kind = SCHEME_INT4,
                                 .dtype = DTYPE_I32,
                                 .scale = SCALE_BF16,
                                 .group_cols = 128,
                                 .method = METHOD_SEARCH},
                          .cols = w->cols,
                          .weights = weights};
    uint8_t *in = mem_aligned(weight_slices_bytes(&w->stored, w->rows, w->cols, 0, w->rows));
    void *scratch = mem_aligned(transform_scratch_bytes(&t) + 1);
    struct slices from, to = {.part = {[PART_CODES] = codes, [PART_SCALE] = scales}};
    struct weight_error ignored = {0};
    struct err e = {0};
    uint64_t bytes = 0;

    EXPECT_OK(weight_slices_read(&source->checkpoint, w, 0, w->rows, in, &from, &bytes, &e) &&
                  transform_run(&t, 0, w->rows, w->rows, &from, &to, scratch, &ignored, &e),
              e);
    mem_free(scratch);
    mem_free(in);
}

static const struct manifest_row *find_row(const struct manifest *m, const char *name)
{
    for (size_t i = 0; i < m->row_count; i++)
        if (strcmp(m->rows[i].name, name) == 0)
            return &m->rows[i];
    return NULL;
}

struct seen {
    size_t own, prior, none;
};

static void check_expert(struct arena *a, const struct calib_stats *s, const struct weight *w,
                         const struct source *source, const struct source *bundle, const struct manifest_row *row,
                         const char *asked, struct seen *seen)
{
    bool down = w->id.role == ROLE_EXPERT_DOWN;
    uint64_t layer = (uint64_t)w->id.layer;
    const struct calib_input *own = calib_input_find(s, layer, down ? ROLE_EXPERT_DOWN : ROLE_EXPERT_GATE);
    const struct calib_input *prior = down ? NULL : calib_input_find(s, layer, ROLE_ROUTER);
    bool reached = own->seen[w->id.expert] > 0;
    const float *weights = reached || prior ? weights_of(a, s, own, (size_t)w->id.expert, prior) : NULL;
    size_t codes_bytes = w->rows * w->cols / 2, scales_bytes = w->rows * (w->cols / 128) * 2;
    uint32_t *codes = mem_aligned(codes_bytes);
    uint16_t *scales = mem_aligned(scales_bytes);
    uint8_t *got = mem_aligned(codes_bytes);
    struct err e = {0};

    ct_case("%s", w->name);
    *(reached ? &seen->own : weights ? &seen->prior : &seen->none) += 1;
    search(w, source, weights, codes, scales);
    const struct weight *made = weights_find(&bundle->weights, w->name);
    ASSERT_TRUE(made != NULL && row != NULL && row->calibration != NULL);
    EXPECT_OK(checkpoint_read(&bundle->checkpoint, made->parts[PART_CODES], 0, got, codes_bytes, &e), e);
    EXPECT_TRUE(memcmp(got, codes, codes_bytes) == 0);
    EXPECT_OK(checkpoint_read(&bundle->checkpoint, made->parts[PART_SCALE], 0, got, scales_bytes, &e), e);
    EXPECT_TRUE(memcmp(got, scales, scales_bytes) == 0);
    EXPECT_STR_EQ("search", row->method);
    EXPECT_STR_EQ(weights ? "diagonal search" : "search", row->calibration->ending);
    EXPECT_STR_EQ(reached   ? asked
                  : weights ? "no tokens reached it: by all tokens of its layer"
                            : "no tokens reached it",
                  row->calibration->reason);
    EXPECT_EQ_U64((uint64_t)own->seen[w->id.expert], row->calibration->tokens);
    EXPECT_TRUE(row->error > 0.05 && row->error < 0.2);
    mem_free(got);
    mem_free(scales);
    mem_free(codes);
}

/* Every expert of a layer, by each recipe that ends there. */
TEST(measured, experts_get_the_search_by_the_variances_of_their_channels)
{
    static const char *const recipes[] = {INT4("search"), INT4("ldlq")};
    static const char *const asked[] = {"as asked", "statistics hold variances alone"};

    for (size_t r = 0; r < 2; r++) {
        struct arena a = {0};
        struct source source = {0}, bundle = {0};
        struct statistics s = {0};
        struct manifest m = {0};
        struct seen seen = {0};
        struct err e = {0};
        const char *path = make_statistics(&a, 6), *dst = path_join(&a, ct_temp_dir(), "out");

        ASSERT_OK(convert(path, dst, recipes[r], 2, 0, &e) && source_open(&source, SAMPLE, true, &e) &&
                      source_open(&bundle, dst, true, &e) && statistics_open(&s, path, &source, &e) &&
                      manifest_load(&m, &a, path_join(&a, dst, MANIFEST_NAME), &e),
                  e);
        EXPECT_TRUE(strstr(m.calibration, s.sha256) != NULL);
        for (size_t i = 0; i < source.weights.count; i++) {
            const struct weight *w = &source.weights.items[i];
            if (w->id.expert >= 0 && w->id.layer == 2)
                check_expert(&a, &s.stats, w, &source, &bundle, find_row(&m, w->name), asked[r], &seen);
        }
        ct_case("%s", recipes[r]);
        EXPECT_TRUE(seen.own > 0 && seen.prior == 2 * seen.none && seen.none > 0);
        EXPECT_EQ_U64(48, seen.own + seen.prior + seen.none);
        statistics_close(&s);
        source_close(&bundle);
        source_close(&source);
        arena_release(&a);
    }
}

/* ---- static FP8 ---- */

static float peak_of(const struct calib_stats *s, const struct weight *w)
{
    bool wide = w->id.role == ROLE_EXPERT_GATE || w->id.role == ROLE_EXPERT_UP;
    const struct calib_input *in =
        calib_input_find(s, (uint64_t)w->id.layer, wide ? ROLE_ROUTER : calib_input_of(w->id.role));
    float peak = 0;

    for (size_t i = 0; in && i < in->n; i++)
        peak = fmaxf(peak, in->peak[i]);
    return peak;
}

/* And the scale of a matrix is what a run over a text gives it, whose first numbers stand in static_test.c. */
TEST(measured, static_inputs_have_the_largest_magnitude_of_all_their_layers_experts)
{
    struct arena a = {0};
    struct source source = {0}, bundle = {0};
    struct statistics s = {0};
    struct err e = {0};
    const char *path = make_statistics(&a, 16), *dst = path_join(&a, ct_temp_dir(), "out");
    size_t found = 0;
    float scale = 0;

    ASSERT_OK(convert(path, dst, STATIC, 2, 0, &e) && source_open(&source, SAMPLE, true, &e) &&
                  source_open(&bundle, dst, true, &e) && statistics_open(&s, path, &source, &e),
              e);
    for (size_t i = 0; i < bundle.weights.count; i++) {
        const struct weight *w = &bundle.weights.items[i];
        if (!w->input_scale)
            continue;
        ct_case("%s", w->name);
        found++;
        EXPECT_OK(checkpoint_read(&bundle.checkpoint, w->input_scale, 0, &scale, sizeof scale, &e), e);
        EXPECT_EQ_F32(peak_of(&s.stats, w) / 448.0f, scale);
    }
    EXPECT_EQ_U64(5 * 4 + 192, found);
    const struct weight *w = weights_find(&bundle.weights, "model.layers.0.self_attn.q_a_proj.weight");
    ASSERT_TRUE(w != NULL);
    EXPECT_OK(checkpoint_read(&bundle.checkpoint, w->parts[PART_SCALE], 0, &scale, sizeof scale, &e), e);
    EXPECT_EQ_F32(0.0005812552408315241f, scale); /* the larger of its own and kv_a_proj_with_mqa's */
    statistics_close(&s);
    source_close(&bundle);
    source_close(&source);
    arena_release(&a);
}

/* ---- the same bytes, and refusals ---- */

TEST(measured, threads_and_memory_change_no_byte)
{
    static const char *const recipes[] = {INT4("ldlq"), STATIC};

    for (size_t r = 0; r < 2; r++) {
        struct arena a = {0};
        char want[65], got[65];
        struct err e = {0};
        const char *path = make_statistics(&a, 16), *dir = ct_temp_dir();
        const char *one = path_join(&a, dir, "one"), *two = path_join(&a, dir, "two");

        ct_case("%s", recipes[r]);
        ASSERT_OK(convert(path, one, recipes[r], 1, 40 << 20, &e), e);
        ASSERT_OK(convert(path, two, recipes[r], 7, 0, &e), e);
        support_dir_hash(one, want);
        support_dir_hash(two, got);
        EXPECT_STR_EQ(want, got);
        arena_release(&a);
    }
}

TEST(measured, what_variances_cannot_decide_is_refused)
{
    static const struct row {
        const char *recipe, *on_starved, *message;
        enum err_code code;
    } rows[] = {
        {INT4("gptq"), "warn", "is to be int4 by gptq, which needs the second moments that --text gives",
         ERR_UNSUPPORTED},
        {"[{\"match\": \"attention\", \"scheme\": \"fp8-ue8m0\", \"method\": \"ldlq\"}]", "warn",
         "is to be fp8 by ldlq, which needs", ERR_UNSUPPORTED},
        {INT4("absmax"), "warn", "--stats has no say in recipe 'case'", ERR_USAGE},
        {INT4("search"), "fail", "layer 2, expert 1: 0 tokens reached it, fewer than --min-tokens 1", ERR_UNSUPPORTED},
        {INT4("search"), "perhaps", "--on-starved is 'perhaps'", ERR_USAGE},
    };
    struct arena a = {0};
    const char *path = make_statistics(&a, 6);

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct fed f;
        struct err e = {0};

        ct_case("%s, %s", rows[i].recipe, rows[i].on_starved);
        bool ok = fed_open(&f, path, "out", rows[i].recipe, &e) && by_statistics(&f, rows[i].on_starved, 1, &e);
        EXPECT_TRUE(!ok);
        EXPECT_ERR(e, rows[i].code, rows[i].message);
        fed_close(&f);
    }
    arena_release(&a);
}

/* What is not asked for is converted as without statistics: a second MTP layer, indexers; here, the rest. */
TEST(measured, rows_that_they_have_no_say_in_stay_as_they_are)
{
    struct arena a = {0};
    struct fed f;
    struct err e = {0};

    ASSERT_OK(fed_open(&f, make_statistics(&a, 6), "out",
                       "[{\"match\": [\"o_proj\", \"mtp_proj\"], \"scheme\": \"int4\", \"group\": 32, "
                       "\"method\": \"search\"}, {\"match\": \"*\", \"scheme\": \"bf16\"}]",
                       &e),
              e);
    for (size_t i = 0; i < f.planned.plan.weight_count; i++) {
        const struct plan_row *row = &f.planned.plan.outputs[0].rows[i];
        ct_case("%s", row->weight->name);
        EXPECT_TRUE((row->measured != NULL) ==
                    (row->weight->id.role == ROLE_O_PROJ || row->weight->id.role == ROLE_MTP_PROJ));
        EXPECT_TRUE(!row->calibrated);
    }
    fed_close(&f);
    arena_release(&a);
}
