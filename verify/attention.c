/* Multi-head latent attention of a layer, in three stages: down to queries'
 * input and latents, all heads of all contexts, and back into the residual. */
#include <string.h>

#include "formats/base/pool.h"
#include "verify/attend.h"
#include "verify/forward_private.h"
#include "verify/step.h"

size_t latent_width(const struct forward *f)
{
    return f->arch->kv_lora_rank + f->arch->qk_rope_dim;
}

size_t query_width(const struct forward *f)
{
    return f->arch->q_lora_rank > 0 ? f->arch->q_lora_rank : f->arch->hidden_size;
}

/* ---- down ---- */

struct project {
    const struct layer_run *run;
    struct matrix_place q_a, kv_a;
    struct vector_place input_norm, q_norm, kv_norm;
    float *in, *normed, *query, *latent; /* [chunk] rows */
    float *rounded;
    const float *x; /* the chunk: its input, and what it becomes */
    float *query_rows, *latent_rows;
    size_t first;
};

static void project_place(struct project *p, const struct forward *f, const struct layer_weights *l,
                          const struct stream *in, size_t chunk, struct scratch *s)
{
    size_t d = f->arch->hidden_size;

    place_vector(&p->input_norm, l->input_norm, s);
    place_matrix(f, &p->kv_a, l->kv_a, s);
    place_vector(&p->kv_norm, l->kv_a_norm, s);
    if (l->q_a) {
        place_matrix(f, &p->q_a, l->q_a, s);
        place_vector(&p->q_norm, l->q_a_norm, s);
    }
    p->in = place_rows(s, in, chunk, d);
    p->normed = place_floats(s, chunk, d);
    p->query = place_rows(s, &f->query, chunk, query_width(f));
    p->latent = place_rows(s, &f->latent, chunk, latent_width(f));
    p->rounded = f->options.emulate == EMULATE_FP8_ACTIVATIONS ? place_floats(s, chunk, d) : NULL;
}

void attention_project_place(const struct forward *f, const struct layer_weights *l, size_t chunk, struct scratch *s)
{
    struct project p = {0};

    project_place(&p, f, l, NULL, chunk, s);
}

static bool norm_input(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct project *p = ctx;
    const struct forward *f = p->run->f;
    size_t d = f->arch->hidden_size;

    (void)worker;
    (void)e;
    for (size_t t = first; t < first + count; t++)
        crew_norm(&f->crew, p->normed + t * d, p->x + t * d, p->input_norm.x, d, f->arch->rms_norm_eps);
    return true;
}

/* Queries' input and latents as q_b_proj and kv_b_proj take them; the rope part turned. */
static bool finish_latents(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct project *p = ctx;
    const struct forward *f = p->run->f;
    const struct layer_weights *l = p->run->weights;
    size_t q = query_width(f), w = latent_width(f), rank = f->arch->kv_lora_rank;

    (void)worker;
    for (size_t t = first; t < first + count; t++) {
        float *query = p->query_rows + t * q, *latent = p->latent_rows + t * w;
        if (l->q_a)
            crew_norm(&f->crew, query, query, p->q_norm.x, q, f->mla_eps);
        else
            memcpy(query, p->normed + t * q, q * sizeof *query);
        crew_norm(&f->crew, latent, latent, p->kv_norm.x, rank, f->mla_eps);
        rope_turn(&f->rope, f->turns + (p->first + t) * f->arch->qk_rope_dim, latent + rank,
                  f->crew.emulate == EMULATE_BF16);
        if (!crew_round_input(&f->crew, &l->q_b->stored, query, q, e) ||
            !crew_round_input(&f->crew, &l->kv_b->stored, latent, rank, e))
            return err_in(e, "token %zu", p->first + t);
    }
    return true;
}

static bool normed_chunk(struct project *p, size_t first, size_t count, struct err *e)
{
    p->first = first;
    return stream_read(p->run->in, first, count, p->in, &p->x, e) &&
           crew_rows(&p->run->f->crew, count, norm_input, p, e);
}

