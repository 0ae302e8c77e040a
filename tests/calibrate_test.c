#include "convert/calibrate.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/hash.h"
#include "quant/decode.h"
#include "tests/ct.h"
#include "tests/forward_support.h"
#include "tests/kernel_support.h"
#include "verify/model_walk.h"

static const struct sequence contexts[4] = {{0, 60, 0}, {60, 40, 0}, {100, 45, 0}, {145, 26, 0}};
enum { TOKENS = 171 };

static bool calibrate(struct made *m, const struct batch *b, struct calibrate_options o, const char *path,
                      struct err *e)
{
    struct calib_stats s = {0};

    o.batch = b;
    bool ok = calib_stats_plan(&s, &m->source, o.losses, e) && calibrate_run(&s, &m->source, &o, path, NULL, e);
    calib_stats_release(&s);
    return ok;
}

static void file_hash(const char *path, char hex[HASH_HEX_BYTES])
{
    char *data = NULL;
    size_t bytes = 0;
    struct err e = {0};

    ASSERT_OK(file_slurp(path, 64u << 20, &data, &bytes, &e), e);
    hash_hex(data, bytes, hex);
    mem_free(data);
}

/* The least budget that will do, near enough. */
static uint64_t least_memory(struct made *m, const struct batch *b, struct calibrate_options o, const char *path)
{
    struct err e = {0};

    o.memory_bytes = 1u << 19;
    while (!calibrate(m, b, o, path, &e)) {
        if (e.code != ERR_MEMORY || o.memory_bytes > 1u << 30) {
            EXPECT_ERR(e, ERR_NONE, "");
            break;
        }
        o.memory_bytes += o.memory_bytes / 2;
    }
    return o.memory_bytes;
}

TEST(calibrate, neither_threads_nor_memory_change_a_byte)
{
    static const unsigned threads[] = {1, 2, 7};

    for (unsigned losses = 0; losses < 2; losses++) {
        struct made m;
        char want[HASH_HEX_BYTES], got[HASH_HEX_BYTES];
        struct err e = {0};

        made_init(&m, "fp8");
        made_open(&m);
        const char *path = path_join(&m.maker.arena, ct_temp_dir(), "stats");
        struct batch b = {made_ids(&m, TOKENS), TOKENS, contexts, 4};
        ASSERT_OK(calibrate(&m, &b, (struct calibrate_options){.threads = 1, .losses = losses}, path, &e), e);
        file_hash(path, want);
        for (size_t i = 0; i < 3; i++) {
            struct calibrate_options o = {.threads = threads[i], .losses = losses};
            ct_case("losses %u, %u threads", losses, threads[i]);
            ASSERT_OK(calibrate(&m, &b, o, path, &e), e);
            file_hash(path, got);
            EXPECT_STR_EQ(want, got);
            ct_case("losses %u, %u threads, %d bytes", losses, threads[i], (int)least_memory(&m, &b, o, path));
            file_hash(path, got);
            EXPECT_STR_EQ(want, got);
        }
        made_release(&m);
    }
}

/* ---- the numbers, from another observer ---- */

/* Inputs of one layer, summed plainly. */
struct sums {
    uint64_t layer;
    size_t tokens[ROLE_COUNT];
    float peak[ROLE_COUNT];
    double sum2[ROLE_COUNT][256];
    /* of the layer's experts */
    double wide[16][64], down[16][64];
    size_t expert_tokens[16];
};

static bool sum_input(void *ctx, const struct linear_input *in, struct err *e)
{
    struct sums *s = ctx;

    (void)e;
    if (in->layer != s->layer)
        return true;
    for (size_t t = 0; t < in->tokens; t++)
        for (size_t j = 0; j < in->cols; j++) {
            double x = (double)support_bf16(in->x[t * in->x_stride + j]);
            s->sum2[in->role][j] += x * x;
            s->peak[in->role] = fmaxf(s->peak[in->role], fabsf((float)x));
        }
    s->tokens[in->role] += in->tokens;
    return true;
}

static float *decoded(const struct coded *c)
{
    float *x = mem_alloc(c->rows * c->cols * sizeof *x);
    void *scratch = mem_aligned(decode_scratch_bytes(&c->scheme, c->cols));
    struct err e = {0};

    EXPECT_OK(decode_rows(kernel_get(), &c->scheme, 0, c->rows, c->rows, c->cols, &c->parts, x, scratch, &e), e);
    mem_free(scratch);
    return x;
}

