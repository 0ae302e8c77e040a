#include "verify/rank_files.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/arch.h"
#include "formats/base/file.h"
#include "formats/base/map.h"
#include "formats/base/units.h"
#include "formats/checkpoint.h"
#include "formats/index.h"
#include "formats/safetensors.h"

#define BLOCK       128u /* of FP8 codes under a scale, in model.py */
#define NAMES_SHOWN 4u

/* ---- what a rank holds ---- */

enum length { MATRIX, HIDDEN, Q_LATENT, KV_LATENT, EXPERTS };
enum split { WHOLE, BY_ROWS, BY_COLUMNS };

/* A parameter of model.py: whole on every rank, or a part of the matrix that config.json promises for the role. */
struct own {
    const char *name;
    enum length length;
    enum role role;
    enum split split;
};

#define VECTOR(length) length, ROLE_NORM, WHOLE

static const struct own top[] = {{"embed.weight", MATRIX, ROLE_EMBED, BY_ROWS},
                                 {"norm.weight", VECTOR(HIDDEN)},
                                 {"head.weight", MATRIX, ROLE_HEAD, BY_ROWS}};
static const struct own layer[] = {{"attn_norm.weight", VECTOR(HIDDEN)},
                                   {"ffn_norm.weight", VECTOR(HIDDEN)},
                                   {"attn.wkv_a.weight", MATRIX, ROLE_KV_A_PROJ, WHOLE},
                                   {"attn.kv_norm.weight", VECTOR(KV_LATENT)},
                                   {"attn.wkv_b.weight", MATRIX, ROLE_KV_B_PROJ, BY_ROWS},
                                   {"attn.wo.weight", MATRIX, ROLE_O_PROJ, BY_COLUMNS}};
static const struct own query[] = {{"attn.wq.weight", MATRIX, ROLE_Q_PROJ, BY_ROWS}};
static const struct own latent_query[] = {{"attn.wq_a.weight", MATRIX, ROLE_Q_A_PROJ, WHOLE},
                                          {"attn.q_norm.weight", VECTOR(Q_LATENT)},
                                          {"attn.wq_b.weight", MATRIX, ROLE_Q_B_PROJ, BY_ROWS}};
static const struct own dense[] = {{"ffn.w1.weight", MATRIX, ROLE_DENSE_GATE, BY_ROWS},
                                   {"ffn.w2.weight", MATRIX, ROLE_DENSE_DOWN, BY_COLUMNS},
                                   {"ffn.w3.weight", MATRIX, ROLE_DENSE_UP, BY_ROWS}};
static const struct own router[] = {{"ffn.gate.weight", MATRIX, ROLE_ROUTER, WHOLE}};
static const struct own router_bias[] = {{"ffn.gate.bias", VECTOR(EXPERTS)}};
static const struct own shared[] = {{"ffn.shared_experts.w1.weight", MATRIX, ROLE_SHARED_GATE, BY_ROWS},
                                    {"ffn.shared_experts.w2.weight", MATRIX, ROLE_SHARED_DOWN, BY_COLUMNS},
                                    {"ffn.shared_experts.w3.weight", MATRIX, ROLE_SHARED_UP, BY_ROWS}};
static const struct own expert[] = {{"w1.weight", MATRIX, ROLE_EXPERT_GATE, WHOLE},
                                    {"w2.weight", MATRIX, ROLE_EXPERT_DOWN, WHOLE},
                                    {"w3.weight", MATRIX, ROLE_EXPERT_UP, WHOLE}};

/* Names of which there may be many, of which a few are said. */
struct some {
    struct buf text;
    uint64_t count;
};

static void some_add(struct some *s, const char *name)
{
    if (s->count++ < NAMES_SHOWN)
        buf_printf(&s->text, "%s'%s'", s->text.bytes ? ", " : "", name);
}

static const char *some_more(const struct some *s)
{
    return s->count > NAMES_SHOWN ? ", ..." : "";
}

/* One rank's file, being held against what its rank should have. */
struct holding {
    const struct arch *arch;
    uint64_t rank, ranks;
    const char *file;
    const struct safetensors *header;
    struct map by_name;
    bool *used; /* [tensor_count] */
    struct some missing;
    uint64_t expected;
    struct findings *findings;
};

static const struct tensor *find(struct holding *h, const char *name)
{
    size_t i = map_get(&h->by_name, name);

    if (i == MAP_NONE)
        return NULL;
    h->used[i] = true;
    return &h->header->tensors[i];
}

static uint64_t vector_length(const struct arch *a, enum length length)
{
    switch (length) {
    case HIDDEN:
        return a->hidden_size;
    case Q_LATENT:
        return a->q_lora_rank;
    case KV_LATENT:
        return a->kv_lora_rank;
    case EXPERTS:
        return a->experts;
    case MATRIX:
        break;
    }
    return 0;
}

