#include "formats/engine.h"

#include <inttypes.h>
#include <stdio.h>

#include "formats/base/mem.h"

/* ---- what is loaded as one ---- */

enum fused { FUSED_NONE, FUSED_QKV_A, FUSED_DENSE, FUSED_SHARED, FUSED_EXPERTS, FUSED_COUNT };

static const enum fused fused_of[ROLE_COUNT] = {
    [ROLE_Q_A_PROJ] = FUSED_QKV_A,      [ROLE_KV_A_PROJ] = FUSED_QKV_A,    [ROLE_DENSE_GATE] = FUSED_DENSE,
    [ROLE_DENSE_UP] = FUSED_DENSE,      [ROLE_SHARED_GATE] = FUSED_SHARED, [ROLE_SHARED_UP] = FUSED_SHARED,
    [ROLE_EXPERT_GATE] = FUSED_EXPERTS, [ROLE_EXPERT_UP] = FUSED_EXPERTS,  [ROLE_EXPERT_DOWN] = FUSED_EXPERTS,
};

static const char *const fused_why[FUSED_COUNT] = {
    [FUSED_QKV_A] = "vLLM and SGLang load q_a_proj and kv_a_proj_with_mqa as one matrix",
    [FUSED_DENSE] = "vLLM and SGLang load gate_proj and up_proj as one matrix",
    [FUSED_SHARED] = "vLLM and SGLang load gate_proj and up_proj of the shared experts as one matrix",
    [FUSED_EXPERTS] = "vLLM and SGLang run all experts of a layer by the scheme of expert 0",
};

static enum fused fused_get(const struct weight *w)
{
    bool linear = w->id.part == NAME_WEIGHT || w->id.part == NAME_PACKED;

    return linear && w->id.layer >= 0 ? fused_of[w->id.role] : FUSED_NONE;
}

enum role engine_fused_leader(enum role role)
{
    enum role first = ROLE_UNKNOWN;

    while (fused_of[role] != FUSED_NONE && fused_of[first] != fused_of[role])
        first++;
    return fused_of[role] == FUSED_NONE ? role : first;
}

enum role engine_scale_partner(enum role role)
{
    enum fused f = fused_of[role];

    if (role == ROLE_EXPERT_GATE || role == ROLE_EXPERT_UP)
        return role == ROLE_EXPERT_GATE ? ROLE_EXPERT_UP : ROLE_EXPERT_GATE;
    for (enum role other = ROLE_UNKNOWN; f != FUSED_NONE && f != FUSED_EXPERTS && other < ROLE_COUNT; other++)
        if (other != role && fused_of[other] == f)
            return other;
    return ROLE_UNKNOWN;
}

static size_t layer_count(const struct engine_weight *w, size_t count)
{
    int64_t last = -1;

    for (size_t i = 0; i < count; i++)
        if (w[i].weight->id.layer > last)
            last = w[i].weight->id.layer;
    return (size_t)(last + 1);
}

/* Plain matrices are equal whether their source could be read as numbers or was only copied. */
static bool same_scheme(const struct scheme *a, const struct scheme *b)
{
    bool a_plain = a->kind == SCHEME_RAW || a->kind == SCHEME_PLAIN;
    bool b_plain = b->kind == SCHEME_RAW || b->kind == SCHEME_PLAIN;

    return a_plain && b_plain ? a->dtype == b->dtype : scheme_same_storage(a, b);
}

static bool differ(const struct engine_weight *a, const struct engine_weight *b, enum fused f, struct err *e)
{
    char a_text[SCHEME_TEXT], b_text[SCHEME_TEXT];

    return err_set(e, ERR_UNSUPPORTED, "'%s' is %s, but '%s' is %s: %s", a->weight->module,
                   scheme_text(a->scheme, a_text), b->weight->module, scheme_text(b->scheme, b_text), fused_why[f]);
}

bool engine_check_fused(const struct engine_weight *w, size_t count, struct err *e)
{
    /* The first member seen of each layer's sets. */
    const struct engine_weight **first = mem_alloc((layer_count(w, count) * FUSED_COUNT + 1) * sizeof(*first));
    bool ok = true;

    for (size_t i = 0; i < count && ok; i++) {
        enum fused f = fused_get(w[i].weight);
        if (f == FUSED_NONE)
            continue;
        const struct engine_weight **seen = &first[(size_t)w[i].weight->id.layer * FUSED_COUNT + f];
        if (!*seen)
            *seen = &w[i];
        else if (!same_scheme((*seen)->scheme, w[i].scheme))
            ok = differ(*seen, &w[i], f, e);
    }
    mem_free(first);
    return ok;
}

/* ---- what an engine refuses or runs slowly ---- */