static double dot(const float *x, const float *w, size_t cols)
{
    double sum = 0;

    for (size_t j = 0; j < cols; j++)
        sum += (double)x[j] * (double)w[j];
    return sum;
}

static bool sum_expert(void *ctx, unsigned worker, const struct expert_call *c, struct coded mlp[3], struct err *e)
{
    struct sums *s = ctx;
    size_t hidden = mlp[0].cols, inner = mlp[0].rows;

    (void)worker;
    if (c->layer != s->layer)
        return true;
    float *x = mem_alloc(c->count * hidden * sizeof *x), *gate = decoded(&mlp[0]), *up = decoded(&mlp[1]);
    bool ok = expert_inputs(c, 0, c->count, x, e);
    s->expert_tokens[c->expert] = c->count;
    for (size_t t = 0; t < c->count && ok; t++) {
        for (size_t j = 0; j < hidden; j++)
            s->wide[c->expert][j] += pow((double)support_bf16(x[t * hidden + j]), 2);
        for (size_t r = 0; r < inner; r++) {
            double g = dot(x + t * hidden, gate + r * hidden, hidden), u = dot(x + t * hidden, up + r * hidden, hidden);
            s->down[c->expert][r] += pow(g / (1 + exp(-g)) * u, 2);
        }
    }
    mem_free(x);
    mem_free(gate);
    mem_free(up);
    return ok;
}

static bool begin(void *ctx, uint64_t layer, size_t tokens, struct observer *o, struct err *e)
{
    (void)layer, (void)tokens, (void)e;
    *o = (struct observer){.ctx = ctx, .input = sum_input, .expert = sum_expert};
    return true;
}

static void expect_input(const struct calib_stats *s, const struct sums *w, enum role role, enum role seen_as)
{
    const struct calib_input *in = calib_input_find(s, w->layer, role);
    double sums[256];
    struct err e = {0};

    ct_case("layer %d, %s", (int)w->layer, role_get(role)->name);
    ASSERT_TRUE(in != NULL);
    ASSERT_OK(calib_stats_sum2(s, in, 0, sums, &e), e);
    EXPECT_EQ_I64((int64_t)w->tokens[seen_as], in->seen[0]);
    EXPECT_EQ_F32(w->peak[seen_as], in->peak[0]);
    EXPECT_MEM_EQ(w->sum2[seen_as], sums, in->cols * sizeof *sums);
}

static void expect_experts(const struct calib_stats *s, const struct sums *w)
{
    const struct calib_input *wide = calib_input_find(s, w->layer, ROLE_EXPERT_GATE);
    const struct calib_input *down = calib_input_find(s, w->layer, ROLE_EXPERT_DOWN);
    const struct routing_layer *l = routing_stats_layer(&s->routing, w->layer);
    double sums[64];
    struct err e = {0};

    for (size_t i = 0; i < 16; i++) {
        ct_case("layer %d, expert %zu", (int)w->layer, i);
        EXPECT_EQ_I64((int64_t)w->expert_tokens[i], wide->seen[i]);
        EXPECT_EQ_I64((int64_t)w->expert_tokens[i], down->seen[i]);
        EXPECT_EQ_I64((int64_t)w->expert_tokens[i], l->counts[i]);
        ASSERT_OK(calib_stats_sum2(s, wide, i, sums, &e), e);
        EXPECT_MEM_EQ(w->wide[i], sums, wide->cols * sizeof *sums);
        ASSERT_OK(calib_stats_sum2(s, down, i, sums, &e), e);
        for (size_t j = 0; j < down->cols; j++)
            EXPECT_NEAR_F64(w->down[i][j], sums[j], 0.01 * w->down[i][j] + 1e-12);
    }
}

