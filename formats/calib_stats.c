#include "formats/calib_stats.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct scheme schemes[CALIB_SCHEME_COUNT] = {
    [CALIB_INT4_G128] =
        {.kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = 128, .method = METHOD_LDLQ},
    [CALIB_INT4_G32] =
        {.kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = 32, .method = METHOD_LDLQ},
    [CALIB_FP8] = {.kind = SCHEME_FP8_BLOCK,
                   .dtype = DTYPE_F8_E4M3,
                   .scale = SCALE_F32,
                   .block_rows = FP8_BLOCK_ELEMS,
                   .block_cols = FP8_BLOCK_ELEMS,
                   .method = METHOD_ABSMAX},
};

static const char *const scheme_names[CALIB_SCHEME_COUNT] = {
    [CALIB_INT4_G128] = "int4 g128 ldlq",
    [CALIB_INT4_G32] = "int4 g32 ldlq",
    [CALIB_FP8] = "fp8 128x128 absmax",
};

struct scheme calib_scheme_get(enum calib_scheme s)
{
    return schemes[s];
}

const char *calib_scheme_name(enum calib_scheme s)
{
    return scheme_names[s];
}

/* ---- inputs ---- */

static const enum role shared_inputs[ROLE_COUNT] = {
    [ROLE_Q_PROJ] = ROLE_Q_A_PROJ,    [ROLE_KV_A_PROJ] = ROLE_Q_A_PROJ, [ROLE_DENSE_UP] = ROLE_DENSE_GATE,
    [ROLE_SHARED_GATE] = ROLE_ROUTER, [ROLE_SHARED_UP] = ROLE_ROUTER,   [ROLE_EXPERT_UP] = ROLE_EXPERT_GATE,
};

enum role calib_input_of(enum role matrix)
{
    return shared_inputs[matrix] != ROLE_UNKNOWN ? shared_inputs[matrix] : matrix;
}

size_t calib_places(enum role role, uint64_t experts)
{
    return role == ROLE_EXPERT_GATE || role == ROLE_EXPERT_UP || role == ROLE_EXPERT_DOWN ? (size_t)experts : 1;
}

const struct calib_input *calib_input_find(const struct calib_stats *s, uint64_t layer, enum role input)
{
    for (size_t i = 0; i < s->input_count; i++)
        if (s->inputs[i].layer == layer && s->inputs[i].role == input)
            return &s->inputs[i];
    return NULL;
}

const struct calib_loss *calib_loss_find(const struct calib_stats *s, uint64_t layer, enum role matrix)
{
    for (size_t i = 0; i < s->loss_count; i++)
        if (s->losses[i].layer == layer && s->losses[i].role == matrix)
            return &s->losses[i];
    return NULL;
}

/* ---- a model's ---- */

/* What all matrices of one layer read. */
struct layer_shape {
    bool matrix[ROLE_COUNT];
    size_t cols[ROLE_COUNT]; /* by input; 0: none */
};

/* Recipes keep eh_proj unless they name it, so that its loss is no choice; what enters it is collected all the same. */
static bool is_collected(const struct weight *w)
{
    return w->id.part != NAME_INPUT_SCALE && w->id.role != ROLE_INDEXER_PROJ &&
           (role_get(w->id.role)->quantizable || w->id.role == ROLE_MTP_PROJ);
}

static struct layer_shape shape_of(const struct source *source, uint64_t layer)
{
    struct layer_shape shape = {0};

    for (size_t i = 0; i < source->weights.count; i++) {
        const struct weight *w = &source->weights.items[i];
        if (w->id.layer != (int64_t)layer || !is_collected(w))
            continue;
        shape.matrix[w->id.role] = w->id.role != ROLE_MTP_PROJ;
        shape.cols[calib_input_of(w->id.role)] = w->cols;
    }
    if (shape.matrix[ROLE_EXPERT_GATE])
        shape.cols[ROLE_ROUTER] = shape.cols[ROLE_EXPERT_GATE];
    return shape;
}

static struct calib_input make_input(struct arena *a, uint64_t layer, enum role role, size_t n, size_t cols)
{
    return (struct calib_input){
        .layer = layer,
        .role = role,
        .n = n,
        .cols = cols,
        .seen = arena_array(a, n, sizeof(int64_t)),
        .peak = arena_array(a, n, sizeof(float)),
    };
}

static struct calib_loss make_loss(struct arena *a, uint64_t layer, enum role role, size_t n)
{
    struct calib_loss l = {.layer = layer, .role = role, .n = n, .energy = arena_array(a, n, sizeof *l.energy)};
    double *block = arena_array(a, CALIB_SCHEME_COUNT * n, sizeof *block);

    for (enum calib_scheme i = 0; i < CALIB_SCHEME_COUNT; i++)
        l.loss[i] = block + i * n;
    return l;
}

static void plan_layer(struct calib_stats *s, uint64_t layer, const struct layer_shape *shape, uint64_t experts)
{
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        size_t n = calib_places(role, experts);
        if (shape->cols[role] > 0)
            s->inputs[s->input_count++] = make_input(&s->arena, layer, role, n, shape->cols[role]);
        if (shape->matrix[role] && s->has_losses)
            s->losses[s->loss_count++] = make_loss(&s->arena, layer, role, n);
    }
    s->layers[s->layer_count++] = (struct calib_layer){layer, arena_array(&s->arena, 1, sizeof(double))};
}

