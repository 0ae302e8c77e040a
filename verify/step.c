#include "verify/step.h"

#include <assert.h>
#include <string.h>

#include "formats/base/mem.h"
#include "formats/base/pool.h"
#include "verify/attend.h"
#include "verify/forward_private.h"

void cache_open(struct cache *c, const struct forward *f, uint64_t start_pos, size_t room)
{
    *c = (struct cache){.start_pos = start_pos, .room = room, .layers = f->arch->layers, .width = latent_width(f)};
    c->rows = mem_aligned((c->layers * room * c->width + 1) * sizeof *c->rows);
}

void cache_release(struct cache *c)
{
    mem_free(c->rows);
    *c = (struct cache){0};
}

static float *layer_rows(const struct cache *c, uint64_t layer)
{
    return c->rows + layer * c->room * c->width;
}

void cache_put(struct cache *c, uint64_t layer, size_t first, size_t count, const float *latents)
{
    assert(c->tokens + first + count <= c->room);
    memcpy(layer_rows(c, layer) + (c->tokens + first) * c->width, latents, count * c->width * sizeof *latents);
}

/* ---- all heads of one token ---- */

struct absorbed {
    const struct layer_run *run;
    struct matrix_place q_b, kv_b;
    float *kv_rows, *query, *scratch, *rounded;
    struct attend attend;
    float *out;
};

static void place(struct absorbed *p, const struct forward *f, const struct layer_weights *l, struct scratch *s)
{
    p->attend = attend_of(f);
    place_matrix(f, &p->q_b, l->q_b, s);
    place_matrix(f, &p->kv_b, l->kv_b, s);
    p->kv_rows = place_floats(s, l->kv_b->rows, l->kv_b->cols);
    p->query = place_floats(s, 1, l->q_b->rows);
    p->scratch = place_floats(s, f->crew.threads, absorbed_scratch_floats(&p->attend));
    p->rounded = place_floats(s, 1, l->q_b->cols);
}

void absorbed_heads_place(const struct forward *f, const struct layer_weights *l, struct scratch *s)
{
    struct absorbed p = {0};

    place(&p, f, l, s);
}

static bool run_head(void *ctx, size_t head, unsigned worker, struct err *e)
{
    const struct absorbed *p = ctx;
    const struct attend *a = &p->attend;
    const struct cache *c = p->run->cache;
    float *query = p->query + head * (a->nope_dim + a->rope_dim);
    float *scratch = p->scratch + worker * absorbed_scratch_floats(a);

    const float *kv_b = p->kv_rows + head * (a->nope_dim + a->v_dim) * a->latent_width;

    (void)e;
    rope_turn(a->rope, p->run->f->turns, query + a->nope_dim, a->crew->emulate == EMULATE_BF16);
    attend_absorbed(a, kv_b, query, layer_rows(c, p->run->layer), c->tokens + 1, p->out + head * a->v_dim, scratch);
    crew_round(a->crew, p->out + head * a->v_dim, a->v_dim);
    return true;
}

bool absorbed_heads_run(const struct layer_run *r, struct err *e)
{
    struct forward *f = r->f;
    struct scratch s = {.base = f->memory};
    struct absorbed p = {.run = r};
    const float *input;

    place(&p, f, r->weights, &s);
    f->crew.rounded = p.rounded;
    float *buffer = mem_aligned((query_width(f) + f->heads.width) * sizeof *buffer);
    p.out = stream_place(&f->heads, 0, buffer + query_width(f));
    bool ok = load_matrix(f, &p.q_b, e) && load_matrix(f, &p.kv_b, e) &&
              crew_decode(&f->crew, &p.kv_b.matrix, p.kv_rows, e) && stream_read(&f->query, 0, 1, buffer, &input, e) &&
              crew_linear(&f->crew, &p.q_b.matrix, input, query_width(f), 1, p.query, r->weights->q_b->rows, e);
    ok = ok && pool_run(f->crew.threads, p.attend.heads, run_head, &p, e) && stream_write(&f->heads, 0, 1, p.out, e);
    mem_free(buffer);
    return ok;
}

/* ---- the walk ---- */

static bool walk(struct forward *f, struct cache *c, const uint32_t *ids, size_t count, bool absorbed, float *logits,
                 struct err *e)
{
    static const struct observer nobody = {0};
    struct sequence one = {.tokens = count, .start_pos = c->start_pos + c->tokens};
    struct batch b = {.ids = ids, .tokens = count, .sequences = &one, .sequence_count = 1};
    struct stream streams[2] = {{0}};
    bool ok = false;

    assert(count <= c->room - c->tokens && !f->options.by_slices);
    if (!forward_check_dense(f, c->tokens + count, e) || !forward_begin(f, &b, e) ||
        !forward_stream(f, &streams[0], e) || !forward_stream(f, &streams[1], e) || !forward_embed(f, &streams[0], e))
        goto done;
    for (uint64_t i = 0; i < f->arch->layers; i++) {
        struct layer_run r = {.f = f,
                              .layer = i,
                              .weights = &f->layers[i],
                              .in = &streams[i % 2],
                              .out = &streams[(i + 1) % 2],
                              .observer = &nobody,
                              .cache = c,
                              .absorbed = absorbed};
        if (!layer_run(&r, e))
            goto done;
    }
    c->tokens += count;
    ok = forward_logits(f, &streams[f->arch->layers % 2], count - 1, 1, logits, e);
done:
    stream_close(&streams[0]);
    stream_close(&streams[1]);
    return ok;
}

bool forward_prefill(struct forward *f, struct cache *c, const uint32_t *ids, size_t count, float *logits,
                     struct err *e)
{
    assert(c->tokens == 0 && count > 0);
    return walk(f, c, ids, count, false, logits, e);
}

bool forward_step(struct forward *f, struct cache *c, uint32_t id, float *logits, struct err *e)
{
    return walk(f, c, &id, 1, true, logits, e);
}
