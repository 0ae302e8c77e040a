/* A golden file, read as if a stranger had made it. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/units.h"
#include "verify/golden.h"
#include "verify/golden_file.h"

#define LAYERS_MAX 1100u

struct reading {
    struct golden *g;
    struct arena arena; /* the file's own: header and bytes */
    struct safetensors st;
    const char *data;
    size_t bytes;
};

static const char *need_text(struct reading *r, const char *key, struct err *e)
{
    const char *value = safetensors_meta(&r->st, key);

    if (!value) {
        err_set(e, ERR_FORMAT, "'__metadata__' has no '%s'", key);
        return NULL;
    }
    return arena_strdup(&r->g->arena, value);
}

static bool need_u64(struct reading *r, const char *key, uint64_t most, uint64_t *out, struct err *e)
{
    const char *text = need_text(r, key, e);
    char *end = NULL;

    if (!text)
        return false;
    errno = 0;
    *out = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || *out > most)
        return err_set(e, ERR_FORMAT, "'%s' is '%s', not a number up to %" PRIu64, key, text, most);
    return true;
}

static bool need_double(struct reading *r, const char *key, double *out, struct err *e)
{
    const char *text = need_text(r, key, e);
    char *end = NULL;

    if (!text)
        return false;
    *out = *text ? strtod(text, &end) : NAN;
    if (*text && (*end || !isfinite(*out)))
        return err_set(e, ERR_FORMAT, "'%s' is '%s', not a number", key, text);
    return true;
}

static bool read_metadata(struct reading *r, struct err *e)
{
    struct golden *g = r->g;
    const char *format = safetensors_meta(&r->st, "format"), *version = safetensors_meta(&r->st, "version");

    if (!format || strcmp(format, GOLDEN_FORMAT) != 0)
        return err_set(e, ERR_FORMAT, "not a golden file: format is '%s', not '" GOLDEN_FORMAT "'",
                       format ? format : "absent");
    if (!version || strcmp(version, GOLDEN_VERSION) != 0)
        return err_set(e, ERR_UNSUPPORTED, "golden file of version '%s'; this program reads '" GOLDEN_VERSION "'",
                       version ? version : "");
    if (!(g->model = need_text(r, "model", e)) || !(g->sizes = need_text(r, "sizes", e)) ||
        !(g->settings = need_text(r, "settings", e)) || !(g->kinds = need_text(r, "kinds", e)) ||
        !(g->text = need_text(r, "text", e)) || !(g->emulate = need_text(r, "emulate", e)) ||
        !(g->config_sha256 = need_text(r, "config_sha256", e)) ||
        !(g->tokenizer_sha256 = need_text(r, "tokenizer_sha256", e)))
        return false;
    g->bf16 = (struct diff_floor){.what = "BF16 activations"};
    if (!need_u64(r, "vocab", UINT32_MAX, &g->vocab, e) ||
        !need_u64(r, "floor_positions", UINT32_MAX, &g->bf16.positions, e) ||
        !need_double(r, "mtp_acceptance", &g->mtp_acceptance, e) || !need_double(r, "floor_kl", &g->bf16.kl, e) ||
        !need_double(r, "floor_top1", &g->bf16.top1, e) || !need_double(r, "floor_log_ratio", &g->bf16.log_ratio, e) ||
        !need_double(r, "floor_routing", &g->bf16.routing_overlap, e))
        return false;
    g->bf16.known = !isnan(g->bf16.kl);
    g->layers = strlen(g->kinds);
    if (g->layers == 0 || g->layers > LAYERS_MAX || strspn(g->kinds, "dm") != g->layers)
        return err_set(e, ERR_FORMAT, "'kinds' is '%.40s', not a 'd' or an 'm' for each layer", g->kinds);
    return g->vocab > 0 || err_set(e, ERR_FORMAT, "'vocab' is 0");
}