/* All but the routing. */
static void plan_layers(struct calib_stats *s, const struct source *source, bool with_losses)
{
    uint64_t layers = source->arch.layers + 1; /* the first MTP layer, if there is one */

    s->has_losses = with_losses;
    s->inputs = arena_array(&s->arena, layers * ROLE_COUNT, sizeof *s->inputs);
    s->losses = arena_array(&s->arena, layers * ROLE_COUNT, sizeof *s->losses);
    s->layers = arena_array(&s->arena, layers, sizeof *s->layers);
    for (uint64_t layer = 0; layer < layers; layer++) {
        struct layer_shape shape = shape_of(source, layer);
        if (shape.matrix[ROLE_O_PROJ])
            plan_layer(s, layer, &shape, source->arch.experts);
    }
}

bool calib_stats_plan(struct calib_stats *s, const struct source *source, bool with_losses, struct err *e)
{
    *s = (struct calib_stats){0};
    if (!routing_stats_open(&s->routing, source, false, e))
        return false;
    plan_layers(s, source, with_losses);
    for (size_t i = 0; i < s->input_count; i++)
        if (s->inputs[i].role == ROLE_EXPERT_GATE)
            routing_stats_add(&s->routing, s->inputs[i].layer, NULL, NULL, 0);
    return true;
}

void calib_stats_release(struct calib_stats *s)
{
    routing_stats_release(&s->routing);
    file_close(&s->file);
    arena_release(&s->arena);
    *s = (struct calib_stats){0};
}

/* ---- two of them ---- */

static bool check_inputs(const struct calib_stats *s, const struct calib_stats *want, struct err *e)
{
    for (size_t i = 0; i < s->input_count || i < want->input_count; i++) {
        const struct calib_input *a = &s->inputs[i], *b = &want->inputs[i];
        if (i >= s->input_count)
            return err_set(e, ERR_FORMAT, "statistics of another model: nothing of layer %" PRIu64 ", input '%s'",
                           b->layer, role_get(b->role)->name);
        if (i >= want->input_count || a->layer != b->layer || a->role != b->role)
            return err_set(e, ERR_FORMAT,
                           "statistics of another model: layer %" PRIu64 ", input '%s', which it does not have",
                           a->layer, role_get(a->role)->name);
        if (a->n != b->n || a->cols != b->cols)
            return err_set(e, ERR_FORMAT,
                           "statistics of another model: layer %" PRIu64 ", input '%s' is %zu x %zu, not %zu x %zu",
                           a->layer, role_get(a->role)->name, a->n, a->cols, b->n, b->cols);
    }
    return true;
}

bool calib_stats_check(const struct calib_stats *s, const struct source *source, struct err *e)
{
    struct calib_stats want = {0};
    bool ok = routing_stats_check(&s->routing, source, e);

    if (ok) {
        plan_layers(&want, source, false);
        ok = check_inputs(s, &want, e);
    }
    calib_stats_release(&want);
    return ok;
}

/* A mean of losses, by how many tokens each goes back to; where none did, of both alike. One may be infinite. */
static double mean(double a, double b, int64_t of_a, int64_t of_b)
{
    double all = (double)of_a + (double)of_b;

    if (of_a == 0 || of_b == 0)
        return of_a > 0 ? a : of_b > 0 ? b : (a + b) / 2;
    return (a * (double)of_a + b * (double)of_b) / all;
}

static void merge_losses(struct calib_stats *s, const struct calib_stats *from)
{
    for (size_t i = 0; i < s->loss_count; i++) {
        struct calib_loss *l = &s->losses[i];
        const struct calib_loss *f = &from->losses[i];
        const int64_t *seen = calib_input_find(s, l->layer, calib_input_of(l->role))->seen;
        const int64_t *more = calib_input_find(from, l->layer, calib_input_of(l->role))->seen;
        for (size_t k = 0; k < l->n; k++) {
            for (enum calib_scheme c = 0; c < CALIB_SCHEME_COUNT; c++)
                l->loss[c][k] = mean(l->loss[c][k], f->loss[c][k], seen[k], more[k]);
            l->energy[k] = mean(l->energy[k], f->energy[k], seen[k], more[k]);
        }
    }
}

static bool same_losses(const struct calib_stats *s, const struct calib_stats *from)
{
    if (!s->has_losses || !from->has_losses || s->loss_count != from->loss_count)
        return false;
    for (size_t i = 0; i < s->loss_count; i++)
        if (s->losses[i].layer != from->losses[i].layer || s->losses[i].role != from->losses[i].role)
            return false;
    return true;
}

static void merge_input(struct calib_input *in, const struct calib_input *from)
{
    for (size_t k = 0; k < in->n; k++) {
        in->seen[k] += from->seen[k];
        in->peak[k] = from->peak[k] > in->peak[k] ? from->peak[k] : in->peak[k];
    }
}

bool calib_stats_merge(struct calib_stats *s, const struct calib_stats *from, bool *lost, struct err *e)
{
    if (!routing_stats_merge(&s->routing, &from->routing, e) || !check_inputs(from, s, e))
        return false;
    if (same_losses(s, from)) {
        merge_losses(s, from);
    } else if (s->has_losses || from->has_losses) {
        s->has_losses = false;
        s->loss_count = 0;
        *lost = true;
    }
    for (size_t i = 0; i < s->input_count; i++)
        merge_input(&s->inputs[i], &from->inputs[i]);
    for (size_t i = 0; i < s->layer_count; i++)
        *s->layers[i].hidden += *from->layers[i].hidden;
    return true;
}
