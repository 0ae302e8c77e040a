#include "convert/width_recipe.h"

#include <stdio.h>
#include <string.h>

#include "convert/width_units.h"
#include "formats/base/file.h"
#include "formats/json.h"
#include "tests/ct.h"

#define TOKENS 100u

/* The sample, and statistics that were never measured: every matrix of layer l has losses of (l + 1) {8, 2, 0.5} and an
 * energy of 10; 100 tokens went to experts 0 to 3, with weights of 0.5; a hidden state's square is 1000 a token. */
struct scene {
    struct arena arena;
    struct source source;
    struct calib_stats stats;
    const char *path; /* of a file with them */
};

static void fill(struct calib_stats *s)
{
    static const double losses[CALIB_SCHEME_COUNT] = {8, 2, 0.5};
    static const uint32_t ids[] = {0, 1, 2, 3};
    static const float weights[] = {0.5f, 0.5f, 0.5f, 0.5f};

    for (size_t i = 0; i < s->routing.count; i++)
        for (unsigned t = 0; t < TOKENS; t++)
            routing_stats_add(&s->routing, s->routing.items[i].layer, ids, weights, 1);
    for (size_t i = 0; i < s->input_count; i++)
        for (size_t k = 0; k < s->inputs[i].n; k++)
            s->inputs[i].seen[k] = s->inputs[i].n == 1 || k < 4 ? TOKENS : 0;
    for (size_t i = 0; i < s->loss_count; i++)
        for (size_t k = 0; k < s->losses[i].n; k++) {
            s->losses[i].energy[k] = 10;
            for (enum calib_scheme c = 0; c < CALIB_SCHEME_COUNT; c++)
                s->losses[i].loss[c][k] = (double)(s->losses[i].layer + 1) * losses[c];
        }
    for (size_t i = 0; i < s->layer_count; i++)
        *s->layers[i].hidden = 1000.0 * TOKENS;
}

static bool write_stats(struct scene *m, struct err *e)
{
    struct calib_writer w = {0};
    double *zeros = mem_alloc(1024 * sizeof *zeros);
    struct calib_stats *s = &m->stats;

    m->path = path_join(&m->arena, ct_temp_dir(), "stats.safetensors");
    routing_stats_add_sequence(&s->routing, TOKENS);
    bool ok = calib_writer_open(&w, s, m->path, e);
    for (size_t i = 0; i < s->input_count && ok; i++)
        for (size_t k = 0; k < s->inputs[i].n && ok; k++)
            ok = calib_writer_sum2(&w, &s->inputs[i], k, zeros, e);
    ok = ok && calib_writer_commit(&w, e);
    calib_writer_release(&w);
    mem_free(zeros);
    return ok;
}

static bool open_scene(struct scene *m, bool losses, struct err *e)
{
    *m = (struct scene){0};
    if (!source_open(&m->source, "samples/tiny-v3", true, e) || !calib_stats_plan(&m->stats, &m->source, losses, e))
        return false;
    fill(&m->stats);
    return true;
}

static void close_scene(struct scene *m)
{
    calib_stats_release(&m->stats);
    source_close(&m->source);
    arena_release(&m->arena);
}

static bool parse(struct recipe *r, const char *rules, struct err *e)
{
    char text[1024];

    snprintf(text, sizeof text, "{\"name\": \"mine\", \"rules\": [%s]}", rules);
    return recipe_parse(r, "mine", text, strlen(text), e);
}

#define LDLQ(match, more) "{\"match\": " match ", \"scheme\": \"int4\", \"method\": \"ldlq\"" more "}"
#define REST              ", {\"match\": \"*\", \"scheme\": \"bf16\"}"

TEST(width_units, a_layers_experts_are_one_unit_with_losses_by_the_formula)
{
    struct scene m;
    struct recipe r = {0};
    struct width_units u;
    struct err e = {0};

    ASSERT_OK(open_scene(&m, true, &e), e);
    ASSERT_OK(parse(&r, LDLQ("\"routed_expert\"", "") REST, &e), e);
    ASSERT_OK(width_units_make(&u, &r, &m.source, &m.stats, false, &e), e);
    ASSERT_EQ_U64(4, u.count);
    for (size_t i = 0; i < 4; i++) {
        const struct allocate_unit *a = &u.allocate[i];
        ct_case("layer %zu", i + 1);
        EXPECT_EQ_U64(i + 1, u.items[i].layer);
        EXPECT_EQ_U64(16 * 3 * 256 * 128, a->weights);
        EXPECT_NEAR_F64(4.125, allocate_bits(a->options[CALIB_INT4_G128].bytes, a->weights), 1e-12);
        EXPECT_NEAR_F64(4.5, allocate_bits(a->options[CALIB_INT4_G32].bytes, a->weights), 1e-12);
        EXPECT_NEAR_F64(8 + 32.0 / 16384, allocate_bits(a->options[CALIB_FP8].bytes, a->weights), 1e-12);
        /* Three matrices of four experts, each 100 tokens x 0.5 x 0.5 x the loss, over 100 x 1000. MTP counts nothing.
         */
        double unit = i < 3 ? 3 * 4 * 0.25 * (double)(i + 2) / 1000 : 0;
        EXPECT_NEAR_F64(8 * unit, a->options[CALIB_INT4_G128].loss, 1e-12);
        EXPECT_NEAR_F64(2 * unit, a->options[CALIB_INT4_G32].loss, 1e-12);
        EXPECT_NEAR_F64(0.5 * unit, a->options[CALIB_FP8].loss, 1e-12);
    }
    width_units_release(&u);
    recipe_release(&r);
    close_scene(&m);
}