/* Returns the rank of the shape; 0: config.json does not say. */
static uint32_t shape_of(const struct holding *h, const struct own *o, uint64_t dims[2])
{
    if (o->length != MATRIX) {
        dims[0] = vector_length(h->arch, o->length);
        return 1;
    }
    if (!arch_shape(h->arch, o->role, &dims[0], &dims[1]))
        return 0;
    if (o->split != WHOLE)
        dims[o->split == BY_COLUMNS] /= h->ranks;
    return 2;
}

static void check_shape(const struct holding *h, enum rule_id rule, const struct tensor *t, uint32_t rank,
                        const uint64_t *dims)
{
    char got[TENSOR_SHAPE_TEXT], want[TENSOR_SHAPE_TEXT];

    if (t->rank != rank || memcmp(t->dims, dims, rank * sizeof *dims) != 0)
        findings_add(h->findings, rule, "'%s': tensor '%s' is %s, not the %s of one rank of %" PRIu64, h->file, t->name,
                     tensor_shape_text(t->rank, t->dims, got), tensor_shape_text(rank, dims, want), h->ranks);
}

static void check_scale(struct holding *h, const struct tensor *codes)
{
    const uint64_t dims[2] = {(codes->dims[0] + BLOCK - 1) / BLOCK, (codes->dims[1] + BLOCK - 1) / BLOCK};
    size_t module_bytes = strlen(codes->name) - strlen("weight");
    char name[256];

    snprintf(name, sizeof name, "%.*sscale", (int)module_bytes, codes->name);
    const struct tensor *scale = find(h, name);
    if (scale)
        check_shape(h, RULE_SCALE_SHAPE, scale, 2, dims);
    else
        findings_add(h->findings, RULE_SCALE_MISSING, "'%s': tensor '%s' is FP8, and there is no '%s'", h->file,
                     codes->name, name);
}

static void hold(struct holding *h, const char *prefix, const struct own *o)
{
    uint64_t dims[2] = {0};
    uint32_t rank = shape_of(h, o, dims);
    char name[256];

    snprintf(name, sizeof name, "%s%s", prefix, o->name);
    const struct tensor *t = find(h, name);
    h->expected++;
    if (!t)
        some_add(&h->missing, name);
    if (t && rank > 0)
        check_shape(h, RULE_SHAPE_MISMATCH, t, rank, dims);
    if (t && t->dtype == DTYPE_F8_E4M3 && t->rank == 2)
        check_scale(h, t);
}

static void hold_all(struct holding *h, const char *prefix, const struct own *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        hold(h, prefix, &list[i]);
}
#define HOLD(h, prefix, list) hold_all(h, prefix, list, sizeof(list) / sizeof(list)[0])

static void hold_experts(struct holding *h, uint64_t l)
{
    uint64_t each = h->arch->experts / h->ranks;
    char prefix[64];

    for (uint64_t x = h->rank * each; x < (h->rank + 1) * each; x++) {
        snprintf(prefix, sizeof prefix, "layers.%" PRIu64 ".ffn.experts.%" PRIu64 ".", l, x);
        HOLD(h, prefix, expert);
    }
}

static void hold_layer(struct holding *h, uint64_t l)
{
    const struct arch *a = h->arch;
    char prefix[64];

    snprintf(prefix, sizeof prefix, "layers.%" PRIu64 ".", l);
    HOLD(h, prefix, layer);
    if (a->q_lora_rank)
        HOLD(h, prefix, latent_query);
    else
        HOLD(h, prefix, query);
    if (!arch_is_moe_layer(a, l)) {
        HOLD(h, prefix, dense);
        return;
    }
    HOLD(h, prefix, router);
    if (a->topk == TOPK_NOAUX_TC)
        HOLD(h, prefix, router_bias);
    if (a->shared_experts)
        HOLD(h, prefix, shared);
    hold_experts(h, l);
}

/* V3.2's indexer is on every rank, with shapes that config.json does not say in words that we read. */
static bool is_known(const char *name)
{
    return strncmp(name, "layers.", 7) == 0 && strstr(name, ".attn.indexer.");
}

static void report(struct holding *h)
{
    struct some unknown = {0};

    for (size_t i = 0; i < h->header->tensor_count; i++)
        if (!h->used[i] && !is_known(h->header->tensors[i].name))
            some_add(&unknown, h->header->tensors[i].name);
    if (h->missing.count > 0)
        findings_add(h->findings, RULE_WEIGHT_MISSING,
                     "'%s' lacks %" PRIu64 " of the %" PRIu64 " weights of its rank: %s%s", h->file, h->missing.count,
                     h->expected, h->missing.text.data, some_more(&h->missing));
    if (unknown.count > 0)
        findings_add(h->findings, RULE_NAME_UNKNOWN, "'%s': %" PRIu64 " tensor%s that its rank has no use for: %s%s",
                     h->file, unknown.count, plural(unknown.count), unknown.text.data, some_more(&unknown));
    buf_release(&unknown.text);
}