static bool is_int4(const struct engine_weight *w)
{
    return w->scheme->kind == SCHEME_INT4;
}

static bool is_expert(const struct engine_weight *w)
{
    return fused_of[w->weight->id.role] == FUSED_EXPERTS;
}

/* The model's width, and the expert's own, of one of its three matrices. */
static uint64_t expert_hidden(const struct weight *w)
{
    return w->id.role == ROLE_EXPERT_DOWN ? w->rows : w->cols;
}

static uint64_t expert_width(const struct weight *w)
{
    return w->id.role == ROLE_EXPERT_DOWN ? w->cols : w->rows;
}

static bool marlin_linear(const struct engine_weight *w)
{
    return is_int4(w) && !is_expert(w) && (w->weight->rows % 64 != 0 || w->weight->cols % 128 != 0);
}

static bool marlin_expert(const struct engine_weight *w)
{
    uint64_t group = w->scheme->group_cols > 64 ? w->scheme->group_cols : 64;

    return is_int4(w) && is_expert(w) && (expert_hidden(w->weight) % 128 != 0 || expert_width(w->weight) % group != 0);
}

static bool marlin_group(const struct engine_weight *w)
{
    uint32_t g = w->scheme->group_cols;

    return is_int4(w) && g != 0 && g != 32 && g != 64 && g != 128;
}

static bool asymmetric_expert(const struct engine_weight *w)
{
    return is_int4(w) && is_expert(w) && w->scheme->asymmetric;
}

static bool packed_kv_b(const struct engine_weight *w)
{
    return is_int4(w) && w->weight->id.role == ROLE_KV_B_PROJ;
}

/* Rows that are shared out over ranks, or merged with others behind them. kv_a's 576 are the last part of their
 * merged matrix and ragged in every published file; those of o_proj and down_proj stay together. */
static bool cut_rows(enum role role)
{
    return role != ROLE_KV_A_PROJ && role != ROLE_O_PROJ && role != ROLE_DENSE_DOWN && role != ROLE_SHARED_DOWN &&
           role != ROLE_EXPERT_DOWN;
}

static bool ragged_fp8(const struct engine_weight *w)
{
    const struct scheme *s = w->scheme;

    return s->kind == SCHEME_FP8_BLOCK && (w->weight->cols % s->block_cols != 0 ||
                                           (cut_rows(w->weight->id.role) && w->weight->rows % s->block_rows != 0));
}

static bool odd_fp8_block(const struct engine_weight *w)
{
    const struct scheme *s = w->scheme;

    return s->kind == SCHEME_FP8_BLOCK && (s->block_rows != FP8_BLOCK_ELEMS || s->block_cols != FP8_BLOCK_ELEMS);
}

static bool e8m0_scales(const struct engine_weight *w)
{
    return w->scheme->kind == SCHEME_FP8_BLOCK && w->scheme->scale == SCALE_E8M0;
}

static bool quantized_outside(const struct engine_weight *w)
{
    const struct role_info *info = role_get(w->weight->id.role);
    bool quantized = w->scheme->kind != SCHEME_RAW && w->scheme->kind != SCHEME_PLAIN;

    return quantized && info->linear && !info->quantizable;
}

struct limit {
    bool (*broken)(const struct engine_weight *w);
    const char *rule; /* its name for lint */
    const char *why;
};

/* Of what has no name of its own: what is not loaded, and what is slower or needs an option. */
#define REFUSES "engine-refuses"
#define LIMIT   "engine-limit"

static const struct limit limits[] = {
    {packed_kv_b, "kv-b-packed", "SGLang reads kv_b_proj.weight directly and cannot load it packed; vLLM can"},
    {marlin_linear, LIMIT, "vLLM's Marlin kernel needs rows in 64s and columns in 128s; it takes a slower one"},
    {marlin_expert, LIMIT,
     "vLLM's Marlin kernel needs the hidden size in 128s and the expert width in 64s or whole groups; it "
     "takes a slower one"},
    {marlin_group, LIMIT,
     "vLLM's Marlin kernel knows groups of 32, 64 and 128, and one per row; it takes a slower one"},
    {asymmetric_expert, LIMIT, "vLLM's Marlin kernel for experts knows no zero points; it takes a slower one"},
    {ragged_fp8, REFUSES, "vLLM and SGLang refuse FP8 matrices that are not whole blocks on every rank"},
    {odd_fp8_block, LIMIT, "the FP8 kernels of vLLM and SGLang are made for 128 x 128 blocks"},
    {e8m0_scales, LIMIT, "engines of DeepSeek-V3's time expect F32 scales; F8_E8M0 ones came with V4"},
    {quantized_outside, "quantized-outside",
     "no published checkpoint quantizes it; engines build this layer without a quantized form"},
};