/* gate's energy of 5 under a down of 10: the same error weighs twice. o_proj and down write what they are measured by.
 */
TEST(width_units, what_stands_before_the_last_matrix_counts_by_its_share)
{
    static const struct {
        uint64_t roles;
        double loss; /* of int4 g128, in layer 0 and in a layer with a shared expert, 1 */
        uint64_t layer;
    } want[] = {
        {1u << ROLE_Q_A_PROJ | 1u << ROLE_KV_A_PROJ, 2 * 8, 0},
        {1u << ROLE_Q_B_PROJ, 8, 0},
        {1u << ROLE_O_PROJ, 8, 0},
        {1u << ROLE_DENSE_GATE | 1u << ROLE_DENSE_UP, 16 + 8, 0},
        {1u << ROLE_DENSE_DOWN, 8, 0},
        {1u << ROLE_Q_A_PROJ | 1u << ROLE_KV_A_PROJ, 2 * 16, 1},
        {1u << ROLE_Q_B_PROJ, 16, 1},
        {1u << ROLE_O_PROJ, 16, 1},
        {1u << ROLE_SHARED_GATE | 1u << ROLE_SHARED_UP, 2 * 16, 1},
        {1u << ROLE_SHARED_DOWN, 16, 1},
        {1u << ROLE_EXPERT_GATE | 1u << ROLE_EXPERT_UP, 2 * 16, 1},
        {1u << ROLE_EXPERT_DOWN, 16, 1},
    };
    struct scene m;
    struct recipe r = {0};
    struct width_units u;
    struct err e = {0};

    ASSERT_OK(open_scene(&m, true, &e), e);
    *((struct calib_loss *)calib_loss_find(&m.stats, 0, ROLE_DENSE_GATE))->energy = 5;
    ASSERT_OK(parse(&r,
                    "{\"match\": \"kv_b_proj\", \"scheme\": \"bf16\"}, " LDLQ(
                        "[\"attention\", \"dense_mlp\", \"shared_expert\", \"routed_expert\"]", "") REST,
                    &e),
              e);
    ASSERT_OK(width_units_make(&u, &r, &m.source, &m.stats, true, &e), e);
    ASSERT_TRUE(u.count > sizeof want / sizeof want[0]);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        ct_case("unit %zu", i);
        EXPECT_EQ_U64(want[i].layer, u.items[i].layer);
        EXPECT_EQ_U64(want[i].roles, u.items[i].roles);
        EXPECT_NEAR_F64(want[i].loss / 1000, u.allocate[i].options[CALIB_INT4_G128].loss, 1e-12);
    }
    width_units_release(&u);
    recipe_release(&r);
    close_scene(&m);
}

/* ---- the recipe ---- */

static const char *text_of(const struct recipe *r, const struct scene *m, const char *module)
{
    static char text[SCHEME_TEXT];
    struct arena a = {0};
    struct choice c = {0};
    struct err e = {0};

    for (size_t i = 0; i < m->source.weights.count; i++)
        if (strcmp(m->source.weights.items[i].module, module) == 0)
            EXPECT_OK(recipe_choose(r, &a, &m->source.arch, &m->source.weights.items[i], &c, &e), e);
    arena_release(&a);
    return scheme_text(&c.scheme, text);
}

