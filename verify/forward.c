#include "verify/forward.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "formats/base/mem.h"
#include "formats/base/units.h"
#include "quant/transform.h"
#include "verify/expert_place.h"
#include "verify/forward_private.h"

/* What a V3.2 config without index_topk means. */
#define INDEX_TOPK 2048u

/* ---- pieces of a workspace ---- */

void place_matrix(const struct forward *f, struct matrix_place *p, const struct weight *w, struct scratch *s)
{
    p->weight = w;
    if (!f->options.by_slices)
        p->memory = scratch_take(s, weight_memory_bytes(w));
}

float input_scale_of(const struct forward *f, const struct weight *w)
{
    return f->input_scales ? f->input_scales[w - f->source->weights.items] : 0;
}

bool load_matrix(const struct forward *f, struct matrix_place *p, struct err *e)
{
    if (f->options.by_slices) {
        matrix_by_slices(&p->matrix, f->source, p->weight);
        p->matrix.input_scale = input_scale_of(f, p->weight);
        return true;
    }
    p->matrix.name = p->weight->name;
    p->matrix.input_scale = input_scale_of(f, p->weight);
    return weight_load(f->source, p->weight, p->memory, &p->matrix.coded, e);
}

void place_vector(struct vector_place *p, const struct weight *w, struct scratch *s)
{
    p->weight = w;
    p->memory = scratch_take(s, vector_memory_bytes(w));
    p->x = place_floats(s, 1, w->cols);
}

bool load_vector(const struct forward *f, struct vector_place *p, struct err *e)
{
    return vector_load(f->source, p->weight, p->memory, p->x, e);
}

float *place_floats(struct scratch *s, size_t rows, size_t cols)
{
    return scratch_take(s, rows * cols * sizeof(float));
}

float *place_rows(struct scratch *m, const struct stream *s, size_t rows, size_t cols)
{
    return s && s->memory ? NULL : place_floats(m, rows, cols);
}

/* ---- hooks ---- */

bool wants_inputs(const struct layer_run *r)
{
    return r->observer->input != NULL;
}

bool show_input(const struct layer_run *r, enum role role, size_t first, size_t tokens, const float *x, size_t x_stride,
                size_t cols, struct err *e)
{
    struct linear_input in = {r->layer, role, first, tokens, x, x_stride, cols};

    return !wants_inputs(r) || r->observer->input(r->observer->ctx, &in, e);
}

bool offer_linear(const struct layer_run *r, enum role role, struct matrix *w, struct err *e)
{
    return !r->observer->linear || r->observer->linear(r->observer->ctx, r->layer, role, &w->coded, e) ||
           err_in(e, "tensor '%s'", w->name);
}

/* ---- opening ---- */

static bool measure_experts(struct forward *f, uint64_t layer, struct err *e)
{
    const struct weight *mlp[MLP_PARTS];
    size_t most = 0;

    for (uint64_t i = 0; i < f->arch->experts; i++) {
        size_t bytes = 0, room;
        if (!layer_expert(f->source, layer, i, mlp, e))
            return false;
        for (size_t p = 0; p < MLP_PARTS; p++)
            bytes += weight_memory_bytes(mlp[p]);
        most = bytes > most ? bytes : most;
        room = expert_room_bytes(mlp);
        f->room_bytes = room > f->room_bytes ? room : f->room_bytes;
    }
    f->expert_bytes[layer] = most;
    return true;
}

static bool find_layer(struct forward *f, size_t layer, struct err *e)
{
    if (!layer_weights_find(&f->layers[layer], f->source, layer, e))
        return false;
    return !f->layers[layer].experts || measure_experts(f, layer, e);
}

/* Many a checkpoint has lost its MTP layer, which the others do without. */
static void find_mtp(struct forward *f)
{
    struct err *e = &f->mtp_error;

    if (f->layer_count == f->arch->layers)
        err_set(e, ERR_UNSUPPORTED, "'%s' has no MTP layer", f->source->checkpoint.path);
    else if (mtp_weights_find(&f->mtp, f->source, &f->top, f->arch->layers, e))
        (void)find_layer(f, f->arch->layers, e);
}

static bool find_weights(struct forward *f, struct err *e)
{
    if (!top_weights_find(&f->top, f->source, e))
        return false;
    for (size_t i = 0; i < f->arch->layers; i++)
        if (!find_layer(f, i, e))
            return false;
    find_mtp(f);
    return true;
}

static uint64_t widest(const struct source *s)
{
    uint64_t cols = 1;

    for (size_t i = 0; i < s->weights.count; i++)
        if (s->weights.items[i].stored.kind != SCHEME_RAW && s->weights.items[i].cols > cols)
            cols = s->weights.items[i].cols;
    return cols;
}

