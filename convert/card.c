#include <inttypes.h>
#include <string.h>

#include "convert/bundle.h"
#include "convert/coverage.h"
#include "convert/summary.h"
#include "formats/base/units.h"

static bool any_kind(const struct plan *p, const struct plan_output *o, enum scheme_kind kind)
{
    for (size_t i = 0; i < p->weight_count; i++)
        if (o->rows[i].scheme.kind == kind)
            return true;
    return false;
}

static void write_front_matter(struct buf *out, const struct plan *p, const struct plan_output *o,
                               const struct bundle_options *options)
{
    bool int4 = any_kind(p, o, SCHEME_INT4);
    bool fp8 = any_kind(p, o, SCHEME_FP8_BLOCK) || any_kind(p, o, SCHEME_FP8_CHANNEL);

    buf_puts(out, "---\n");
    if (options->base_model)
        buf_printf(out, "base_model: %s\n", options->base_model);
    if (int4 || fp8)
        buf_puts(out, "base_model_relation: quantized\n");
    buf_puts(out, "pipeline_tag: text-generation\ntags:\n- quern\n");
    if (int4)
        buf_puts(out, "- int4\n- compressed-tensors\n");
    if (fp8)
        buf_puts(out, "- fp8\n");
    buf_puts(out, "---\n\n");
}

static void write_table(struct buf *out, const struct summary *s)
{
    buf_puts(out, "| role | from | to | weights | bytes in | bytes out | relative error |\n"
                  "|---|---|---|--:|--:|--:|--:|\n");
    for (size_t i = 0; i < s->row_count; i++) {
        const struct summary_row *r = &s->rows[i];
        buf_printf(out, "| %s | %s | %s | %" PRIu64 " | %" PRIu64 " | %" PRIu64 " | ", r->group, r->from, r->to,
                   r->weight_count, r->in_bytes, r->out_bytes);
        if (r->quantized)
            buf_printf(out, "%.5f |\n", weight_error_relative(&r->error));
        else
            buf_puts(out, "- |\n");
    }
}

static void write_fall_backs(struct buf *out, const struct plan *p, const struct plan_output *o)
{
    buf_puts(out, "\nLeft wider than the recipe asks, because the group does not divide the width:\n\n");
    for (size_t i = 0; i < p->weight_count; i++)
        if (o->rows[i].fell_back)
            buf_printf(out, "- `%s`: %s\n", p->weights[i]->name, o->rows[i].why);
}

static void write_coverage(struct buf *out, const struct plan *p, const struct plan_output *o,
                           const struct run_result *result)
{
    struct arena a = {0};
    struct coverage coverage;

    coverage_make(&coverage, &a, p, o, result);
    coverage_markdown(&coverage, out);
    buf_printf(out, "\nCalibrated on %s.\n", p->calibration);
    arena_release(&a);
}

void card_write(struct buf *out, const struct plan *p, size_t output, const struct run_result *result,
                const struct bundle_options *options)
{
    const struct plan_output *o = &p->outputs[output];
    const struct arch *a = &p->source->arch;
    struct arena arena = {0};
    struct summary s;

    summary_make(&s, &arena, p, o, result);
    write_front_matter(out, p, o, options);
    buf_printf(out, "# %s, by recipe `%s`\n\n", a->model_type, o->recipe->name);
    if (o->recipe->description)
        buf_printf(out, "%s\n\n", o->recipe->description);
    buf_printf(out, "Made with Quern %s from a %s checkpoint of %" PRIu64 " layer%s", QUERN_VERSION,
               a->architecture ? a->architecture : a->model_type, a->layers, plural(a->layers));
    if (a->experts > 0)
        buf_printf(out, " and %" PRIu64 " routed expert%s (%" PRIu64 " per token)", a->experts, plural(a->experts),
                   a->experts_per_token);
    buf_printf(out, ".\n`quern.json` lists every tensor with its sources, scheme, method and error, and the SHA-256 of "
                    "every file.\n\n");
    write_table(out, &s);
    buf_puts(out, "\nThe relative error is the Frobenius norm of the change over that of the source's numbers.\n"
                  "It says how closely weights were kept, not how well the model answers.\n");
    if (result->calibrated)
        write_coverage(out, p, o, result);
    if (s.fell_back > 0)
        write_fall_backs(out, p, o);
    if (o->drop_count > 0)
        buf_puts(out, "\nLeft out:\n\n");
    for (size_t i = 0; i < o->drop_count; i++)
        buf_printf(out, "- `%s`: %s\n", o->drops[i].name, o->drops[i].why);
    arena_release(&arena);
}