static bool check_digest(struct reading *r, struct err *e)
{
    struct tensor_item *items = arena_array(&r->arena, r->st.tensor_count + 1, sizeof *items);
    const char *wanted = safetensors_meta(&r->st, "sha256");
    char sha256[HASH_HEX_BYTES];

    for (size_t i = 0; i < r->st.tensor_count; i++)
        items[i] = (struct tensor_item){r->st.tensors[i], r->data + r->st.tensors[i].offset};
    golden_digest(r->st.metadata, r->st.metadata_count, items, r->st.tensor_count, sha256);
    if (!wanted || strcmp(wanted, sha256) != 0)
        return err_set(e, ERR_FORMAT, "damaged: its contents hash to %.16s..., but it says %.16s...", sha256,
                       wanted ? wanted : "nothing");
    return true;
}

/* The data of a tensor that must have this shape. dims 0: any length, written back. */
static const void *need_tensor(struct reading *r, const char *name, enum dtype_id dtype, uint32_t rank, uint64_t *dims,
                               struct err *e)
{
    char seen[TENSOR_SHAPE_TEXT], wanted[TENSOR_SHAPE_TEXT];

    for (size_t i = 0; i < r->st.tensor_count; i++) {
        const struct tensor *t = &r->st.tensors[i];
        if (strcmp(t->name, name) != 0)
            continue;
        bool fits = t->dtype == dtype && t->rank == rank;
        for (uint32_t d = 0; fits && d < rank; d++)
            fits = dims[d] ? t->dims[d] == dims[d] : t->dims[d] > 0;
        if (!fits) {
            err_set(e, ERR_FORMAT, "'%s' is %s %s, not %s %s", name, dtype_get(t->dtype)->name,
                    tensor_shape_text(t->rank, t->dims, seen), dtype_get(dtype)->name,
                    tensor_shape_text(rank, dims, wanted));
            return NULL;
        }
        memcpy(dims, t->dims, rank * sizeof *dims);
        return r->data + t->offset;
    }
    err_set(e, ERR_FORMAT, "'%s' is missing", name);
    return NULL;
}

static bool read_tokens(struct reading *r, struct err *e)
{
    struct golden *g = r->g;
    uint64_t n = 0, s = 0;
    const int32_t *tokens = need_tensor(r, "tokens", DTYPE_I32, 1, &n, e);
    const int32_t *lengths = tokens ? need_tensor(r, "context_tokens", DTYPE_I32, 1, &s, e) : NULL;

    if (!tokens || !lengths)
        return false;
    g->tokens = n;
    g->contexts = s;
    g->ids = arena_array(&g->arena, n, sizeof *g->ids);
    g->starts = arena_array(&g->arena, s + 1, sizeof *g->starts);
    for (size_t i = 0; i < n; i++) {
        int32_t id;
        memcpy(&id, tokens + i, sizeof id);
        if (id < 0 || (uint64_t)id >= g->vocab)
            return err_set(e, ERR_FORMAT, "token %zu is %" PRId32 ", and the vocabulary has %" PRIu64, i, id, g->vocab);
        g->ids[i] = (uint32_t)id;
    }
    for (size_t i = 0; i < s; i++) {
        int32_t length;
        memcpy(&length, lengths + i, sizeof length);
        if (length <= 0 || (size_t)length > n - g->starts[i])
            return err_set(e, ERR_FORMAT, "context %zu has %" PRId32 " token%s, and %zu %s left", i, length,
                           plural((uint64_t)length), n - g->starts[i], is_are(n - g->starts[i]));
        g->starts[i + 1] = g->starts[i] + (size_t)length;
    }
    return g->starts[s] == n || err_set(e, ERR_FORMAT, "contexts have %zu token%s, and the file has %zu", g->starts[s],
                                        plural(g->starts[s]), (size_t)n);
}

static bool read_row(const struct golden *g, struct top_logprobs *row, size_t i, struct err *e)
{
    for (uint32_t k = 0; k < row->count; k++) {
        bool falls = k == 0 || row->logprobs[k] <= row->logprobs[k - 1];
        if (row->ids[k] >= g->vocab || !falls || !(row->logprobs[k] <= 0))
            return err_set(e, ERR_FORMAT,
                           "position %zu: entry %" PRIu32 " of its largest (id %" PRIu32 ", %g) is wrong", i, k,
                           row->ids[k], (double)row->logprobs[k]);
    }
    return row->rest <= 0 ||
           err_set(e, ERR_FORMAT, "position %zu: the log-probability of the rest is %g", i, (double)row->rest);
}

