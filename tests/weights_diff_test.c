#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/json.h"
#include "samples/generate/v3_layout.h"
#include "tests/bundle_support.h"
#include "tests/convert_support.h"
#include "tests/ct.h"
#include "verify/weights_diff.h"

/* ---- numbers made from names, so that a checkpoint of another storage can have the same ones ---- */

static uint64_t mix(uint64_t h)
{
    h = (h ^ (h >> 31)) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

static uint64_t seed_of(const char *name)
{
    return hash_key(name, strlen(name));
}

static uint64_t noise(uint64_t seed, uint64_t i)
{
    return mix(seed + mix(i + 1));
}

/* No NaN, no zero. */
static uint8_t fp8_code(uint64_t seed, uint64_t i)
{
    return (uint8_t)((noise(seed, i) & 0xbf) | 0x08);
}

/* Written from the format's description, not shared with the decoder under test. */
static double fp8_value(uint8_t code)
{
    int exponent = (code >> 3) & 15, mantissa = code & 7;
    double value = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);

    return code & 0x80 ? -value : value;
}

static float scale_value(uint64_t seed, uint64_t i)
{
    return (float)ldexp(1.0 + (double)(noise(seed, i) % 1000) / 1000, -8);
}

static uint16_t to_bf16(float x)
{
    uint32_t u;

    memcpy(&u, &x, 4);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

/* What one side does differently. */
enum plant {
    PLANT_NONE,
    PLANT_ONE_CODE, /* the victim's byte 100 is another finite code */
    PLANT_ULP,      /* the victim's value 5 is the next one */
    PLANT_NAN_CODE, /* the victim's code 300 is NaN */
    PLANT_NAN_BF16, /* the victim's value 7 is */
    PLANT_HALF,     /* the victim's values are half of what they should be: a scale lost */
    PLANT_DROP,
    PLANT_OTHER_SHAPE,
    PLANT_CACHE, /* the victim's name becomes that of a stale cache */
};

struct side {
    enum plant plant;
    const char *victim;
    bool decoded; /* BF16 matrices hold what the FP8 ones would decode to */
};

static bool is_victim(const struct side *s, const struct tensor *t)
{
    return s->victim && strcmp(t->name, s->victim) == 0;
}

static bool edit(void *ctx, struct tensor *t)
{
    const struct side *s = ctx;

    if (!is_victim(s, t))
        return true;
    if (s->plant == PLANT_OTHER_SHAPE)
        t->dims[0]--;
    if (s->plant == PLANT_CACHE) {
        t->name = "model.layers.1.self_attn.rotary_emb.inv_freq";
        t->dims[0] = 16;
    }
    return s->plant != PLANT_DROP;
}

static bool was_fp8(const char *name)
{
    return strstr(name, "_proj") && !strstr(name, "eh_proj");
}

/* The matrix as rows of decoded FP8. */
static void fill_decoded(const struct tensor *t, float factor, uint16_t *to)
{
    char scale[256];
    uint64_t n = tensor_elems(t), cols = t->dims[1], seed = seed_of(t->name);

    snprintf(scale, sizeof scale, "%s_scale_inv", t->name);
    uint64_t scale_seed = seed_of(scale);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t block = i / cols / 128 * ((cols + 127) / 128) + i % cols / 128;
        to[i] = to_bf16((float)fp8_value(fp8_code(seed, i)) * scale_value(scale_seed, block) * factor);
    }
}

static void fill(void *ctx, const struct tensor *t, void *data)
{
    const struct side *s = ctx;
    enum plant plant = is_victim(s, t) ? s->plant : PLANT_NONE;
    float factor = plant == PLANT_HALF ? 0.5f : 1.0f;
    uint64_t n = tensor_elems(t), seed = seed_of(t->name);
    uint8_t *codes = data;
    uint16_t *halves = data;
    float *words = data;

    if (s->decoded && was_fp8(t->name))
        fill_decoded(t, factor, halves);
    else
        for (uint64_t i = 0; i < n; i++) {
            if (t->dtype == DTYPE_F8_E4M3)
                codes[i] = fp8_code(seed, i);
            else if (t->dtype == DTYPE_BF16)
                halves[i] = to_bf16((float)(noise(seed, i) % 4001) / 4000.0f - 0.45f);
            else
                words[i] = scale_value(seed, i) * factor;
        }
    if (plant == PLANT_ONE_CODE)
        codes[100] ^= 0x01;
    if (plant == PLANT_NAN_CODE)
        codes[300] = 0x7f;
    if (plant == PLANT_NAN_BF16)
        halves[7] = 0x7fc0;
    if (plant == PLANT_ULP)
        halves[5] ^= 1;
}

/* ---- two sides, compared ---- */

struct pair {
    struct source ref, cand;
    struct weights_diff diff;
    struct buf text, json;
};

