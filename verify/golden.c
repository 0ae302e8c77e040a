/* Projections, and the file's writing. Reading: golden_read.c. */
#include "verify/golden.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "formats/tensor_file.h"
#include "verify/golden_file.h"

void golden_release(struct golden *g)
{
    arena_release(&g->arena);
    *g = (struct golden){0};
}

/* splitmix64's finisher. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

void golden_project(double *sums, size_t token, const float *state, size_t cols)
{
    uint64_t seed = mix(0x9E3779B97F4A7C15u + token);
    double size2 = 0;

    for (size_t c = 0; c < cols; c++)
        size2 += (double)state[c] * (double)state[c];
    if (size2 == 0)
        return;
    double scale = 1 / sqrt(size2);
    for (size_t c = 0; c < cols; c++) {
        uint64_t hash = mix(seed + 0x9E3779B97F4A7C15u * c);
        double u = (double)state[c] * scale;
        sums[hash >> 59] += hash & 1 ? u : -u;
    }
}

double golden_state_error(const float *ref, const float *cand, const float *ref_below, const float *cand_below,
                          const size_t *starts, size_t contexts)
{
    double sum = 0;

    for (size_t i = 0; i < contexts * GOLDEN_PROJECTIONS; i++) {
        double d = (double)cand[i] - (double)ref[i];
        if (ref_below)
            d -= (double)cand_below[i] - (double)ref_below[i];
        sum += d * d;
    }
    return sqrt(sum / (double)(starts[contexts] - starts[0]));
}

/* ---- the file ---- */

static void digest_text(struct hash *h, const char *text)
{
    hash_update(h, text, strlen(text) + 1); /* with its NUL, so that "ab" "c" is not "a" "bc" */
}

void golden_digest(const struct safetensors_meta *metadata, size_t metadata_count, const struct tensor_item *items,
                   size_t count, char hex[HASH_HEX_BYTES])
{
    struct hash h;

    hash_init(&h);
    for (size_t i = 0; i < metadata_count; i++) {
        if (strcmp(metadata[i].key, "sha256") == 0)
            continue;
        digest_text(&h, metadata[i].key);
        digest_text(&h, metadata[i].value);
    }
    for (size_t i = 0; i < count; i++) {
        const struct tensor *t = &items[i].tensor;
        uint64_t bytes = 0;
        digest_text(&h, t->name);
        digest_text(&h, dtype_get(t->dtype)->name);
        hash_update(&h, t->dims, t->rank * sizeof t->dims[0]);
        (void)dtype_bytes(t->dtype, tensor_elems(t), &bytes); /* of a tensor that is there */
        hash_update(&h, items[i].data, bytes);
    }
    hash_final_hex(&h, hex);
}

static const char *number_text(struct arena *a, double x)
{
    return isnan(x) ? "" : arena_printf(a, "%.17g", x);
}

static size_t list_metadata(const struct golden *g, struct arena *a, struct safetensors_meta *out)
{
    const struct safetensors_meta list[] = {
        {"format", GOLDEN_FORMAT},
        {"version", GOLDEN_VERSION},
        {"model", g->model},
        {"sizes", g->sizes},
        {"settings", g->settings},
        {"kinds", g->kinds},
        {"vocab", arena_printf(a, "%" PRIu64, g->vocab)},
        {"text", g->text},
        {"emulate", g->emulate},
        {"config_sha256", g->config_sha256},
        {"tokenizer_sha256", g->tokenizer_sha256},
        {"mtp_acceptance", number_text(a, g->mtp_acceptance)},
        {"floor_positions", arena_printf(a, "%" PRIu64, g->bf16.known ? g->bf16.positions : 0)},
        {"floor_kl", number_text(a, g->bf16.known ? g->bf16.kl : NAN)},
        {"floor_top1", number_text(a, g->bf16.known ? g->bf16.top1 : NAN)},
        {"floor_log_ratio", number_text(a, g->bf16.known ? g->bf16.log_ratio : NAN)},
        {"floor_routing", number_text(a, g->bf16.known ? g->bf16.routing_overlap : NAN)},
    };

    memcpy(out, list, sizeof list);
    return sizeof list / sizeof list[0];
}

/* The rows as tables; in the arena. */
struct tables {
    size_t top;
    void *ids;
    float *logprobs, *rest;
    int32_t *tokens, *context_tokens;
};

static void make_tables(const struct golden *g, struct arena *a, struct tables *t)
{
    size_t n = g->tokens, top = g->rows[0].count;
    bool narrow = golden_ids_dtype(g->vocab) == DTYPE_U16;

    t->top = top;
    t->ids = arena_array(a, n * top, narrow ? sizeof(uint16_t) : sizeof(int32_t));
    t->logprobs = arena_array(a, n * top, sizeof *t->logprobs);
    t->rest = arena_array(a, n, sizeof *t->rest);
    t->tokens = arena_array(a, n, sizeof *t->tokens);
    t->context_tokens = arena_array(a, g->contexts, sizeof *t->context_tokens);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < top; k++) {
            uint32_t id = g->rows[i].ids[k];
            if (narrow)
                ((uint16_t *)t->ids)[i * top + k] = (uint16_t)id;
            else
                ((int32_t *)t->ids)[i * top + k] = (int32_t)id;
        }
        memcpy(t->logprobs + i * top, g->rows[i].logprobs, top * sizeof *t->logprobs);
        t->rest[i] = g->rows[i].rest;
        t->tokens[i] = (int32_t)g->ids[i];
    }
    for (size_t s = 0; s < g->contexts; s++)
        t->context_tokens[s] = (int32_t)(g->starts[s + 1] - g->starts[s]);
}

bool golden_write(const struct golden *g, const char *path, struct err *e)
{
    struct arena a = {0};
    struct safetensors_meta metadata[GOLDEN_METADATA_MAX];
    struct tables t = {0};
    char sha256[HASH_HEX_BYTES];

    make_tables(g, &a, &t);
    struct tensor_item projections = {.tensor = {.name = "projections",
                                                 .dtype = DTYPE_F32,
                                                 .rank = 3,
                                                 .dims = {g->layers, g->contexts, GOLDEN_PROJECTIONS}},
                                      .data = g->projections};
    struct tensor_item items[GOLDEN_TENSORS] = {
        tensor_item_vector("tokens", DTYPE_I32, g->tokens, t.tokens),
        tensor_item_vector("context_tokens", DTYPE_I32, g->contexts, t.context_tokens),
        tensor_item_matrix("top_logprobs", DTYPE_F32, g->tokens, t.top, t.logprobs),
        tensor_item_vector("rest_logprob", DTYPE_F32, g->tokens, t.rest),
        tensor_item_vector("nll", DTYPE_F32, g->tokens, g->nll),
        projections,
        tensor_item_matrix("top_ids", golden_ids_dtype(g->vocab), g->tokens, t.top, t.ids),
    };
    size_t count = list_metadata(g, &a, metadata);
    golden_digest(metadata, count, items, GOLDEN_TENSORS, sha256);
    metadata[count++] = (struct safetensors_meta){"sha256", sha256};
    bool ok = tensor_file_write(path, metadata, count, items, GOLDEN_TENSORS, e);
    arena_release(&a);
    return ok;
}