static bool read_rows(struct reading *r, struct err *e)
{
    struct golden *g = r->g;
    uint64_t top = g->vocab < TOP_MAX ? g->vocab : TOP_MAX, n = g->tokens, table[] = {n, top}, vector[] = {n};
    enum dtype_id narrow = golden_ids_dtype(g->vocab);
    const char *ids = need_tensor(r, "top_ids", narrow, 2, table, e);
    const char *logprobs = ids ? need_tensor(r, "top_logprobs", DTYPE_F32, 2, table, e) : NULL;
    const char *rest = logprobs ? need_tensor(r, "rest_logprob", DTYPE_F32, 1, vector, e) : NULL;
    const char *nll = rest ? need_tensor(r, "nll", DTYPE_F32, 1, vector, e) : NULL;

    if (!ids || !logprobs || !rest || !nll)
        return false;
    g->rows = arena_array(&g->arena, n, sizeof *g->rows);
    g->nll = arena_array(&g->arena, n, sizeof *g->nll);
    memcpy(g->nll, nll, n * sizeof *g->nll);
    for (size_t i = 0; i < n; i++) {
        struct top_logprobs *row = &g->rows[i];
        row->count = (uint32_t)top;
        for (size_t k = 0; k < top; k++) {
            uint16_t half;
            if (narrow == DTYPE_U16) {
                memcpy(&half, ids + 2 * (i * top + k), sizeof half);
                row->ids[k] = half;
            } else {
                memcpy(&row->ids[k], ids + 4 * (i * top + k), sizeof row->ids[k]);
            }
        }
        memcpy(row->logprobs, logprobs + 4 * i * top, top * sizeof row->logprobs[0]);
        memcpy(&row->rest, rest + 4 * i, sizeof row->rest);
        if (!read_row(g, row, i, e))
            return false;
        if (!(g->nll[i] >= 0) || isinf(g->nll[i]))
            return err_set(e, ERR_FORMAT, "position %zu: negative log-likelihood %g", i, (double)g->nll[i]);
    }
    return true;
}

static bool read_projections(struct reading *r, struct err *e)
{
    struct golden *g = r->g;
    uint64_t dims[] = {g->layers, g->contexts, GOLDEN_PROJECTIONS};
    const void *data = need_tensor(r, "projections", DTYPE_F32, 3, dims, e);
    size_t count = g->layers * g->contexts * GOLDEN_PROJECTIONS;

    if (!data)
        return false;
    g->projections = arena_array(&g->arena, count, sizeof *g->projections);
    memcpy(g->projections, data, count * sizeof *g->projections);
    for (size_t i = 0; i < count; i++)
        if (!isfinite(g->projections[i]))
            return err_set(e, ERR_FORMAT, "projection %zu is not finite", i);
    return true;
}

bool golden_parse(struct golden *g, const uint8_t *data, size_t bytes, struct err *e)
{
    struct reading r = {.g = g, .data = (const char *)data, .bytes = bytes};

    *g = (struct golden){0};
    bool ok = safetensors_parse(&r.st, &r.arena, data, bytes, bytes, e) && read_metadata(&r, e) && read_tokens(&r, e) &&
              read_rows(&r, e) && read_projections(&r, e) && check_digest(&r, e);
    arena_release(&r.arena);
    if (!ok)
        golden_release(g);
    return ok;
}

bool golden_read(struct golden *g, const char *path, struct err *e)
{
    char *data = NULL;
    size_t bytes = 0;

    *g = (struct golden){0};
    if (!file_slurp(path, GOLDEN_BYTES_MAX, &data, &bytes, e))
        return false;
    bool ok = golden_parse(g, (const uint8_t *)data, bytes, e) || err_in(e, "golden file '%s'", path);
    mem_free(data);
    return ok;
}