static bool open_side(struct source *source, enum v3_store store, struct side *side)
{
    struct v3_layout l;
    struct err e = {0};
    const char *dir = ct_temp_dir();

    v3_layout_small(&l);
    l.store = store;
    side->decoded = store == V3_BF16;
    l.edit = edit;
    l.fill = fill;
    l.ctx = side;
    EXPECT_OK(v3_layout_write(&l, dir, &e) && source_open(source, dir, true, &e), e);
    return e.code == ERR_NONE;
}

static bool compare(struct pair *p, unsigned threads)
{
    struct weights_diff_job job = {.threads = threads, .quiet = true};
    struct weights_show show = {.ref = "REF", .cand = "CAND"};
    struct err e = {0};

    EXPECT_OK(weights_diff_run(&p->diff, &p->ref, &p->cand, &job, &e), e);
    if (e.code != ERR_NONE)
        return false;
    weights_print_text(&p->diff, &show, &p->text);
    weights_print_json(&p->diff, &show, &p->json);
    return true;
}

static bool pair_open(struct pair *p, struct side *ref, enum v3_store cand_store, struct side *cand)
{
    *p = (struct pair){0};
    return open_side(&p->ref, V3_FP8, ref) && open_side(&p->cand, cand_store, cand) && compare(p, 2);
}

static void pair_release(struct pair *p)
{
    buf_release(&p->text);
    buf_release(&p->json);
    weights_diff_release(&p->diff);
    source_close(&p->ref);
    source_close(&p->cand);
}

static const struct weight_diff *find(const struct pair *p, const char *name)
{
    for (size_t i = 0; i < p->diff.count; i++)
        if (strcmp(p->diff.items[i].name, name) == 0)
            return &p->diff.items[i];
    return NULL;
}

TEST(weights_diff, a_checkpoint_agrees_with_itself)
{
    struct side side = {0};
    struct pair p;

    if (pair_open(&p, &side, V3_FP8, &side)) {
        EXPECT_EQ_U64(0, p.diff.unexpected_count);
        for (size_t i = 0; i < p.diff.count; i++)
            EXPECT_TRUE(p.diff.items[i].identical && p.diff.items[i].error2 == 0 && p.diff.items[i].energy2 > 0);
        EXPECT_STR_HAS(p.text.data, "verdict: all 135 weights agree");
    }
    pair_release(&p);
}

#define EXPERT "model.layers.2.mlp.experts.5.up_proj.weight"
#define ROUTER "model.layers.1.mlp.gate.weight"
#define NORM   "model.layers.0.input_layernorm.weight"
#define EMBED  "model.embed_tokens.weight"

static const struct row {
    const char *name;
    enum plant plant;
    const char *victim;
    bool in_ref; /* else in CAND */
    const char *weight, *want;
} rows[] = {
    {"one code", PLANT_ONE_CODE, EXPERT, false, EXPERT, ": 1 value differs (relative error "},
    {"router", PLANT_ULP, ROUTER, false, ROUTER, "but it must never change"},
    {"norm", PLANT_ULP, NORM, false, NORM, "but it must never change"},
    {"embedding", PLANT_ULP, EMBED, false, EMBED, "but it is stored alike"},
    {"scale", PLANT_HALF, EXPERT "_scale_inv", false, EXPERT, "(relative error 0.5), but it is stored alike"},
    {"missing", PLANT_DROP, NORM, false, NORM, "missing in CAND"},
    {"extra", PLANT_DROP, NORM, true, NORM, "not in REF"},
    {"NaN code", PLANT_NAN_CODE, EXPERT, false, EXPERT, ": CAND: "},
    {"NaN code in REF", PLANT_NAN_CODE, EXPERT, true, EXPERT, ": REF: "},
    {"NaN", PLANT_NAN_BF16, NORM, false, NORM, ": CAND: "},
};

TEST(weights_diff, what_storage_does_not_explain_is_named)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct side sides[2] = {{0}, {0}};
        struct pair p;
        ct_case("%s", rows[i].name);
        sides[rows[i].in_ref ? 0 : 1] = (struct side){.plant = rows[i].plant, .victim = rows[i].victim};
        if (pair_open(&p, &sides[0], V3_FP8, &sides[1])) {
            const struct weight_diff *w = find(&p, rows[i].weight);
            EXPECT_EQ_U64(1, p.diff.unexpected_count);
            EXPECT_TRUE(w && w->unexpected);
            EXPECT_STR_HAS(p.text.data, rows[i].want);
            EXPECT_STR_HAS(p.text.data, rows[i].weight);
            EXPECT_STR_HAS(p.text.data, "verdict: 1 of 135 weights differ");
        }
        pair_release(&p);
    }
}

