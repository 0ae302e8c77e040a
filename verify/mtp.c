#include "verify/mtp.h"

#include <string.h>

#include "formats/base/mem.h"
#include "verify/forward_private.h"

void mtp_batch_init(struct mtp_batch *m, const struct batch *b)
{
    size_t n = 0;

    *m = (struct mtp_batch){
        .ids = mem_alloc((b->tokens + 1) * sizeof *m->ids),
        .sequences = mem_alloc((b->sequence_count + 1) * sizeof *m->sequences),
        .from = mem_alloc((b->sequence_count + 1) * sizeof *m->from),
    };
    for (size_t i = 0; i < b->sequence_count; i++) {
        const struct sequence *s = &b->sequences[i];
        if (s->tokens < 2)
            continue;
        memcpy(m->ids + m->batch.tokens, b->ids + s->first + 1, (s->tokens - 1) * sizeof *m->ids);
        m->from[n] = s->first;
        m->sequences[n++] =
            (struct sequence){.first = m->batch.tokens, .tokens = s->tokens - 1, .start_pos = s->start_pos};
        m->batch.tokens += s->tokens - 1;
    }
    m->batch.ids = m->ids;
    m->batch.sequences = m->sequences;
    m->batch.sequence_count = n;
}

void mtp_batch_release(struct mtp_batch *m)
{
    mem_free(m->ids);
    mem_free(m->sequences);
    mem_free(m->from);
    *m = (struct mtp_batch){0};
}

/* ---- what goes into the layer ---- */

struct join {
    const struct forward *f;
    const struct observer *observer; /* NULL: none */
    struct vector_place norm, embed_norm, hidden_norm;
    struct matrix_place proj;
    float *hidden, *embedded, *joined, *out; /* [chunk] rows; joined is twice as wide */
    float *rounded;
    const float *x;
};

static void join_place(struct join *j, const struct forward *f, const struct stream *out, size_t chunk,
                       struct scratch *s)
{
    size_t d = f->arch->hidden_size;

    j->f = f;
    place_vector(&j->norm, f->top.norm, s);
    place_vector(&j->embed_norm, f->mtp.embed_norm, s);
    place_vector(&j->hidden_norm, f->mtp.hidden_norm, s);
    place_matrix(f, &j->proj, f->mtp.proj, s);
    j->hidden = place_floats(s, chunk, d);
    j->embedded = place_floats(s, chunk, d);
    j->joined = place_floats(s, chunk, 2 * d);
    j->out = place_rows(s, out, chunk, d);
    j->rounded = f->options.emulate == EMULATE_FP8_ACTIVATIONS ? place_floats(s, chunk, 2 * d) : NULL;
}

void mtp_place(const struct forward *f, size_t chunk, struct scratch *s)
{
    struct join j = {0};

    join_place(&j, f, NULL, chunk, s);
}

/* The embedding's half first. */
static bool join_rows(void *ctx, size_t first, size_t count, unsigned worker, struct err *e)
{
    const struct join *j = ctx;
    const struct crew *c = &j->f->crew;
    size_t d = j->f->arch->hidden_size;
    double eps = j->f->arch->rms_norm_eps;

    (void)worker;
    (void)e;
    for (size_t t = first; t < first + count; t++) {
        float *to = j->joined + t * 2 * d;
        crew_norm(c, to, j->embedded + t * d, j->embed_norm.x, d, eps);
        crew_norm(c, to + d, j->x + t * d, j->norm.x, d, eps);
        crew_norm(c, to + d, to + d, j->hidden_norm.x, d, eps);
    }
    return true;
}

static bool show_joined(const struct join *j, size_t first, size_t count, struct err *e)
{
    size_t cols = 2 * j->f->arch->hidden_size;
    struct linear_input in = {j->f->arch->layers, ROLE_MTP_PROJ, first, count, j->joined, cols, cols};

    return !j->observer || !j->observer->input || j->observer->input(j->observer->ctx, &in, e);
}

/* Tokens [first, first + count) of the MTP batch, whose hidden states stand at `from`. */
static bool join_chunk(struct join *j, const struct stream *last, size_t from, size_t first, size_t count,
                       struct stream *out, struct err *e)
{
    const struct forward *f = j->f;
    size_t d = f->arch->hidden_size;
    float *to = stream_place(out, first, j->out);

    return stream_read(last, from, count, j->hidden, &j->x, e) &&
           embed_rows(f, f->mtp.embed, f->batch.ids + first, count, j->embedded, e) &&
           crew_rows(&f->crew, count, join_rows, j, e) && show_joined(j, first, count, e) &&
           crew_linear(&f->crew, &j->proj.matrix, j->joined, 2 * d, count, to, d, e) &&
           stream_write(out, first, count, to, e);
}

static bool join_all(struct forward *f, const struct mtp_batch *m, const struct stream *last, struct stream *out,
                     const struct observer *o, struct err *e)
{
    struct scratch s = {.base = f->memory};
    struct join j = {0};

    join_place(&j, f, out, f->chunk, &s);
    j.observer = o;
    if (!load_vector(f, &j.norm, e) || !load_vector(f, &j.embed_norm, e) || !load_vector(f, &j.hidden_norm, e) ||
        !load_matrix(f, &j.proj, e))
        return false;
    f->crew.rounded = j.rounded;
    for (size_t i = 0; i < m->batch.sequence_count; i++)
        for (size_t t = 0; t < m->batch.sequences[i].tokens; t += f->chunk) {
            size_t left = m->batch.sequences[i].tokens - t;
            if (!join_chunk(&j, last, m->from[i] + t, m->batch.sequences[i].first + t,
                            left < f->chunk ? left : f->chunk, out, e))
                return false;
        }
    return true;
}

bool forward_has_mtp(const struct forward *f)
{
    return f->mtp_error.code == ERR_NONE;
}

bool mtp_is_stored(const struct source *s)
{
    for (size_t i = 0; i < s->weights.count; i++)
        if (s->weights.items[i].id.role == ROLE_MTP_PROJ)
            return s->arch.mtp_layers > 0;
    return false;
}

bool forward_mtp(struct forward *f, const struct mtp_batch *m, const struct stream *last, struct stream *out,
                 const struct observer *o, struct err *e)
{
    struct stream joined = {0};
    bool ok = false;

    if (f->mtp_error.code != ERR_NONE) {
        *e = f->mtp_error;
        return false;
    }
    if (!forward_begin(f, &m->batch, e) || !forward_stream(f, out, e) || !forward_stream(f, &joined, e))
        goto done;
    ok = join_all(f, m, last, &joined, o, e) && forward_layer(f, f->arch->layers, &joined, out, o, e);
done:
    stream_close(&joined);
    if (!ok)
        stream_close(out);
    return ok;
}

bool forward_mtp_logits(struct forward *f, const struct stream *out, size_t first, size_t count, float *logits,
                        struct err *e)
{
    return head_run(f, f->mtp.final_norm, f->mtp.head, out, first, count, logits, e);
}

static size_t choice(const float *logits, size_t vocab)
{
    size_t best = 0;

    for (size_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

bool mtp_draft_accepted(const float *draft, const float *next, size_t vocab)
{
    return choice(draft, vocab) == choice(next, vocab);
}