TEST(width_recipe, the_choice_becomes_rules_by_layer)
{
    struct scene m;
    struct recipe base = {0}, r = {0};
    struct width_report report;
    struct json_doc d = {0};
    struct err e = {0};

    ASSERT_OK(open_scene(&m, true, &e) && write_stats(&m, &e), e);
    ASSERT_OK(parse(&base, LDLQ("\"routed_expert\"", ", \"positive_scales\": true") REST, &e), e);
    /* Layer 3 loses most and is the first to be widened; 4 is MTP's. (3 x 4.125 + 4.5) / 4 = 4.21875. */
    struct width_options o = {.target_bpw = 4.25, .statistics = m.path};
    ASSERT_OK(width_recipe_make(&r, &report, &base, &m.source, &o, &e), e);
    EXPECT_STR_EQ("mine-4.25bpw", r.name);
    EXPECT_STR_EQ("int4 g128", text_of(&r, &m, "model.layers.1.mlp.experts.0.gate_proj"));
    EXPECT_STR_EQ("int4 g128", text_of(&r, &m, "model.layers.2.mlp.experts.15.down_proj"));
    EXPECT_STR_EQ("int4 g32", text_of(&r, &m, "model.layers.3.mlp.experts.7.up_proj"));
    EXPECT_STR_EQ("int4 g32", text_of(&r, &m, "model.layers.3.mlp.experts.7.down_proj"));
    EXPECT_STR_EQ("int4 g128", text_of(&r, &m, "model.layers.4.mlp.experts.0.gate_proj"));
    EXPECT_STR_EQ("BF16", text_of(&r, &m, "model.layers.3.mlp.shared_experts.up_proj"));
    EXPECT_TRUE(recipe_is_calibrated(&r));
    EXPECT_STR_HAS(r.text, "{\"match\":[\"expert_gate\",\"expert_up\",\"expert_down\"],\"layers\":\"3\",\"scheme\":"
                           "\"int4\",\"group\":32,\"asymmetric\":false,\"method\":\"ldlq\",\"positive_scales\":true}");
    EXPECT_STR_HAS(r.text, "\"layers\":\"1-2,4\"");
    EXPECT_STR_HAS(r.text, "\"widths\":{\"target_bpw\":4.25,\"statistics_sha256\":\"");
    EXPECT_STR_HAS(report.text.data, "widths   4.2188 bits per weight of 4.25, over 6291456 weights in 4 units\n");
    EXPECT_STR_HAS(report.text.data, "\n    3  expert_gate, expert_up, expert_down  int4 g32 ");
    EXPECT_OK(json_parse(&d, report.json.data, report.json.bytes, JSON_STRICT, &e), e);
    EXPECT_TRUE(report.above == 0);

    /* The text says all of it: read again, it is the same recipe. */
    struct recipe again = {0};
    ASSERT_OK(recipe_parse(&again, "again", r.text, strlen(r.text), &e), e);
    EXPECT_STR_EQ(r.text, again.text);
    recipe_release(&again);
    json_release(&d);
    width_report_release(&report);
    recipe_release(&r);
    recipe_release(&base);
    close_scene(&m);
}

TEST(width_recipe, fp8_stands_in_the_layout_that_int4_can_stand_beside)
{
    struct scene m;
    struct recipe base = {0}, r = {0};
    struct width_report report;
    struct err e = {0};

    ASSERT_OK(open_scene(&m, true, &e) && write_stats(&m, &e), e);
    ASSERT_OK(parse(&base, LDLQ("\"routed_expert\"", "") REST, &e), e);
    struct width_options o = {.target_bpw = 9, .statistics = m.path};
    ASSERT_OK(width_recipe_make(&r, &report, &base, &m.source, &o, &e), e);
    EXPECT_STR_EQ("fp8 128x128 ct", text_of(&r, &m, "model.layers.1.mlp.experts.0.gate_proj"));
    EXPECT_STR_EQ("int4 g128", text_of(&r, &m, "model.layers.4.mlp.experts.0.gate_proj"));
    EXPECT_NEAR_F64((3 * (8 + 32.0 / 16384) + 4.125) / 4, report.above, 1e-9);
    width_report_release(&report);
    recipe_release(&r);
    recipe_release(&base);
    close_scene(&m);
}

TEST(width_recipe, what_it_cannot_choose_by_is_refused)
{
    static const struct {
        const char *name, *rules;
        bool losses, other;
        double target;
        enum err_code code;
        const char *says;
    } cases[] = {
        {"too low", LDLQ("\"routed_expert\"", "") REST, true, false, 4.1, ERR_UNSUPPORTED,
         "--target-bpw: a target of 4.1 bits per weight is below the least there is, 4.1250"},
        {"no losses", LDLQ("\"routed_expert\"", "") REST, false, false, 5, ERR_UNSUPPORTED,
         "there are no losses in it: quern calibrate --losses measures them"},
        {"another model", LDLQ("\"routed_expert\"", "") REST, true, true, 5, ERR_FORMAT, "stats.safetensors"},
        {"not calibrated", "{\"match\": \"routed_expert\", \"scheme\": \"int4\"}", true, false, 5, ERR_UNSUPPORTED,
         "recipe 'mine': it rounds nothing to int4 by ldlq"},
        {"a part of a layer", LDLQ("\"re:.*experts\\\\.[0-7]\\\\.\"", "") REST, true, false, 5, ERR_UNSUPPORTED,
         "it rounds some of layer 1's 'expert_gate' to int4 by ldlq and others not"},
        {"two kinds of scales",
         LDLQ("\"expert_gate\"", ", \"positive_scales\": true") ", " LDLQ("\"routed_expert\"", "") REST, true, false, 5,
         ERR_UNSUPPORTED, "differs in 'positive_scales' from what engines load with it"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct scene m;
        struct recipe base = {0}, r = {0};
        struct width_report report = {0};
        struct err e = {0};
        ct_case("%s", cases[i].name);
        ASSERT_OK(open_scene(&m, cases[i].losses, &e), e);
        if (cases[i].other)
            m.stats.routing.function_sha256[0] ^= 1;
        ASSERT_OK(write_stats(&m, &e) && parse(&base, cases[i].rules, &e), e);
        struct width_options o = {.target_bpw = cases[i].target, .statistics = m.path};
        EXPECT_FALSE(width_recipe_make(&r, &report, &base, &m.source, &o, &e));
        EXPECT_ERR(e, cases[i].code, cases[i].says);
        recipe_release(&base);
        close_scene(&m);
    }
}