TEST(weights_diff, one_changed_code_is_one_value_of_known_size)
{
    struct side ref = {0}, cand = {.plant = PLANT_ONE_CODE, .victim = EXPERT};
    struct pair p;

    if (pair_open(&p, &ref, V3_FP8, &cand)) {
        const struct weight_diff *w = find(&p, EXPERT);
        uint8_t code = fp8_code(seed_of(EXPERT), 100);
        double delta =
            fabs(fp8_value(code) - fp8_value(code ^ 1)) * (double)scale_value(seed_of(EXPERT "_scale_inv"), 0);
        EXPECT_TRUE(w != NULL);
        if (w) {
            EXPECT_EQ_U64(1, w->differing);
            EXPECT_NEAR_F64(delta, w->max_abs, delta * 1e-6);
            EXPECT_NEAR_F64(delta * delta, w->error2, delta * delta * 1e-6);
        }
    }
    pair_release(&p);
}

/* A shape that config.json does not promise never gets past the reader: the vocabulary is promised too. */
TEST(weights_diff, two_sizes_of_vocabulary_are_a_different_shape)
{
    struct v3_layout l;
    struct side side = {0};
    struct pair p = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir();

    v3_layout_small(&l);
    l.vocab = 328;
    l.fill = fill;
    l.ctx = &side;
    ASSERT_OK(v3_layout_write(&l, dir, &e), e);
    if (open_side(&p.ref, V3_FP8, &side)) {
        EXPECT_OK(source_open(&p.cand, dir, true, &e), e);
        if (e.code == ERR_NONE && compare(&p, 1)) {
            EXPECT_EQ_U64(4, p.diff.unexpected_count); /* embedding and head, and MTP's copies */
            EXPECT_STR_HAS(p.text.data, "shape is [320, 256] in REF and [328, 256] in CAND");
        }
    }
    pair_release(&p);
}

TEST(weights_diff, fp8_decoded_to_bf16_is_what_rounding_explains)
{
    struct side ref = {0}, cand = {0};
    struct pair p;

    if (pair_open(&p, &ref, V3_BF16, &cand)) {
        const struct weight_diff *w = find(&p, EXPERT);
        EXPECT_EQ_U64(0, p.diff.unexpected_count);
        EXPECT_TRUE(w && w->error2 > 0 && weight_diff_relative(w) < 0x1p-9);
        EXPECT_STR_HAS(p.text.data, "fp8 128x128 -> BF16");
        EXPECT_STR_HAS(p.text.data, "verdict: all 135 weights agree");
    }
    pair_release(&p);
}

TEST(weights_diff, a_lost_scale_is_past_what_rounding_explains)
{
    struct side ref = {0}, cand = {.plant = PLANT_HALF, .victim = EXPERT};
    struct pair p;

    if (pair_open(&p, &ref, V3_BF16, &cand)) {
        EXPECT_EQ_U64(1, p.diff.unexpected_count);
        EXPECT_STR_HAS(p.text.data, EXPERT ": relative error 0.5 is past the 0.00391 that BF16 explains");
    }
    pair_release(&p);
}

TEST(weights_diff, a_dropped_rope_cache_is_expected)
{
    struct side ref = {.plant = PLANT_CACHE, .victim = "model.layers.3.enorm.weight"};
    struct side cand = {.plant = PLANT_DROP, .victim = "model.layers.3.enorm.weight"};
    struct pair p;

    if (pair_open(&p, &ref, V3_FP8, &cand)) {
        EXPECT_EQ_U64(0, p.diff.unexpected_count);
        EXPECT_STR_HAS(p.text.data, "BF16 -> absent");
    }
    pair_release(&p);
}

TEST(weights_diff, the_report_does_not_depend_on_threads)
{
    static const unsigned threads[] = {1, 2, 7};
    struct side ref = {0}, cand = {.plant = PLANT_ONE_CODE, .victim = EXPERT};
    struct buf first = {0};

    for (size_t i = 0; i < 3; i++) {
        struct pair p = {0};
        ct_case("%u threads", threads[i]);
        if (open_side(&p.ref, V3_FP8, &ref) && open_side(&p.cand, V3_BF16, &cand) && compare(&p, threads[i])) {
            if (i == 0)
                buf_add(&first, p.json.data, p.json.bytes);
            EXPECT_STR_EQ(first.data, p.json.data);
        }
        pair_release(&p);
    }
    buf_release(&first);
}

TEST(weights_diff, the_json_report_has_every_weight)
{
    struct side ref = {0}, cand = {.plant = PLANT_DROP, .victim = NORM};
    struct pair p;
    struct json_doc d = {0};
    struct err e = {0};

    if (pair_open(&p, &ref, V3_FP8, &cand)) {
        EXPECT_OK(json_parse(&d, p.json.data, p.json.bytes, JSON_STRICT, &e), e);
        if (e.code == ERR_NONE) {
            EXPECT_EQ_U64(p.diff.count, json_count(json_get(d.root, "weights")));
            EXPECT_FALSE(json_bool(json_get(d.root, "agree")));
        }
    }
    json_release(&d);
    pair_release(&p);
}