static bool load_input_scales(struct forward *f, struct err *e)
{
    const struct weights *ws = &f->source->weights;

    if (f->options.emulate != EMULATE_FP8_ACTIVATIONS)
        return true;
    f->input_scales = arena_array(&f->arena, ws->count, sizeof *f->input_scales);
    for (size_t i = 0; i < ws->count; i++) {
        float *scale = &f->input_scales[i];
        if (!weight_input_scale(f->source, &ws->items[i], scale, e))
            return false;
        if (ws->items[i].input_scale && (!(*scale > 0) || !isfinite(*scale)))
            return err_set(e, ERR_FORMAT, "tensor '%s': scale is not a positive finite number (%g)",
                           ws->items[i].input_scale->name, (double)*scale);
    }
    return true;
}

/* Of the largest slice: of a product, or of a head. */
static size_t slice_bytes(const struct forward *f)
{
    const struct arch *a = f->arch;
    size_t most = 1;

    for (size_t i = 0; i < f->source->weights.count; i++) {
        const struct weight *w = &f->source->weights.items[i];
        uint64_t rows = crew_slice_rows(w);
        if (w->id.role == ROLE_Q_B_PROJ || w->id.role == ROLE_Q_PROJ)
            rows = worker_decode_rows(w, a->qk_nope_dim + a->qk_rope_dim);
        if (w->id.role == ROLE_KV_B_PROJ)
            rows = worker_decode_rows(w, a->qk_nope_dim + a->v_dim);
        size_t bytes = w->stored.kind == SCHEME_RAW ? 0 : weight_rows_memory_bytes(w, rows);
        most = bytes > most ? bytes : most;
    }
    return most;
}

uint64_t forward_dense_tokens(const struct source *s)
{
    for (size_t i = 0; i < s->weights.count; i++)
        if (s->weights.items[i].id.role == ROLE_INDEXER_PROJ)
            return s->arch.index_topk > 0 ? s->arch.index_topk : INDEX_TOPK;
    return UINT64_MAX;
}

bool forward_open(struct forward **out, const struct source *s, const struct forward_options *o, struct err *e)
{
    struct forward *f = mem_alloc(sizeof *f);

    *out = NULL;
    f->source = s;
    f->arch = &s->arch;
    f->options = *o;
    f->mla_eps = o->mla_norm_eps > 0 ? o->mla_norm_eps : MLA_NORM_EPS;
    f->layer_count = (size_t)(s->arch.layers + (s->arch.mtp_layers > 0));
    f->layers = arena_array(&f->arena, f->layer_count, sizeof *f->layers);
    f->expert_bytes = arena_array(&f->arena, f->layer_count, sizeof *f->expert_bytes);
    f->store.dir = o->scratch_dir;
    f->dense_tokens = forward_dense_tokens(s);
    rope_init(&f->rope, &f->arena, f->arch);
    crew_init(&f->crew, o->threads, o->emulate, widest(s));
    if (!find_weights(f, e) || !load_input_scales(f, e)) {
        forward_close(f);
        return err_in(e, "forward pass");
    }
    if (o->by_slices)
        crew_take_slices(&f->crew, slice_bytes(f));
    *out = f;
    return true;
}

void forward_close(struct forward *f)
{
    if (!f)
        return;
    expert_reader_free(f->reader);
    stream_close(&f->residual);
    stream_close(&f->query);
    stream_close(&f->latent);
    stream_close(&f->heads);
    mem_free(f->memory);
    mem_free(f->turns);
    mem_free(f->sequences);
    crew_release(&f->crew);
    arena_release(&f->arena);
    mem_free(f);
}

unsigned forward_threads(const struct forward *f)
{
    return f->crew.threads;
}

/* ---- the batch ---- */

bool forward_check_dense(const struct forward *f, size_t tokens, struct err *e)
{
    if (tokens <= f->dense_tokens)
        return true;
    return err_set(e, ERR_UNSUPPORTED,
                   "a context of %zu tokens needs the model's sparse attention: %" PRIu64
                   " is the longest that is the same without",
                   tokens, f->dense_tokens);
}

