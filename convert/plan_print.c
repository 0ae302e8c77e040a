#include "convert/plan_print.h"

#include <inttypes.h>
#include <stdio.h>

#include "convert/coverage.h"
#include "convert/summary.h"
#include "formats/base/units.h"
#include "formats/json.h"

/* Coarsely: the machine's speed drifts more than a finer figure would say. */
static const char *seconds_text(double s, char text[32])
{
    if (s < 1)
        snprintf(text, 32, "under a second");
    else if (s < 90)
        snprintf(text, 32, "%.0f s", s);
    else if (s < 5400)
        snprintf(text, 32, "%.0f min", s / 60);
    else
        snprintf(text, 32, "%.1f h", s / 3600);
    return text;
}

static void print_rows(const struct plan *p, const struct plan_output *o)
{
    printf("\n");
    for (size_t i = 0; i < p->weight_count; i++) {
        const struct plan_row *row = &o->rows[i];
        char from[SCHEME_TEXT], to[SCHEME_TEXT];
        if (row->parts[PART_CODES].dtype == DTYPE_NONE)
            continue;
        printf("%s [%" PRIu64 ", %" PRIu64 "] %s -> %s, shard %u at %" PRIu64 " (%s)\n", row->weight->name,
               row->weight->rows, row->weight->cols, scheme_text(&row->weight->stored, from),
               scheme_text(&row->scheme, to), row->parts[PART_CODES].shard + 1, row->parts[PART_CODES].offset,
               row->why);
    }
    for (size_t i = 0; i < o->drop_count; i++)
        printf("%s left out: %s\n", o->drops[i].name, o->drops[i].why);
}

static void print_proof(const struct proof *proof)
{
    char bytes[BYTES_TEXT], memory[BYTES_TEXT];

    if (proof->why_not)
        printf("proof    none: %s\n", proof->why_not);
    else
        printf("proof    %" PRIu64 " bytes (%s) of the output, read again for its fingerprint, in %s of memory\n",
               proof->cost.read_bytes, bytes_text((double)proof->cost.read_bytes, bytes),
               bytes_text((double)proof->cost.memory_bytes, memory));
}

static void print_calibration(const struct calibration_estimate *c)
{
    const struct calibration_work *w = &c->work;
    double flop = calibration_work_flop(w), percent = flop / 100;
    char bytes[BYTES_TEXT], memory[BYTES_TEXT], time[32];

    printf("model    %zu token%s in %zu context%s run through it, which reads %s of the source\n", c->batch->tokens,
           plural(c->batch->tokens), c->batch->sequence_count, plural(c->batch->sequence_count),
           bytes_text((double)c->read_bytes, bytes));
    printf("         %.2e operations: %.0f%% the pass, %.0f%% moments, %.0f%% factors, %.0f%% codes\n", flop,
           (w->forward + w->twice) / percent, w->moments / percent, w->factor / percent, w->solve / percent);
    printf("         about %.3g core-hours, %s on %u thread%s; %" PRIu64 " bytes of memory at least (%s)\n",
           c->core_seconds / 3600, seconds_text(c->seconds, time), c->threads, plural(c->threads), c->memory_bytes,
           bytes_text((double)c->memory_bytes, memory));
}

static void print_renumbering(const struct proof *proof)
{
    char bytes[BYTES_TEXT], memory[BYTES_TEXT];

    if (!proof->renumbering)
        return;
    if (proof->why_unproved)
        printf("proof    none that the function is the same: %s\n", proof->why_unproved);
    else
        printf("proof    %" PRIu64
               " bytes (%s) of source and output, read to prove that the function is the same, in %s of memory\n",
               proof->renumbering_cost.read_bytes, bytes_text((double)proof->renumbering_cost.read_bytes, bytes),
               bytes_text((double)proof->renumbering_cost.memory_bytes, memory));
}

void plan_print_proved(const struct proof *proof)
{
    const struct renumbering_proof *r = &proof->proved;

    if (!proof->renumbering)
        return;
    if (r->positions == 0) {
        printf("proof    none that the function is the same: %s\n", proof->why_unproved);
        return;
    }
    printf("proof    %" PRIu64 " of %" PRIu64
           " chosen experts map one to one, and a layer's output is at most %.1e from "
           "the source's, given its states\n",
           r->mapped, r->choices, r->layer_error);
    printf("         run by itself: %" PRIu64 " of %" PRIu64
           " map; logits of %zu position%s at most %.1e apart, KL %.1e in the mean, %.1e at most\n",
           r->own, r->own_choices, r->positions, plural(r->positions), r->logit_delta, r->kl, r->kl_max);
}

