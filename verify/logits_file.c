#include "verify/logits_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/mem.h"
#include "formats/base/progress.h"
#include "formats/safetensors.h"
#include "verify/mtp.h"

/* Logits that are held at once: more than that helps no further. */
#define LOGITS_BYTES_MAX (256u << 20)

struct writer {
    const struct source *source;
    const struct arch *arch;
    struct forward *f;
    const struct batch *batch;
    struct mtp_batch mtp;
    const struct logits_request *request;
    struct logits_summary *summary;

    struct arena arena;
    struct tensor *tensors;
    size_t tensor_count;
    struct output out;
    struct progress *progress;

    struct stream states[2];
    struct stream draft;
    float *logits; /* [logit_rows][vocab] */
    size_t logit_rows;
    float *buffer;     /* [logit_rows][hidden] */
    uint32_t *choices; /* [tokens]: the main head's choice, with mtp */
};

/* ---- the plan ---- */

static void add_tensor(struct writer *w, enum dtype_id dtype, uint64_t rows, uint64_t cols, const char *name)
{
    struct tensor *t = &w->tensors[w->tensor_count++];

    *t = (struct tensor){.name = name, .dtype = dtype, .rank = cols ? 2 : 1, .dims = {rows, cols}};
    (void)dtype_bytes(dtype, rows * (cols ? cols : 1), &t->bytes); /* whole bytes each, and far from any limit */
}

static void add_layer_tensor(struct writer *w, const char *what, uint64_t layer, enum dtype_id dtype, uint64_t rows,
                             uint64_t cols)
{
    add_tensor(w, dtype, rows, cols, arena_printf(&w->arena, "%s.%" PRIu64, what, layer));
}

static void list_tensors(struct writer *w)
{
    const struct arch *a = w->arch;
    const struct logits_request *r = w->request;
    uint64_t n = w->batch->tokens, layers = a->layers;

    w->tensors = arena_array(&w->arena, 8 + 3 * layers + 3, sizeof *w->tensors);
    add_tensor(w, DTYPE_I64, w->batch->sequence_count, 3, "sequences");
    add_tensor(w, DTYPE_I32, n, 0, "tokens");
    for (uint64_t i = 0; r->hidden && i <= layers; i++)
        add_layer_tensor(w, "hidden", i, DTYPE_F32, n, a->hidden_size);
    for (uint64_t i = 0; r->routing && i < layers + r->mtp; i++)
        if (arch_is_moe_layer(a, i)) {
            uint64_t rows = i < layers ? n : w->mtp.batch.tokens;
            add_layer_tensor(w, "experts", i, DTYPE_I32, rows, a->experts_per_token);
            add_layer_tensor(w, "expert_weights", i, DTYPE_F32, rows, a->experts_per_token);
        }
    if (r->mtp)
        add_tensor(w, DTYPE_F32, w->mtp.batch.tokens, a->vocab_size, "mtp_logits");
    add_tensor(w, DTYPE_F32, n, a->vocab_size, "logits");
}

static const struct tensor *find(const struct writer *w, const char *what, int64_t layer)
{
    char name[64];

    if (layer < 0)
        snprintf(name, sizeof name, "%s", what);
    else
        snprintf(name, sizeof name, "%s.%" PRId64, what, layer);
    for (size_t i = 0; i < w->tensor_count; i++)
        if (strcmp(w->tensors[i].name, name) == 0)
            return &w->tensors[i];
    return NULL;
}

static bool open_file(struct writer *w, struct err *e)
{
    const struct tensor **list;
    struct buf head = {0};
    uint64_t bytes;
    bool ok;

    list_tensors(w);
    list = arena_array(&w->arena, w->tensor_count, sizeof *list);
    for (size_t i = 0; i < w->tensor_count; i++)
        list[i] = &w->tensors[i];
    ok = safetensors_layout(&head, (struct tensor *const *)list, w->tensor_count, &bytes, e) &&
         output_open(&w->out, w->request->path, bytes, false, e) && output_write(&w->out, 0, head.data, head.bytes, e);
    buf_release(&head);
    return ok;
}

/* Rows [first, first + count) of a tensor. */
static bool put_rows(struct writer *w, const struct tensor *t, size_t first, size_t count, const void *rows,
                     struct err *e)
{
    uint64_t row_bytes = t->dims[0] ? t->bytes / t->dims[0] : 0;

    return output_write(&w->out, t->offset + first * row_bytes, rows, count * row_bytes, e);
}

