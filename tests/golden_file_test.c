#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "formats/base/file.h"
#include "tests/kernel_support.h"
#include "verify/golden.h"

#define HIDDEN 96u

static void make(struct golden *g, size_t tokens, size_t contexts, uint64_t vocab)
{
    uint64_t seed = 9;
    struct arena *a = &g->arena;

    *g = (struct golden){.model = "deepseek_v3, 2 layers",
                         .sizes = "layers 2\nhidden_size 96\n",
                         .settings = "rope_theta 10000\n",
                         .kinds = "dm",
                         .text = "built-in texts",
                         .emulate = "none",
                         .config_sha256 = "00",
                         .tokenizer_sha256 = "",
                         .vocab = vocab,
                         .layers = 2,
                         .tokens = tokens,
                         .contexts = contexts,
                         .mtp_acceptance = NAN,
                         .bf16 = {true, "BF16 activations", 128, 2e-5, 0.99, 1e-4, NAN}};
    g->ids = arena_array(a, tokens, sizeof *g->ids);
    g->starts = arena_array(a, contexts + 1, sizeof *g->starts);
    g->rows = arena_array(a, tokens, sizeof *g->rows);
    g->nll = arena_array(a, tokens, sizeof *g->nll);
    g->projections = arena_array(a, 2 * contexts * GOLDEN_PROJECTIONS, sizeof *g->projections);
    for (size_t s = 0; s <= contexts; s++)
        g->starts[s] = tokens * s / contexts;
    float *logits = arena_array(a, vocab, sizeof *logits);
    for (size_t i = 0; i < tokens; i++) {
        struct err e = {0};
        double nll = 0;
        g->ids[i] = (uint32_t)(support_random(&seed) % vocab);
        support_floats(logits, vocab, &seed, -3, 3);
        EXPECT_OK(position_record(&g->rows[i], &nll, logits, vocab, g->ids[i], &e), e);
        g->nll[i] = (float)nll;
    }
    for (size_t i = 0; i < 2 * contexts * GOLDEN_PROJECTIONS; i++)
        g->projections[i] = support_float(&seed, -3, 3);
}

static const char *write_to(struct golden *g, struct err *e)
{
    const char *path = path_join(&g->arena, ct_temp_dir(), "golden.safetensors");

    EXPECT_OK(golden_write(g, path, e), *e);
    return path;
}

TEST(golden_file, what_is_written_is_read)
{
    static const uint64_t vocabs[] = {20, 4096, 70000}; /* fewer than 64; ids of 16 bits; of 32 */

    for (size_t v = 0; v < 3; v++) {
        struct golden g, got = {0};
        struct err e = {0};
        ct_case("%" PRIu64, vocabs[v]);
        make(&g, 50, 3, vocabs[v]);
        ASSERT_OK(golden_read(&got, write_to(&g, &e), &e), e);
        EXPECT_STR_EQ(g.sizes, got.sizes);
        EXPECT_STR_EQ(g.kinds, got.kinds);
        EXPECT_TRUE(got.tokens == 50 && got.contexts == 3 && got.layers == 2 && got.vocab == vocabs[v]);
        EXPECT_MEM_EQ(g.ids, got.ids, 50 * sizeof *g.ids);
        EXPECT_MEM_EQ(g.starts, got.starts, 4 * sizeof *g.starts);
        EXPECT_MEM_EQ(g.nll, got.nll, 50 * sizeof *g.nll);
        EXPECT_MEM_EQ(g.projections, got.projections, (size_t)2 * 3 * GOLDEN_PROJECTIONS * sizeof *g.projections);
        for (size_t i = 0; i < 50; i++) {
            EXPECT_EQ_U64(g.rows[i].count, got.rows[i].count);
            EXPECT_MEM_EQ(g.rows[i].ids, got.rows[i].ids, g.rows[i].count * sizeof(uint32_t));
            EXPECT_MEM_EQ(g.rows[i].logprobs, got.rows[i].logprobs, g.rows[i].count * sizeof(float));
            EXPECT_EQ_F32(g.rows[i].rest, got.rows[i].rest);
        }
        EXPECT_TRUE(got.bf16.known && got.bf16.kl == 2e-5 && isnan(got.bf16.routing_overlap) &&
                    isnan(got.mtp_acceptance));
        golden_release(&got);
        golden_release(&g);
    }
}

TEST(golden_file, five_hundred_positions_are_two_hundred_kilobytes)
{
    struct golden g;
    struct err e = {0};
    char *data = NULL;
    size_t bytes = 0;

    make(&g, 512, 2, 4096);
    ASSERT_OK(file_slurp(write_to(&g, &e), 1 << 20, &data, &bytes, &e), e);
    EXPECT_TRUE(bytes > 190000 && bytes < 215000);
    mem_free(data);
    golden_release(&g);
}

/* Every byte that matters is guarded: by the format, or by the digest. */
TEST(golden_file, a_changed_byte_is_refused)
{
    struct golden g, got;
    struct err e = {0};
    char *data = NULL;
    size_t bytes = 0, accepted = 0;

    make(&g, 40, 2, 4096);
    ASSERT_OK(file_slurp(write_to(&g, &e), 1 << 20, &data, &bytes, &e), e);
    for (size_t at = 0; at < bytes; at += at < 3000 ? 1 : 13) {
        struct err ignored = {0};
        data[at] ^= 0x10;
        if (golden_parse(&got, (const uint8_t *)data, bytes, &ignored)) {
            accepted++; /* the header's padding is no content */
            golden_release(&got);
        }
        data[at] ^= 0x10;
    }
    EXPECT_EQ_U64(0, accepted);
    for (size_t cut = 0; cut < bytes; cut += 997) {
        struct err ignored = {0};
        EXPECT_FALSE(golden_parse(&got, (const uint8_t *)data, cut, &ignored));
    }
    mem_free(data);
    golden_release(&g);
}

