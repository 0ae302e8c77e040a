#include "verify/inspect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KV_ELEM_BYTES 2u /* BF16, what engines keep unless told otherwise */

static bool is_mtp(const struct inspection *in, const struct weight *w)
{
    return w->id.layer >= 0 && (uint64_t)w->id.layer >= in->source->arch.layers;
}

static uint64_t part_bytes(const struct weight *w, enum part part)
{
    return w->parts[part] ? w->parts[part]->bytes : 0;
}

static struct inspect_sum weight_sum(const struct weight *w)
{
    struct inspect_sum sum = {.weights = 1, .parameters = w->rows * w->cols};

    if (w->id.role == ROLE_ROPE_CACHE)
        sum.parameters = 0;
    for (size_t p = 0; p < PART_COUNT; p++)
        sum.bytes += part_bytes(w, (enum part)p);
    if (w->input_scale)
        sum.bytes += w->input_scale->bytes;
    return sum;
}

static void add_sum(struct inspect_sum *to, const struct inspect_sum *more)
{
    to->weights += more->weights;
    to->parameters += more->parameters;
    to->bytes += more->bytes;
}

static struct inspect_row *row_for(struct inspection *in, size_t *room, const struct weight *w)
{
    struct inspect_row key = {.group = role_get(w->id.role)->group, .mtp = is_mtp(in, w), .role = w->id.role};

    key.scheme = w->stored;
    scheme_text(&w->stored, key.stored);
    for (size_t i = 0; i < in->row_count; i++) {
        struct inspect_row *r = &in->rows[i];
        if (r->mtp == key.mtp && strcmp(r->stored, key.stored) == 0 && strcmp(r->group, key.group) == 0) {
            if (w->id.role < r->role)
                r->role = w->id.role;
            return r;
        }
    }
    if (in->row_count == *room) {
        *room = *room ? 2 * *room : 32;
        in->rows = mem_grow(in->rows, *room, sizeof *in->rows);
    }
    in->rows[in->row_count] = key;
    return &in->rows[in->row_count++];
}

static int compare_rows(const void *a, const void *b)
{
    const struct inspect_row *s = a, *t = b;

    if (s->mtp != t->mtp)
        return s->mtp ? 1 : -1;
    /* What is not known stands last. */
    if ((s->role == ROLE_UNKNOWN) != (t->role == ROLE_UNKNOWN))
        return s->role == ROLE_UNKNOWN ? 1 : -1;
    int group = strcmp(s->group, t->group);
    if (group != 0 && s->role != t->role)
        return s->role < t->role ? -1 : 1;
    return group ? group : strcmp(s->stored, t->stored);
}

/* Rows of one group stay together: all take the group's lowest role. */
static void sort_rows(struct inspection *in)
{
    for (size_t i = 0; i < in->row_count; i++)
        for (size_t k = 0; k < in->row_count; k++)
            if (strcmp(in->rows[i].group, in->rows[k].group) == 0 && in->rows[k].role < in->rows[i].role)
                in->rows[i].role = in->rows[k].role;
    if (in->row_count)
        qsort(in->rows, in->row_count, sizeof *in->rows, compare_rows);
}

static bool is_routed(enum role role)
{
    return role == ROLE_EXPERT_GATE || role == ROLE_EXPERT_UP || role == ROLE_EXPERT_DOWN;
}

/* What one token reads of the weights that every token reads. */
static void count_always(struct inspection *in, const struct weight *w, const struct inspect_sum *sum)
{
    uint64_t bytes = part_bytes(w, PART_CODES) + part_bytes(w, PART_SCALE) + part_bytes(w, PART_ZERO_POINT);

    if (w->id.role == ROLE_EMBED && !in->source->arch.tied_embeddings && w->rows > 0) {
        in->active_parameters += w->cols;
        in->active_bytes += bytes / w->rows;
        return;
    }
    in->active_parameters += sum->parameters;
    in->active_bytes += bytes;
}

/* a * b / c without losing the middle. */
static uint64_t scale_u64(uint64_t a, uint64_t b, uint64_t c)
{
    return c ? (uint64_t)((unsigned __int128)a * b / c) : 0;
}

