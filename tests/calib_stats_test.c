#include "formats/calib_stats.h"

#include <math.h>
#include <string.h>

#include "tests/plan_support.h"

/* The tiny model, and statistics of it that a run would leave: numbers from `seed`, `tokens` tokens. */
struct made_stats {
    struct arena arena;
    struct source source;
    struct calib_stats stats;
};

static bool open_model(struct made_stats *m, bool losses, struct err *e)
{
    struct ckpt_maker maker = {0};
    const char *dir = path_join(&m->arena, ct_temp_dir(), "model");

    if (!dir_make(dir, e))
        return false;
    bool ok = support_model(&maker, &support_bf16);
    ckpt_write(&maker, dir);
    ckpt_release(&maker);
    return ok && source_open(&m->source, dir, true, e) && calib_stats_plan(&m->stats, &m->source, losses, e);
}

static void close_model(struct made_stats *m)
{
    calib_stats_release(&m->stats);
    source_close(&m->source);
    arena_release(&m->arena);
}

static double sum_at(const struct calib_input *in, size_t index, size_t col, unsigned seed)
{
    return (double)(in->layer + 1) * (double)(in->role + 1) + (double)index * 0.5 + (double)col * 0.25 + seed;
}

static void fill_routing(struct routing_stats *s, unsigned tokens)
{
    uint32_t ids[64];
    float weights[64];

    for (uint32_t i = 0; i < s->experts_per_token; i++) {
        ids[i] = i;
        weights[i] = 0.25f;
    }
    for (size_t i = 0; i < s->count; i++)
        for (unsigned t = 0; t < tokens; t++)
            routing_stats_add(s, s->items[i].layer, ids, weights, 1);
    routing_stats_add_sequence(s, tokens);
}

static void fill(struct calib_stats *s, unsigned seed)
{
    fill_routing(&s->routing, 4 + seed);
    for (size_t i = 0; i < s->input_count; i++)
        for (size_t k = 0; k < s->inputs[i].n; k++) {
            s->inputs[i].seen[k] = (int64_t)(k % 3 + seed);
            s->inputs[i].peak[k] = (float)((i + k + 2 * seed) % 7);
        }
    for (size_t i = 0; i < s->loss_count; i++)
        for (size_t k = 0; k < s->losses[i].n; k++) {
            s->losses[i].energy[k] = (double)(i + k + seed);
            for (enum calib_scheme c = 0; c < CALIB_SCHEME_COUNT; c++)
                s->losses[i].loss[c][k] = (double)(i + k * c + seed);
        }
    for (size_t i = 0; i < s->layer_count; i++)
        *s->layers[i].hidden = (double)i + 0.5 + seed;
}

static bool write_stats(struct calib_stats *s, const char *path, unsigned seed, struct err *e)
{
    struct calib_writer w = {0};
    double *row = mem_alloc(65536 * sizeof *row);
    bool ok = calib_writer_open(&w, s, path, e);

    for (size_t i = 0; i < s->input_count && ok; i++)
        for (size_t k = 0; k < s->inputs[i].n && ok; k++) {
            for (size_t j = 0; j < s->inputs[i].cols; j++)
                row[j] = sum_at(&s->inputs[i], k, j, seed);
            ok = calib_writer_sum2(&w, &s->inputs[i], k, row, e);
        }
    ok = ok && calib_writer_commit(&w, e);
    calib_writer_release(&w);
    mem_free(row);
    return ok;
}

static void expect_sums(const struct calib_stats *s, const struct calib_input *in, double scale, unsigned seed)
{
    double *row = mem_alloc(in->cols * sizeof *row);
    struct err e = {0};

    for (size_t k = 0; k < in->n; k++) {
        ASSERT_OK(calib_stats_sum2(s, in, k, row, &e), e);
        for (size_t j = 0; j < in->cols; j++)
            if (row[j] != scale * sum_at(in, k, j, seed)) {
                EXPECT_NEAR_F64(scale * sum_at(in, k, j, seed), row[j], 0);
                break;
            }
    }
    mem_free(row);
}

