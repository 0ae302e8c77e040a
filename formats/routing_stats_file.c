/* The file of routing statistics, written and read. A reader believes nothing that it can work out itself. */
#include "formats/routing_stats.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/units.h"

#define FORMAT_NAME    "quern-routing"
#define FORMAT_VERSION "1"
/* A count past this is no count of tokens; sums of such counts stay far from overflow. */
#define TOKENS_MAX (1ull << 44)

enum kind { KIND_COUNTS, KIND_WEIGHT_SUMS, KIND_COACTIVATION, KIND_TRACE, KIND_TRACE_WEIGHTS, KIND_COUNT };

static const struct {
    const char *name;
    enum dtype_id dtype;
} kinds[KIND_COUNT] = {
    [KIND_COUNTS] = {"counts", DTYPE_I64},
    [KIND_WEIGHT_SUMS] = {"weight_sums", DTYPE_F64},
    [KIND_COACTIVATION] = {"coactivation", DTYPE_I64},
    [KIND_TRACE] = {"trace", DTYPE_I32},
    [KIND_TRACE_WEIGHTS] = {"trace_weights", DTYPE_F32},
};

/* ---- writing ---- */

static const void *layer_data(const struct routing_layer *l, enum kind kind)
{
    const void *const data[KIND_COUNT] = {l->counts, l->weight_sums, l->coactivation, l->trace, l->trace_weights};

    return data[kind];
}

static void layer_dims(const struct routing_stats *s, uint64_t tokens, enum kind kind, struct tensor *t)
{
    bool vector = kind == KIND_COUNTS || kind == KIND_WEIGHT_SUMS;
    bool trace = kind == KIND_TRACE || kind == KIND_TRACE_WEIGHTS;

    t->dtype = kinds[kind].dtype;
    t->rank = vector ? 1 : 2;
    t->dims[0] = trace ? tokens : s->experts;
    t->dims[1] = vector ? 0 : trace ? s->experts_per_token : s->experts;
}

static void list_metadata(const struct routing_stats *s, struct arena *a, struct routing_file *f)
{
    const struct safetensors_meta list[] = {
        {"format", FORMAT_NAME},
        {"version", FORMAT_VERSION},
        {"config_sha256", arena_strdup(a, s->config_sha256)},
        {"experts", arena_printf(a, "%" PRIu64, s->experts)},
        {"experts_per_token", arena_printf(a, "%" PRIu64, s->experts_per_token)},
        {"layers", arena_printf(a, "%" PRIu64, s->layers)},
        {"tokens", arena_printf(a, "%" PRIu64, s->tokens)},
        {"routers_sha256", arena_strdup(a, s->routers_sha256)},
        {"function_sha256", arena_strdup(a, s->function_sha256)},
    };
    size_t count = sizeof list / sizeof list[0];

    f->metadata = arena_array(a, count, sizeof *f->metadata);
    for (size_t i = 0; i < count; i++)
        if (list[i].value[0])
            f->metadata[f->metadata_count++] = list[i];
}

void routing_stats_list(const struct routing_stats *s, struct arena *a, struct routing_file *f)
{
    *f = (struct routing_file){.items = arena_array(a, s->count * KIND_COUNT + 1, sizeof *f->items)};
    list_metadata(s, a, f);
    f->items[f->count++] = tensor_item_matrix("sequences", DTYPE_I64, s->sequence_count, 2, s->sequences);
    for (enum kind kind = 0; kind < KIND_COUNT; kind++)
        for (size_t i = 0; i < s->count; i++) {
            const struct routing_layer *l = &s->items[i];
            struct tensor_item *item = &f->items[f->count];
            if (kind >= KIND_TRACE && !s->with_trace)
                continue;
            item->tensor.name = arena_printf(a, "%s.%" PRIu64, kinds[kind].name, l->layer);
            item->data = layer_data(l, kind);
            layer_dims(s, l->tokens, kind, &item->tensor);
            f->count++;
        }
}

