#include "formats/routing_stats.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/json.h"
#include "formats/manifest.h"

#define BLOCK_BYTES (1u << 20)

void routing_stats_init(struct routing_stats *s, uint64_t experts, uint64_t experts_per_token, uint64_t layers,
                        const char *config_sha256, bool with_trace)
{
    assert(experts > 0 && experts <= ROUTING_EXPERTS_MAX && experts_per_token > 0 && experts_per_token <= experts);
    *s = (struct routing_stats){
        .experts = experts,
        .experts_per_token = experts_per_token,
        .layers = layers,
        .with_trace = with_trace,
    };
    memcpy(s->config_sha256, config_sha256, HASH_HEX_BYTES);
}

bool routing_stats_open(struct routing_stats *s, const struct source *source, bool with_trace, struct err *e)
{
    const struct arch *a = &source->arch;
    char config[HASH_HEX_BYTES], routers[HASH_HEX_BYTES];

    *s = (struct routing_stats){0};
    if (a->experts == 0)
        return err_set(e, ERR_UNSUPPORTED, "'%s' has no routed experts", source->checkpoint.path);
    hash_hex(source->checkpoint.config, source->checkpoint.config_bytes, config);
    if (!routing_routers_sha256(source, routers, e))
        return false;
    routing_stats_init(s, a->experts, a->experts_per_token, a->layers, config, with_trace);
    memcpy(s->routers_sha256, routers, HASH_HEX_BYTES);
    arch_function_sha256(a, s->function_sha256);
    return true;
}

static void layer_release(struct routing_layer *l)
{
    mem_free(l->counts);
    mem_free(l->weight_sums);
    mem_free(l->coactivation);
    mem_free(l->trace);
    mem_free(l->trace_weights);
}

void routing_stats_release(struct routing_stats *s)
{
    for (size_t i = 0; i < s->count; i++)
        layer_release(&s->items[i]);
    mem_free(s->items);
    mem_free(s->sequences);
    *s = (struct routing_stats){0};
}

const struct routing_layer *routing_stats_layer(const struct routing_stats *s, uint64_t layer)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->items[i].layer == layer)
            return &s->items[i];
    return NULL;
}

/* ---- adding ---- */

static struct routing_layer *find_or_make(struct routing_stats *s, uint64_t layer)
{
    size_t at = 0;

    while (at < s->count && s->items[at].layer < layer)
        at++;
    if (at < s->count && s->items[at].layer == layer)
        return &s->items[at];
    s->items = mem_grow(s->items, s->count + 1, sizeof *s->items);
    memmove(&s->items[at + 1], &s->items[at], (s->count - at) * sizeof *s->items);
    s->count++;
    s->items[at] = (struct routing_layer){
        .layer = layer,
        .counts = mem_alloc(s->experts * sizeof(int64_t)),
        .weight_sums = mem_alloc(s->experts * sizeof(double)),
        .coactivation = mem_alloc(s->experts * s->experts * sizeof(int64_t)),
    };
    return &s->items[at];
}

static void add_trace(struct routing_layer *l, size_t k, const uint32_t *ids, const float *weights, size_t tokens)
{
    size_t need = (size_t)l->tokens + tokens;

    if (need > l->trace_room) {
        l->trace_room = need < l->trace_room * 2 ? l->trace_room * 2 : need;
        l->trace = mem_grow(l->trace, l->trace_room * k, sizeof *l->trace);
        l->trace_weights = mem_grow(l->trace_weights, l->trace_room * k, sizeof *l->trace_weights);
    }
    for (size_t i = 0; i < tokens * k; i++)
        l->trace[l->tokens * k + i] = (int32_t)ids[i];
    memcpy(l->trace_weights + l->tokens * k, weights, tokens * k * sizeof *weights);
}

static void add_token(struct routing_stats *s, struct routing_layer *l, const uint32_t *ids, const float *weights)
{
    for (size_t i = 0; i < s->experts_per_token; i++) {
        assert(ids[i] < s->experts && (i == 0 || ids[i] > ids[i - 1]));
        l->counts[ids[i]]++;
        l->weight_sums[ids[i]] += (double)weights[i];
        for (size_t k = 0; k < s->experts_per_token; k++)
            l->coactivation[ids[i] * s->experts + ids[k]]++;
    }
}