static void count_weights(struct inspection *in)
{
    const struct source *s = in->source;
    struct inspect_sum routed = {0};
    uint64_t routed_read = 0;
    size_t room = 0;

    for (size_t i = 0; i < s->weights.count; i++) {
        const struct weight *w = &s->weights.items[i];
        struct inspect_sum sum = weight_sum(w);
        add_sum(&row_for(in, &room, w)->sum, &sum);
        if (w->id.role == ROLE_UNKNOWN || w->id.role == ROLE_ROPE_CACHE) {
            add_sum(&in->other, &sum);
        } else if (is_mtp(in, w)) {
            add_sum(&in->mtp, &sum);
        } else {
            add_sum(&in->main, &sum);
            if (is_routed(w->id.role)) {
                add_sum(&routed, &sum);
                routed_read += part_bytes(w, PART_CODES) + part_bytes(w, PART_SCALE) + part_bytes(w, PART_ZERO_POINT);
            } else {
                count_always(in, w, &sum);
            }
        }
    }
    /* Where experts differ in size, the mean expert is what a token reads. */
    in->active_parameters += scale_u64(routed.parameters, s->arch.experts_per_token, s->arch.experts);
    in->active_bytes += scale_u64(routed_read, s->arch.experts_per_token, s->arch.experts);
    sort_rows(in);
}

static void count_layers(struct inspection *in)
{
    const struct arch *a = &in->source->arch;

    for (uint64_t i = 0; i < a->layers; i++)
        *(arch_is_moe_layer(a, i) ? &in->moe_layers : &in->dense_layers) += 1;
    for (uint64_t l = a->layers; l < arch_layers_stored(a); l++)
        for (size_t i = 0; i < in->source->weights.count; i++)
            if (in->source->weights.items[i].id.layer == (int64_t)l) {
                in->mtp_layers_stored++;
                break;
            }
    in->kv_latent_bytes = a->layers * (a->kv_lora_rank + a->qk_rope_dim) * KV_ELEM_BYTES;
    in->kv_heads_bytes = a->layers * a->heads * (a->qk_nope_dim + a->qk_rope_dim + a->v_dim) * KV_ELEM_BYTES;
}

static bool is_quantized(const struct scheme *s)
{
    return s->kind != SCHEME_RAW && s->kind != SCHEME_PLAIN;
}

static const char *describe_stored(struct inspection *in)
{
    struct buf text = {0};

    for (size_t i = 0; i < in->row_count; i++) {
        const struct inspect_row *r = &in->rows[i];
        bool seen = r->mtp || !is_quantized(&r->scheme);
        for (size_t k = 0; k < i; k++)
            seen |= !in->rows[k].mtp && strcmp(in->rows[k].stored, r->stored) == 0;
        if (seen)
            continue;
        buf_printf(&text, "%s%s (", text.bytes ? "; " : "", r->stored);
        bool first = true;
        for (size_t k = i; k < in->row_count; k++)
            if (!in->rows[k].mtp && strcmp(in->rows[k].stored, r->stored) == 0) {
                buf_printf(&text, "%s%s", first ? "" : ", ", in->rows[k].group);
                first = false;
            }
        buf_puts(&text, ")");
    }
    const char *result = text.bytes ? arena_strdup(&in->arena, text.data) : "none";
    buf_release(&text);
    return result;
}

void inspect_run(struct inspection *in, const struct source *source)
{
    struct err e = {0};

    *in = (struct inspection){.source = source};
    for (size_t i = 0; i < source->checkpoint.shard_count; i++)
        in->file_bytes += source->checkpoint.shards[i].bytes;
    count_weights(in);
    count_layers(in);
    const struct checkpoint *c = &source->checkpoint;
    struct lint lint = {.source = source, .claim = &in->claim, .findings = &in->findings};
    if (!quant_claim_open(&in->claim, &source->arch, c->config, c->config_bytes, &e)) {
        findings_add(&in->findings, RULE_QUANT_CONFIG_MALFORMED, "config.json: %s", e.text);
        lint.claim = NULL;
    }
    in->claimed = quant_claim_text(&in->claim, &source->arch);
    in->stored = describe_stored(in);
    lint_headers(&lint);
    findings_sort(&in->findings);
}

void inspect_release(struct inspection *in)
{
    quant_claim_close(&in->claim);
    mem_free(in->rows);
    findings_release(&in->findings);
    arena_release(&in->arena);
    *in = (struct inspection){0};
}
