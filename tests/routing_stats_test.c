#include "formats/routing_stats.h"

#include <string.h>

#include "tests/plan_support.h"

static const char config[HASH_HEX_BYTES] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/* Three tokens in layers 3 and 5, two in the MTP layer 7, of 4 experts, 2 for each token. */
static void fill(struct routing_stats *s, bool trace)
{
    static const uint32_t ids[] = {0, 1, 1, 3, 0, 1};
    static const float weights[] = {0.5f, 0.25f, 1.0f, 0.125f, 2.0f, 0.75f};

    routing_stats_init(s, 4, 2, 7, config, trace);
    routing_stats_add(s, 5, ids, weights, 3);
    routing_stats_add(s, 3, ids, weights, 1);
    routing_stats_add(s, 3, ids + 2, weights + 2, 2);
    routing_stats_add(s, 7, ids, weights, 2);
    routing_stats_add_sequence(s, 1);
    routing_stats_add_sequence(s, 2);
}

TEST(routing_stats, counts_weights_and_pairs_follow_from_the_choices)
{
    static const int64_t pairs[16] = {2, 2, 0, 0, 2, 3, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1};
    struct routing_stats s = {0};

    fill(&s, true);
    ASSERT_EQ_U64(3, s.count);
    EXPECT_EQ_U64(3, s.items[0].layer);
    EXPECT_EQ_U64(5, s.items[1].layer);
    EXPECT_EQ_U64(7, s.items[2].layer);
    EXPECT_EQ_U64(3, s.tokens);
    for (size_t i = 0; i < 2; i++) {
        ct_case("layer %d", (int)s.items[i].layer);
        EXPECT_EQ_U64(3, s.items[i].tokens);
        EXPECT_MEM_EQ(((const int64_t[]){2, 3, 0, 1}), s.items[i].counts, 32);
        EXPECT_MEM_EQ(((const double[]){2.5, 2.0, 0, 0.125}), s.items[i].weight_sums, 32);
        EXPECT_MEM_EQ(pairs, s.items[i].coactivation, sizeof pairs);
        EXPECT_MEM_EQ(((const int32_t[]){0, 1, 1, 3, 0, 1}), s.items[i].trace, 24);
    }
    EXPECT_EQ_U64(2, routing_stats_layer(&s, 7)->tokens);
    EXPECT_TRUE(routing_stats_layer(&s, 4) == NULL);
    routing_stats_release(&s);
}

static void expect_same(const struct routing_stats *a, const struct routing_stats *b)
{
    EXPECT_EQ_U64(a->experts, b->experts);
    EXPECT_EQ_U64(a->experts_per_token, b->experts_per_token);
    EXPECT_EQ_U64(a->layers, b->layers);
    EXPECT_EQ_U64(a->tokens, b->tokens);
    EXPECT_STR_EQ(a->config_sha256, b->config_sha256);
    EXPECT_STR_EQ(a->routers_sha256, b->routers_sha256);
    EXPECT_STR_EQ(a->function_sha256, b->function_sha256);
    EXPECT_TRUE(a->with_trace == b->with_trace);
    ASSERT_EQ_U64(a->sequence_count, b->sequence_count);
    EXPECT_MEM_EQ(a->sequences, b->sequences, a->sequence_count * sizeof *a->sequences);
    ASSERT_EQ_U64(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        const struct routing_layer *x = &a->items[i], *y = &b->items[i];
        size_t experts = (size_t)a->experts, chosen = (size_t)(x->tokens * a->experts_per_token);
        ct_case("layer %d", (int)x->layer);
        EXPECT_EQ_U64(x->layer, y->layer);
        ASSERT_EQ_U64(x->tokens, y->tokens);
        EXPECT_MEM_EQ(x->counts, y->counts, experts * 8);
        EXPECT_MEM_EQ(x->weight_sums, y->weight_sums, experts * 8);
        EXPECT_MEM_EQ(x->coactivation, y->coactivation, experts * experts * 8);
        if (!a->with_trace)
            continue;
        EXPECT_MEM_EQ(x->trace, y->trace, chosen * 4);
        EXPECT_MEM_EQ(x->trace_weights, y->trace_weights, chosen * 4);
    }
}

TEST(routing_stats, what_is_written_is_read_back)
{
    for (unsigned trace = 0; trace < 2; trace++) {
        struct routing_stats s = {0}, back = {0};
        struct arena a = {0};
        struct err e = {0};
        char *path = path_join(&a, ct_temp_dir(), "stats.safetensors");

        ct_case("trace %u", trace);
        fill(&s, trace);
        if (trace) {
            memset(s.routers_sha256, 'a', HASH_HEX_BYTES - 1);
            memset(s.function_sha256, 'b', HASH_HEX_BYTES - 1);
        }
        ASSERT_OK(routing_stats_write(&s, path, &e), e);
        ASSERT_OK(routing_stats_read(&back, path, &e), e);
        expect_same(&s, &back);
        routing_stats_release(&back);
        routing_stats_release(&s);
        arena_release(&a);
    }
}