static bool put_batch(struct writer *w, struct err *e)
{
    const struct batch *b = w->batch;
    int64_t(*sequences)[3] = arena_array(&w->arena, b->sequence_count, sizeof *sequences);

    for (size_t i = 0; i < b->sequence_count; i++) {
        sequences[i][0] = (int64_t)b->sequences[i].first;
        sequences[i][1] = (int64_t)b->sequences[i].tokens;
        sequences[i][2] = (int64_t)b->sequences[i].start_pos;
    }
    return put_rows(w, find(w, "sequences", -1), 0, b->sequence_count, sequences, e) &&
           put_rows(w, find(w, "tokens", -1), 0, b->tokens, b->ids, e);
}

/* ---- the pass ---- */

static bool put_routing(void *ctx, const struct routing *r, struct err *e)
{
    struct writer *w = ctx;

    if (w->request->trace)
        routing_stats_add(w->request->trace, r->layer, r->ids, r->weights, r->tokens);
    return !w->request->routing ||
           (put_rows(w, find(w, "experts", (int64_t)r->layer), r->first, r->tokens, r->ids, e) &&
            put_rows(w, find(w, "expert_weights", (int64_t)r->layer), r->first, r->tokens, r->weights, e));
}

static bool put_hidden(struct writer *w, uint64_t index, const struct stream *s, struct err *e)
{
    const float *rows;

    for (size_t t = 0; w->request->hidden && t < s->tokens; t += w->logit_rows) {
        size_t count = s->tokens - t < w->logit_rows ? s->tokens - t : w->logit_rows;
        if (!stream_read(s, t, count, w->buffer, &rows, e) ||
            !put_rows(w, find(w, "hidden", (int64_t)index), t, count, rows, e))
            return false;
    }
    return true;
}

static size_t pieces(const struct writer *w, size_t tokens)
{
    return (tokens + w->logit_rows - 1) / w->logit_rows;
}

/* As stored; -1: of no layer. */
static uint64_t weight_bytes(const struct writer *w, enum role role, int64_t layer)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < w->source->weights.count; i++) {
        const struct weight *x = &w->source->weights.items[i];
        for (enum part p = 0; p < PART_COUNT; p++)
            if (x->parts[p] && x->id.layer == layer && (layer >= 0 || x->id.role == role))
                bytes += x->parts[p]->bytes;
    }
    return bytes;
}

/* Progress is counted in bytes of weights gone through. */
static uint64_t head_bytes(const struct writer *w)
{
    return weight_bytes(w, w->arch->tied_embeddings ? ROLE_EMBED : ROLE_HEAD, -1);
}

static uint64_t planned_bytes(const struct writer *w)
{
    uint64_t bytes = pieces(w, w->batch->tokens) * head_bytes(w);

    for (uint64_t i = 0; i < w->arch->layers + w->request->mtp; i++)
        bytes += weight_bytes(w, ROLE_UNKNOWN, (int64_t)i);
    return bytes + (w->request->mtp ? pieces(w, w->mtp.batch.tokens) * head_bytes(w) : 0);
}

static bool run_layers(struct writer *w, struct err *e)
{
    struct observer o = {.ctx = w, .routing = put_routing};

    if (!forward_stream(w->f, &w->states[0], e) || !forward_stream(w->f, &w->states[1], e) ||
        !forward_embed(w->f, &w->states[0], e) || !put_hidden(w, 0, &w->states[0], e))
        return false;
    for (uint64_t i = 0; i < w->arch->layers; i++) {
        char label[32];
        snprintf(label, sizeof label, "layer %" PRIu64, i);
        progress_label(w->progress, label);
        if (!forward_layer(w->f, i, &w->states[i % 2], &w->states[(i + 1) % 2], &o, e) ||
            !put_hidden(w, i + 1, &w->states[(i + 1) % 2], e))
            return false;
        progress_add(w->progress, weight_bytes(w, ROLE_UNKNOWN, (int64_t)i));
    }
    return true;
}

static uint32_t largest(const float *x, size_t n)
{
    size_t best = 0;

    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return (uint32_t)best;
}