TEST(calib_stats, a_model_has_an_input_for_every_quantizable_linear)
{
    static const struct {
        enum role matrix, input;
    } cases[] = {
        {ROLE_Q_A_PROJ, ROLE_Q_A_PROJ},     {ROLE_KV_A_PROJ, ROLE_Q_A_PROJ},      {ROLE_Q_B_PROJ, ROLE_Q_B_PROJ},
        {ROLE_KV_B_PROJ, ROLE_KV_B_PROJ},   {ROLE_O_PROJ, ROLE_O_PROJ},           {ROLE_SHARED_GATE, ROLE_ROUTER},
        {ROLE_SHARED_UP, ROLE_ROUTER},      {ROLE_SHARED_DOWN, ROLE_SHARED_DOWN}, {ROLE_EXPERT_GATE, ROLE_EXPERT_GATE},
        {ROLE_EXPERT_UP, ROLE_EXPERT_GATE}, {ROLE_EXPERT_DOWN, ROLE_EXPERT_DOWN},
    };
    struct made_stats m = {0};
    struct err e = {0};

    ASSERT_OK(open_model(&m, true, &e), e);
    const struct arch *arch = &m.source.arch;
    for (uint64_t layer = arch->first_dense_layers; layer <= arch->layers; layer++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            uint64_t rows, cols;
            ct_case("layer %d, %s", (int)layer, role_get(cases[i].matrix)->name);
            EXPECT_EQ_I64(cases[i].input, calib_input_of(cases[i].matrix));
            const struct calib_input *in = calib_input_find(&m.stats, layer, cases[i].input);
            ASSERT_TRUE(in != NULL);
            ASSERT_TRUE(arch_shape(arch, cases[i].matrix, &rows, &cols));
            EXPECT_EQ_U64(cols, in->cols);
            const struct calib_loss *l = calib_loss_find(&m.stats, layer, cases[i].matrix);
            ASSERT_TRUE(l != NULL);
            EXPECT_EQ_U64(cases[i].matrix >= ROLE_EXPERT_GATE ? arch->experts : 1, l->n);
            EXPECT_EQ_U64(cases[i].input >= ROLE_EXPERT_GATE && cases[i].input <= ROLE_EXPERT_DOWN ? arch->experts : 1,
                          in->n);
        }
    EXPECT_TRUE(calib_input_find(&m.stats, 0, ROLE_DENSE_GATE) != NULL);
    EXPECT_TRUE(calib_input_find(&m.stats, 0, ROLE_ROUTER) == NULL);
    EXPECT_EQ_U64(arch->layers + 1, m.stats.layer_count);
    close_model(&m);
}

TEST(calib_stats, what_is_written_is_read_back)
{
    for (unsigned losses = 0; losses < 2; losses++) {
        struct made_stats m = {0};
        struct calib_stats back = {0};
        struct routing_stats routing = {0};
        struct err e = {0};

        ct_case("losses %u", losses);
        ASSERT_OK(open_model(&m, losses, &e), e);
        const char *path = path_join(&m.arena, ct_temp_dir(), "stats");
        fill(&m.stats, 1);
        ASSERT_OK(write_stats(&m.stats, path, 1, &e), e);
        ASSERT_OK(calib_stats_open(&back, path, &e), e);
        EXPECT_OK(calib_stats_check(&back, &m.source, &e), e);
        EXPECT_TRUE(back.has_losses == losses);
        ASSERT_EQ_U64(m.stats.input_count, back.input_count);
        ASSERT_EQ_U64(m.stats.loss_count, back.loss_count);
        ASSERT_EQ_U64(m.stats.layer_count, back.layer_count);
        for (size_t i = 0; i < back.input_count; i++) {
            const struct calib_input *a = &m.stats.inputs[i], *b = &back.inputs[i];
            EXPECT_MEM_EQ(a->seen, b->seen, a->n * sizeof *a->seen);
            EXPECT_MEM_EQ(a->peak, b->peak, a->n * sizeof *a->peak);
            EXPECT_EQ_U64(a->offset, b->offset);
            expect_sums(&back, b, 1, 1);
        }
        for (size_t i = 0; i < back.loss_count; i++) {
            const struct calib_loss *a = &m.stats.losses[i], *b = &back.losses[i];
            EXPECT_MEM_EQ(a->energy, b->energy, a->n * sizeof *a->energy);
            for (enum calib_scheme c = 0; c < CALIB_SCHEME_COUNT; c++)
                EXPECT_MEM_EQ(a->loss[c], b->loss[c], a->n * sizeof *a->energy);
        }
        for (size_t i = 0; i < back.layer_count; i++)
            EXPECT_NEAR_F64(*m.stats.layers[i].hidden, *back.layers[i].hidden, 0);
        /* It is a file of routing statistics, for those who want no more. */
        ASSERT_OK(routing_stats_read(&routing, path, &e), e);
        EXPECT_OK(routing_stats_check(&routing, &m.source, &e), e);
        EXPECT_EQ_U64(5, routing.tokens);
        routing_stats_release(&routing);
        calib_stats_release(&back);
        close_model(&m);
    }
}