struct talk {
    void (*say)(void *ctx, const char *rule, const char *line);
    void *ctx;
};

/* The weights of one role that break one limit. */
struct breach {
    const struct engine_weight *first;
    size_t count;
};

#define LIMIT_COUNT (sizeof limits / sizeof limits[0])

static void note_breaches(struct breach breaches[LIMIT_COUNT][ROLE_COUNT], const struct engine_weight *w)
{
    for (size_t i = 0; i < LIMIT_COUNT; i++) {
        struct breach *b = &breaches[i][w->weight->id.role];
        if (!limits[i].broken(w))
            continue;
        if (b->count++ == 0)
            b->first = w;
    }
}

/* One line for a limit and a role, whatever the number of weights: a model has some fifty thousand. */
static void say_breach(const struct limit *l, const struct breach *b, const struct talk *talk)
{
    const struct weight *w = b->first->weight;
    char scheme[SCHEME_TEXT], more[64] = "", line[512];

    if (b->count > 1)
        snprintf(more, sizeof more, " (and %zu more of role %s)", b->count - 1, role_get(w->id.role)->name);
    snprintf(line, sizeof line, "'%s' [%" PRIu64 ", %" PRIu64 "] as %s%s: %s", w->module, w->rows, w->cols,
             scheme_text(b->first->scheme, scheme), more, l->why);
    talk->say(talk->ctx, l->rule, line);
}

static const struct engine_weight *find_kind(const struct engine_weight *w, size_t count, bool (*is)(enum scheme_kind))
{
    for (size_t i = 0; i < count; i++)
        if (is(w[i].scheme->kind))
            return &w[i];
    return NULL;
}

static bool kind_is_fp8(enum scheme_kind kind)
{
    return kind == SCHEME_FP8_BLOCK || kind == SCHEME_FP8_CHANNEL || kind == SCHEME_FP8_TENSOR;
}

static bool kind_is_fp8_tensor(enum scheme_kind kind)
{
    return kind == SCHEME_FP8_TENSOR;
}

static bool kind_is_int4(enum scheme_kind kind)
{
    return kind == SCHEME_INT4;
}

static void say_mixed(const struct engine_weight *w, size_t count, const struct talk *talk)
{
    if (find_kind(w, count, kind_is_fp8) && find_kind(w, count, kind_is_int4))
        talk->say(talk->ctx, LIMIT,
                  "FP8 and int4 in one checkpoint need two config groups and format \"mixed-precision\": "
                  "llama.cpp's converter refuses that, and engines accept it since recent versions only");
}

static void say_tensor(const struct engine_weight *w, size_t count, const struct talk *talk)
{
    if (find_kind(w, count, kind_is_fp8_tensor))
        talk->say(
            talk->ctx, LIMIT,
            "FP8 with one scale for a matrix is for vLLM and SGLang: llama.cpp's converter reads a scale for each "
            "row or block only");
}

static const struct engine_weight *find_role(const struct engine_weight *w, size_t count, enum role role)
{
    for (size_t i = 0; i < count; i++)
        if (w[i].weight->id.role == role && fused_get(w[i].weight) != FUSED_NONE)
            return &w[i];
    return NULL;
}

static void say_shared(const struct engine_weight *w, size_t count, const struct talk *talk)
{
    const struct engine_weight *shared = find_role(w, count, ROLE_SHARED_GATE);
    const struct engine_weight *routed = find_role(w, count, ROLE_EXPERT_GATE);
    char a[SCHEME_TEXT], b[SCHEME_TEXT], line[512];

    if (!shared || !routed || same_scheme(shared->scheme, routed->scheme))
        return;
    snprintf(line, sizeof line,
             "shared experts are %s and routed ones %s: where SGLang runs the shared expert as one more routed one, it "
             "needs --disable-shared-experts-fusion",
             scheme_text(shared->scheme, a), scheme_text(routed->scheme, b));
    talk->say(talk->ctx, LIMIT, line);
}

void engine_check_limits(const struct engine_weight *w, size_t count,
                         void (*say)(void *ctx, const char *rule, const char *line), void *ctx)
{
    const struct talk talk = {.say = say, .ctx = ctx};
    struct breach breaches[LIMIT_COUNT][ROLE_COUNT] = {0};

    for (size_t i = 0; i < count; i++)
        note_breaches(breaches, &w[i]);
    for (size_t i = 0; i < LIMIT_COUNT; i++)
        for (enum role role = ROLE_UNKNOWN; role < ROLE_COUNT; role++)
            if (breaches[i][role].count > 0)
                say_breach(&limits[i], &breaches[i][role], &talk);
    say_mixed(w, count, &talk);
    say_tensor(w, count, &talk);
    say_shared(w, count, &talk);
}