static bool run_logits(struct writer *w, const struct stream *last, struct err *e)
{
    size_t tokens = w->batch->tokens, vocab = w->arch->vocab_size;

    progress_label(w->progress, "logits");
    for (size_t t = 0; t < tokens; t += w->logit_rows) {
        size_t count = tokens - t < w->logit_rows ? tokens - t : w->logit_rows;
        if (!forward_logits(w->f, last, t, count, w->logits, e) ||
            !put_rows(w, find(w, "logits", -1), t, count, w->logits, e))
            return false;
        for (size_t i = 0; w->choices && i < count; i++)
            w->choices[t + i] = largest(w->logits + i * vocab, vocab);
        progress_add(w->progress, head_bytes(w));
    }
    return true;
}

/* The draft made at a token of the MTP batch is about what the main head says one token on. */
static void count_accepted(struct writer *w, size_t first, size_t count)
{
    size_t vocab = w->arch->vocab_size;

    for (size_t i = 0; i < w->mtp.batch.sequence_count; i++) {
        const struct sequence *s = &w->mtp.sequences[i];
        for (size_t t = s->first > first ? s->first : first; t < s->first + s->tokens && t < first + count; t++) {
            w->summary->drafts++;
            w->summary->accepted +=
                largest(w->logits + (t - first) * vocab, vocab) == w->choices[w->mtp.from[i] + (t - s->first) + 1];
        }
    }
}

static bool run_mtp(struct writer *w, const struct stream *last, struct err *e)
{
    struct observer o = {.ctx = w, .routing = put_routing};
    size_t tokens = w->mtp.batch.tokens;

    progress_label(w->progress, "mtp");
    if (tokens == 0)
        return true;
    if (!forward_mtp(w->f, &w->mtp, last, &w->draft, &o, e))
        return false;
    progress_add(w->progress, weight_bytes(w, ROLE_UNKNOWN, (int64_t)w->arch->layers));
    for (size_t t = 0; t < tokens; t += w->logit_rows) {
        size_t count = tokens - t < w->logit_rows ? tokens - t : w->logit_rows;
        if (!forward_mtp_logits(w->f, &w->draft, t, count, w->logits, e) ||
            !put_rows(w, find(w, "mtp_logits", -1), t, count, w->logits, e))
            return false;
        count_accepted(w, t, count);
        progress_add(w->progress, head_bytes(w));
    }
    return true;
}

uint64_t logits_file_bytes(uint64_t memory_bytes)
{
    uint64_t share = memory_bytes > 0 ? memory_bytes / 8 : LOGITS_BYTES_MAX;

    return share < LOGITS_BYTES_MAX ? share : LOGITS_BYTES_MAX;
}

static void take_memory(struct writer *w)
{
    uint64_t vocab = w->arch->vocab_size,
             rows = w->request->logits_bytes / sizeof(float) / (vocab + w->arch->hidden_size) + 1;

    w->logit_rows = rows < w->batch->tokens ? (size_t)rows : w->batch->tokens;
    w->logits = mem_aligned(w->logit_rows * vocab * sizeof *w->logits);
    w->buffer = mem_aligned(w->logit_rows * w->arch->hidden_size * sizeof *w->buffer);
    if (w->request->mtp)
        w->choices = mem_alloc(w->batch->tokens * sizeof *w->choices);
}

static bool run(struct writer *w, struct err *e)
{
    const struct stream *last = &w->states[w->arch->layers % 2];

    if (!put_batch(w, e) || !run_layers(w, e) || !run_logits(w, last, e) || (w->request->mtp && !run_mtp(w, last, e)))
        return false;
    for (size_t i = 0; w->request->trace && i < w->batch->sequence_count; i++)
        routing_stats_add_sequence(w->request->trace, w->batch->sequences[i].tokens);
    return output_commit(&w->out, e);
}

bool logits_file_write(const struct source *s, struct forward *f, const struct batch *b, const struct logits_request *r,
                       struct logits_summary *summary, struct err *e)
{
    struct writer w = {.source = s, .arch = &s->arch, .f = f, .batch = b, .request = r, .summary = summary};
    bool ok;

    *summary = (struct logits_summary){.tokens = b->tokens};
    mtp_batch_init(&w.mtp, b);
    take_memory(&w);
    ok = forward_begin(f, b, e) && open_file(&w, e);
    if (ok) {
        w.progress = progress_new("logits", planned_bytes(&w), r->quiet);
        ok = run(&w, e);
        progress_end(w.progress, ok);
    }
    output_release(&w.out);
    stream_close(&w.states[0]);
    stream_close(&w.states[1]);
    stream_close(&w.draft);
    mtp_batch_release(&w.mtp);
    mem_free(w.logits);
    mem_free(w.buffer);
    mem_free(w.choices);
    arena_release(&w.arena);
    return ok;
}