static bool project_chunk(struct project *p, size_t first, size_t count, struct err *e)
{
    struct forward *f = p->run->f;
    size_t d = f->arch->hidden_size;

    if (!normed_chunk(p, first, count, e))
        return false;
    p->query_rows = stream_place(&f->query, first, p->query);
    p->latent_rows = stream_place(&f->latent, first, p->latent);
    if (p->run->weights->q_a &&
        !crew_linear(&f->crew, &p->q_a.matrix, p->normed, d, count, p->query_rows, query_width(f), e))
        return false;
    if (!crew_linear(&f->crew, &p->kv_a.matrix, p->normed, d, count, p->latent_rows, latent_width(f), e) ||
        !crew_rows(&f->crew, count, finish_latents, p, e))
        return false;
    if (p->run->cache)
        cache_put(p->run->cache, p->run->layer, first, count, p->latent_rows);
    return stream_write(&f->query, first, count, p->query_rows, e) &&
           stream_write(&f->latent, first, count, p->latent_rows, e);
}

static enum role query_role(const struct layer_run *r)
{
    return r->weights->q_a ? ROLE_Q_A_PROJ : ROLE_Q_PROJ;
}

/* The role of q_proj is offered with the heads, where it is used. */
static bool observe_project(struct project *p, struct err *e)
{
    const struct layer_run *r = p->run;
    size_t tokens = r->f->batch.tokens, chunk = r->f->chunk, d = r->f->arch->hidden_size;

    for (size_t t = 0; wants_inputs(r) && t < tokens; t += chunk) {
        size_t count = tokens - t < chunk ? tokens - t : chunk;
        if (!normed_chunk(p, t, count, e) || !show_input(r, query_role(r), t, count, p->normed, d, d, e))
            return false;
    }
    return (!r->weights->q_a || offer_linear(r, ROLE_Q_A_PROJ, &p->q_a.matrix, e)) &&
           offer_linear(r, ROLE_KV_A_PROJ, &p->kv_a.matrix, e);
}

static bool project_all(const struct layer_run *r, struct err *e)
{
    struct forward *f = r->f;
    struct scratch s = {.base = f->memory};
    struct project p = {.run = r};
    size_t tokens = f->batch.tokens;

    project_place(&p, f, r->weights, r->in, f->chunk, &s);
    f->crew.rounded = p.rounded;
    if (!load_vector(f, &p.input_norm, e) || !load_vector(f, &p.kv_norm, e) || !load_matrix(f, &p.kv_a, e))
        return false;
    if (r->weights->q_a && (!load_matrix(f, &p.q_a, e) || !load_vector(f, &p.q_norm, e)))
        return false;
    if (!observe_project(&p, e))
        return false;
    for (size_t t = 0; t < tokens; t += f->chunk)
        if (!project_chunk(&p, t, tokens - t < f->chunk ? tokens - t : f->chunk, e))
            return false;
    return true;
}

/* ---- heads ---- */

struct heads {
    const struct layer_run *run;
    struct matrix_place q_b, kv_b;
    float *q_rows, *kv_rows;     /* all as float32; by slices: [threads], a head's with what its slice has besides */
    size_t q_room, kv_room;      /* floats of one of these */
    float *query, *latent, *out; /* of a group of contexts */
    struct attend attend;
    struct attend_scratch *scratch; /* [threads] */
    struct context *contexts;       /* of the group */
};

struct attend attend_of(const struct forward *f)
{
    return (struct attend){
        .crew = &f->crew,
        .rope = &f->rope,
        .heads = f->arch->heads,
        .nope_dim = f->arch->qk_nope_dim,
        .rope_dim = f->arch->qk_rope_dim,
        .v_dim = f->arch->v_dim,
        .query_width = query_width(f),
        .latent_width = f->arch->kv_lora_rank,
    };
}

/* Floats of all rows, or of those that a worker decodes for a head. */
static size_t room_of(const struct forward *f, const struct weight *w, uint64_t head_rows)
{
    return (f->options.by_slices ? worker_decode_rows(w, head_rows) : w->rows) * w->cols;
}

