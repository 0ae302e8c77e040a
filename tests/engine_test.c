#include "formats/engine.h"

#include <stdio.h>
#include <string.h>

#include "tests/ct.h"

static const struct scheme bf16 = {.kind = SCHEME_PLAIN, .dtype = DTYPE_BF16};
static const struct scheme raw_bf16 = {.kind = SCHEME_RAW, .dtype = DTYPE_BF16};
static const struct scheme fp8 = {
    .kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32, .block_rows = 128, .block_cols = 128};
static const struct scheme e8m0 = {
    .kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = SCALE_E8M0, .block_rows = 128, .block_cols = 128};
static const struct scheme g16 = {.kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = 16};
static const struct scheme g32 = {.kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = 32};
static const struct scheme g128 = {.kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = 128};
static const struct scheme asym = {
    .kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = 32, .asymmetric = true};

/* One weight of a case; the list ends where module is NULL. */
struct member {
    const char *module;
    enum role role;
    int64_t layer, expert;
    uint64_t rows, cols;
    const struct scheme *scheme;
    enum name_part part;
};

#define MEMBERS_MAX 6
struct set {
    struct weight weights[MEMBERS_MAX];
    struct engine_weight list[MEMBERS_MAX];
    size_t count;
};

static void set_init(struct set *s, const struct member *m)
{
    memset(s, 0, sizeof *s);
    for (; s->count < MEMBERS_MAX && m[s->count].module; s->count++) {
        const struct member *from = &m[s->count];
        s->weights[s->count] = (struct weight){
            .module = from->module,
            .id = {.role = from->role, .layer = from->layer, .expert = from->expert, .part = from->part},
            .rows = from->rows,
            .cols = from->cols,
        };
        s->list[s->count] = (struct engine_weight){&s->weights[s->count], from->scheme};
    }
}

TEST(engine, fused_modules_must_share_a_scheme)
{
    static const struct row {
        const char *name;
        struct member members[MEMBERS_MAX];
        const char *want; /* NULL: accepted */
    } rows[] = {
        /* clang-format off */
        {"nothing", {{0}}, NULL},
        {"q_a and kv_a apart",
         {{"L0.q_a", ROLE_Q_A_PROJ, 0, -1, 1536, 7168, &fp8, 0}, {"L0.kv_a", ROLE_KV_A_PROJ, 0, -1, 576, 7168, &bf16, 0}},
         "'L0.q_a' is fp8 128x128, but 'L0.kv_a' is BF16: vLLM and SGLang load q_a_proj and kv_a_proj_with_mqa"},
        {"q_a and kv_a of two layers",
         {{"L0.q_a", ROLE_Q_A_PROJ, 0, -1, 1536, 7168, &fp8, 0}, {"L1.kv_a", ROLE_KV_A_PROJ, 1, -1, 576, 7168, &bf16, 0}},
         NULL},
        {"dense gate and up apart, and down far away",
         {{"L0.down", ROLE_DENSE_DOWN, 0, -1, 64, 64, &bf16, 0}, {"L0.gate", ROLE_DENSE_GATE, 0, -1, 64, 64, &g32, 0},
          {"L0.up", ROLE_DENSE_UP, 0, -1, 64, 64, &g128, 0}},
         "'L0.gate' is int4 g32, but 'L0.up' is int4 g128"},
        {"down may differ from gate and up",
         {{"L0.down", ROLE_DENSE_DOWN, 0, -1, 64, 64, &bf16, 0}, {"L0.gate", ROLE_DENSE_GATE, 0, -1, 64, 64, &g32, 0},
          {"L0.up", ROLE_DENSE_UP, 0, -1, 64, 64, &g32, 0}}, NULL},
        {"shared gate and up apart",
         {{"L3.gate", ROLE_SHARED_GATE, 3, -1, 64, 64, &g32, 0}, {"L3.up", ROLE_SHARED_UP, 3, -1, 64, 64, &fp8, 0}},
         "shared experts"},
        {"shared and routed experts may differ",
         {{"L3.s", ROLE_SHARED_GATE, 3, -1, 64, 64, &g32, 0}, {"L3.e", ROLE_EXPERT_GATE, 3, 0, 64, 64, &fp8, 0}}, NULL},
        {"one expert of a layer apart",
         {{"L3.e0.gate", ROLE_EXPERT_GATE, 3, 0, 64, 64, &g32, 0}, {"L3.e1.gate", ROLE_EXPERT_GATE, 3, 1, 64, 64, &g32, 0},
          {"L3.e2.gate", ROLE_EXPERT_GATE, 3, 2, 64, 64, &fp8, 0}},
         "'L3.e0.gate' is int4 g32, but 'L3.e2.gate' is fp8 128x128: vLLM and SGLang run all experts"},
        {"an expert's down apart from its gate",
         {{"L3.e0.gate", ROLE_EXPERT_GATE, 3, 0, 64, 64, &g32, 0}, {"L3.e0.down", ROLE_EXPERT_DOWN, 3, 0, 64, 64, &g128, 0}},
         "int4 g128"},
        {"experts of another layer",
         {{"L3.e0.gate", ROLE_EXPERT_GATE, 3, 0, 64, 64, &g32, 0}, {"L4.e0.gate", ROLE_EXPERT_GATE, 4, 0, 64, 64, &fp8, 0}},
         NULL},
        {"a bias beside its matrix",
         {{"L0.q_a", ROLE_Q_A_PROJ, 0, -1, 64, 64, &fp8, 0}, {"L0.q_a", ROLE_Q_A_PROJ, 0, -1, 1, 64, &bf16, NAME_BIAS},
          {"L0.kv_a", ROLE_KV_A_PROJ, 0, -1, 64, 64, &fp8, 0}}, NULL},
        {"copied and converted bytes of one dtype",
         {{"L0.q_a", ROLE_Q_A_PROJ, 0, -1, 64, 64, &bf16, 0}, {"L0.kv_a", ROLE_KV_A_PROJ, 0, -1, 64, 64, &raw_bf16, 0}},
         NULL},
        /* clang-format on */
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct set s;
        struct err e = {0};
        ct_case("%s", rows[i].name);
        set_init(&s, rows[i].members);
        bool ok = engine_check_fused(s.list, s.count, &e);
        EXPECT_TRUE(ok == (rows[i].want == NULL));
        if (rows[i].want)
            EXPECT_ERR(e, ERR_UNSUPPORTED, rows[i].want);
    }
}

