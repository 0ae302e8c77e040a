/* What a forward pass may hold at once: how many tokens a stage takes, which
 * streams are in memory, how far ahead experts are read. Any choice gives the
 * same bits. */
#include <unistd.h>

#include "formats/base/mem.h"
#include "verify/expert_reader.h"
#include "verify/forward_private.h"

/* Outputs of routed experts that are held at once help no further. */
#define WAVE_ROWS_MAX (1u << 16)
/* A smaller expert is read sooner than it is handed over from one thread to another. */
#define AHEAD_BYTES_MIN ((size_t)256 << 10)
/* Beyond one for each worker: what the disk can do during attention. Experts that come from the page cache wait there.
 */
#define PLACES_MAX 32u

/* ---- memory ---- */

static void keep_larger(size_t *most, struct scratch *s)
{
    *most = s->used_bytes > *most ? s->used_bytes : *most;
    *s = (struct scratch){0};
}

static size_t measure_layer(const struct forward *f, const struct layer_weights *l, const struct batch *b, size_t chunk,
                            size_t wave_rows)
{
    struct scratch s = {0};
    size_t most = 0;

    attention_project_place(f, l, chunk, &s);
    keep_larger(&most, &s);
    attention_heads_place(f, l, chunk, batch_longest(b), &s);
    keep_larger(&most, &s);
    if (!f->options.by_slices)
        absorbed_heads_place(f, l, &s);
    keep_larger(&most, &s);
    attention_output_place(f, l, chunk, &s);
    keep_larger(&most, &s);
    mlp_need_place(f, l, chunk, &s);
    keep_larger(&most, &s);
    if (l->experts)
        moe_need_place(f, l, chunk, b->tokens, wave_rows, &s);
    keep_larger(&most, &s);
    return most;
}

/* Of the stage that needs most. */
static size_t measure(const struct forward *f, const struct batch *b, size_t chunk, size_t wave_rows)
{
    struct scratch s = {0};
    size_t most = 0, layers = f->mtp_error.code == ERR_NONE ? f->layer_count : f->arch->layers;

    for (size_t i = 0; i < layers; i++) {
        size_t bytes = measure_layer(f, &f->layers[i], b, chunk, wave_rows);
        most = bytes > most ? bytes : most;
    }
    head_place(f, f->top.norm, f->top.head, &s);
    keep_larger(&most, &s);
    if (f->mtp_error.code == ERR_NONE)
        mtp_place(f, chunk, &s);
    keep_larger(&most, &s);
    return most;
}

/* Of all stages, and of the experts that are read ahead. */
static uint64_t measure_all(const struct forward *f, const struct batch *b, size_t chunk, size_t wave_rows)
{
    return measure(f, b, chunk, wave_rows) + (f->places > 0 ? expert_reader_bytes(f->places, f->room_bytes) : 0);
}

/* What is there whatever the chunks are. */
static uint64_t fixed_bytes(const struct forward *f, const struct batch *b)
{
    return f->options.caller_bytes + f->crew.threads * (f->crew.scratch_bytes + f->crew.slice_bytes) +
           (uint64_t)b->tokens * f->arch->qk_rope_dim * sizeof(float);
}

static void close_streams(struct forward *f)
{
    stream_close(&f->residual);
    stream_close(&f->query);
    stream_close(&f->latent);
    stream_close(&f->heads);
}

uint64_t forward_memory_bytes(struct forward *f, const struct batch *b)
{
    struct forward none = *f; /* with all of its streams in files */

    none.residual = none.query = none.latent = none.heads = (struct stream){0};
    none.places = 0; /* each worker reads its own */
    return fixed_bytes(f, b) + measure(&none, b, CHUNK_TOKENS_MIN, CHUNK_TOKENS_MIN);
}

static uint64_t memory_limit(const struct forward *f)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);

    if (f->options.memory_bytes > 0)
        return f->options.memory_bytes;
    return pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes / 2 : UINT64_MAX / 2;
}

static bool open_streams(struct forward *f, size_t tokens, struct err *e)
{
    return stream_open(&f->residual, &f->store, tokens, f->arch->hidden_size, e) &&
           stream_open(&f->query, &f->store, tokens, query_width(f), e) &&
           stream_open(&f->latent, &f->store, tokens, latent_width(f), e) &&
           stream_open(&f->heads, &f->store, tokens, f->arch->heads * f->arch->v_dim, e);
}

