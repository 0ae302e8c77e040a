/* Renumbered experts are the same function: held against the forward pass. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "tests/repack_support.h"
#include "verify/renumbering.h"
#include "verify/routing_walk.h"

#define SAMPLE       "samples/tiny-v3"
#define TOKENS       40u
#define LOGIT_TOKENS 8u

static uint32_t ids[TOKENS];
static const struct sequence contexts[] = {{0, 24, 0}, {24, TOKENS - 24, 0}};

static struct batch make_batch(void)
{
    for (uint32_t i = 0; i < TOKENS; i++)
        ids[i] = (i * 2654435761u >> 7) % 4096;
    return (struct batch){.ids = ids, .tokens = TOKENS, .sequences = contexts, .sequence_count = 2};
}

/* Logits of the last tokens. */
static float *run_logits(const struct source *s, const struct batch *b)
{
    struct forward_options o = {.threads = 2};
    struct stream streams[2] = {0};
    struct forward *f = NULL;
    struct err e = {0};
    float *logits = mem_alloc(LOGIT_TOKENS * (size_t)s->arch.vocab_size * sizeof *logits);

    EXPECT_OK(forward_open(&f, s, &o, &e) && forward_begin(f, b, &e) && forward_stream(f, &streams[0], &e) &&
                  forward_stream(f, &streams[1], &e) && forward_embed(f, &streams[0], &e),
              e);
    for (uint64_t layer = 0; layer < s->arch.layers; layer++)
        EXPECT_OK(forward_layer(f, layer, &streams[layer % 2], &streams[(layer + 1) % 2], NULL, &e), e);
    EXPECT_OK(forward_logits(f, &streams[s->arch.layers % 2], TOKENS - LOGIT_TOKENS, LOGIT_TOKENS, logits, &e), e);
    stream_close(&streams[0]);
    stream_close(&streams[1]);
    forward_close(f);
    return logits;
}

static void expect_near(const float *want, const float *have, size_t count)
{
    double worst = 0, largest = 0;

    for (size_t i = 0; i < count; i++) {
        worst = fmax(worst, fabs((double)want[i] - (double)have[i]));
        largest = fmax(largest, fabs((double)want[i]));
    }
    EXPECT_TRUE(largest > 1 && worst < 1e-4 * largest);
}

/* What the renumbered model chooses is what the other chose, number by number; MTP's layer too. */
static void expect_choices(const struct repacked *r, const struct source *own, const struct batch *b)
{
    struct routing_stats before = {0}, after = {0}, mapped = {0};
    struct forward_options o = {.threads = 2};
    struct err e = {0};

    ASSERT_OK(routing_walk(&before, &r->source, b, &o, true, &e), e);
    ASSERT_OK(routing_walk(&after, own, b, &o, true, &e), e);
    ASSERT_OK(expert_orders_renumber(&r->orders, &before, own, &mapped, &e), e);
    ASSERT_EQ_U64(4, after.count);
    ASSERT_EQ_U64(mapped.count, after.count);
    EXPECT_STR_EQ(mapped.routers_sha256, after.routers_sha256);
    for (size_t i = 0; i < after.count; i++) {
        const struct routing_layer *want = &mapped.items[i], *have = &after.items[i];
        ct_case("layer %d", (int)have->layer);
        ASSERT_EQ_U64(have->layer == 4 ? TOKENS - 2 : TOKENS, have->tokens);
        ASSERT_EQ_U64(want->tokens, have->tokens);
        EXPECT_MEM_EQ(want->counts, have->counts, 16 * sizeof *want->counts);
        EXPECT_MEM_EQ(want->coactivation, have->coactivation, 16 * 16 * sizeof *want->coactivation);
        EXPECT_MEM_EQ(want->trace, have->trace, (size_t)want->tokens * 4 * sizeof *want->trace);
    }
    routing_stats_release(&before);
    routing_stats_release(&after);
    routing_stats_release(&mapped);
}