static void heads_place(struct heads *h, const struct forward *f, const struct layer_weights *l, size_t group,
                        size_t longest, struct scratch *s)
{
    const struct arch *a = f->arch;

    h->attend = attend_of(f);
    place_matrix(f, &h->q_b, l->q_b, s);
    place_matrix(f, &h->kv_b, l->kv_b, s);
    h->q_room = room_of(f, l->q_b, a->qk_nope_dim + a->qk_rope_dim);
    h->kv_room = room_of(f, l->kv_b, a->qk_nope_dim + a->v_dim);
    h->q_rows = place_floats(s, f->options.by_slices ? f->crew.threads : 1, h->q_room);
    h->kv_rows = place_floats(s, f->options.by_slices ? f->crew.threads : 1, h->kv_room);
    h->query = place_rows(s, &f->query, group, query_width(f));
    h->latent = place_rows(s, &f->latent, group, latent_width(f));
    h->out = place_rows(s, &f->heads, group, a->heads * a->v_dim);
    h->scratch = scratch_take(s, f->crew.threads * sizeof *h->scratch);
    h->contexts = scratch_take(s, group * sizeof *h->contexts);
    for (unsigned i = 0; i < f->crew.threads; i++) {
        struct attend_scratch one = {0};
        attend_place(&one, &h->attend, longest, s);
        if (h->scratch)
            h->scratch[i] = one;
    }
}

void attention_heads_place(const struct forward *f, const struct layer_weights *l, size_t chunk, size_t longest,
                           struct scratch *s)
{
    struct heads h = {0};

    heads_place(&h, f, l, chunk > longest ? chunk : longest, longest, s);
}

static bool take_head(const struct heads *h, const struct matrix *w, float *all, size_t room, size_t head, size_t rows,
                      unsigned worker, const float **out, struct err *e)
{
    if (w->source)
        return worker_decode(&h->run->f->crew, worker, w, head * rows, rows, all + worker * room, out, e);
    *out = all + head * rows * w->coded.cols;
    return true;
}

static bool run_head(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct heads *h = ctx;
    const struct attend *a = &h->attend;
    size_t head = job % a->heads, q = a->nope_dim + a->rope_dim, kv = a->nope_dim + a->v_dim;
    struct head_rows rows;

    return take_head(h, &h->q_b.matrix, h->q_rows, h->q_room, head, q, worker, &rows.q_b, e) &&
           take_head(h, &h->kv_b.matrix, h->kv_rows, h->kv_room, head, kv, worker, &rows.kv_b, e) &&
           (attend_head(a, head, &rows, &h->contexts[job / a->heads], &h->scratch[worker], worker, e) ||
            err_in(e, "attention of head %zu", head));
}

/* Some whole contexts, the tokens of which stand together. */
static bool run_group(struct heads *h, const struct sequence *from, size_t sequences, size_t tokens, struct err *e)
{
    struct forward *f = h->run->f;
    size_t first = from->first, width = h->attend.heads * h->attend.v_dim;
    const float *query, *latent;
    float *out = stream_place(&f->heads, first, h->out);

    if (!stream_read(&f->query, first, tokens, h->query, &query, e) ||
        !stream_read(&f->latent, first, tokens, h->latent, &latent, e))
        return false;
    for (size_t i = 0; i < sequences; i++) {
        size_t at = from[i].first - first;
        h->contexts[i] = (struct context){
            .tokens = from[i].tokens,
            .query = query + at * query_width(f),
            .latent = latent + at * latent_width(f),
            .turns = f->turns + from[i].first * f->arch->qk_rope_dim,
            .out = out + at * width,
        };
    }
    return pool_run(f->crew.threads, sequences * h->attend.heads, run_head, h, e) &&
           stream_write(&f->heads, first, tokens, out, e);
}

static bool run_groups(struct heads *h, size_t group, struct err *e)
{
    const struct batch *b = &h->run->f->batch;

    for (size_t i = 0, n; i < b->sequence_count; i += n) {
        size_t tokens = b->sequences[i].tokens;
        for (n = 1; i + n < b->sequence_count && tokens + b->sequences[i + n].tokens <= group; n++)
            tokens += b->sequences[i + n].tokens;
        if (!run_group(h, &b->sequences[i], n, tokens, e))
            return false;
    }
    return true;
}

/* The stream's own rows, chunk by chunk, of which the first `cols` columns are an input. */
static bool show_stream(const struct layer_run *r, enum role role, const struct stream *s, size_t cols, float *buffer,
                        struct err *e)
{
    size_t tokens = s->tokens, chunk = r->f->chunk;
    const float *rows;

    for (size_t t = 0; wants_inputs(r) && t < tokens; t += chunk) {
        size_t count = tokens - t < chunk ? tokens - t : chunk;
        if (!stream_read(s, t, count, buffer, &rows, e) || !show_input(r, role, t, count, rows, s->width, cols, e))
            return false;
    }
    return true;
}

