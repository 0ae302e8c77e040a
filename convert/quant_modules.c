#include "convert/quant_modules.h"

#include <assert.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define BIT(role)    (UINT64_C(1) << (role))

static_assert(ROLE_COUNT <= 64, "a set of roles is a word");

/* What stands behind "model.layers.N." for a set of roles; larger sets first, so that lists come out short. Every
 * pattern ends in $ or .*, since engines hold them against the start of a name only: "mlp\.gate" would be mlp.gate_proj
 * as well. gate_up is what vLLM and SGLang call the fused pair. */
#define ATTENTION                                                                                                      \
    (BIT(ROLE_Q_PROJ) | BIT(ROLE_Q_A_PROJ) | BIT(ROLE_Q_B_PROJ) | BIT(ROLE_KV_A_PROJ) | BIT(ROLE_KV_B_PROJ) |          \
     BIT(ROLE_O_PROJ))
#define INDEXER (BIT(ROLE_INDEXER_PROJ) | BIT(ROLE_INDEXER_WEIGHTS))
static const struct family {
    uint64_t roles;
    const char *tail;
} families[] = {
    {ATTENTION | INDEXER, "self_attn\\..*"},
    {BIT(ROLE_EXPERT_GATE) | BIT(ROLE_EXPERT_UP) | BIT(ROLE_EXPERT_DOWN), "mlp\\.experts\\..*"},
    {BIT(ROLE_SHARED_GATE) | BIT(ROLE_SHARED_UP) | BIT(ROLE_SHARED_DOWN), "mlp\\.shared_experts\\..*"},
    {BIT(ROLE_DENSE_GATE) | BIT(ROLE_DENSE_UP) | BIT(ROLE_DENSE_DOWN), "mlp\\.(gate|up|gate_up|down)_proj$"},
    {INDEXER, "self_attn\\.indexer\\..*"},
    {BIT(ROLE_Q_PROJ), "self_attn\\.q_proj$"},
    {BIT(ROLE_Q_A_PROJ), "self_attn\\.q_a_proj$"},
    {BIT(ROLE_Q_B_PROJ), "self_attn\\.q_b_proj$"},
    {BIT(ROLE_KV_A_PROJ), "self_attn\\.kv_a_proj_with_mqa$"},
    {BIT(ROLE_KV_B_PROJ), "self_attn\\.kv_b_proj$"},
    {BIT(ROLE_O_PROJ), "self_attn\\.o_proj$"},
    {BIT(ROLE_INDEXER_PROJ), "self_attn\\.indexer\\.(wq_b|wk)$"},
    {BIT(ROLE_INDEXER_WEIGHTS), "self_attn\\.indexer\\.weights_proj$"},
    {BIT(ROLE_DENSE_GATE), "mlp\\.gate_proj$"},
    {BIT(ROLE_DENSE_UP), "mlp\\.up_proj$"},
    {BIT(ROLE_DENSE_DOWN), "mlp\\.down_proj$"},
    {BIT(ROLE_SHARED_GATE), "mlp\\.shared_experts\\.gate_proj$"},
    {BIT(ROLE_SHARED_UP), "mlp\\.shared_experts\\.up_proj$"},
    {BIT(ROLE_SHARED_DOWN), "mlp\\.shared_experts\\.down_proj$"},
    {BIT(ROLE_EXPERT_GATE), "mlp\\.experts\\.[0-9]+\\.gate_proj$"},
    {BIT(ROLE_EXPERT_UP), "mlp\\.experts\\.[0-9]+\\.up_proj$"},
    {BIT(ROLE_EXPERT_DOWN), "mlp\\.experts\\.[0-9]+\\.down_proj$"},
    {BIT(ROLE_ROUTER), "mlp\\.gate$"},
    {BIT(ROLE_MTP_PROJ), "eh_proj$"},
    {BIT(ROLE_MTP_HEAD), "shared_head\\.head$"},
};

bool scheme_is_quantized(const struct scheme *s)
{
    return s->kind != SCHEME_RAW && s->kind != SCHEME_PLAIN;
}

/* ---- the modules ---- */

static bool ends_with(const char *s, const char *end)
{
    size_t bytes = strlen(s), end_bytes = strlen(end);

    return bytes >= end_bytes && strcmp(s + bytes - end_bytes, end) == 0;
}

static bool is_linear(const struct weight *w)
{
    if (w->id.part == NAME_BIAS || w->id.part == NAME_INPUT_SCALE)
        return false;
    if (w->id.role != ROLE_UNKNOWN)
        return role_get(w->id.role)->linear;
    return w->parts[PART_CODES]->rank == 2 && ends_with(w->name, ".weight");
}

void modules_collect(struct modules *m, struct arena *a, const struct engine_weight *rows, size_t count)
{
    m->items = arena_array(a, count ? count : 1, sizeof *m->items);
    m->count = 0;
    for (size_t i = 0; i < count; i++) {
        const struct weight *w = rows[i].weight;
        if (is_linear(w))
            m->items[m->count++] = (struct module){
                .name = w->module,
                .role = w->id.role,
                .layer = w->id.layer,
                .scheme = rows[i].scheme,
                .stored = &w->stored,
            };
    }
}

/* ---- covering a set of them ---- */

