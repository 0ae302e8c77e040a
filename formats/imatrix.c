#include "formats/imatrix.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GGUF_MAGIC   "GGUF"
#define GGUF_VERSION 3u
#define GGUF_ALIGN   32u
#define GGUF_F32     0u
#define GGUF_STRING  8u
#define GGUF_ARRAY   9u
#define GGUF_U32     4u
#define DATASET      "quern calibrate"

/* A tensor's name, and the input without which the layer has no such tensor (ROLE_UNKNOWN: its own). */
static const struct row {
    enum role matrix;
    const char *name;
    enum role with, without;
} rows[] = {
    {ROLE_Q_A_PROJ, "attn_q_a", ROLE_Q_B_PROJ, ROLE_UNKNOWN},
    {ROLE_Q_PROJ, "attn_q", ROLE_UNKNOWN, ROLE_Q_B_PROJ},
    {ROLE_Q_B_PROJ, "attn_q_b", ROLE_UNKNOWN, ROLE_UNKNOWN},
    {ROLE_KV_A_PROJ, "attn_kv_a_mqa", ROLE_UNKNOWN, ROLE_UNKNOWN},
    {ROLE_KV_B_PROJ, "attn_kv_b", ROLE_UNKNOWN, ROLE_UNKNOWN},
    {ROLE_O_PROJ, "attn_output", ROLE_UNKNOWN, ROLE_UNKNOWN},
    {ROLE_DENSE_GATE, "ffn_gate", ROLE_UNKNOWN, ROLE_UNKNOWN},
    {ROLE_DENSE_UP, "ffn_up", ROLE_UNKNOWN, ROLE_UNKNOWN},
    {ROLE_DENSE_DOWN, "ffn_down", ROLE_UNKNOWN, ROLE_UNKNOWN},
    {ROLE_SHARED_GATE, "ffn_gate_shexp", ROLE_SHARED_DOWN, ROLE_UNKNOWN},
    {ROLE_SHARED_UP, "ffn_up_shexp", ROLE_SHARED_DOWN, ROLE_UNKNOWN},
    {ROLE_SHARED_DOWN, "ffn_down_shexp", ROLE_UNKNOWN, ROLE_UNKNOWN},
    {ROLE_EXPERT_GATE, "ffn_gate_exps", ROLE_UNKNOWN, ROLE_UNKNOWN},
    {ROLE_EXPERT_UP, "ffn_up_exps", ROLE_UNKNOWN, ROLE_UNKNOWN},
    {ROLE_EXPERT_DOWN, "ffn_down_exps", ROLE_UNKNOWN, ROLE_UNKNOWN},
};
#define ROW_COUNT (sizeof rows / sizeof rows[0])

bool imatrix_form(const char *path, enum imatrix_form *form, struct err *e)
{
    const char *dot = strrchr(path, '.');
    bool gguf = dot && strcmp(dot, ".gguf") == 0;

    if (!gguf && (!dot || strcmp(dot, ".dat") != 0))
        return err_set(e, ERR_USAGE, "an imatrix is FILE.gguf or FILE.dat, not '%s'", path);
    if (form)
        *form = gguf ? IMATRIX_GGUF : IMATRIX_DAT;
    return true;
}

/* ---- entries ---- */

struct entry {
    const char *name; /* "blk.3.ffn_down_exps.weight" */
    const struct calib_input *input;
    uint64_t offset; /* of its values in the file */
};

struct writing {
    const struct calib_stats *s;
    struct arena arena;
    struct entry *entries;
    size_t count;
    struct buf head; /* in front of all values (.gguf), or of the next ones (.dat) */
    struct output out;
    double *sum2;  /* one of an input's rows */
    float *values; /* the same */
};

static bool has(const struct calib_stats *s, uint64_t layer, enum role input)
{
    return calib_input_find(s, layer, input) != NULL;
}