void plan_print(const struct plan *p, size_t output, const struct proof *proof, const struct run_size *size,
                const struct estimate *estimate, uint64_t disk_bytes, bool verbose)
{
    const struct plan_output *o = &p->outputs[output];
    struct arena a = {0};
    struct summary s;
    char bytes[BYTES_TEXT], memory[BYTES_TEXT], read[BYTES_TEXT], time[32];

    summary_make(&s, &a, p, o, NULL);
    printf("recipe %s\n\n", o->recipe->name);
    summary_print(&s, false);
    if (verbose)
        print_rows(p, o);
    printf("\n");
    printf("output   %" PRIu64 " bytes (%s) in %zu shard%s\n", o->file_bytes, bytes_text((double)o->file_bytes, bytes),
           o->shard_count, plural(o->shard_count));
    printf("read     %" PRIu64 " bytes (%s) of the source, once\n", p->read_bytes,
           bytes_text((double)p->read_bytes, read));
    if (p->most_bytes > 0)
        printf("         %" PRIu64 " bytes (%s) of it before that, for the largest magnitudes\n", p->most_bytes,
               bytes_text((double)p->most_bytes, read));
    printf("work     %zu job%s on %u thread%s\n", p->job_count, plural(p->job_count), size->threads,
           plural(size->threads));
    if (plan_is_calibrated(o) && estimate->calibration)
        print_calibration(estimate->calibration);
    if (p->statistics && plan_is_fed(p, o))
        printf("model    not run; %s\n", p->calibration);
    print_proof(proof);
    print_renumbering(proof);
    printf("memory   %" PRIu64 " bytes at most (%s)\n", size->total_bytes,
           bytes_text((double)size->total_bytes, memory));
    printf("disk     %s at the peak, in '%s'\n", bytes_text((double)disk_bytes, bytes), o->dir);
    printf("time     about %s\n", seconds_text(estimate->seconds, time));
    if (p->report && output == 0)
        printf("\n%s", p->report);
    arena_release(&a);
}

static void put_row(struct json_writer *w, const struct summary_row *r, bool with_error)
{
    json_begin_object(w, NULL);
    w->compact = true;
    json_put_string(w, "role", r->group);
    json_put_string(w, "from", r->from);
    json_put_string(w, "to", r->to);
    json_put_u64(w, "weights", r->weight_count);
    json_put_u64(w, "elements", r->elems);
    json_put_u64(w, "bytes_in", r->in_bytes);
    json_put_u64(w, "bytes_out", r->out_bytes);
    if (with_error && r->quantized)
        json_put_double(w, "error", weight_error_relative(&r->error));
    json_end(w, '}');
    w->compact = false;
}

static void put_shards(struct json_writer *w, const struct plan_output *o, const struct run_result *result)
{
    json_begin_array(w, "shards");
    for (size_t i = 0; i < o->shard_count; i++) {
        json_begin_object(w, NULL);
        w->compact = true;
        json_put_string(w, "name", o->shards[i].name);
        json_put_u64(w, "bytes", o->shards[i].bytes);
        if (result)
            json_put_string(w, "sha256", result->sha256[i]);
        json_end(w, '}');
        w->compact = false;
    }
    json_end(w, ']');
}

static void put_coverage(struct json_writer *w, struct arena *a, const struct plan *p, const struct plan_output *o,
                         const struct run_result *result)
{
    struct coverage coverage;

    coverage_make(&coverage, a, p, o, result);
    coverage_json(&coverage, w, p, o, result);
}

