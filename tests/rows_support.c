#include "tests/rows_support.h"

#include <inttypes.h>
#include <string.h>

#include "tests/ct.h"

const struct scheme stored_bf16 = {.kind = SCHEME_PLAIN, .dtype = DTYPE_BF16};
const struct scheme stored_fp8 = {
    .kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32, .block_rows = 128, .block_cols = 128};
const struct scheme stored_int4_g32 = {.kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = 32};
static const struct scheme stored_f32 = {.kind = SCHEME_PLAIN, .dtype = DTYPE_F32};

static void grow(struct rows *r)
{
    if (r->count < r->room)
        return;
    r->room = r->room ? r->room * 2 : 256;
    r->weights = mem_grow(r->weights, r->room, sizeof *r->weights);
    r->schemes = mem_grow(r->schemes, r->room, sizeof *r->schemes);
    r->choices = mem_grow(r->choices, r->room, sizeof *r->choices);
    r->items = mem_grow(r->items, r->room, sizeof *r->items);
    /* Growing moved what the items point at. */
    for (size_t i = 0; i < r->room; i++)
        r->items[i] = (struct engine_weight){.weight = &r->weights[i], .scheme = &r->schemes[i]};
}

struct weight *rows_add(struct rows *r, const char *module, uint64_t rows, uint64_t cols, const struct scheme *stored)
{
    struct tensor *codes = arena_alloc(&r->arena, sizeof *codes);
    bool bare = strstr(module, "e_score_correction_bias") != NULL;

    grow(r);
    struct weight *w = &r->weights[r->count];
    *w = (struct weight){
        .module = arena_strdup(&r->arena, module), .stored = *stored, .rows = rows ? rows : 1, .cols = cols};
    w->name = bare ? w->module : arena_printf(&r->arena, "%s.weight", module);
    codes->name = w->name;
    codes->dtype = stored->dtype;
    codes->rank = rows ? 2 : 1;
    codes->dims[0] = rows ? rows : cols;
    codes->dims[1] = rows ? cols : 0;
    w->parts[PART_CODES] = codes;
    arch_identify(&r->arch, w->name, &w->id);
    r->schemes[r->count] = *stored;
    r->choices[r->count] = (struct choice){0};
    r->count++;
    return w;
}

struct filling {
    struct rows *rows;
    const struct scheme *linear;
};

static void add_module(void *ctx, const char *module, enum role role, uint64_t rows, uint64_t cols)
{
    const struct filling *f = ctx;

    if (role == ROLE_ROUTER_BIAS)
        rows_add(f->rows, module, 0, cols, &stored_f32);
    else
        rows_add(f->rows, module, rows, cols, role_get(role)->quantizable ? f->linear : &stored_bf16);
}

/* V3.2's lightning indexer, 64 heads of 128. */
static void add_indexer(struct rows *r, uint64_t layer, const struct scheme *linear)
{
    const char *base = arena_printf(&r->arena, "model.layers.%" PRIu64 ".self_attn.indexer.", layer);

    rows_add(r, arena_printf(&r->arena, "%swq_b", base), 8192, r->arch.q_lora_rank, linear);
    rows_add(r, arena_printf(&r->arena, "%swk", base), 128, r->arch.hidden_size, linear);
    rows_add(r, arena_printf(&r->arena, "%sweights_proj", base), 64, r->arch.hidden_size, &stored_bf16);
    rows_add(r, arena_printf(&r->arena, "%sk_norm", base), 0, 128, &stored_f32);
}

struct model rows_small_model(void)
{
    struct model m = models[MODEL_V32];

    m.layers = 5;
    m.first_dense = 2;
    m.experts = 8;
    m.top_k = 2;
    m.groups = 2;
    m.topk_groups = 1;
    return m;
}

void rows_model(struct rows *r, const struct model *m, const struct scheme *linear)
{
    struct filling f = {r, linear};
    struct err e = {0};

    r->config = model_config(&r->arena, m);
    ASSERT_OK(arch_parse(&r->arch, &r->arena, r->config, strlen(r->config), &e), e);
    model_modules(&r->arch, add_module, &f);
    for (uint64_t i = 0; strcmp(m->model_type, "deepseek_v32") == 0 && i < arch_layers_stored(&r->arch); i++)
        add_indexer(r, i, linear);
}

bool rows_choose(struct rows *r, const char *recipe, struct err *e)
{
    struct recipe parsed = {0};
    bool ok;

    if (recipe[0] == '{')
        ok = recipe_parse(&parsed, "test", recipe, strlen(recipe), e);
    else if (strncmp(recipe, "to:", 3) == 0)
        ok = recipe_to(&parsed, recipe + 3, e);
    else
        ok = recipe_load(&parsed, recipe, e);
    for (size_t i = 0; ok && i < r->count; i++) {
        ok = recipe_choose(&parsed, &r->arena, &r->arch, &r->weights[i], &r->choices[i], e);
        r->schemes[i] = r->choices[i].scheme;
    }
    recipe_release(&parsed);
    return ok;
}

const struct choice *rows_choice(const struct rows *r, const char *module)
{
    for (size_t i = 0; i < r->count; i++)
        if (strcmp(r->weights[i].module, module) == 0)
            return &r->choices[i];
    EXPECT_STR_EQ(module, "a module of the model");
    return NULL;
}

void rows_release(struct rows *r)
{
    mem_free(r->weights);
    mem_free(r->schemes);
    mem_free(r->choices);
    mem_free(r->items);
    arena_release(&r->arena);
    *r = (struct rows){0};
}