/* What repack itself says of its result, unless it is damaged first. */
static bool prove(const struct repacked *r, const char *dir, struct renumbering_proof *p, struct err *e)
{
    const uint32_t *was[8] = {0};
    struct expert_numbers map = {.layers = arch_layers_stored(&r->source.arch), .experts = 16, .was = was};
    struct fingerprint_options o = {.threads = 2, .quiet = true};
    struct source own = {0};

    for (size_t i = 0; i < r->orders.count; i++)
        was[r->orders.items[i].layer] = r->orders.items[i].experts;
    bool ok = source_open(&own, dir, true, e) && renumbering_prove(p, &r->source, &own, &map, &o, e);
    source_close(&own);
    return ok;
}

/* A copy of what a weight's row holds, in the place of another row or of another weight of its shape. */
static void copy_row(const char *dir, const char *from, uint64_t from_row, const char *to, uint64_t to_row)
{
    struct source s = {0};
    struct err e = {0};

    ASSERT_OK(source_open(&s, dir, true, &e), e);
    const struct tensor *a = weights_find(&s.weights, from)->parts[PART_CODES];
    const struct tensor *b = weights_find(&s.weights, to)->parts[PART_CODES];
    uint64_t row = a->rank == 2 ? a->bytes / a->dims[0] : 4;
    uint8_t bytes[4096];
    ASSERT_TRUE(row <= sizeof bytes && a->rank == b->rank);
    EXPECT_OK(checkpoint_read(&s.checkpoint, a, from_row * row, bytes, row, &e), e);
    FILE *out = fopen(s.checkpoint.shards[b->shard].file.path, "r+");
    ASSERT_TRUE(out && fseek(out, (long)(b->offset + to_row * row), SEEK_SET) == 0);
    EXPECT_TRUE(fwrite(bytes, 1, row, out) == row && fclose(out) == 0);
    source_close(&s);
}

TEST(renumbering, a_renumbered_model_is_proved_the_same_function)
{
    struct repack_case c = {.order = {.kind = ORDER_HOT}, .target = {.renumber = true}};
    struct renumbering_proof p;
    struct repacked r;
    struct arena a = {0};
    struct err e = {0};
    const char *dst = path_join(&a, ct_temp_dir(), "dst");

    ASSERT_OK(support_repack(&r, SAMPLE, dst, &c, &e), e);
    ASSERT_OK(prove(&r, dst, &p, &e), e);
    EXPECT_EQ_U64((3 * 32 + 31) * 4, p.choices); /* three layers and MTP's */
    EXPECT_EQ_U64(p.choices, p.mapped);
    EXPECT_EQ_U64(3 * 32 * 4, p.own_choices);
    EXPECT_EQ_U64(p.own_choices, p.own);
    EXPECT_TRUE(p.layer_error > 0 && p.layer_error < 1e-6); /* sums in another order, and nothing else */
    EXPECT_TRUE(p.logit_delta > 0 && p.logit_delta < 1e-4);
    EXPECT_TRUE(p.kl >= 0 && p.kl_max < 1e-10);
    repacked_close(&r);
    arena_release(&a);
}

#define PROMPT_ROW UINT64_MAX /* the row of the prompt's token 3 */