TEST(calib_stats, two_files_merge_to_their_sums)
{
    struct made_stats m = {0};
    struct calib_stats all = {0};
    struct err e = {0};
    bool lost = false;

    ASSERT_OK(open_model(&m, true, &e), e);
    const char *path = path_join(&m.arena, ct_temp_dir(), "stats"), *out = path_join(&m.arena, ct_temp_dir(), "all");
    fill(&m.stats, 2);
    ASSERT_OK(write_stats(&m.stats, path, 2, &e), e);
    ASSERT_OK(calib_stats_merge_files((const char *const[]){path, path, path}, 3, out, &lost, &e), e);
    EXPECT_FALSE(lost);
    ASSERT_OK(calib_stats_open(&all, out, &e), e);
    EXPECT_EQ_U64(18, all.routing.tokens);
    for (size_t i = 0; i < all.input_count; i++) {
        const struct calib_input *a = &m.stats.inputs[i], *b = &all.inputs[i];
        for (size_t k = 0; k < a->n; k++)
            EXPECT_EQ_I64(3 * a->seen[k], b->seen[k]);
        EXPECT_MEM_EQ(a->peak, b->peak, a->n * sizeof *a->peak);
        expect_sums(&all, b, 3, 2);
    }
    for (size_t i = 0; i < all.loss_count; i++)
        for (size_t k = 0; k < all.losses[i].n; k++)
            EXPECT_NEAR_F64(m.stats.losses[i].loss[CALIB_FP8][k], all.losses[i].loss[CALIB_FP8][k], 1e-9);
    EXPECT_NEAR_F64(3 * *m.stats.layers[1].hidden, *all.layers[1].hidden, 0);
    calib_stats_release(&all);
    close_model(&m);
}

TEST(calib_stats, losses_weigh_by_tokens_when_merged_and_go_when_one_side_has_none)
{
    struct made_stats m = {0};
    struct calib_stats a = {0}, b = {0};
    struct err e = {0};
    bool lost = false;

    ASSERT_OK(open_model(&m, true, &e), e);
    ASSERT_OK(calib_stats_plan(&a, &m.source, true, &e) && calib_stats_plan(&b, &m.source, true, &e), e);
    uint64_t layer = m.source.arch.first_dense_layers;
    struct calib_loss *la = (struct calib_loss *)(uintptr_t)calib_loss_find(&a, layer, ROLE_EXPERT_UP);
    struct calib_loss *lb = (struct calib_loss *)(uintptr_t)calib_loss_find(&b, layer, ROLE_EXPERT_UP);
    calib_input_find(&a, layer, ROLE_EXPERT_GATE)->seen[1] = 1;
    calib_input_find(&b, layer, ROLE_EXPERT_GATE)->seen[1] = 3;
    la->loss[CALIB_FP8][2] = lb->loss[CALIB_FP8][2] = INFINITY; /* of no token */
    calib_input_find(&b, layer, ROLE_EXPERT_GATE)->seen[2] = 3;
    la->loss[CALIB_INT4_G32][0] = la->loss[CALIB_INT4_G32][1] = 2;
    lb->loss[CALIB_INT4_G32][0] = lb->loss[CALIB_INT4_G32][1] = 6;
    ASSERT_OK(calib_stats_merge(&a, &b, &lost, &e), e);
    EXPECT_FALSE(lost);
    EXPECT_NEAR_F64(4, la->loss[CALIB_INT4_G32][0], 0);
    EXPECT_NEAR_F64(5, la->loss[CALIB_INT4_G32][1], 0);
    EXPECT_TRUE(isinf(la->loss[CALIB_FP8][2]));
    calib_stats_release(&b);
    ASSERT_OK(calib_stats_plan(&b, &m.source, false, &e), e);
    ASSERT_OK(calib_stats_merge(&a, &b, &lost, &e), e);
    EXPECT_TRUE(lost);
    EXPECT_FALSE(a.has_losses);
    EXPECT_TRUE(calib_loss_find(&a, layer, ROLE_EXPERT_UP) == NULL);
    calib_stats_release(&a);
    calib_stats_release(&b);
    close_model(&m);
}