TEST(routing_stats, someone_elses_tensors_beside_are_ignored)
{
    static const float moments[] = {1, 2, 3};
    struct routing_stats s = {0}, back = {0};
    struct arena a = {0};
    struct routing_file f;
    struct tensor_item items[16];
    struct err e = {0};
    char *path = path_join(&a, ct_temp_dir(), "stats.safetensors");

    fill(&s, false);
    routing_stats_list(&s, &a, &f);
    memcpy(items, f.items, f.count * sizeof *items);
    items[f.count++] = tensor_item_vector("moments.3.expert_gate", DTYPE_F32, 3, moments);
    items[f.count++] = tensor_item_vector("counts.03", DTYPE_F32, 3, moments);
    items[f.count++] = tensor_item_vector("counts.", DTYPE_F32, 3, moments);
    ASSERT_OK(tensor_file_write(path, f.metadata, f.metadata_count, items, f.count, &e), e);
    ASSERT_OK(routing_stats_read(&back, path, &e), e);
    expect_same(&s, &back);
    routing_stats_release(&back);
    routing_stats_release(&s);
    arena_release(&a);
}

TEST(routing_stats, two_halves_merge_to_the_whole)
{
    struct routing_stats s = {0}, half = {0}, none = {0};
    struct err e = {0};

    fill(&s, true);
    fill(&half, true);
    ASSERT_OK(routing_stats_merge(&s, &half, &e), e);
    EXPECT_EQ_U64(6, s.tokens);
    EXPECT_EQ_U64(4, s.sequence_count);
    EXPECT_EQ_I64(4, s.sequences[3].first);
    for (size_t i = 0; i < s.count; i++) {
        const struct routing_layer *l = &s.items[i], *h = &half.items[i];
        ct_case("layer %d", (int)l->layer);
        EXPECT_EQ_U64(2 * h->tokens, l->tokens);
        EXPECT_EQ_I64(2 * h->counts[1], l->counts[1]);
        EXPECT_EQ_I64(2 * h->coactivation[1], l->coactivation[1]);
        EXPECT_MEM_EQ(h->trace, l->trace + 2 * h->tokens, 2 * h->tokens * 4);
    }
    fill(&none, false);
    ASSERT_OK(routing_stats_merge(&s, &none, &e), e);
    EXPECT_FALSE(s.with_trace);
    EXPECT_EQ_U64(9, s.tokens);
    routing_stats_release(&none);
    routing_stats_release(&half);
    routing_stats_release(&s);
}

TEST(routing_stats, another_models_are_not_merged)
{
    struct routing_stats s = {0}, other = {0};
    struct err e = {0};

    fill(&s, false);
    routing_stats_init(&other, 8, 2, 7, config, false);
    EXPECT_FALSE(routing_stats_merge(&s, &other, &e));
    EXPECT_ERR(e, ERR_FORMAT, "8 experts, not 4");
    routing_stats_init(&other, 4, 2, 9, config, false);
    EXPECT_FALSE(routing_stats_merge(&s, &other, &e));
    EXPECT_ERR(e, ERR_FORMAT, "9 layers, not 7");
    routing_stats_init(&other, 4, 2, 7, config, false);
    other.config_sha256[0] = 'f';
    EXPECT_FALSE(routing_stats_merge(&s, &other, &e));
    EXPECT_ERR(e, ERR_FORMAT, "config.json has SHA-256 f0112233445566");
    routing_stats_release(&s);
}

/* ---- refusals: one thing wrong in a file that is right otherwise ---- */

struct broken {
    struct routing_stats s;
    struct arena a;
    struct routing_file f;
};

static struct tensor_item *item(struct broken *b, const char *name)
{
    for (size_t i = 0; i < b->f.count; i++)
        if (strcmp(b->f.items[i].tensor.name, name) == 0)
            return &b->f.items[i];
    return NULL;
}

static void set_meta(struct broken *b, const char *key, const char *value)
{
    for (size_t i = 0; i < b->f.metadata_count; i++)
        if (strcmp(b->f.metadata[i].key, key) == 0)
            b->f.metadata[i] = (struct safetensors_meta){value ? key : "x", value ? value : "x"};
}