static bool observe_heads(struct heads *h, struct err *e)
{
    const struct layer_run *r = h->run;
    struct forward *f = r->f;

    if (r->weights->q_a && !show_stream(r, ROLE_Q_B_PROJ, &f->query, f->query.width, h->query, e))
        return false;
    return offer_linear(r, r->weights->q_a ? ROLE_Q_B_PROJ : ROLE_Q_PROJ, &h->q_b.matrix, e) &&
           show_stream(r, ROLE_KV_B_PROJ, &f->latent, f->arch->kv_lora_rank, h->latent, e) &&
           offer_linear(r, ROLE_KV_B_PROJ, &h->kv_b.matrix, e);
}

static bool heads_all(const struct layer_run *r, struct err *e)
{
    struct forward *f = r->f;
    struct scratch s = {.base = f->memory};
    struct heads h = {.run = r};
    size_t group = f->chunk > f->longest ? f->chunk : f->longest;

    heads_place(&h, f, r->weights, group, f->longest, &s);
    if (!load_matrix(f, &h.q_b, e) || !load_matrix(f, &h.kv_b, e) || !observe_heads(&h, e))
        return false;
    if (!f->options.by_slices &&
        (!crew_decode(&f->crew, &h.q_b.matrix, h.q_rows, e) || !crew_decode(&f->crew, &h.kv_b.matrix, h.kv_rows, e)))
        return false;
    return run_groups(&h, group, e);
}

/* ---- back ---- */

struct back {
    const struct layer_run *run;
    struct matrix_place o;
    float *heads, *in, *rows;
    float *rounded;
    const float *x;
    float *to;
    size_t first;
};

static void back_place(struct back *p, const struct forward *f, const struct layer_weights *l, const struct stream *in,
                       size_t chunk, struct scratch *s)
{
    size_t d = f->arch->hidden_size, width = f->arch->heads * f->arch->v_dim;

    place_matrix(f, &p->o, l->o, s);
    p->heads = place_rows(s, &f->heads, chunk, width);
    p->in = place_rows(s, in, chunk, d);
    p->rows = place_rows(s, &f->residual, chunk, d);
    p->rounded = f->options.emulate == EMULATE_FP8_ACTIVATIONS ? place_floats(s, chunk, width) : NULL;
}

void attention_output_place(const struct forward *f, const struct layer_weights *l, size_t chunk, struct scratch *s)
{
    struct back p = {0};

    back_place(&p, f, l, NULL, chunk, s);
}

static bool add_input(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct back *p = ctx;
    const struct forward *f = p->run->f;
    size_t d = f->arch->hidden_size;

    (void)worker;
    for (size_t t = first; t < first + count; t++)
        crew_add(&f->crew, p->to + t * d, p->x + t * d, d);
    return check_rows(f, p->run->layer, p->first + first, count, p->to + first * d, e);
}

static bool back_chunk(struct back *p, size_t first, size_t count, struct err *e)
{
    const struct layer_run *r = p->run;
    struct forward *f = r->f;
    size_t d = f->arch->hidden_size;
    const float *heads;

    p->first = first;
    p->to = stream_place(&f->residual, first, p->rows);
    return stream_read(&f->heads, first, count, p->heads, &heads, e) &&
           stream_read(r->in, first, count, p->in, &p->x, e) &&
           crew_linear(&f->crew, &p->o.matrix, heads, f->heads.width, count, p->to, d, e) &&
           crew_rows(&f->crew, count, add_input, p, e) && stream_write(&f->residual, first, count, p->to, e);
}

static bool back_all(const struct layer_run *r, struct err *e)
{
    struct forward *f = r->f;
    struct scratch s = {.base = f->memory};
    struct back p = {.run = r};
    size_t tokens = f->batch.tokens;

    back_place(&p, f, r->weights, r->in, f->chunk, &s);
    f->crew.rounded = p.rounded;
    if (!load_matrix(f, &p.o, e) || !show_stream(r, ROLE_O_PROJ, &f->heads, f->heads.width, p.heads, e) ||
        !offer_linear(r, ROLE_O_PROJ, &p.o.matrix, e))
        return false;
    for (size_t t = 0; t < tokens; t += f->chunk)
        if (!back_chunk(&p, t, tokens - t < f->chunk ? tokens - t : f->chunk, e))
            return false;
    return true;
}

bool attention_run(const struct layer_run *r, struct err *e)
{
    return project_all(r, e) && (r->absorbed ? absorbed_heads_run(r, e) : heads_all(r, e)) && back_all(r, e);
}