void routing_stats_add(struct routing_stats *s, uint64_t layer, const uint32_t *ids, const float *weights,
                       size_t tokens)
{
    struct routing_layer *l = find_or_make(s, layer);

    assert(layer < ROUTING_LAYERS_MAX);
    for (size_t t = 0; t < tokens; t++)
        add_token(s, l, ids + t * s->experts_per_token, weights + t * s->experts_per_token);
    if (s->with_trace && tokens > 0)
        add_trace(l, s->experts_per_token, ids, weights, tokens);
    l->tokens += tokens;
}

void routing_stats_add_sequence(struct routing_stats *s, uint64_t tokens)
{
    s->sequences = mem_grow(s->sequences, s->sequence_count + 1, sizeof *s->sequences);
    s->sequences[s->sequence_count++] =
        (struct routing_sequence){.first = (int64_t)s->tokens, .tokens = (int64_t)tokens};
    s->tokens += tokens;
}

/* ---- merging ---- */

static bool check_number(const char *what, uint64_t theirs, uint64_t ours, struct err *e)
{
    return theirs == ours ||
           err_set(e, ERR_FORMAT, "statistics of another model: %" PRIu64 " %s, not %" PRIu64, theirs, what, ours);
}

static bool check_dims(const struct routing_stats *s, uint64_t layers, uint64_t experts, uint64_t k, struct err *e)
{
    return check_number("layers", s->layers, layers, e) && check_number("experts", s->experts, experts, e) &&
           check_number("experts per token", s->experts_per_token, k, e);
}

static bool check_routers(const char *theirs, const char *ours, struct err *e)
{
    return theirs[0] == '\0' || ours[0] == '\0' || strcmp(theirs, ours) == 0 ||
           err_set(e, ERR_FORMAT,
                   "statistics of another model, or of other expert numbers: its routers have SHA-256 "
                   "%.16s..., these %.16s...",
                   theirs, ours);
}

static bool check_hash(const char *what, const char *theirs, const char *ours, struct err *e)
{
    return strcmp(theirs, ours) == 0 ||
           err_set(e, ERR_FORMAT, "statistics of another model: %s has SHA-256 %.16s..., this one %.16s...", what,
                   theirs, ours);
}

static bool check_config(const char *theirs, const char *ours, struct err *e)
{
    return check_hash("its config.json", theirs, ours, e);
}

static void drop_traces(struct routing_stats *s)
{
    for (size_t i = 0; i < s->count; i++) {
        mem_free(s->items[i].trace);
        mem_free(s->items[i].trace_weights);
        s->items[i].trace = NULL;
        s->items[i].trace_weights = NULL;
        s->items[i].trace_room = 0;
    }
    s->with_trace = false;
}

static void merge_layer(struct routing_stats *s, const struct routing_layer *from)
{
    struct routing_layer *l = find_or_make(s, from->layer);
    size_t k = s->experts_per_token;

    for (size_t i = 0; i < s->experts; i++) {
        l->counts[i] += from->counts[i];
        l->weight_sums[i] += from->weight_sums[i];
    }
    for (size_t i = 0; i < s->experts * s->experts; i++)
        l->coactivation[i] += from->coactivation[i];
    if (s->with_trace && from->tokens > 0)
        add_trace(l, k, (const uint32_t *)from->trace, from->trace_weights, (size_t)from->tokens);
    l->tokens += from->tokens;
}

bool routing_stats_merge(struct routing_stats *s, const struct routing_stats *from, struct err *e)
{
    if (!check_dims(from, s->layers, s->experts, s->experts_per_token, e) ||
        !check_config(from->config_sha256, s->config_sha256, e) ||
        !check_routers(from->routers_sha256, s->routers_sha256, e))
        return false;
    if (!s->routers_sha256[0])
        memcpy(s->routers_sha256, from->routers_sha256, HASH_HEX_BYTES);
    if (!s->function_sha256[0])
        memcpy(s->function_sha256, from->function_sha256, HASH_HEX_BYTES);
    if (s->with_trace && !from->with_trace)
        drop_traces(s);
    for (size_t i = 0; i < from->count; i++)
        merge_layer(s, &from->items[i]);
    for (size_t i = 0; i < from->sequence_count; i++)
        routing_stats_add_sequence(s, (uint64_t)from->sequences[i].tokens);
    return true;
}

/* ---- whose statistics ---- */