static void hold_file(struct holding *h)
{
    for (size_t i = 0; i < h->header->tensor_count; i++)
        map_put(&h->by_name, h->header->tensors[i].name, i);
    h->used = mem_alloc((h->header->tensor_count + 1) * sizeof *h->used);
    HOLD(h, "", top);
    for (uint64_t l = 0; l < h->arch->layers; l++)
        hold_layer(h, l);
    report(h);
    mem_free(h->used);
    buf_release(&h->missing.text);
    map_release(&h->by_name);
}

/* ---- the files ---- */

/* "model0-mp8.safetensors": rank 0 of 8. */
static bool parse_name(const char *name, uint64_t *rank, uint64_t *ranks)
{
    int end = 0;
    unsigned r = 0, n = 0;
    char same[64];

    if (sscanf(name, "model%4u-mp%4u.safetensors%n", &r, &n, &end) != 2 || end == 0 || name[end] != '\0')
        return false;
    snprintf(same, sizeof same, "model%u-mp%u.safetensors", r, n);
    *rank = r;
    *ranks = n;
    return strcmp(same, name) == 0 && r < n && n <= RANKS_MAX;
}

bool rank_files_find(struct rank_files *r, const char *dir, struct err *e)
{
    struct arena a = {0};
    char **names = NULL;
    size_t count = 0;
    uint64_t rank, ranks;

    *r = (struct rank_files){0};
    bool ok = dir_list(dir, &a, &names, &count, e), is_checkpoint = false;
    for (size_t i = 0; ok && i < count; i++) {
        is_checkpoint |= strcmp(names[i], INDEX_FILE_NAME) == 0 || strcmp(names[i], "model.safetensors") == 0;
        if (!parse_name(names[i], &rank, &ranks))
            continue;
        r->found++;
        r->ranks = ranks > r->ranks ? ranks : r->ranks;
    }
    if (is_checkpoint)
        *r = (struct rank_files){0};
    arena_release(&a);
    return ok;
}

static bool load_config(struct arch *arch, struct arena *a, const char *dir, const struct err_sink *sink, bool *known,
                        struct err *e)
{
    char *text = NULL;
    size_t bytes = 0;
    const char *path = path_join(a, dir, "config.json");

    if (!path_exists(path))
        err_broken(e, ERR_FORMAT, "config-missing", "there is no config.json: shapes are held against nothing");
    else if (file_slurp(path, CHECKPOINT_CONFIG_BYTES_MAX, &text, &bytes, e))
        *known = arch_parse(arch, a, text, bytes, e);
    if (!*known)
        err_rule(e, "config-malformed");
    mem_free(text);
    return *known || err_pass(sink, e);
}

static bool check_file(struct rank_files *r, const struct arch *arch, const char *dir, uint64_t rank,
                       struct findings *findings, struct err *e)
{
    struct err_sink sink = findings_sink(findings);
    struct arena a = {0};
    struct file f = {0};
    struct safetensors header = {0};
    const char *name = arena_printf(&a, "model%" PRIu64 "-mp%" PRIu64 ".safetensors", rank, r->ranks);
    const char *path = path_join(&a, dir, name);
    bool ok = true;

    if (!path_exists(path)) {
        findings_add(findings, RULE_SHARD_MISSING, "'%s' is missing: there are files of %" PRIu64 " ranks", name,
                     r->ranks);
    } else if (!file_open(&f, path, e) || !safetensors_read(&header, &a, &f, e)) {
        err_rule(e, "shard-malformed");
        ok = err_in(e, "'%s'", name) || err_pass(&sink, e);
    } else {
        r->tensors += header.tensor_count;
        struct holding h = {
            .arch = arch, .rank = rank, .ranks = r->ranks, .file = name, .header = &header, .findings = findings};
        if (arch)
            hold_file(&h);
    }
    file_close(&f);
    arena_release(&a);
    return ok;
}

bool rank_files_check(struct rank_files *r, const char *dir, struct findings *findings, struct err *e)
{
    struct err_sink sink = findings_sink(findings);
    struct arena a = {0};
    struct arch arch;
    bool known = false;
    bool ok = load_config(&arch, &a, dir, &sink, &known, e);

    if (r->found > r->ranks)
        findings_add(findings, RULE_SHARD_UNREAD,
                     "%" PRIu64 " files of ranks, and %" PRIu64 " ranks: the others are "
                     "of another export",
                     r->found, r->ranks);
    if (known && arch.experts % r->ranks != 0) {
        findings_add(findings, RULE_SHAPE_MISMATCH, "%" PRIu64 " experts do not divide over %" PRIu64 " ranks",
                     arch.experts, r->ranks);
        known = false;
    }
    for (uint64_t rank = 0; ok && rank < r->ranks; rank++)
        ok = check_file(r, known ? &arch : NULL, dir, rank, findings, e);
    arena_release(&a);
    return ok;
}