static void list_layer(struct writing *w, uint64_t layer)
{
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const struct row *r = &rows[i];
        const struct calib_input *in = calib_input_find(w->s, layer, calib_input_of(r->matrix));
        if (!in || (r->with != ROLE_UNKNOWN && !has(w->s, layer, r->with)) ||
            (r->without != ROLE_UNKNOWN && has(w->s, layer, r->without)))
            continue;
        w->entries[w->count++] =
            (struct entry){.name = arena_printf(&w->arena, "blk.%" PRIu64 ".%s.weight", layer, r->name), .input = in};
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static void list_entries(struct writing *w)
{
    const struct calib_stats *s = w->s;
    size_t cols = 1;

    w->entries = arena_array(&w->arena, s->layer_count * ROW_COUNT + 1, sizeof *w->entries);
    for (size_t i = 0; i < s->layer_count; i++)
        list_layer(w, s->layers[i].layer);
    qsort(w->entries, w->count, sizeof *w->entries, by_name);
    for (size_t i = 0; i < w->count; i++)
        cols = w->entries[i].input->cols > cols ? w->entries[i].input->cols : cols;
    w->sum2 = arena_array(&w->arena, cols, sizeof *w->sum2);
    w->values = arena_array(&w->arena, cols, sizeof *w->values);
}

static uint32_t calls_of(const struct calib_stats *s)
{
    return s->routing.sequence_count > 0 ? (uint32_t)s->routing.sequence_count : 1;
}

static uint32_t longest_of(const struct calib_stats *s)
{
    int64_t most = 1;

    for (size_t i = 0; i < s->routing.sequence_count; i++)
        most = s->routing.sequences[i].tokens > most ? s->routing.sequences[i].tokens : most;
    return (uint32_t)most;
}

static void put_u32(struct buf *b, uint32_t x)
{
    buf_add(b, &x, sizeof x); /* little-endian, as this machine is */
}

static void put_u64(struct buf *b, uint64_t x)
{
    buf_add(b, &x, sizeof x);
}

/* Row `index` of an entry, each value times `factor`; all 1 times `silent` where no token came, if that is not 0. */
static bool read_row(struct writing *w, const struct entry *t, size_t index, double factor, float silent, struct err *e)
{
    const struct calib_input *in = t->input;

    if (!calib_stats_sum2(w->s, in, index, w->sum2, e))
        return false;
    for (size_t j = 0; j < in->cols; j++) {
        w->values[j] = in->seen[index] == 0 && silent > 0 ? silent : (float)(w->sum2[j] * factor);
        if (!isfinite(w->values[j]))
            return err_set(e, ERR_LIMIT, "'%s': %g of channel %zu is past float32's range", t->name, w->sum2[j], j);
    }
    return true;
}

/* ---- .gguf ---- */

static void put_text(struct buf *b, const char *text)
{
    put_u64(b, strlen(text));
    buf_puts(b, text);
}

static void put_tensor(struct buf *b, const char *name, const char *suffix, uint64_t ne0, uint64_t ne1, uint64_t offset)
{
    put_u64(b, strlen(name) + strlen(suffix));
    buf_puts(b, name);
    buf_puts(b, suffix);
    put_u32(b, 2);
    put_u64(b, ne0);
    put_u64(b, ne1);
    put_u32(b, GGUF_F32);
    put_u64(b, offset);
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + GGUF_ALIGN - 1) / GGUF_ALIGN * GGUF_ALIGN;
}

static void put_u32_key(struct buf *b, const char *key, uint32_t value)
{
    put_text(b, key);
    put_u32(b, GGUF_U32);
    put_u32(b, value);
}

static uint64_t counts_offset(const struct entry *t)
{
    return t->offset + aligned(t->input->n * t->input->cols * sizeof(float));
}

/* Offsets within the data, then from the file's start. Returns the file's size. */
static uint64_t gguf_head(struct writing *w)
{
    struct buf *b = &w->head;
    uint64_t at = 0;

    buf_puts(b, GGUF_MAGIC);
    put_u32(b, GGUF_VERSION);
    put_u64(b, 2 * w->count);
    put_u64(b, 4);
    put_text(b, "general.type");
    put_u32(b, GGUF_STRING);
    put_text(b, "imatrix");
    put_text(b, "imatrix.datasets");
    put_u32(b, GGUF_ARRAY);
    put_u32(b, GGUF_STRING);
    put_u64(b, 1);
    put_text(b, DATASET);
    put_u32_key(b, "imatrix.chunk_count", calls_of(w->s));
    put_u32_key(b, "imatrix.chunk_size", longest_of(w->s));
    for (size_t i = 0; i < w->count; i++) {
        struct entry *t = &w->entries[i];
        t->offset = at;
        put_tensor(b, t->name, ".in_sum2", t->input->cols, t->input->n, at);
        at = counts_offset(t);
        put_tensor(b, t->name, ".counts", 1, t->input->n, at);
        at += aligned(t->input->n * sizeof(float));
    }
    while (b->bytes % GGUF_ALIGN != 0)
        buf_add(b, "", 1);
    for (size_t i = 0; i < w->count; i++)
        w->entries[i].offset += b->bytes;
    return b->bytes + at;
}