static bool hash_tensor(const struct checkpoint *c, const struct tensor *t, struct hash *h, uint8_t *block,
                        struct err *e)
{
    for (uint64_t at = 0; at < t->bytes; at += BLOCK_BYTES) {
        size_t bytes = t->bytes - at < BLOCK_BYTES ? (size_t)(t->bytes - at) : BLOCK_BYTES;
        if (!checkpoint_read(c, t, at, block, bytes, e))
            return false;
        hash_update(h, block, bytes);
    }
    return true;
}

static const struct weight *find_router(const struct source *source, uint64_t layer)
{
    for (size_t i = 0; i < source->weights.count; i++) {
        const struct weight *w = &source->weights.items[i];
        if (w->id.role == ROLE_ROUTER && w->id.part == NAME_WEIGHT && w->id.layer == (int64_t)layer)
            return w;
    }
    return NULL;
}

bool routing_routers_sha256(const struct source *source, char hex[HASH_HEX_BYTES], struct err *e)
{
    uint8_t *block = mem_aligned(BLOCK_BYTES);
    struct hash h = {0};
    bool ok = true;

    hash_init(&h);
    for (uint64_t layer = 0; layer < arch_layers_stored(&source->arch) && ok; layer++) {
        const struct weight *w = find_router(source, layer);
        if (w)
            ok = hash_tensor(&source->checkpoint, w->parts[PART_CODES], &h, block, e);
    }
    if (ok)
        hash_final_hex(&h, hex);
    hash_release(&h);
    mem_free(block);
    return ok;
}

/* A bundle's config.json is not its source's; quern.json has that one's hash. "" when there is none. */
static bool bundle_source_hash(const struct source *source, char hex[HASH_HEX_BYTES], struct err *e)
{
    struct arena a = {0};
    const char *path = path_join(&a, source->checkpoint.dir, MANIFEST_NAME);
    size_t bytes = 0, begin = 0, end = 0;
    char *text = NULL;
    bool ok = true;

    hex[0] = '\0';
    if (path_exists(path))
        ok = file_slurp(path, MANIFEST_BYTES_MAX, &text, &bytes, e);
    if (ok && text && json_member_span(text, bytes, "source_config_sha256", &begin, &end) &&
        end - begin == HASH_HEX_BYTES - 1 + 2) {
        memcpy(hex, text + begin + 1, HASH_HEX_BYTES - 1);
        hex[HASH_HEX_BYTES - 1] = '\0';
    }
    mem_free(text);
    arena_release(&a);
    return ok;
}

static bool check_covered(const struct routing_stats *s, const struct arch *a, struct err *e)
{
    for (uint64_t i = 0; i < a->layers; i++)
        if (arch_is_moe_layer(a, i) && !routing_stats_layer(s, i))
            return err_set(e, ERR_FORMAT, "the statistics have nothing of layer %" PRIu64, i);
    for (size_t i = 0; i < s->count; i++)
        if (s->items[i].layer >= arch_layers_stored(a) || !arch_is_moe_layer(a, s->items[i].layer))
            return err_set(e, ERR_FORMAT, "statistics of another model: layer %" PRIu64 " has no routed experts",
                           s->items[i].layer);
    return true;
}

/* By config.json alone, as older files want it. */
static bool check_written_config(const struct routing_stats *s, const struct source *source, struct err *e)
{
    char ours[HASH_HEX_BYTES], made_from[HASH_HEX_BYTES];

    hash_hex(source->checkpoint.config, source->checkpoint.config_bytes, ours);
    if (!bundle_source_hash(source, made_from, e))
        return false;
    return strcmp(s->config_sha256, made_from) == 0 || check_config(s->config_sha256, ours, e);
}

static bool check_function(const struct routing_stats *s, const struct source *source, struct err *e)
{
    char ours[HASH_HEX_BYTES];

    if (!s->function_sha256[0])
        return check_written_config(s, source, e);
    arch_function_sha256(&source->arch, ours);
    return check_hash("the function in its config.json", s->function_sha256, ours, e);
}

bool routing_stats_check(const struct routing_stats *s, const struct source *source, struct err *e)
{
    const struct arch *a = &source->arch;
    char routers[HASH_HEX_BYTES];

    if (!check_dims(s, a->layers, a->experts, a->experts_per_token, e) || !check_function(s, source, e))
        return false;
    if (!routing_routers_sha256(source, routers, e) || !check_routers(s->routers_sha256, routers, e))
        return false;
    return check_covered(s, a, e);
}