struct cover {
    const struct modules *modules;
    struct arena *arena;
    uint32_t set;
    bool *done;         /* one per module */
    size_t layer_count; /* of the tallies below */
    struct tally {
        size_t members, inside, left; /* modules of the family; those in the set; those of them not done yet */
    } * layers;
    struct entries *out;
};

static bool in_family(const struct module *m, const struct family *f)
{
    return m->role != ROLE_UNKNOWN && (f->roles & BIT(m->role)) != 0;
}

static void add_entry(struct cover *c, const char *text)
{
    c->out->items[c->out->count++] = text;
}

static struct tally tally_family(struct cover *c, const struct family *f)
{
    struct tally all = {0};

    memset(c->layers, 0, c->layer_count * sizeof *c->layers);
    for (size_t i = 0; i < c->modules->count; i++) {
        const struct module *m = &c->modules->items[i];
        struct tally none, *layer = m->layer >= 0 ? &c->layers[m->layer] : &none;
        if (!in_family(m, f))
            continue;
        bool inside = m->set == c->set, left = inside && !c->done[i];
        all.members++, all.inside += inside, all.left += left;
        if (m->layer >= 0)
            layer->members++, layer->inside += inside, layer->left += left;
    }
    return all;
}

static bool is_whole(const struct tally *t)
{
    return t->left > 0 && t->inside == t->members;
}

/* Marks the family's modules, of all layers or of the whole ones, as done; returns the last of them. */
static const struct module *mark(struct cover *c, const struct family *f, bool by_layer)
{
    const struct module *last = NULL;

    for (size_t i = 0; i < c->modules->count; i++) {
        const struct module *m = &c->modules->items[i];
        if (!in_family(m, f) || (by_layer && (m->layer < 0 || !is_whole(&c->layers[m->layer]))))
            continue;
        c->done[i] = true;
        last = m;
    }
    return last;
}

/* "model\.layers\." of "model.layers.3.mlp.gate"; NULL: not in a layer. */
static char *layers_prefix(struct arena *a, const char *module)
{
    const char *layers = strstr(module, "layers.");
    struct buf text = {0};

    if (!layers)
        return NULL;
    for (const char *p = module; p < layers + strlen("layers."); p++)
        buf_printf(&text, "%s%c", *p == '.' ? "\\" : "", *p);
    char *prefix = arena_strdup(a, text.data);
    buf_release(&text);
    return prefix;
}

static void cover_layers(struct cover *c, const struct family *f)
{
    struct buf layers = {0};
    size_t whole = 0;

    for (size_t i = 0; i < c->layer_count; i++)
        if (is_whole(&c->layers[i]))
            buf_printf(&layers, "%s%zu", whole++ ? "|" : "", i);
    if (whole > 0) {
        const struct module *last = mark(c, f, true);
        const char *prefix = layers_prefix(c->arena, last->name);
        add_entry(c, arena_printf(c->arena, whole > 1 ? "re:%s(%s)\\.%s" : "re:%s%s\\.%s", prefix ? prefix : ".*",
                                  layers.data, f->tail));
    }
    buf_release(&layers);
}

static void cover_family(struct cover *c, const struct family *f)
{
    struct tally all = tally_family(c, f);

    if (all.left == 0 || all.members == 1)
        return; /* one module: its name says it better */
    if (is_whole(&all)) {
        mark(c, f, false);
        add_entry(c, arena_printf(c->arena, "re:.*%s", f->tail));
    } else {
        cover_layers(c, f);
    }
}

void modules_cover(const struct modules *m, struct arena *a, uint32_t set, struct entries *out)
{
    struct cover c = {.modules = m, .arena = a, .set = set, .out = out};

    for (size_t i = 0; i < m->count; i++)
        if (m->items[i].layer >= (int64_t)c.layer_count)
            c.layer_count = (size_t)m->items[i].layer + 1;
    c.done = arena_array(a, m->count + 1, sizeof *c.done);
    c.layers = arena_array(a, c.layer_count + 1, sizeof *c.layers);
    *out = (struct entries){.items = arena_array(a, m->count + COUNT(families), sizeof *out->items)};
    for (size_t i = 0; i < COUNT(families); i++)
        cover_family(&c, &families[i]);
    for (size_t i = 0; i < m->count; i++)
        if (m->items[i].set == set && !c.done[i])
            add_entry(&c, m->items[i].name);
}

/* ---- reading such a list ---- */

bool name_list_add(struct name_list *l, const char *entry, struct err *e)
{
    if (strncmp(entry, "re:", 3) != 0) {
        map_put(&l->names, entry, 0); /* there already is fine */
        return true;
    }
    l->patterns = mem_grow(l->patterns, l->pattern_count + 1, sizeof *l->patterns);
    l->patterns[l->pattern_count] = (struct pattern){0};
    return pattern_compile(&l->patterns[l->pattern_count++], entry + 3, e);
}

bool name_list_match(const struct name_list *l, const char *module)
{
    if (map_get(&l->names, module) != MAP_NONE)
        return true;
    for (size_t i = 0; i < l->pattern_count; i++)
        if (pattern_match(&l->patterns[i], module))
            return true;
    return false;
}

void name_list_release(struct name_list *l)
{
    for (size_t i = 0; i < l->pattern_count; i++)
        pattern_release(&l->patterns[i]);
    mem_free(l->patterns);
    map_release(&l->names);
    *l = (struct name_list){0};
}
