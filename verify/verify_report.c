#include <inttypes.h>
#include <stdio.h>

#include "formats/base/units.h"
#include "verify/report_text.h"
#include "verify/verification.h"

#define FINDINGS_SHOWN 5u /* of one kind */

/* ---- text ---- */

static void print_head(const struct verification *v, struct buf *out)
{
    buf_printf(out, "%s\n", v->path);
    if (v->has_manifest)
        buf_printf(out, "  bundle       by Quern %s, recipe %s\n", v->manifest.tool_version, v->recipe);
    else
        buf_puts(out, "  bundle       none: a checkpoint without a readable " MANIFEST_NAME "\n");
    if (v->ranks.ranks > 0)
        buf_printf(out,
                   "  ranks        %" PRIu64 " of %" PRIu64 " file%s for DeepSeek's own code, %" PRIu64
                   " tensor%s by name and shape; none decoded, made again or run\n",
                   v->ranks.found, v->ranks.ranks, plural(v->ranks.ranks), v->ranks.tensors, plural(v->ranks.tensors));
    else
        buf_printf(out, "  checkpoint   %" PRIu64 " weight%s in %" PRIu64 " tensor%s\n", v->weights, plural(v->weights),
                   v->tensors, plural(v->tensors));
}

static void print_fingerprint(const struct fingerprint_sum *f, struct buf *out)
{
    if (f->positions == 0)
        return;
    buf_printf(out, "  fingerprint  %zu log-probabilities at %zu position%s", f->logprobs, f->positions,
               plural(f->positions));
    if (f->mtp_positions > 0)
        buf_printf(out, " and %zu of the MTP layer", f->mtp_positions);
    buf_printf(out, ", %.5f apart at most; %" PRIu64 " of %" PRIu64 " choices of experts differ\n", f->delta_max,
               f->flips, f->choices);
}

static void print_steps(const struct verification *v, struct buf *out)
{
    char bytes[BYTES_TEXT];

    if (v->has_manifest)
        buf_printf(out, "  files        %zu of %zu are as listed, by size%s (%s)\n", v->files.good,
                   v->manifest.file_count, v->hashed ? " and SHA-256" : "", bytes_text((double)v->files.bytes, bytes));
    if (v->scales.scales > 0)
        buf_printf(out, "  scales       %" PRIu64 " looked at\n", v->scales.scales);
    if (v->deep)
        buf_printf(out, "  values       %" PRIu64 " decoded (%s)\n", v->values.values,
                   bytes_text((double)v->values.read_bytes, bytes));
    if (v->rederived) {
        buf_printf(out, "  source       %" PRIu64 " of %zu weights made again: %" PRIu64 " %s the same bytes",
                   v->derived.rows, v->manifest.row_count, v->derived.exact, is_are(v->derived.exact));
        if (v->derived.as_far > 0)
            buf_printf(out, ", %" PRIu64 " calibrated one%s as far off as recorded", v->derived.as_far,
                       plural(v->derived.as_far));
        buf_puts(out, "\n");
        if (v->manifest.source_count > 0)
            buf_printf(out, "  source files %zu of %zu are as recorded\n", v->source_files.good,
                       v->manifest.source_count);
    }
    print_fingerprint(&v->fingerprint, out);
}

static void print_findings(const struct verification *v, const struct verify_show *show, struct buf *out)
{
    size_t shown[RULE_COUNT] = {0};

    for (size_t i = 0; i < v->findings.count; i++) {
        const struct finding *f = &v->findings.items[i];
        const struct rule *rule = rule_get(f->rule);
        if (shown[f->rule]++ < FINDINGS_SHOWN || show->all)
            buf_printf(out, "%-7s  %s: %s\n", severity_name(rule->severity), rule->id, f->text);
    }
    for (enum rule_id r = 0; r < RULE_COUNT && !show->all; r++)
        if (shown[r] > FINDINGS_SHOWN)
            buf_printf(out, "%-7s  %s: %zu more (--all lists them)\n", severity_name(rule_get(r)->severity),
                       rule_get(r)->id, shown[r] - FINDINGS_SHOWN);
}