/* Of the sample: 21 norms, 4 routers and their 4 biases, 3 norms of the MTP layer. */
TEST(weights_diff, exact_only_compares_what_must_never_change)
{
    struct weights_diff_job job = {.threads = 2, .quiet = true, .exact_only = true};
    struct weights_diff d = {0};
    struct source s = {0};
    struct err e = {0};
    size_t compared = 0, skipped = 0;

    ASSERT_OK(source_open(&s, "samples/tiny-v3", true, &e), e);
    ASSERT_OK(weights_diff_run(&d, &s, &s, &job, &e), e);
    for (size_t i = 0; i < d.count; i++) {
        compared += d.items[i].compared;
        skipped += d.items[i].skipped;
        EXPECT_TRUE(d.items[i].compared == role_get(d.items[i].ref->id.role)->exact);
        EXPECT_TRUE(d.items[i].compared != d.items[i].skipped);
    }
    EXPECT_EQ_U64(32, compared);
    EXPECT_EQ_U64(d.count, compared + skipped);
    EXPECT_EQ_U64(0, d.unexpected_count);
    EXPECT_TRUE(d.read_bytes < 200000);
    weights_diff_release(&d);
    source_close(&s);
}

/* ---- calibrated bundles ---- */

#define SAMPLE "samples/tiny-v3"

/* Compares the sample with a bundle, which the caller closes with pair_release. */
static bool against_sample(struct pair *p, const char *bundle)
{
    struct err e = {0};

    *p = (struct pair){0};
    EXPECT_OK(source_open(&p->ref, SAMPLE, true, &e) && source_open(&p->cand, bundle, true, &e), e);
    return e.code == ERR_NONE && compare(p, 2);
}

static const char *made(struct arena *a, const char *recipe)
{
    const char *dir = ct_temp_dir(), *dst = path_join(a, dir, "out");
    struct conversion_case c = {.recipe = recipe, .threads = 2, .ids = support_ids(a, dir)};
    struct err e = {0};

    EXPECT_OK(support_convert(SAMPLE, dst, &c, &e), e);
    return dst;
}

/* The matrix that calibration took the furthest. */
static struct manifest_row *furthest(struct manifest *m)
{
    struct manifest_row *most = &m->rows[0];

    for (size_t i = 0; i < m->row_count; i++)
        most = m->rows[i].error > most->error ? &m->rows[i] : most;
    return most;
}

static void record_less(struct manifest *m, struct arena *a)
{
    (void)a;
    furthest(m)->error *= 0.999;
}

static void record_no_calibration(struct manifest *m, struct arena *a)
{
    (void)a;
    furthest(m)->calibration = NULL;
}

/* With 64 tokens some down_proj of layer 2 is 0.24 from the source, and rounding explains 0.2. */
TEST(weights_diff, a_calibrated_weight_may_be_as_far_off_as_is_recorded)
{
    static const struct {
        const char *name;
        void (*edit)(struct manifest *m, struct arena *a);
        const char *want;
    } cases[] = {
        {"as made", NULL, "verdict: all 269 weights agree"},
        {"further off than recorded", record_less, " that quern.json records of it"},
        {"not calibrated", record_no_calibration, " is past the 0.2 that int4 g128 explains"},
    };
    struct arena a = {0};
    const char *bundle = made(&a, "[{\"match\": [\"routed_expert\"], \"scheme\": \"int4\", \"method\": \"ldlq\"}, "
                                  "{\"match\": \"*\", \"scheme\": \"bf16\"}]");

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *copy = path_join(&a, ct_temp_dir(), "copy");
        struct pair p;
        ct_case("%s", cases[i].name);
        bundle_copy(bundle, copy);
        if (cases[i].edit)
            bundle_edit_manifest(copy, cases[i].edit);
        if (against_sample(&p, copy)) {
            EXPECT_TRUE((p.diff.unexpected_count > 0) == (i > 0));
            EXPECT_STR_HAS(p.text.data, cases[i].want);
        }
        pair_release(&p);
    }
    arena_release(&a);
}

TEST(weights_diff, static_activation_scales_belong_to_a_way_of_storing)
{
    struct arena a = {0};
    const char *bundle = made(&a, "[{\"match\": [\"dense_mlp\"], \"scheme\": \"fp8-static\"}, "
                                  "{\"match\": \"*\", \"scheme\": \"bf16\"}]");
    struct pair p;

    if (against_sample(&p, bundle)) {
        EXPECT_EQ_U64(0, p.diff.unexpected_count);
        EXPECT_STR_HAS(p.text.data, "fp8 128x128 -> fp8 tensor");
    }
    pair_release(&p);
    arena_release(&a);
}