static void no_format(struct broken *b)
{
    set_meta(b, "format", NULL);
}
static void checkpoint_format(struct broken *b)
{
    set_meta(b, "format", "pt");
}
static void next_version(struct broken *b)
{
    set_meta(b, "version", "2");
}
static void short_hash(struct broken *b)
{
    set_meta(b, "config_sha256", "abc");
}
static void no_experts(struct broken *b)
{
    set_meta(b, "experts", "0");
}
static void many_experts(struct broken *b)
{
    set_meta(b, "experts", "16385");
}
static void five_experts(struct broken *b)
{
    set_meta(b, "experts", "5");
}
static void word_experts(struct broken *b)
{
    set_meta(b, "experts", "four");
}
static void wide_choice(struct broken *b)
{
    set_meta(b, "experts_per_token", "5");
}
static void other_tokens(struct broken *b)
{
    set_meta(b, "tokens", "4");
}
static void fewer_tokens(struct broken *b)
{
    set_meta(b, "tokens", "2");
}
static void no_weights(struct broken *b)
{
    item(b, "weight_sums.5")->tensor.name = "w";
}
static void no_sequences(struct broken *b)
{
    item(b, "sequences")->tensor.name = "s";
}
static void float_counts(struct broken *b)
{
    item(b, "counts.5")->tensor.dtype = DTYPE_F64;
}
static void half_trace(struct broken *b)
{
    item(b, "trace_weights.5")->tensor.name = "t";
}
static void short_trace(struct broken *b)
{
    item(b, "trace.5")->tensor.dims[0] = 2;
}
static void negative_count(struct broken *b)
{
    b->s.items[1].counts[2] = -1;
}
static void odd_count(struct broken *b)
{
    b->s.items[1].counts[2] = 1;
}
static void more_than_tokens(struct broken *b)
{
    b->s.items[1].counts[1] += 6;
}
static void other_diagonal(struct broken *b)
{
    b->s.items[1].coactivation[5] = 1;
}
static void lopsided(struct broken *b)
{
    b->s.items[1].coactivation[1] = 1;
}
static void more_pairs(struct broken *b)
{
    b->s.items[1].coactivation[7] = b->s.items[1].coactivation[13] = 9;
}
static void not_finite(struct broken *b)
{
    b->s.items[1].weight_sums[0] = 1e308 * 10;
}
static void trace_past(struct broken *b)
{
    b->s.items[1].trace[3] = 4;
}
static void trace_order(struct broken *b)
{
    b->s.items[1].trace[2] = 3;
}
static void trace_weight(struct broken *b)
{
    b->s.items[1].trace_weights[2] = (float)(1e38 * 10);
}
static void trace_counts(struct broken *b)
{
    b->s.items[1].trace[3] = 2;
}
static void sequence_gap(struct broken *b)
{
    b->s.sequences[1].first = 2;
}
static void sequence_back(struct broken *b)
{
    b->s.sequences[1].tokens = -2;
}