static void break_cols(struct calib_stats *s)
{
    s->inputs[2].cols++;
}
static void break_layers(struct calib_stats *s)
{
    s->inputs[s->input_count - 1].layer++;
}
static void break_count(struct calib_stats *s)
{
    s->input_count--;
}
static void break_config(struct calib_stats *s)
{
    s->routing.config_sha256[0] ^= 1;
    s->routing.function_sha256[0] = '\0';
}

TEST(calib_stats, another_models_are_neither_merged_nor_used)
{
    static const struct {
        const char *name, *say;
        void (*breaks)(struct calib_stats *s);
    } cases[] = {
        {"columns", "is 1 x ", break_cols},
        {"layer", "which it does not have", break_layers},
        {"missing", "nothing of layer", break_count},
        {"config", "its config.json has SHA-256", break_config},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct made_stats m = {0};
        struct calib_stats other = {0};
        struct err e = {0};
        bool lost = false;

        ct_case("%s", cases[i].name);
        ASSERT_OK(open_model(&m, false, &e), e);
        ASSERT_OK(calib_stats_plan(&other, &m.source, false, &e), e);
        fill(&other, 1);
        EXPECT_OK(calib_stats_check(&other, &m.source, &e), e);
        cases[i].breaks(&other);
        EXPECT_FALSE(calib_stats_check(&other, &m.source, &e));
        EXPECT_ERR(e, ERR_FORMAT, "statistics of another model");
        EXPECT_ERR(e, ERR_FORMAT, cases[i].say);
        EXPECT_FALSE(calib_stats_merge(&m.stats, &other, &lost, &e));
        EXPECT_ERR(e, ERR_FORMAT, cases[i].say);
        calib_stats_release(&other);
        close_model(&m);
    }
}

/* Writes what a caller breaks, as it stands. */
static void negative_sum(struct calib_stats *s, double *row)
{
    (void)s, row[3] = -1;
}
static void nan_sum(struct calib_stats *s, double *row)
{
    (void)s, row[3] = NAN;
}

TEST(calib_stats, sums_that_cannot_be_are_refused_when_they_are_read)
{
    void (*const breaks[])(struct calib_stats *, double *) = {negative_sum, nan_sum};

    for (size_t i = 0; i < 2; i++) {
        struct made_stats m = {0};
        struct calib_stats back = {0};
        struct calib_writer w = {0};
        struct err e = {0};
        double *row = mem_alloc(65536 * sizeof *row);

        ct_case("%zu", i);
        ASSERT_OK(open_model(&m, false, &e), e);
        const char *path = path_join(&m.arena, ct_temp_dir(), "stats");
        fill(&m.stats, 1);
        breaks[i](&m.stats, row);
        ASSERT_OK(calib_writer_open(&w, &m.stats, path, &e), e);
        ASSERT_OK(calib_writer_sum2(&w, &m.stats.inputs[0], 0, row, &e), e);
        ASSERT_OK(calib_writer_commit(&w, &e), e);
        calib_writer_release(&w);
        ASSERT_OK(calib_stats_open(&back, path, &e), e);
        EXPECT_FALSE(calib_stats_sum2(&back, &back.inputs[0], 0, row, &e));
        EXPECT_ERR(e, ERR_FORMAT, "number 3 of 'sum2' is");
        calib_stats_release(&back);
        mem_free(row);
        close_model(&m);
    }
}

static void bad_seen(struct calib_stats *s)
{
    s->inputs[4].seen[0] = -1;
}
static void bad_peak(struct calib_stats *s)
{
    s->inputs[4].peak[0] = INFINITY;
}
static void bad_loss(struct calib_stats *s)
{
    s->losses[4].loss[CALIB_FP8][0] = -1;
}
static void bad_energy(struct calib_stats *s)
{
    s->losses[4].energy[0] = INFINITY;
}
static void bad_hidden(struct calib_stats *s)
{
    *s->layers[1].hidden = NAN;
}