bool routing_stats_write(const struct routing_stats *s, const char *path, struct err *e)
{
    struct arena a = {0};
    struct routing_file f;

    routing_stats_list(s, &a, &f);
    bool ok = tensor_file_write(path, f.metadata, f.metadata_count, f.items, f.count, e);
    arena_release(&a);
    return ok;
}

/* ---- reading ---- */

struct reading {
    struct routing_stats *s;
    struct safetensors st;
    const struct file *file; /* or */
    const uint8_t *data;
    const struct tensor *tensors[ROUTING_LAYERS_MAX][KIND_COUNT];
    const struct tensor *sequences;
};

static bool fetch(const struct reading *r, const struct tensor *t, void *to, struct err *e)
{
    if (r->file)
        return file_read(r->file, t->offset, to, (size_t)t->bytes, e);
    memcpy(to, r->data + t->offset, (size_t)t->bytes);
    return true;
}

static bool need_text(const struct reading *r, const char *key, const char **value, struct err *e)
{
    *value = safetensors_meta(&r->st, key);
    return *value || err_set(e, ERR_FORMAT, "not routing statistics: its metadata has no '%s'", key);
}

static bool parse_number(const char *text, uint64_t max, uint64_t *value)
{
    *value = 0;
    if (!*text || (text[0] == '0' && text[1]))
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        *value = *value * 10 + (uint64_t)(*text - '0');
        if (*value > max)
            return false;
    }
    return true;
}

static bool need_number(const struct reading *r, const char *key, uint64_t min, uint64_t max, uint64_t *value,
                        struct err *e)
{
    const char *text = NULL;

    if (!need_text(r, key, &text, e))
        return false;
    return (parse_number(text, max, value) && *value >= min) ||
           err_set(e, ERR_FORMAT, "'%s' is '%.40s', not a number from %" PRIu64 " to %" PRIu64, key, text, min, max);
}

static bool is_hash(const char *text)
{
    return strlen(text) == HASH_HEX_BYTES - 1 && strspn(text, "0123456789abcdef") == HASH_HEX_BYTES - 1;
}

static bool read_hash(const char *key, const char *text, char hex[HASH_HEX_BYTES], struct err *e)
{
    if (!is_hash(text))
        return err_set(e, ERR_FORMAT, "'%s' is '%.70s', not a SHA-256", key, text);
    memcpy(hex, text, HASH_HEX_BYTES);
    return true;
}

/* "" when the file has none. */
static bool read_known_hash(struct reading *r, const char *key, char hex[HASH_HEX_BYTES], struct err *e)
{
    const char *text = safetensors_meta(&r->st, key);

    return !text || read_hash(key, text, hex, e);
}

static bool read_metadata(struct reading *r, struct err *e)
{
    struct routing_stats *s = r->s;
    const char *text = NULL;

    if (!need_text(r, "format", &text, e))
        return false;
    if (strcmp(text, FORMAT_NAME) != 0)
        return err_set(e, ERR_FORMAT, "not routing statistics: its format is '%.40s', not '" FORMAT_NAME "'", text);
    if (!need_text(r, "version", &text, e))
        return false;
    if (strcmp(text, FORMAT_VERSION) != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "version '%.40s' of routing statistics, and only " FORMAT_VERSION " is known", text);
    if (!need_text(r, "config_sha256", &text, e) || !read_hash("config_sha256", text, s->config_sha256, e))
        return false;
    if (!read_known_hash(r, "routers_sha256", s->routers_sha256, e) ||
        !read_known_hash(r, "function_sha256", s->function_sha256, e))
        return false;
    return need_number(r, "experts", 1, ROUTING_EXPERTS_MAX, &s->experts, e) &&
           need_number(r, "experts_per_token", 1, s->experts, &s->experts_per_token, e) &&
           need_number(r, "layers", 1, ROUTING_LAYERS_MAX, &s->layers, e) &&
           need_number(r, "tokens", 0, TOKENS_MAX, &s->tokens, e);
}