static void expect_layer(struct made *m, const struct calib_stats *s, const struct batch *b, uint64_t layer)
{
    struct sums *w = mem_alloc(sizeof *w);
    struct forward *f = NULL;
    struct forward_options o = {.threads = 1};
    struct model_walk walk = {.source = &m->source, .batch = b, .ctx = w, .begin = begin};
    bool mtp = layer == m->arch.layers, q_lora = m->arch.q_lora_rank > 0;
    struct err e = {0};

    w->layer = layer;
    ASSERT_OK(forward_open(&f, &m->source, &o, &e) && model_walk(&walk, f, &e), e);
    EXPECT_EQ_U64(mtp ? TOKENS - 4 : TOKENS, w->tokens[ROLE_O_PROJ]);
    expect_input(s, w, ROLE_Q_A_PROJ, q_lora ? ROLE_Q_A_PROJ : ROLE_Q_PROJ);
    if (q_lora)
        expect_input(s, w, ROLE_Q_B_PROJ, ROLE_Q_B_PROJ);
    expect_input(s, w, ROLE_KV_B_PROJ, ROLE_KV_B_PROJ);
    expect_input(s, w, ROLE_O_PROJ, ROLE_O_PROJ);
    EXPECT_TRUE(mtp == (calib_input_find(s, layer, ROLE_MTP_PROJ) != NULL));
    if (mtp)
        expect_input(s, w, ROLE_MTP_PROJ, ROLE_MTP_PROJ);
    if (layer < m->arch.first_dense_layers) {
        expect_input(s, w, ROLE_DENSE_GATE, ROLE_DENSE_GATE);
        expect_input(s, w, ROLE_DENSE_DOWN, ROLE_DENSE_DOWN);
    } else {
        expect_input(s, w, ROLE_ROUTER, ROLE_SHARED_GATE);
        expect_input(s, w, ROLE_SHARED_DOWN, ROLE_SHARED_DOWN);
        expect_experts(s, w);
    }
    forward_close(f);
    mem_free(w);
}

TEST(calibrate, sums_are_those_of_what_enters_each_linear)
{
    static const char *const kinds[] = {"fp8", "v2-lite", "int4"};

    for (size_t i = 0; i < 3; i++) {
        struct made m;
        struct calib_stats s = {0};
        struct err e = {0};

        made_init(&m, kinds[i]);
        made_open(&m);
        const char *path = path_join(&m.maker.arena, ct_temp_dir(), "stats");
        struct batch b = {made_ids(&m, TOKENS), TOKENS, contexts, 4};
        ASSERT_OK(calibrate(&m, &b, (struct calibrate_options){0}, path, &e), e);
        ASSERT_OK(calib_stats_open(&s, path, &e), e);
        EXPECT_OK(calib_stats_check(&s, &m.source, &e), e);
        EXPECT_EQ_U64(TOKENS, s.routing.tokens);
        EXPECT_EQ_U64(4, s.routing.sequence_count);
        for (size_t k = 0; k < s.layer_count; k++)
            expect_layer(&m, &s, &b, s.layers[k].layer);
        calib_stats_release(&s);
        made_release(&m);
    }
}

static bool no_observer(void *ctx, uint64_t layer, size_t tokens, struct observer *o, struct err *e)
{
    (void)ctx, (void)layer, (void)tokens, (void)o, (void)e;
    return true;
}

static bool sum_hidden(void *ctx, uint64_t layer, const struct stream *out, struct err *e)
{
    double *sums = ctx;
    const float *rows = NULL;
    float *block = mem_alloc(out->tokens * out->width * sizeof *block);
    bool ok = stream_read(out, 0, out->tokens, block, &rows, e);

    for (size_t i = 0; i < out->tokens * out->width && ok; i++)
        sums[layer] += (double)rows[i] * (double)rows[i];
    mem_free(block);
    return ok;
}

TEST(calibrate, the_hidden_state_behind_each_layer_is_summed)
{
    struct made m;
    struct calib_stats s = {0};
    struct forward *f = NULL;
    struct forward_options o = {.threads = 2};
    double want[8] = {0};
    struct err e = {0};

    made_init(&m, "fp8");
    made_open(&m);
    const char *path = path_join(&m.maker.arena, ct_temp_dir(), "stats");
    struct batch b = {made_ids(&m, TOKENS), TOKENS, contexts, 4};
    struct model_walk walk = {.source = &m.source, .batch = &b, .ctx = want, .begin = no_observer, .end = sum_hidden};
    ASSERT_OK(calibrate(&m, &b, (struct calibrate_options){0}, path, &e) && calib_stats_open(&s, path, &e), e);
    ASSERT_OK(forward_open(&f, &m.source, &o, &e) && model_walk(&walk, f, &e), e);
    EXPECT_EQ_U64(4, s.layer_count); /* MTP's too */
    for (size_t i = 0; i < s.layer_count; i++)
        EXPECT_NEAR_F64(want[i], *s.layers[i].hidden, 1e-10 * want[i]);
    forward_close(f);
    calib_stats_release(&s);
    made_release(&m);
}