TEST(calib_stats, numbers_that_cannot_be_are_refused)
{
    static const struct {
        const char *say;
        void (*breaks)(struct calib_stats *s);
    } cases[] = {
        {": -1 tokens", bad_seen},          {"of at most inf", bad_peak},       {"of 'loss' is -1", bad_loss},
        {"of 'energy' is inf", bad_energy}, {"of 'hidden' is nan", bad_hidden},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct made_stats m = {0};
        struct calib_stats back = {0};
        struct err e = {0};

        ct_case("%s", cases[i].say);
        ASSERT_OK(open_model(&m, true, &e), e);
        const char *path = path_join(&m.arena, ct_temp_dir(), "stats");
        fill(&m.stats, 1);
        cases[i].breaks(&m.stats);
        ASSERT_OK(write_stats(&m.stats, path, 1, &e), e);
        EXPECT_FALSE(calib_stats_open(&back, path, &e));
        EXPECT_ERR(e, ERR_FORMAT, cases[i].say);
        EXPECT_ERR(e, ERR_FORMAT, path);
        close_model(&m);
    }
}

/* The file anew with one tensor or one member of the metadata under another name. */
static void rename_in(const char *path, const char *from, const char *to)
{
    char *text = NULL;
    size_t bytes = 0;
    struct err e = {0};

    ASSERT_OK(file_slurp(path, 64u << 20, &text, &bytes, &e), e);
    char *at = memmem(text, bytes, from, strlen(from));
    ASSERT_TRUE(at != NULL && strlen(from) == strlen(to));
    memcpy(at, to, strlen(to));
    ASSERT_OK(file_write_whole(path, text, bytes, &e), e);
    mem_free(text);
}

TEST(calib_stats, files_that_are_not_whole_are_refused)
{
    static const struct {
        const char *from, *to, *say;
        enum err_code code;
    } cases[] = {
        {"\"calibration\"", "\"calibrasion\"", "routing statistics alone", ERR_FORMAT},
        {"\"calibration\":\"2\"", "\"calibration\":\"1\"", "version '1'", ERR_UNSUPPORTED},
        {"fp8 128x128 absmax", "fp8 128x128 search", "losses of 'int4 g128 ldlq", ERR_UNSUPPORTED},
        {"\"seen.1.o_proj\"", "\"sEen.1.o_proj\"", "tensor 'seen.1.o_proj' is missing", ERR_FORMAT},
        {"\"peak.1.o_proj\"", "\"pEak.1.o_proj\"", "tensor 'peak.1.o_proj' is missing", ERR_FORMAT},
        {"\"energy.1.o_proj\"", "\"eNergy.1.o_proj\"", "tensor 'energy.1.o_proj' is missing", ERR_FORMAT},
        {"\"hidden.1\"", "\"hIdden.1\"", "tensor 'hidden.1' is missing", ERR_FORMAT},
        {"\"sum2.1.o_proj\"", "\"sUm2.1.o_proj\"", "losses of 'o_proj' without its input", ERR_FORMAT},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct made_stats m = {0};
        struct calib_stats back = {0};
        struct err e = {0};

        ct_case("%s", cases[i].to);
        ASSERT_OK(open_model(&m, true, &e), e);
        const char *path = path_join(&m.arena, ct_temp_dir(), "stats");
        fill(&m.stats, 1);
        ASSERT_OK(write_stats(&m.stats, path, 1, &e), e);
        rename_in(path, cases[i].from, cases[i].to);
        EXPECT_FALSE(calib_stats_open(&back, path, &e));
        EXPECT_ERR(e, cases[i].code, cases[i].say);
        close_model(&m);
    }
}

TEST(calib_stats, nothing_is_left_of_a_file_that_was_not_committed)
{
    struct made_stats m = {0};
    struct calib_writer w = {0};
    struct err e = {0};

    ASSERT_OK(open_model(&m, false, &e), e);
    const char *dir = path_join(&m.arena, ct_temp_dir(), "out");
    ASSERT_OK(dir_make(dir, &e), e);
    ASSERT_OK(calib_writer_open(&w, &m.stats, path_join(&m.arena, dir, "stats"), &e), e);
    EXPECT_FALSE(dir_is_empty(dir));
    calib_writer_release(&w);
    EXPECT_TRUE(dir_is_empty(dir));
    close_model(&m);
}