/* Each is a mistake that a renumbering could make. */
TEST(renumbering, what_is_another_function_is_named)
{
    static const struct {
        const char *what, *from, *to;
        uint64_t from_row, to_row;
        const char *message;
    } cases[] = {
        {"a router row", "model.layers.2.mlp.gate.weight", "model.layers.2.mlp.gate.weight", 0, 9,
         "layer 2, position "},
        {"a correction", "model.layers.3.mlp.gate.e_score_correction_bias",
         "model.layers.3.mlp.gate.e_score_correction_bias", 0, 5, "layer 3, position "},
        {"an expert's row", "model.layers.1.mlp.experts.2.gate_proj.weight",
         "model.layers.1.mlp.experts.3.gate_proj.weight", 0, 0, "layer 1, position "},
        {"MTP's router", "model.layers.4.mlp.gate.weight", "model.layers.4.mlp.gate.weight", 0, 9,
         "layer 4, position "},
        {"the embedding", "model.embed_tokens.weight", "model.embed_tokens.weight", 0, PROMPT_ROW,
         "the embedding, position 3"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct repack_case c = {.order = {.kind = ORDER_HOT}, .target = {.renumber = true}};
        struct renumbering_proof p = {0};
        uint32_t prompt[FINGERPRINT_TOKENS];
        struct repacked r;
        struct arena a = {0};
        struct err e = {0};
        const char *dst = path_join(&a, ct_temp_dir(), "dst");

        ct_case("%s", cases[i].what);
        ASSERT_OK(support_repack(&r, SAMPLE, dst, &c, &e), e);
        ASSERT_OK(fingerprint_prompt(prompt, &r.source, &e), e);
        copy_row(dst, cases[i].from, cases[i].from_row, cases[i].to,
                 cases[i].to_row == PROMPT_ROW ? prompt[3] : cases[i].to_row);
        EXPECT_FALSE(prove(&r, dst, &p, &e));
        EXPECT_ERR(e, ERR_DIFFERS, cases[i].message);
        EXPECT_TRUE(strstr(e.text, "not the same function") != NULL);
        EXPECT_EQ_U64(1, (uint64_t)err_exit_status(e.code));
        repacked_close(&r);
        arena_release(&a);
    }
}

/* Bit i of the result: the numbers of layer 1 + i are found, and are those that the order gave. */
static unsigned found_layers(const struct repacked *r, const char *dir)
{
    struct expert_numbers n;
    struct source own = {0};
    struct arena a = {0};
    struct err e = {0};
    unsigned found = 0;

    EXPECT_OK(source_open(&own, dir, true, &e) && expert_numbers_find(&n, &a, &r->source, &own, &e), e);
    for (size_t i = 0; e.code == ERR_NONE && i < r->orders.count; i++) {
        const struct expert_order *order = &r->orders.items[i];
        const uint32_t *was = expert_numbers_of(&n, order->layer);
        found |= (unsigned)(was && memcmp(was, order->experts, 16 * sizeof *was) == 0) << i;
    }
    source_close(&own);
    arena_release(&a);
    return found;
}

TEST(expert_numbers, rows_of_the_router_tell_and_one_that_differs_is_another_router)
{
    struct repack_case c = {.order = {.kind = ORDER_HOT}, .target = {.renumber = true}};
    struct repacked r;
    struct arena a = {0};
    struct err e = {0};
    const char *dst = path_join(&a, ct_temp_dir(), "dst");

    ASSERT_OK(support_repack(&r, SAMPLE, dst, &c, &e), e);
    EXPECT_EQ_U64(15, found_layers(&r, dst));
    copy_row(dst, "model.layers.2.mlp.gate.weight", 0, "model.layers.2.mlp.gate.weight", 9);
    EXPECT_EQ_U64(13, found_layers(&r, dst));
    copy_row(dst, "model.layers.3.mlp.gate.e_score_correction_bias", 0,
             "model.layers.3.mlp.gate.e_score_correction_bias", 5);
    EXPECT_EQ_U64(9, found_layers(&r, dst));
    EXPECT_EQ_U64(0, found_layers(&r, SAMPLE)); /* nothing is renumbered there */
    repacked_close(&r);
    arena_release(&a);
}

TEST(renumber, is_the_same_function)
{
    static const enum order_kind orders[] = {ORDER_HOT, ORDER_COACTIVE};
    struct batch b = make_batch();

    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        struct repack_case c = {.order = {.kind = orders[i]}, .target = {.renumber = true}};
        struct repacked r;
        struct source own = {0};
        struct arena a = {0};
        struct err e = {0};
        const char *dst = path_join(&a, ct_temp_dir(), "dst");
        bool moved = false;

        EXPECT_OK(support_repack(&r, SAMPLE, dst, &c, &e), e);
        for (size_t k = 0; k < r.orders.count; k++)
            for (uint32_t x = 0; x < 16; x++)
                moved |= r.orders.items[k].experts[x] != x;
        EXPECT_TRUE(moved || orders[i] == ORDER_COACTIVE); /* the latter may stay by index: its statistics are noise */
        ASSERT_OK(source_open(&own, dst, true, &e), e);
        float *want = run_logits(&r.source, &b), *have = run_logits(&own, &b);
        expect_near(want, have, LOGIT_TOKENS * (size_t)own.arch.vocab_size);
        expect_choices(&r, &own, &b);
        mem_free(want);
        mem_free(have);
        source_close(&own);
        repacked_close(&r);
        arena_release(&a);
    }
}