TEST(routing_stats, what_does_not_add_up_is_refused)
{
    static const struct {
        void (*brk)(struct broken *);
        enum err_code code;
        const char *want;
    } cases[] = {
        {no_format, ERR_FORMAT, "its metadata has no 'format'"},
        {checkpoint_format, ERR_FORMAT, "its format is 'pt'"},
        {next_version, ERR_UNSUPPORTED, "version '2'"},
        {short_hash, ERR_FORMAT, "'config_sha256' is 'abc', not a SHA-256"},
        {no_experts, ERR_FORMAT, "'experts' is '0', not a number from 1 to 16384"},
        {many_experts, ERR_FORMAT, "'experts' is '16385'"},
        {word_experts, ERR_FORMAT, "'experts' is 'four'"},
        {five_experts, ERR_FORMAT, "layer 3: tensor 'counts.3' is I64 [4], not I64 [5]"},
        {wide_choice, ERR_FORMAT, "'experts_per_token' is '5', not a number from 1 to 4"},
        {other_tokens, ERR_FORMAT, "the sequences have 3 tokens, not 4"},
        {fewer_tokens, ERR_FORMAT, "sequence 1 is 2 tokens from 1, behind 1 of 2"},
        {no_weights, ERR_FORMAT, "layer 5: tensor 'weight_sums.5' is missing"},
        {no_sequences, ERR_FORMAT, "tensor 'sequences' is missing"},
        {float_counts, ERR_FORMAT, "tensor 'counts.5' is F64 [4], not I64 [4]"},
        {half_trace, ERR_FORMAT, "tensor 'trace_weights.5' is missing"},
        {short_trace, ERR_FORMAT, "tensor 'trace.5' is I32 [2, 2], not I32 [3, 2]"},
        {negative_count, ERR_FORMAT, "layer 5: expert 2 fired -1 times"},
        {odd_count, ERR_FORMAT, "fired 7 times, which is no multiple of 2"},
        {more_than_tokens, ERR_FORMAT, "expert 1 fired 9 times for 6 tokens"},
        {other_diagonal, ERR_FORMAT, "expert 1 fired 1 times by 'coactivation', 3 by 'counts'"},
        {lopsided, ERR_FORMAT, "experts 1 and 0 fired together 2 times, and 1"},
        {more_pairs, ERR_FORMAT, "experts 3 and 1 fired together 9 times, alone 1 and 3"},
        {not_finite, ERR_FORMAT, "the weights of expert 0 add up to inf"},
        {trace_past, ERR_FORMAT, "token 1 chose expert 4 of 4"},
        {trace_order, ERR_FORMAT, "token 1 chose expert 3 behind 3"},
        {trace_weight, ERR_FORMAT, "token 1 gives expert 1 the weight inf"},
        {trace_counts, ERR_FORMAT, "expert 2 fired 1 times by 'trace', 0 by 'counts'"},
        {sequence_gap, ERR_FORMAT, "sequence 1 is 2 tokens from 2, behind 1 of 3"},
        {sequence_back, ERR_FORMAT, "sequence 1 is -2 tokens from 1"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct broken b = {0};
        struct routing_stats back = {0};
        struct err e = {0};

        ct_case("%s", cases[i].want);
        fill(&b.s, true);
        routing_stats_list(&b.s, &b.a, &b.f);
        cases[i].brk(&b);
        char *path = path_join(&b.a, ct_temp_dir(), "stats.safetensors");
        ASSERT_OK(tensor_file_write(path, b.f.metadata, b.f.metadata_count, b.f.items, b.f.count, &e), e);
        EXPECT_FALSE(routing_stats_read(&back, path, &e));
        EXPECT_ERR(e, cases[i].code, cases[i].want);
        EXPECT_STR_HAS(e.text, "stats.safetensors");
        EXPECT_EQ_U64(0, back.count);
        arena_release(&b.a);
        routing_stats_release(&b.s);
    }
}

TEST(routing_stats, a_cut_file_is_refused_at_every_length)
{
    struct routing_stats s = {0}, back = {0};
    struct arena a = {0};
    struct err e = {0};
    char *path = path_join(&a, ct_temp_dir(), "stats.safetensors"), *data = NULL;
    size_t bytes = 0;

    fill(&s, true);
    ASSERT_OK(routing_stats_write(&s, path, &e), e);
    ASSERT_OK(file_slurp(path, 1u << 20, &data, &bytes, &e), e);
    for (size_t n = 0; n < bytes; n += n < 64 ? 1 : 97)
        EXPECT_FALSE(routing_stats_parse(&back, (const uint8_t *)data, n, &e));
    ASSERT_OK(routing_stats_parse(&back, (const uint8_t *)data, bytes, &e), e);
    expect_same(&s, &back);
    routing_stats_release(&back);
    routing_stats_release(&s);
    mem_free(data);
    arena_release(&a);
}

/* ---- whose statistics ---- */

static void write_model(const char *dir, void (*change)(struct ckpt_maker *m))
{
    struct ckpt_maker m = {0};

    if (!support_model(&m, &support_fp8))
        return;
    if (change)
        change(&m);
    ckpt_write(&m, dir);
    ckpt_release(&m);
}

static void respaced_config(struct ckpt_maker *m)
{
    m->config = arena_printf(&m->arena, "%s ", m->config);
}

static void other_config(struct ckpt_maker *m)
{
    char *theta = strstr(arena_strdup(&m->arena, m->config), "10000");

    ASSERT_TRUE(theta != NULL);
    theta[0] = '2';
    m->config = theta - (strstr(m->config, "10000") - m->config);
}

static void other_router(struct ckpt_maker *m)
{
    for (size_t i = 0; i < m->count; i++)
        if (strstr(m->tensors[i].name, "mlp.gate.weight"))
            ((uint8_t *)m->data[i])[0] ^= 1;
}

/* Statistics of a model, as a pass over it would leave them. */
static void fill_all(struct routing_stats *s, const struct arch *a)
{
    uint32_t ids[64];
    float weights[64] = {0};

    for (uint32_t i = 0; i < a->experts_per_token; i++)
        ids[i] = i;
    for (uint64_t layer = 0; layer < arch_layers_stored(a); layer++)
        if (arch_is_moe_layer(a, layer))
            routing_stats_add(s, layer, ids, weights, 1);
    routing_stats_add_sequence(s, 1);
}

TEST(routing_stats, of_another_model_are_refused)
{
    struct arena a = {0};
    struct source source = {0}, config_differs = {0}, router_differs = {0}, respaced = {0};
    struct routing_stats s = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir(), *one = path_join(&a, dir, "one"), *two = path_join(&a, dir, "two"),
               *three = path_join(&a, dir, "three"), *four = path_join(&a, dir, "four");

    ASSERT_OK(dir_make(one, &e) && dir_make(two, &e) && dir_make(three, &e) && dir_make(four, &e), e);
    write_model(one, NULL);
    write_model(two, other_config);
    write_model(three, other_router);
    write_model(four, respaced_config);
    ASSERT_OK(source_open(&source, one, true, &e), e);
    ASSERT_OK(source_open(&config_differs, two, true, &e), e);
    ASSERT_OK(source_open(&router_differs, three, true, &e), e);
    ASSERT_OK(source_open(&respaced, four, true, &e), e);
    ASSERT_OK(routing_stats_open(&s, &source, false, &e), e);
    EXPECT_FALSE(routing_stats_check(&s, &source, &e));
    EXPECT_ERR(e, ERR_FORMAT, "nothing of layer");
    fill_all(&s, &source.arch);
    EXPECT_OK(routing_stats_check(&s, &source, &e), e);
    EXPECT_OK(routing_stats_check(&s, &respaced, &e), e);
    EXPECT_FALSE(routing_stats_check(&s, &config_differs, &e));
    EXPECT_ERR(e, ERR_FORMAT, "statistics of another model: the function in its config.json has SHA-256");
    EXPECT_FALSE(routing_stats_check(&s, &router_differs, &e));
    EXPECT_ERR(e, ERR_FORMAT, "of other expert numbers: its routers have SHA-256");
    s.experts++;
    EXPECT_FALSE(routing_stats_check(&s, &source, &e));
    EXPECT_ERR(e, ERR_FORMAT, "experts, not");
    s.experts--;
    s.layers++;
    EXPECT_FALSE(routing_stats_check(&s, &source, &e));
    EXPECT_ERR(e, ERR_FORMAT, "layers, not");
    s.layers--;
    s.function_sha256[0] = '\0'; /* an older file */
    EXPECT_OK(routing_stats_check(&s, &source, &e), e);
    EXPECT_FALSE(routing_stats_check(&s, &respaced, &e));
    EXPECT_ERR(e, ERR_FORMAT, "statistics of another model: its config.json has SHA-256");
    routing_stats_release(&s);
    source_close(&source);
    source_close(&respaced);
    source_close(&config_differs);
    source_close(&router_differs);
    arena_release(&a);
}

/* The routers are the same in what was made from a model, and in what was made from that; config.json is not. Older
 * files go by the one that quern.json names. */
TEST(routing_stats, of_a_bundles_source_are_accepted)
{
    struct arena a = {0};
    struct source source = {0}, bundle = {0}, second = {0};
    struct conversion_case c = {.recipe = "int4:g32"}, back = {.recipe = "bf16"};
    struct routing_stats s = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir(), *one = path_join(&a, dir, "one"), *two = path_join(&a, dir, "two"),
               *three = path_join(&a, dir, "three");

    ASSERT_OK(dir_make(one, &e), e);
    write_model(one, NULL);
    ASSERT_OK(support_convert(one, two, &c, &e), e);
    ASSERT_OK(support_convert(two, three, &back, &e), e);
    ASSERT_OK(source_open(&source, one, true, &e), e);
    ASSERT_OK(source_open(&bundle, two, true, &e), e);
    ASSERT_OK(source_open(&second, three, true, &e), e);
    ASSERT_OK(routing_stats_open(&s, &bundle, false, &e), e);
    fill_all(&s, &bundle.arch);
    EXPECT_OK(routing_stats_check(&s, &source, &e), e);
    routing_stats_release(&s);
    ASSERT_OK(routing_stats_open(&s, &source, false, &e), e);
    fill_all(&s, &source.arch);
    EXPECT_OK(routing_stats_check(&s, &bundle, &e), e);
    EXPECT_OK(routing_stats_check(&s, &second, &e), e);
    s.function_sha256[0] = '\0';
    EXPECT_OK(routing_stats_check(&s, &bundle, &e), e);
    EXPECT_FALSE(routing_stats_check(&s, &second, &e));
    s.config_sha256[0] ^= 1;
    EXPECT_FALSE(routing_stats_check(&s, &bundle, &e));
    routing_stats_release(&s);
    source_close(&source);
    source_close(&bundle);
    source_close(&second);
    arena_release(&a);
}