static void print_verdict(const struct verification *v, struct buf *out)
{
    size_t errors = findings_count(&v->findings, SEVERITY_ERROR);
    size_t warnings = findings_count(&v->findings, SEVERITY_WARNING);

    buf_puts(out, "verdict: ");
    if (errors > 0)
        buf_printf(out, "%zu defect%s", errors, plural(errors));
    else
        buf_puts(out, v->has_manifest && v->hashed ? "intact" : "no defect found");
    if (warnings > 0)
        buf_printf(out, ", %zu warning%s", warnings, plural(warnings));
    buf_puts(out, "\n");
}

void verify_print_text(const struct verification *v, const struct verify_show *show, struct buf *out)
{
    size_t from = out->bytes;

    print_head(v, out);
    print_steps(v, out);
    buf_puts(out, "\n");
    print_findings(v, show, out);
    print_verdict(v, out);
    report_disarm(out, from);
}

/* ---- JSON ---- */

static void put_files(struct json_writer *w, const char *key, const struct integrity_sum *sum, size_t listed,
                      bool hashed)
{
    json_begin_object(w, key);
    json_put_u64(w, "listed", listed);
    json_put_u64(w, "good", sum->good);
    json_put_u64(w, "bytes", sum->bytes);
    json_put_bool(w, "hashed", hashed);
    json_end(w, '}');
}

static void put_ranks(struct json_writer *w, const struct rank_files *r)
{
    json_begin_object(w, "ranks");
    json_put_u64(w, "ranks", r->ranks);
    json_put_u64(w, "files", r->found);
    json_put_u64(w, "tensors", r->tensors);
    json_end(w, '}');
}

static void put_fingerprint(struct json_writer *w, const struct fingerprint_sum *f)
{
    json_begin_object(w, "fingerprint");
    json_put_u64(w, "positions", f->positions);
    json_put_u64(w, "mtp_positions", f->mtp_positions);
    json_put_u64(w, "logprobs", f->logprobs);
    json_put_double(w, "delta_max", f->delta_max);
    json_put_u64(w, "choices", f->choices);
    json_put_u64(w, "flips", f->flips);
    json_end(w, '}');
}

static void put_steps(struct json_writer *w, const struct verification *v)
{
    if (v->has_manifest)
        put_files(w, "files", &v->files, v->manifest.file_count, v->hashed);
    json_put_u64(w, "scales", v->scales.scales);
    if (v->deep)
        json_put_u64(w, "values", v->values.values);
    if (v->fingerprint.positions > 0)
        put_fingerprint(w, &v->fingerprint);
    if (!v->rederived)
        return;
    put_files(w, "source_files", &v->source_files, v->manifest.source_count, v->deep);
    json_begin_object(w, "rederived");
    json_put_u64(w, "weights", v->derived.rows);
    json_put_u64(w, "exact", v->derived.exact);
    json_put_u64(w, "as_far_as_recorded", v->derived.as_far);
    json_end(w, '}');
}

void verify_print_json(const struct verification *v, struct buf *out)
{
    struct json_writer w = {.out = out};

    json_begin_object(&w, NULL);
    json_put_string(&w, "path", v->path);
    json_put_string(&w, "quern", v->has_manifest ? v->manifest.tool_version : NULL);
    json_put_string(&w, "recipe", v->has_manifest ? v->recipe : NULL);
    json_put_u64(&w, "weights", v->weights);
    json_put_u64(&w, "tensors", v->tensors);
    if (v->ranks.ranks > 0)
        put_ranks(&w, &v->ranks);
    put_steps(&w, v);
    json_put_u64(&w, "errors", findings_count(&v->findings, SEVERITY_ERROR));
    json_put_u64(&w, "warnings", findings_count(&v->findings, SEVERITY_WARNING));
    json_put_u64(&w, "notes", findings_count(&v->findings, SEVERITY_NOTE));
    findings_put_json(&v->findings, &w);
    json_end(&w, '}');
    buf_puts(out, "\n");
}
