#include "verify/lint.h"

#include <inttypes.h>

#include "formats/engine.h"
#include "formats/safetensors.h"

/* ---- what engines demand ---- */

static void say_limit(void *ctx, const char *rule, const char *line)
{
    findings_add(ctx, rule_find(rule), "%s", line);
}

static void check_engines(const struct lint *l)
{
    const struct weights *weights = &l->source->weights;
    struct engine_weight *list = mem_alloc((weights->count + 1) * sizeof *list);
    struct err e = {0};
    size_t count = 0;

    for (size_t i = 0; i < weights->count; i++)
        if (weights->items[i].id.role != ROLE_UNKNOWN && !weights->items[i].broken)
            list[count++] = (struct engine_weight){&weights->items[i], &weights->items[i].stored};
    if (!engine_check_fused(list, count, &e))
        findings_add(l->findings, RULE_FUSED_SPLIT, "%s", e.text);
    engine_check_limits(list, count, say_limit, l->findings);
    mem_free(list);
}

/* ---- files ---- */

static void check_headers(const struct lint *l)
{
    const struct checkpoint *c = &l->source->checkpoint;

    for (size_t i = 0; i < c->note_count; i++)
        findings_add(l->findings, rule_find(c->notes[i].rule), "%s", c->notes[i].text);
    for (size_t i = 0; i < c->shard_count; i++)
        if (c->shards[i].data_offset > 8u + SAFETENSORS_HEADER_BYTES_HUB)
            findings_add(l->findings, RULE_HEADER_LONG,
                         "'%s' has a header of %" PRIu64 " bytes; the hub reads up to %u", c->shards[i].name,
                         c->shards[i].data_offset - 8, SAFETENSORS_HEADER_BYTES_HUB);
}

static void check_alignment(const struct lint *l)
{
    const struct checkpoint *c = &l->source->checkpoint;
    const struct tensor *first = NULL;
    uint64_t misaligned = 0;

    for (size_t i = 0; i < c->tensor_count; i++) {
        uint32_t align = dtype_get(c->tensors[i].dtype)->align;
        if (align < 2 || c->tensors[i].offset % align == 0)
            continue;
        if (misaligned++ == 0)
            first = &c->tensors[i];
    }
    if (misaligned)
        findings_add(l->findings, RULE_MISALIGNED,
                     "%" PRIu64 " tensor%s not aligned to %s dtype, first '%s' (%s) at %" PRIu64, misaligned,
                     misaligned == 1 ? " is" : "s are", misaligned == 1 ? "its" : "their", first->name,
                     dtype_get(first->dtype)->name, first->offset);
}

void lint_headers(const struct lint *l)
{
    lint_promises(l);
    lint_claims(l);
    lint_static_claims(l);
    lint_floors(l);
    check_engines(l);
    check_headers(l);
    check_alignment(l);
}