/* "counts.12"; KIND_COUNT: not one of ours. */
static enum kind identify(const char *name, uint64_t *layer)
{
    const char *dot = strchr(name, '.');

    for (enum kind kind = 0; dot && kind < KIND_COUNT; kind++)
        if (strlen(kinds[kind].name) == (size_t)(dot - name) &&
            memcmp(kinds[kind].name, name, (size_t)(dot - name)) == 0 &&
            parse_number(dot + 1, ROUTING_LAYERS_MAX - 1, layer))
            return kind;
    return KIND_COUNT;
}

static void find_tensors(struct reading *r)
{
    for (size_t i = 0; i < r->st.tensor_count; i++) {
        const struct tensor *t = &r->st.tensors[i];
        uint64_t layer = 0;
        enum kind kind = identify(t->name, &layer);
        if (strcmp(t->name, "sequences") == 0)
            r->sequences = t;
        if (kind != KIND_COUNT)
            r->tensors[layer][kind] = t;
    }
}

static bool check_tensor(const struct tensor *t, const struct tensor *want, struct err *e)
{
    char got[TENSOR_SHAPE_TEXT], wanted[TENSOR_SHAPE_TEXT];
    bool same = t->dtype == want->dtype && t->rank == want->rank;

    for (uint32_t i = 0; same && i < t->rank; i++)
        same = t->dims[i] == want->dims[i];
    return same || err_set(e, ERR_FORMAT, "tensor '%s' is %s %s, not %s %s", t->name, dtype_get(t->dtype)->name,
                           tensor_shape_text(t->rank, t->dims, got), dtype_get(want->dtype)->name,
                           tensor_shape_text(want->rank, want->dims, wanted));
}

/* Its size is the file's, so what is allocated is no more than what was read. */
static bool fetch_kind(struct reading *r, uint64_t layer, uint64_t tokens, enum kind kind, void **data, struct err *e)
{
    const struct tensor *t = r->tensors[layer][kind];
    struct tensor want = {0};

    if (!t)
        return err_set(e, ERR_FORMAT, "tensor '%s.%" PRIu64 "' is missing", kinds[kind].name, layer);
    layer_dims(r->s, tokens, kind, &want);
    if (!check_tensor(t, &want, e))
        return false;
    *data = mem_alloc((size_t)t->bytes + 1);
    return fetch(r, t, *data, e);
}

static bool count_tokens(const struct routing_stats *s, struct routing_layer *l, struct err *e)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < s->experts; i++) {
        if (l->counts[i] < 0 || (uint64_t)l->counts[i] > TOKENS_MAX)
            return err_set(e, ERR_FORMAT, "expert %zu fired %" PRId64 " times", i, l->counts[i]);
        sum += (uint64_t)l->counts[i];
    }
    if (sum % s->experts_per_token != 0)
        return err_set(e, ERR_FORMAT, "experts fired %" PRIu64 " times, which is no multiple of %" PRIu64 " per token",
                       sum, s->experts_per_token);
    l->tokens = sum / s->experts_per_token;
    for (size_t i = 0; i < s->experts; i++)
        if ((uint64_t)l->counts[i] > l->tokens)
            return err_set(e, ERR_FORMAT, "expert %zu fired %" PRId64 " time%s for %" PRIu64 " token%s", i,
                           l->counts[i], plural((uint64_t)l->counts[i]), l->tokens, plural(l->tokens));
    return l->tokens <= s->tokens || err_set(e, ERR_FORMAT, "%" PRIu64 " token%s, and the sequences have %" PRIu64,
                                             l->tokens, plural(l->tokens), s->tokens);
}