/* ---- merging ---- */

static void expect_merged(const struct calib_stats *whole, const struct calib_stats *halves)
{
    double a[256], b[256];
    struct err e = {0};

    ASSERT_EQ_U64(whole->input_count, halves->input_count);
    for (size_t i = 0; i < whole->input_count; i++) {
        const struct calib_input *x = &whole->inputs[i], *y = &halves->inputs[i];
        EXPECT_MEM_EQ(x->seen, y->seen, x->n * sizeof *x->seen);
        EXPECT_MEM_EQ(x->peak, y->peak, x->n * sizeof *x->peak);
        for (size_t k = 0; k < x->n; k++) {
            ASSERT_OK(calib_stats_sum2(whole, x, k, a, &e) && calib_stats_sum2(halves, y, k, b, &e), e);
            for (size_t j = 0; j < x->cols; j++)
                EXPECT_NEAR_F64(a[j], b[j], 2 * TOKENS * 0x1p-53 * a[j]);
        }
    }
    for (size_t i = 0; i < whole->layer_count; i++)
        EXPECT_NEAR_F64(*whole->layers[i].hidden, *halves->layers[i].hidden, 1e-12 * *whole->layers[i].hidden);
}

static void expect_routing(const struct routing_stats *whole, const struct routing_stats *halves)
{
    EXPECT_EQ_U64(whole->tokens, halves->tokens);
    EXPECT_MEM_EQ(whole->sequences, halves->sequences, 4 * sizeof *whole->sequences);
    ASSERT_EQ_U64(whole->count, halves->count);
    for (size_t i = 0; i < whole->count; i++) {
        EXPECT_MEM_EQ(whole->items[i].counts, halves->items[i].counts, 16 * sizeof(int64_t));
        EXPECT_MEM_EQ(whole->items[i].coactivation, halves->items[i].coactivation, 256 * sizeof(int64_t));
    }
}

TEST(calibrate, two_halves_of_a_text_merge_to_the_whole)
{
    static const struct sequence second[2] = {{0, 45, 0}, {45, 26, 0}};
    struct made m;
    struct calib_stats whole = {0}, halves = {0};
    bool lost = false;
    struct err e = {0};

    made_init(&m, "fp8");
    made_open(&m);
    const char *paths[4];
    for (size_t i = 0; i < 4; i++)
        paths[i] = path_join(&m.maker.arena, ct_temp_dir(), arena_printf(&m.maker.arena, "%zu", i));
    struct batch all = {made_ids(&m, TOKENS), TOKENS, contexts, 4}, one = {all.ids, 100, contexts, 2},
                 two = {all.ids + 100, 71, second, 2};
    struct calibrate_options o = {.losses = true};
    ASSERT_OK(calibrate(&m, &all, o, paths[0], &e) && calibrate(&m, &one, o, paths[1], &e) &&
                  calibrate(&m, &two, o, paths[2], &e),
              e);
    ASSERT_OK(calib_stats_merge_files(&paths[1], 2, paths[3], &lost, &e), e);
    ASSERT_OK(calib_stats_open(&whole, paths[0], &e) && calib_stats_open(&halves, paths[3], &e), e);
    EXPECT_FALSE(lost);
    EXPECT_TRUE(halves.has_losses);
    expect_routing(&whole.routing, &halves.routing);
    expect_merged(&whole, &halves);
    calib_stats_release(&whole);
    calib_stats_release(&halves);
    made_release(&m);
}

/* ---- losses ---- */