/* Written anew with a right digest, so that each check of contents is met. */
TEST(golden_file, contents_that_cannot_be_are_refused_by_name)
{
    static const struct {
        const char *name, *message;
    } cases[] = {
        {"token", "token 7 is"},
        {"top id", "position 3: entry 1"},
        {"rising", "position 3: entry 2"},
        {"positive", "position 3: entry 0"},
        {"nll", "position 5: negative log-likelihood"},
        {"rest", "position 4: the log-probability of the rest"},
        {"projection", "projection 9 is not finite"},
        {"kinds", "'kinds' is 'dx'"},
        {"contexts", "contexts have"},
    };

    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct golden g, got;
        struct err e = {0};
        ct_case("%s", cases[c].name);
        make(&g, 40, 2, 4000);
        switch (c) {
        case 0:
            g.ids[7] = 4001;
            break;
        case 1:
            g.rows[3].ids[1] = 4001;
            break;
        case 2:
            g.rows[3].logprobs[2] = g.rows[3].logprobs[1] + 0.01f;
            break;
        case 3:
            g.rows[3].logprobs[0] = 0.5f;
            break;
        case 4:
            g.nll[5] = -1;
            break;
        case 5:
            g.rows[4].rest = NAN;
            break;
        case 6:
            g.projections[9] = INFINITY;
            break;
        case 7:
            g.kinds = "dx";
            break;
        default:
            g.starts[2] = 39;
            break;
        }
        const char *path = write_to(&g, &e);
        EXPECT_FALSE(golden_read(&got, path, &e));
        EXPECT_ERR(e, ERR_FORMAT, cases[c].message);
        EXPECT_STR_HAS(e.text, "golden.safetensors");
        golden_release(&g);
    }
}

TEST(golden_file, files_of_other_programs_are_named_as_such)
{
    struct golden got;
    struct err e = {0};

    EXPECT_FALSE(golden_read(&got, "samples/tiny-v3/model-00001-of-000007.safetensors", &e));
    EXPECT_ERR(e, ERR_FORMAT, "not a golden file");
    e = (struct err){0};
    EXPECT_FALSE(golden_read(&got, "samples/tiny-v3/config.json", &e));
    EXPECT_ERR(e, ERR_LIMIT, "config.json");
    e = (struct err){0};
    EXPECT_FALSE(golden_read(&got, "no/such/file", &e));
    EXPECT_ERR(e, ERR_IO, "no/such/file");
}

/* The estimate over many contexts is near the truth; a state that differs by length alone does not differ. */
TEST(golden_file, projections_estimate_the_difference_of_states)
{
    enum { CONTEXTS = 40, TOKENS = 30 };
    static float sums[2][CONTEXTS * GOLDEN_PROJECTIONS], lengths[CONTEXTS * GOLDEN_PROJECTIONS];
    size_t starts[CONTEXTS + 1];
    uint64_t seed = 4;
    double truth = 0;

    for (size_t s = 0; s < CONTEXTS; s++) {
        double p[3][GOLDEN_PROJECTIONS] = {{0}};
        starts[s] = s * TOKENS;
        for (size_t t = 0; t < TOKENS; t++) {
            float a[HIDDEN], b[HIDDEN], c[HIDDEN];
            double a2 = 0, b2 = 0, d2 = 0;
            for (size_t i = 0; i < HIDDEN; i++) {
                a[i] = support_float(&seed, -3, 2);
                b[i] = a[i] + 0.05f * support_float(&seed, -3, 2);
                c[i] = 8 * a[i];
                a2 += (double)a[i] * (double)a[i];
                b2 += (double)b[i] * (double)b[i];
            }
            for (size_t i = 0; i < HIDDEN; i++) {
                double d = (double)a[i] / sqrt(a2) - (double)b[i] / sqrt(b2);
                d2 += d * d;
            }
            truth += d2;
            golden_project(p[0], t, a, HIDDEN);
            golden_project(p[1], t, b, HIDDEN);
            golden_project(p[2], t, c, HIDDEN);
        }
        for (size_t k = 0; k < GOLDEN_PROJECTIONS; k++) {
            sums[0][s * GOLDEN_PROJECTIONS + k] = (float)p[0][k];
            sums[1][s * GOLDEN_PROJECTIONS + k] = (float)p[1][k];
            lengths[s * GOLDEN_PROJECTIONS + k] = (float)p[2][k];
        }
    }
    starts[CONTEXTS] = (size_t)CONTEXTS * TOKENS;
    truth = sqrt(truth / (CONTEXTS * TOKENS));
    EXPECT_NEAR_F64(truth, golden_state_error(sums[0], sums[1], NULL, NULL, starts, CONTEXTS), 0.08 * truth);
    EXPECT_NEAR_F64(0, golden_state_error(sums[0], lengths, NULL, NULL, starts, CONTEXTS), 1e-6);
    EXPECT_NEAR_F64(0, golden_state_error(sums[0], sums[0], NULL, NULL, starts, CONTEXTS), 0);
    /* The same difference below: this layer added none. */
    EXPECT_NEAR_F64(0, golden_state_error(sums[0], sums[1], sums[0], sums[1], starts, CONTEXTS), 0);
    EXPECT_NEAR_F64(truth, golden_state_error(sums[0], sums[1], sums[0], sums[0], starts, CONTEXTS), 0.08 * truth);
}