static bool check_weight_sums(const struct routing_stats *s, const struct routing_layer *l, struct err *e)
{
    for (size_t i = 0; i < s->experts; i++)
        if (!isfinite(l->weight_sums[i]))
            return err_set(e, ERR_FORMAT, "the weights of expert %zu add up to %g", i, l->weight_sums[i]);
    return true;
}

static bool check_pairs(const struct routing_stats *s, const struct routing_layer *l, struct err *e)
{
    for (size_t i = 0; i < s->experts; i++) {
        const int64_t *row = &l->coactivation[i * s->experts];
        if (row[i] != l->counts[i])
            return err_set(e, ERR_FORMAT,
                           "expert %zu fired %" PRId64 " times by 'coactivation', %" PRId64 " by 'counts'", i, row[i],
                           l->counts[i]);
        for (size_t k = 0; k < i; k++) {
            int64_t other = l->coactivation[k * s->experts + i];
            if (row[k] != other)
                return err_set(e, ERR_FORMAT, "experts %zu and %zu fired together %" PRId64 " times, and %" PRId64, i,
                               k, row[k], other);
            if (row[k] < 0 || row[k] > row[i] || row[k] > l->counts[k])
                return err_set(e, ERR_FORMAT,
                               "experts %zu and %zu fired together %" PRId64 " times, alone %" PRId64 " and %" PRId64,
                               i, k, row[k], row[i], l->counts[k]);
        }
    }
    return true;
}

static bool check_trace_row(const struct routing_stats *s, const struct routing_layer *l, uint64_t token, struct err *e)
{
    const int32_t *row = l->trace + token * s->experts_per_token;
    const float *weights = l->trace_weights + token * s->experts_per_token;

    for (size_t i = 0; i < s->experts_per_token; i++) {
        if (row[i] < 0 || (uint64_t)row[i] >= s->experts)
            return err_set(e, ERR_FORMAT, "token %" PRIu64 " chose expert %" PRId32 " of %" PRIu64, token, row[i],
                           s->experts);
        if (i > 0 && row[i] <= row[i - 1])
            return err_set(e, ERR_FORMAT,
                           "token %" PRIu64 " chose expert %" PRId32 " behind %" PRId32 ": not in ascending order",
                           token, row[i], row[i - 1]);
        if (!isfinite(weights[i]))
            return err_set(e, ERR_FORMAT, "token %" PRIu64 " gives expert %" PRId32 " the weight %g", token, row[i],
                           (double)weights[i]);
    }
    return true;
}

static bool check_trace(const struct routing_stats *s, const struct routing_layer *l, struct err *e)
{
    int64_t *counts = mem_alloc(s->experts * sizeof *counts);
    bool ok = true;

    for (uint64_t t = 0; t < l->tokens && ok; t++) {
        ok = check_trace_row(s, l, t, e);
        for (size_t i = 0; i < s->experts_per_token && ok; i++)
            counts[l->trace[t * s->experts_per_token + i]]++;
    }
    for (size_t i = 0; i < s->experts && ok; i++)
        if (counts[i] != l->counts[i])
            ok = err_set(e, ERR_FORMAT, "expert %zu fired %" PRId64 " times by 'trace', %" PRId64 " by 'counts'", i,
                         counts[i], l->counts[i]);
    mem_free(counts);
    return ok;
}

static bool read_layer(struct reading *r, uint64_t layer, struct err *e)
{
    struct routing_stats *s = r->s;
    struct routing_layer *l = &s->items[s->count++];

    l->layer = layer;
    if (!fetch_kind(r, layer, 0, KIND_COUNTS, (void **)&l->counts, e) || !count_tokens(s, l, e) ||
        !fetch_kind(r, layer, 0, KIND_WEIGHT_SUMS, (void **)&l->weight_sums, e) || !check_weight_sums(s, l, e) ||
        !fetch_kind(r, layer, 0, KIND_COACTIVATION, (void **)&l->coactivation, e) || !check_pairs(s, l, e))
        return false;
    if (!s->with_trace)
        return true;
    l->trace_room = (size_t)l->tokens;
    return fetch_kind(r, layer, l->tokens, KIND_TRACE, (void **)&l->trace, e) &&
           fetch_kind(r, layer, l->tokens, KIND_TRACE_WEIGHTS, (void **)&l->trace_weights, e) && check_trace(s, l, e);
}