/* Hidden states that callers of forward_stream hold at once, at most: diff with its floor. */
#define CALLER_STREAMS 8u

/* All streams that there will be; one more would go to a file. */
static uint64_t streams_bytes(const struct forward *f, const struct batch *b)
{
    const struct arch *a = f->arch;
    uint64_t width = (1 + CALLER_STREAMS) * a->hidden_size + query_width(f) + latent_width(f) + a->heads * a->v_dim;

    return b->tokens * width * sizeof(float);
}

/* Few tokens reach few experts, and the next token may want the same ones from the page cache. */
static bool reads_ahead(const struct forward *f, const struct batch *b)
{
    return !f->options.by_slices && f->room_bytes >= AHEAD_BYTES_MIN &&
           b->tokens * f->arch->experts_per_token >= f->arch->experts;
}

/* What fits the budget is kept in the page cache for the next run; what does not would only push itself out. */
static bool reads_direct(const struct forward *f)
{
    return f->source->checkpoint.tensor_bytes > memory_limit(f);
}

static bool places_fit(struct forward *f, const struct batch *b, size_t places, uint64_t room)
{
    size_t before = f->places;

    f->places = places;
    if (measure_all(f, b, f->chunk, f->wave_rows) <= room)
        return true;
    f->places = before;
    return false;
}

/* The largest chunk, a place ahead for every worker or for some, the largest wave, and then more places. */
static void choose_sizes(struct forward *f, const struct batch *b, uint64_t room, bool ahead)
{
    size_t chunk = CHUNK_TOKENS_MIN, choices = b->tokens * f->arch->experts_per_token, threads = f->crew.threads;
    size_t most = threads * 2 > PLACES_MAX || !reads_direct(f) ? threads * 2 : PLACES_MAX;

    f->places = 0;
    while (chunk < CHUNK_TOKENS_MAX && chunk < b->tokens && measure(f, b, chunk * 2, CREW_TOKENS) <= room)
        chunk *= 2;
    f->chunk = chunk;
    f->wave_rows = chunk < CREW_TOKENS ? chunk : CREW_TOKENS;
    for (size_t places = threads * 2; ahead && places > threads && !places_fit(f, b, places, room);)
        places--;
    while (f->wave_rows < choices && f->wave_rows < WAVE_ROWS_MAX && measure_all(f, b, chunk, f->wave_rows * 2) <= room)
        f->wave_rows *= 2;
    while (f->places > 0 && f->places < most && places_fit(f, b, f->places + 1, room))
        ;
}

/* The reader for the places that were chosen. False: it cannot be had. */
static bool fit_reader(struct forward *f)
{
    size_t places = f->reader ? f->reader_places : 0;

    if (places == f->places)
        return true;
    expert_reader_free(f->reader);
    f->reader = f->places > 0 ? expert_reader_new(f->source, f->places, f->room_bytes, reads_direct(f)) : NULL;
    f->reader_places = f->places;
    return f->places == 0 || f->reader;
}

static void choose_memory(struct forward *f, const struct batch *b, uint64_t room)
{
    choose_sizes(f, b, room, reads_ahead(f, b));
    if (!fit_reader(f)) {
        choose_sizes(f, b, room, false);
        (void)fit_reader(f);
    }
    size_t bytes = measure(f, b, f->chunk, f->wave_rows);
    if (bytes > f->memory_bytes) {
        mem_free(f->memory);
        f->memory = mem_aligned(bytes);
        f->memory_bytes = bytes;
    }
}

bool forward_check_memory(struct forward *f, const struct batch *b, struct err *e)
{
    uint64_t given = f->options.memory_bytes, need = forward_memory_bytes(f, b);

    return given == 0 || need <= given || err_memory(e, given, need, "one layer of this model needs");
}

bool forward_plan_memory(struct forward *f, const struct batch *b, struct err *e)
{
    uint64_t need = forward_memory_bytes(f, b), limit = memory_limit(f);

    if (!forward_check_memory(f, b, e))
        return false;
    uint64_t spare = limit > need ? limit - need : 0;
    close_streams(f);
    uint64_t streams = streams_bytes(f, b);
    f->store.budget_bytes = spare / 4 * 3 < streams ? spare / 4 * 3 : streams;
    if (!open_streams(f, b->tokens, e))
        return false;
    choose_memory(f, b, need - fixed_bytes(f, b) + (spare - f->store.budget_bytes));
    return true;
}