static bool check_batch(const struct forward *f, const struct batch *b, struct err *e)
{
    const struct arch *a = f->arch;
    uint64_t limit = a->max_positions < ROPE_POSITIONS_MAX ? a->max_positions : ROPE_POSITIONS_MAX;
    for (size_t i = 0; i < b->tokens; i++)
        if (b->ids[i] >= a->vocab_size)
            return err_set(e, ERR_FORMAT, "token %zu is %" PRIu32 ", but the vocabulary has %" PRIu64 " entries", i,
                           b->ids[i], a->vocab_size);
    for (size_t i = 0; i < b->sequence_count; i++) {
        const struct sequence *s = &b->sequences[i];
        if (s->start_pos > limit || s->tokens > limit - s->start_pos)
            return err_set(e, ERR_LIMIT,
                           "a context of %zu token%s from position %" PRIu64 " goes past the model's %" PRIu64
                           " positions",
                           s->tokens, plural(s->tokens), s->start_pos, limit);
        if (!forward_check_dense(f, s->tokens, e))
            return false;
    }
    return true;
}

static bool same_sequences(const struct forward *f, const struct batch *b)
{
    return f->sequences && f->batch.tokens == b->tokens && f->batch.sequence_count == b->sequence_count &&
           memcmp(f->sequences, b->sequences, b->sequence_count * sizeof *b->sequences) == 0;
}

static void keep_batch(struct forward *f, const struct batch *b)
{
    size_t bytes = b->sequence_count * sizeof *b->sequences;

    mem_free(f->sequences);
    f->sequences = mem_alloc(bytes + 1);
    memcpy(f->sequences, b->sequences, bytes);
    f->batch = *b;
    f->batch.sequences = f->sequences;
    f->longest = batch_longest(b);
}

static bool fill_turns(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct forward *f = ctx;
    const struct sequence *s = f->sequences;

    (void)worker;
    (void)e;
    for (size_t t = first; t < first + count; t++) {
        while (t >= s->first + s->tokens)
            s++;
        rope_turns(&f->rope, s->start_pos + (t - s->first), f->turns + t * f->arch->qk_rope_dim);
    }
    return true;
}

bool forward_begin(struct forward *f, const struct batch *b, struct err *e)
{
    if (!check_batch(f, b, e))
        return false;
    if (same_sequences(f, b)) {
        f->batch.ids = b->ids;
        return true;
    }
    if (!forward_plan_memory(f, b, e))
        return false;
    keep_batch(f, b);
    mem_free(f->turns);
    f->turns = mem_aligned((b->tokens * f->arch->qk_rope_dim + 1) * sizeof *f->turns);
    return crew_rows(&f->crew, b->tokens, fill_turns, f, e);
}

bool forward_stream(struct forward *f, struct stream *s, struct err *e)
{
    return stream_open(s, &f->store, f->batch.tokens, f->arch->hidden_size, e);
}

/* ---- the walk ---- */

bool check_rows(const struct forward *f, uint64_t layer, size_t first, size_t count, const float *rows, struct err *e)
{
    size_t d = f->arch->hidden_size;

    for (size_t t = 0; t < count; t++)
        if (!f->crew.kernel->f32_check(rows + t * d, d))
            return err_set(e, ERR_FORMAT, "layer %" PRIu64 ", token %zu: the hidden state is not finite", layer,
                           first + t);
    return true;
}

struct embedding {
    const struct forward *f;
    const struct weight *weight;
    const uint32_t *ids;
    float *rows;
    uint64_t multiple; /* rows that are read together */
    uint8_t *memory;   /* [workers][worker_bytes]: them as stored, as float32 and what decoding takes */
    size_t stored_bytes, x_bytes, worker_bytes;
};

static bool embed_row(const struct embedding *m, size_t t, uint8_t *memory, struct err *e)
{
    const struct weight *w = m->weight;
    uint64_t row = m->ids[t] / m->multiple * m->multiple;
    uint64_t some = w->rows - row < m->multiple ? w->rows - row : m->multiple;
    float *x = (float *)(memory + m->stored_bytes);
    struct coded c;

    if (!weight_load_rows(m->f->source, w, row, some, memory, &c, e))
        return false;
    if (!decode_rows(m->f->crew.kernel, &c.scheme, 0, some, some, w->cols, &c.parts, x, (uint8_t *)x + m->x_bytes, e))
        return err_in(e, "tensor '%s', from row %" PRIu64, w->name, row);
    memcpy(m->rows + t * w->cols, x + (m->ids[t] - row) * w->cols, w->cols * sizeof *x);
    crew_round(&m->f->crew, m->rows + t * w->cols, w->cols);
    return true;
}

static bool embed_some(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct embedding *m = ctx;

    for (size_t t = first; t < first + count; t++)
        if (!embed_row(m, t, m->memory + worker * m->worker_bytes, e))
            return false;
    return true;
}