static bool read_sequences(struct reading *r, struct err *e)
{
    struct routing_stats *s = r->s;
    struct tensor want = {.dtype = DTYPE_I64, .rank = 2, .dims = {0, 2}};
    int64_t at = 0;

    if (!r->sequences)
        return err_set(e, ERR_FORMAT, "tensor 'sequences' is missing");
    want.dims[0] = r->sequences->dims[0];
    if (!check_tensor(r->sequences, &want, e))
        return false;
    s->sequences = mem_alloc((size_t)r->sequences->bytes + 1);
    s->sequence_count = (size_t)want.dims[0];
    if (!fetch(r, r->sequences, s->sequences, e))
        return false;
    for (size_t i = 0; i < s->sequence_count; i++) {
        const struct routing_sequence *q = &s->sequences[i];
        if (q->first != at || q->tokens < 0 || (uint64_t)q->tokens > s->tokens - (uint64_t)at)
            return err_set(e, ERR_FORMAT,
                           "sequence %zu is %" PRId64 " token%s from %" PRId64 ", behind %" PRId64 " of %" PRIu64, i,
                           q->tokens, plural((uint64_t)q->tokens), q->first, at, s->tokens);
        at += q->tokens;
    }
    return (uint64_t)at == s->tokens || err_set(e, ERR_FORMAT, "the sequences have %" PRId64 " token%s, not %" PRIu64,
                                                at, plural((uint64_t)at), s->tokens);
}

static bool has_any(const struct reading *r, uint64_t layer)
{
    for (enum kind kind = 0; kind < KIND_COUNT; kind++)
        if (r->tensors[layer][kind])
            return true;
    return false;
}

static bool read_all(struct reading *r, struct err *e)
{
    struct routing_stats *s = r->s;
    size_t layer_count = 0;

    if (!read_metadata(r, e) || !read_sequences(r, e))
        return false;
    for (uint64_t layer = 0; layer < ROUTING_LAYERS_MAX; layer++) {
        layer_count += has_any(r, layer);
        s->with_trace |= r->tensors[layer][KIND_TRACE] != NULL || r->tensors[layer][KIND_TRACE_WEIGHTS] != NULL;
    }
    s->items = mem_alloc((layer_count + 1) * sizeof *s->items);
    for (uint64_t layer = 0; layer < ROUTING_LAYERS_MAX; layer++)
        if (has_any(r, layer) && !read_layer(r, layer, e))
            return err_in(e, "layer %" PRIu64, layer);
    return true;
}

static bool read_from(struct routing_stats *s, const struct file *f, const uint8_t *data, size_t bytes, struct err *e)
{
    struct reading *r = mem_alloc(sizeof *r);
    struct arena a = {0};

    *s = (struct routing_stats){0};
    *r = (struct reading){.s = s, .file = f, .data = data};
    bool ok = f ? safetensors_read(&r->st, &a, f, e) : safetensors_parse(&r->st, &a, data, bytes, bytes, e);
    if (ok) {
        find_tensors(r);
        ok = read_all(r, e);
    }
    if (!ok)
        routing_stats_release(s);
    arena_release(&a);
    mem_free(r);
    return ok;
}

bool routing_stats_parse(struct routing_stats *s, const uint8_t *data, size_t bytes, struct err *e)
{
    return read_from(s, NULL, data, bytes, e);
}

bool routing_stats_read(struct routing_stats *s, const char *path, struct err *e)
{
    struct file f = {0};
    bool ok = file_open(&f, path, e) && read_from(s, &f, NULL, 0, e);

    file_close(&f);
    return ok || err_in(e, "'%s'", path);
}