struct lines {
    size_t count;
    char text[4096];
};

static void keep(void *ctx, const char *rule, const char *line)
{
    struct lines *l = ctx;
    size_t used = strlen(l->text);

    l->count++;
    snprintf(l->text + used, sizeof l->text - used, "%s: %s\n", rule, line);
}

TEST(engine, limits_of_kernels_are_told_once_for_a_role)
{
    static const struct row {
        const char *name;
        struct member members[MEMBERS_MAX];
        size_t lines;
        const char *want; /* part of the first line, or NULL */
    } rows[] = {
        /* clang-format off */
        {"nothing", {{0}}, 0, NULL},
        {"V3's own sizes in FP8",
         {{"kv_a", ROLE_KV_A_PROJ, 0, -1, 576, 7168, &fp8, 0}, {"e", ROLE_EXPERT_GATE, 3, 0, 2048, 7168, &fp8, 0},
          {"s", ROLE_SHARED_GATE, 3, -1, 2048, 7168, &fp8, 0}}, 0, NULL},
        {"V3's own sizes in int4",
         {{"kv_a", ROLE_KV_A_PROJ, 0, -1, 576, 7168, &g128, 0}, {"e", ROLE_EXPERT_DOWN, 3, 0, 7168, 2048, &g128, 0}}, 0,
         NULL},
        {"packed kv_b", {{"kv_b", ROLE_KV_B_PROJ, 0, -1, 32768, 512, &g32, 0}}, 1,
         "kv-b-packed: 'kv_b' [32768, 512] as int4 g32: SGLang reads kv_b_proj.weight directly"},
        {"rows not in 64s", {{"q", ROLE_Q_PROJ, 0, -1, 96, 128, &g32, 0}}, 1,
         "engine-limit: 'q' [96, 128] as int4 g32: vLLM's Marlin kernel needs rows in 64s"},
        {"columns not in 128s", {{"q", ROLE_Q_PROJ, 0, -1, 64, 192, &g32, 0}}, 1, "columns in 128s"},
        {"an expert's width under the group", {{"e", ROLE_EXPERT_GATE, 3, 0, 64, 128, &g128, 0}}, 1, "expert width"},
        {"an expert's width as down has it", {{"e", ROLE_EXPERT_DOWN, 3, 0, 128, 96, &g32, 0}}, 1, "expert width"},
        {"a hidden size not in 128s", {{"e", ROLE_EXPERT_UP, 3, 0, 64, 192, &g32, 0}}, 1, "hidden size in 128s"},
        {"an odd group", {{"q", ROLE_Q_PROJ, 0, -1, 64, 128, &g16, 0}}, 1, "groups of 32, 64 and 128"},
        {"zero points of an expert", {{"e", ROLE_EXPERT_UP, 3, 0, 64, 128, &asym, 0}}, 1, "zero points"},
        {"fp8 rows cut by ranks", {{"q", ROLE_Q_PROJ, 0, -1, 64, 128, &fp8, 0}}, 1,
         "engine-refuses: 'q' [64, 128] as fp8 128x128: vLLM and SGLang refuse FP8 matrices that are not whole blocks"},
        {"fp8 rows that stay together", {{"o", ROLE_O_PROJ, 0, -1, 64, 128, &fp8, 0}}, 0, NULL},
        {"e8m0 scales", {{"q", ROLE_Q_PROJ, 0, -1, 128, 128, &e8m0, 0}}, 1, "F8_E8M0"},
        {"a head that is quantized", {{"lm_head", ROLE_HEAD, -1, -1, 128, 128, &fp8, 0}}, 1,
         "quantized-outside: "},
        {"many of one role",
         {{"e0", ROLE_EXPERT_UP, 3, 0, 64, 192, &g32, 0}, {"e1", ROLE_EXPERT_UP, 3, 1, 64, 192, &g32, 0},
          {"e2", ROLE_EXPERT_UP, 3, 2, 64, 192, &g32, 0}}, 1, "(and 2 more of role expert_up)"},
        {"two quantizations in one file",
         {{"q", ROLE_Q_PROJ, 0, -1, 128, 128, &fp8, 0}, {"e", ROLE_EXPERT_UP, 3, 0, 128, 128, &g32, 0}}, 1,
         "mixed-precision"},
        {"shared experts unlike routed ones",
         {{"s", ROLE_SHARED_GATE, 3, -1, 128, 128, &bf16, 0}, {"e", ROLE_EXPERT_GATE, 3, 0, 128, 128, &g32, 0}}, 1,
         "shared experts are BF16 and routed ones int4 g32"},
        /* clang-format on */
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lines l = {0};
        struct set s;
        ct_case("%s", rows[i].name);
        set_init(&s, rows[i].members);
        engine_check_limits(s.list, s.count, keep, &l);
        EXPECT_EQ_U64(rows[i].lines, l.count);
        if (rows[i].want)
            EXPECT_STR_HAS(l.text, rows[i].want);
    }
}

TEST(engine, a_set_of_fused_roles_has_one_leader)
{
    static const struct {
        enum role role, leader;
    } cases[] = {
        {ROLE_Q_A_PROJ, ROLE_Q_A_PROJ},       {ROLE_KV_A_PROJ, ROLE_Q_A_PROJ},    {ROLE_Q_B_PROJ, ROLE_Q_B_PROJ},
        {ROLE_DENSE_UP, ROLE_DENSE_GATE},     {ROLE_DENSE_DOWN, ROLE_DENSE_DOWN}, {ROLE_SHARED_UP, ROLE_SHARED_GATE},
        {ROLE_EXPERT_GATE, ROLE_EXPERT_GATE}, {ROLE_EXPERT_UP, ROLE_EXPERT_GATE}, {ROLE_EXPERT_DOWN, ROLE_EXPERT_GATE},
        {ROLE_UNKNOWN, ROLE_UNKNOWN},         {ROLE_ROPE_CACHE, ROLE_ROPE_CACHE},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ct_case("%s", role_get(cases[i].role)->name);
        EXPECT_EQ_I64(cases[i].leader, engine_fused_leader(cases[i].role));
    }
}