TEST(calibrate, losses_are_there_for_every_matrix_and_experts_without_tokens_too)
{
    static const struct sequence one[1] = {{0, 3, 0}};
    struct made m;
    struct calib_stats s = {0};
    size_t silent = 0, endless = 0;
    struct err e = {0};

    made_init(&m, "fp8");
    made_open(&m);
    const char *path = path_join(&m.maker.arena, ct_temp_dir(), "stats");
    struct batch b = {made_ids(&m, 3), 3, one, 1};
    ASSERT_OK(calibrate(&m, &b, (struct calibrate_options){.losses = true}, path, &e), e);
    ASSERT_OK(calib_stats_open(&s, path, &e), e);
    for (size_t i = 0; i < s.loss_count; i++) {
        const struct calib_loss *l = &s.losses[i];
        const struct calib_input *in = calib_input_find(&s, l->layer, calib_input_of(l->role));
        for (size_t k = 0; k < l->n; k++) {
            ct_case("layer %d, %s, %zu", (int)l->layer, role_get(l->role)->name, k);
            EXPECT_TRUE(l->energy[k] > 0);
            EXPECT_TRUE(isinf(l->loss[CALIB_INT4_G128][k])); /* no input has as many columns */
            EXPECT_TRUE((isinf(l->loss[CALIB_INT4_G32][k]) != 0) == (in->cols % 32 != 0));
            EXPECT_TRUE(l->loss[CALIB_INT4_G32][k] > 0);
            silent += in->seen[k] == 0;
            endless += isinf(l->loss[CALIB_INT4_G32][k]) != 0;
        }
    }
    EXPECT_TRUE(silent > 0);
    EXPECT_TRUE(endless > 0);
    calib_stats_release(&s);
    made_release(&m);
}

/* ---- refusals ---- */

TEST(calibrate, a_leftover_of_a_finished_run_is_removed_and_an_unfinished_run_is_not)
{
    struct arena a = {0};
    struct err e = {0};
    const char *path = path_join(&a, ct_temp_dir(), "stats"), *dir = arena_printf(&a, "%s.unfinished", path);
    const char *partial = arena_printf(&a, "%s.partial", path);

    ASSERT_OK(dir_make(dir, &e), e);
    calibrate_remove_leftover(path);
    EXPECT_TRUE(path_is_dir(dir));
    ASSERT_OK(file_write_whole(path, "x", 1, &e), e);
    ASSERT_OK(file_write_whole(partial, "x", 1, &e), e);
    calibrate_remove_leftover(path);
    EXPECT_TRUE(path_is_dir(dir) && path_exists(partial));
    EXPECT_EQ_I64(0, unlink(partial));
    calibrate_remove_leftover(path);
    EXPECT_TRUE(path_exists(path) && !path_exists(dir) && !path_exists(partial));
    arena_release(&a);
}

TEST(calibrate, a_budget_that_is_too_small_is_refused_and_nothing_is_left)
{
    struct made m;
    struct err e = {0};

    made_init(&m, "fp8");
    made_open(&m);
    const char *dir = path_join(&m.maker.arena, ct_temp_dir(), "out");
    ASSERT_OK(dir_make(dir, &e), e);
    struct batch b = {made_ids(&m, TOKENS), TOKENS, contexts, 4};
    struct calibrate_options o = {.threads = 1, .losses = true, .memory_bytes = 1000};
    EXPECT_FALSE(calibrate(&m, &b, o, path_join(&m.maker.arena, dir, "stats"), &e));
    EXPECT_ERR(e, ERR_MEMORY, "--memory 1000 is less than the ");
    EXPECT_TRUE(dir_is_empty(dir));
    made_release(&m);
}

TEST(calibrate, a_text_of_single_tokens_leaves_the_mtp_layer_empty)
{
    static const struct sequence singles[2] = {{0, 1, 0}, {1, 1, 0}};
    struct made m;
    struct calib_stats s = {0};
    double sums[256];
    struct err e = {0};

    made_init(&m, "fp8");
    made_open(&m);
    const char *path = path_join(&m.maker.arena, ct_temp_dir(), "stats");
    struct batch b = {made_ids(&m, 2), 2, singles, 2};
    ASSERT_OK(calibrate(&m, &b, (struct calibrate_options){.losses = true}, path, &e), e);
    ASSERT_OK(calib_stats_open(&s, path, &e), e);
    const struct calib_input *in = calib_input_find(&s, 3, ROLE_O_PROJ);
    ASSERT_TRUE(in != NULL);
    EXPECT_EQ_I64(0, in->seen[0]);
    ASSERT_OK(calib_stats_sum2(&s, in, 0, sums, &e), e);
    EXPECT_NEAR_F64(0, sums[0], 0);
    calib_stats_release(&s);
    made_release(&m);
}