static void put_calibration(struct json_writer *w, const struct calibration_estimate *c)
{
    json_begin_object(w, "calibration");
    json_put_u64(w, "tokens", c->batch->tokens);
    json_put_u64(w, "contexts", c->batch->sequence_count);
    json_put_u64(w, "read_bytes", c->read_bytes);
    json_put_double(w, "forward_flop", c->work.forward + c->work.twice);
    json_put_double(w, "moments_flop", c->work.moments);
    json_put_double(w, "factor_flop", c->work.factor);
    json_put_double(w, "solve_flop", c->work.solve);
    json_put_double(w, "core_seconds", c->core_seconds);
    json_put_u64(w, "threads", c->threads);
    json_put_u64(w, "memory_bytes", c->memory_bytes);
    json_end(w, '}');
}

static void put_proof(struct json_writer *w, const struct proof *proof)
{
    json_begin_object(w, "fingerprint");
    json_put_u64(w, "read_bytes", proof->cost.read_bytes);
    json_put_u64(w, "memory_bytes", proof->cost.memory_bytes);
    json_end(w, '}');
}

static void put_proved(struct json_writer *w, const struct renumbering_proof *r)
{
    json_put_u64(w, "positions", r->positions);
    json_put_u64(w, "choices", r->choices);
    json_put_u64(w, "choices_mapped", r->mapped);
    json_put_double(w, "layer_error", r->layer_error);
    json_put_u64(w, "own_choices", r->own_choices);
    json_put_u64(w, "own_choices_mapped", r->own);
    json_put_double(w, "logit_delta", r->logit_delta);
    json_put_double(w, "kl", r->kl);
    json_put_double(w, "kl_max", r->kl_max);
}

/* What it will cost, or has shown. */
static void put_renumbering(struct json_writer *w, const struct proof *proof)
{
    json_begin_object(w, "renumbering_proof");
    if (proof->why_unproved) {
        json_put_string(w, "none", proof->why_unproved);
    } else if (proof->proved.positions > 0) {
        put_proved(w, &proof->proved);
    } else {
        json_put_u64(w, "read_bytes", proof->renumbering_cost.read_bytes);
        json_put_u64(w, "memory_bytes", proof->renumbering_cost.memory_bytes);
    }
    json_end(w, '}');
}

void plan_print_json(const struct plan *p, size_t output, const struct run_result *result, const struct proof *proof,
                     const struct run_size *size, const struct estimate *estimate, uint64_t disk_bytes)
{
    const struct plan_output *o = &p->outputs[output];
    struct arena a = {0};
    struct buf text = {0};
    struct json_writer w = {.out = &text};
    struct summary s;

    summary_make(&s, &a, p, o, result);
    json_begin_object(&w, NULL);
    json_put_string(&w, "recipe", o->recipe->name);
    json_put_string(&w, "destination", o->dir);
    json_put_u64(&w, "output_bytes", o->file_bytes);
    json_put_u64(&w, "tensor_bytes", o->tensor_bytes);
    json_put_u64(&w, "read_bytes", p->read_bytes);
    json_put_u64(&w, "jobs", p->job_count);
    if (p->statistics && plan_is_fed(p, o))
        json_put_string(&w, "calibrated_by", p->calibration);
    if (!result && proof && proof->why_not)
        json_put_string(&w, "no_fingerprint", proof->why_not);
    else if (!result && proof)
        put_proof(&w, proof);
    if (proof && proof->renumbering)
        put_renumbering(&w, proof);
    if (size) {
        json_put_u64(&w, "threads", size->threads);
        json_put_u64(&w, "memory_bytes", size->total_bytes);
    }
    if (estimate) {
        json_put_u64(&w, "disk_bytes", disk_bytes);
        json_put_double(&w, "seconds", estimate->seconds);
        if (plan_is_calibrated(o) && estimate->calibration)
            put_calibration(&w, estimate->calibration);
    }
    json_begin_array(&w, "rows");
    for (size_t i = 0; i < s.row_count; i++)
        put_row(&w, &s.rows[i], result != NULL);
    json_end(&w, ']');
    put_shards(&w, o, result);
    if (result && result->calibrated)
        put_coverage(&w, &a, p, o, result);
    if (p->report_json && output == 0)
        json_put_raw(&w, p->report_name, p->report_json);
    json_begin_array(&w, "dropped");
    for (size_t i = 0; i < o->drop_count; i++)
        json_put_string(&w, NULL, o->drops[i].name);
    json_end(&w, ']');
    json_end(&w, '}');
    printf("%s\n", text.data);
    buf_release(&text);
    arena_release(&a);
}