static size_t whole_lines(size_t bytes)
{
    return (bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
}

bool embed_rows(const struct forward *f, const struct weight *w, const uint32_t *ids, size_t count, float *rows,
                struct err *e)
{
    uint64_t multiple = scheme_row_multiple(&w->stored), most = multiple < w->rows ? multiple : w->rows;
    struct embedding m = {.f = f, .weight = w, .ids = ids, .rows = rows, .multiple = multiple};

    m.stored_bytes = whole_lines(weight_rows_memory_bytes(w, most));
    m.x_bytes = whole_lines(most * w->cols * sizeof *rows);
    m.worker_bytes = m.stored_bytes + m.x_bytes + whole_lines(decode_scratch_bytes(&w->stored, w->cols));
    m.memory = mem_aligned(f->crew.threads * m.worker_bytes);
    bool ok = crew_rows(&f->crew, count, embed_some, &m, e);
    mem_free(m.memory);
    return ok;
}

bool forward_embed(struct forward *f, struct stream *out, struct err *e)
{
    size_t tokens = f->batch.tokens, chunk = f->chunk, d = f->arch->hidden_size;
    float *buffer = out->memory ? NULL : mem_aligned(chunk * d * sizeof *buffer);
    bool ok = true;

    for (size_t t = 0; ok && t < tokens; t += chunk) {
        size_t count = tokens - t < chunk ? tokens - t : chunk;
        float *rows = stream_place(out, t, buffer);
        ok = embed_rows(f, f->top.embed, f->batch.ids + t, count, rows, e) && stream_write(out, t, count, rows, e);
    }
    mem_free(buffer);
    return ok;
}

/* With so many choices for each expert, hardly one gets none. */
#define CHOICES_FOR_MOST 8u

static bool reaches_most(const struct forward *f)
{
    return f->batch.tokens * f->arch->experts_per_token >= CHOICES_FOR_MOST * f->arch->experts;
}

/* What the layer is going to read, so that the disk is ahead. */
static void expect_layer(const struct layer_run *r)
{
    const struct layer_weights *l = r->weights;
    const struct weight *soon[] = {l->mlp[0], l->mlp[1], l->mlp[2], l->q_a, l->kv_a, l->q_b, l->kv_b, l->o};

    for (size_t i = 0; i < (r->attended ? MLP_PARTS : sizeof soon / sizeof soon[0]); i++)
        if (soon[i])
            weight_expect(r->f->source, soon[i]);
}

bool layer_run(const struct layer_run *r, struct err *e)
{
    expect_layer(r);
    if (r->f->reader && r->weights->experts)
        expert_reader_begin(r->f->reader, r->layer, reaches_most(r->f));
    return (r->attended || attention_run(r, e)) && (!r->weights->experts || moe_run(r, e)) && mlp_run(r, e);
}

const struct stream *run_residual(const struct layer_run *r)
{
    return r->attended ? r->attended : &r->f->residual;
}

static struct layer_run run_of(struct forward *f, uint64_t layer, struct stream *out, const struct observer *o)
{
    static const struct observer nobody = {0};

    return (struct layer_run){
        .f = f, .layer = layer, .weights = &f->layers[layer], .out = out, .observer = o ? o : &nobody};
}

static bool has_layer(const struct forward *f, uint64_t layer, struct err *e)
{
    if (layer < f->arch->layers || f->mtp_error.code == ERR_NONE)
        return true;
    *e = f->mtp_error;
    return false;
}

bool forward_layer(struct forward *f, uint64_t layer, const struct stream *in, struct stream *out,
                   const struct observer *o, struct err *e)
{
    struct layer_run r = run_of(f, layer, out, o);

    r.in = in;
    assert(!f->options.by_slices || (!r.observer->input && !r.observer->linear && !r.observer->expert));
    return has_layer(f, layer, e) && layer_run(&r, e);
}

/* Stages have no buffer for a stream that is in memory here. */
static bool take_residual(struct layer_run *r, const struct forward *by, struct err *e)
{
    const struct stream *from = &by->residual;
    float *own = r->f->residual.memory;
    const float *rows;

    r->attended = from->memory || !own ? from : &r->f->residual;
    return r->attended == from || stream_read(from, 0, from->tokens, own, &rows, e);
}

bool forward_layer_behind(struct forward *f, uint64_t layer, const struct forward *by, struct stream *out,
                          const struct observer *o, struct err *e)
{
    struct layer_run r = run_of(f, layer, out, o);

    assert(by->residual.tokens == f->residual.tokens && by->residual.width == f->residual.width);
    assert(!r.observer->input && !r.observer->linear);
    return has_layer(f, layer, e) && take_residual(&r, by, e) && layer_run(&r, e);
}

bool forward_logits(struct forward *f, const struct stream *last, size_t first, size_t count, float *logits,
                    struct err *e)
{
    return head_run(f, f->top.norm, f->top.head, last, first, count, logits, e);
}