static bool gguf_entry(struct writing *w, const struct entry *t, struct err *e)
{
    size_t row_bytes = t->input->cols * sizeof(float);

    for (size_t i = 0; i < t->input->n; i++) {
        float seen = (float)t->input->seen[i];
        if (!read_row(w, t, i, 1, 0, e) || !output_write(&w->out, t->offset + i * row_bytes, w->values, row_bytes, e) ||
            !output_write(&w->out, counts_offset(t) + i * sizeof seen, &seen, sizeof seen, e))
            return false;
    }
    return true;
}

/* What no tensor fills is the padding, zero from the start. */
static bool write_gguf(struct writing *w, const char *path, struct err *e)
{
    uint64_t bytes = gguf_head(w);
    bool ok = output_open(&w->out, path, bytes, false, e) && output_write(&w->out, 0, w->head.data, w->head.bytes, e);

    for (size_t i = 0; i < w->count && ok; i++)
        ok = gguf_entry(w, &w->entries[i], e);
    return ok;
}

/* ---- .dat ---- */

/* Places: each entry's own head stands in front of its values. Returns where they end. */
static uint64_t dat_places(struct writing *w)
{
    uint64_t at = sizeof(uint32_t);

    for (size_t i = 0; i < w->count; i++) {
        struct entry *t = &w->entries[i];
        t->offset = at + 3 * sizeof(uint32_t) + strlen(t->name);
        at = t->offset + t->input->n * t->input->cols * sizeof(float);
    }
    return at;
}

static bool dat_entry(struct writing *w, const struct entry *t, struct err *e)
{
    size_t row_bytes = t->input->cols * sizeof(float), name_bytes = strlen(t->name);
    double calls = calls_of(w->s);

    w->head.bytes = 0;
    put_u32(&w->head, (uint32_t)name_bytes);
    buf_puts(&w->head, t->name);
    put_u32(&w->head, calls_of(w->s));
    put_u32(&w->head, (uint32_t)(t->input->n * t->input->cols));
    if (!output_write(&w->out, t->offset - w->head.bytes, w->head.data, w->head.bytes, e))
        return false;
    for (size_t i = 0; i < t->input->n; i++)
        if (!read_row(w, t, i, calls / (double)(t->input->seen[i] > 0 ? t->input->seen[i] : 1), (float)calls, e) ||
            !output_write(&w->out, t->offset + i * row_bytes, w->values, row_bytes, e))
            return false;
    return true;
}

static bool write_dat(struct writing *w, const char *path, struct err *e)
{
    uint64_t end = dat_places(w);
    uint32_t count = (uint32_t)w->count;
    size_t trailer = 2 * sizeof(uint32_t) + strlen(DATASET);
    bool ok = output_open(&w->out, path, end + trailer, false, e) && output_write(&w->out, 0, &count, sizeof count, e);

    for (size_t i = 0; i < w->count && ok; i++)
        ok = dat_entry(w, &w->entries[i], e);
    w->head.bytes = 0;
    put_u32(&w->head, calls_of(w->s));
    put_u32(&w->head, (uint32_t)strlen(DATASET));
    buf_puts(&w->head, DATASET);
    return ok && output_write(&w->out, end, w->head.data, trailer, e);
}

bool imatrix_write(const struct calib_stats *s, const char *path, struct err *e)
{
    struct writing w = {.s = s};
    enum imatrix_form form = IMATRIX_GGUF;
    bool ok = imatrix_form(path, &form, e);

    if (ok) {
        list_entries(&w);
        ok = (form == IMATRIX_GGUF ? write_gguf(&w, path, e) : write_dat(&w, path, e)) && output_commit(&w.out, e);
    }
    output_release(&w.out);
    buf_release(&w.head);
    arena_release(&w.arena);
    return ok || err_in(e, "'%s'", path);
}
