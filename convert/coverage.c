#include "convert/coverage.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/arch.h"
#include "formats/base/units.h"

/* In a line of text; quern.json has them all. */
#define SUPERS_LISTED 16u

static bool is_down(enum role role)
{
    return role == ROLE_EXPERT_DOWN || role == ROLE_DENSE_DOWN || role == ROLE_SHARED_DOWN;
}

static bool asked(const struct calibrated_result *c)
{
    return c->reason == REASON_ASKED;
}

static int compare_tokens(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* ---- a layer ---- */

struct sums {
    double error[2], energy[2]; /* wide, down */
    double to_prior, to_diagonal;
    size_t shrunk;
};

/* The gate speaks for its expert. */
static void add_weight(struct coverage_layer *l, struct sums *s, uint64_t *tokens, const struct weight *w,
                       const struct calibrated_result *c)
{
    bool down = is_down(w->id.role);

    l->weights++;
    l->other_endings += !asked(c);
    l->weighed |= c->ending == ENDING_DIAGONAL || c->ending == ENDING_SEARCH;
    s->error[down] += c->loss_error;
    s->energy[down] += c->loss_energy;
    if (w->id.role != ROLE_EXPERT_GATE)
        return;
    tokens[l->experts++] = c->tokens;
    s->to_prior += c->to_prior;
    s->to_diagonal += c->to_diagonal;
}

static void close_layer(struct coverage_layer *l, const struct sums *s, uint64_t *tokens, uint64_t min_tokens)
{
    l->loss_wide = s->energy[0] > 0 ? s->error[0] / s->energy[0] : -1;
    l->loss_down = s->energy[1] > 0 ? s->error[1] / s->energy[1] : -1;
    if (l->experts == 0)
        return;
    qsort(tokens, l->experts, sizeof *tokens, compare_tokens);
    l->tokens_min = tokens[0];
    l->tokens_median = tokens[l->experts / 2];
    l->tokens_max = tokens[l->experts - 1];
    l->to_prior = s->to_prior / (double)l->experts;
    l->to_diagonal = s->to_diagonal / (double)l->experts;
    for (size_t i = 0; i < l->experts; i++) {
        l->unvisited += tokens[i] == 0;
        l->starved += tokens[i] < min_tokens;
    }
}

/* ---- super experts ---- */

static int compare_most(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* Between the two that stand next to it, as numpy's percentile has it. */
static double quantile(const float *sorted, size_t count, double q)
{
    double at = q * (double)(count - 1);
    size_t below = (size_t)at, above = below + 1 < count ? below + 1 : below;

    return (double)sorted[below] + (at - (double)below) * ((double)sorted[above] - (double)sorted[below]);
}

size_t coverage_supers(const struct super_expert *all, size_t count, struct super_expert *supers, float *median)
{
    float *sorted = mem_alloc((count + 1) * sizeof *sorted);
    size_t seen = 0, found = 0;

    for (size_t i = 0; i < count; i++)
        if (all[i].output_most > 0)
            sorted[seen++] = all[i].output_most;
    qsort(sorted, seen, sizeof *sorted, compare_most);
    *median = seen > 0 ? (float)quantile(sorted, seen, 0.5) : 0;
    for (size_t i = 0; i < count && seen > 0; i++) {
        double most = (double)all[i].output_most;
        if (most > quantile(sorted, seen, SUPER_QUANTILE) && most > SUPER_OF_LARGEST * (double)sorted[seen - 1] &&
            most > SUPER_OVER_MEDIAN * (double)*median)
            supers[found++] = all[i];
    }
    mem_free(sorted);
    return found;
}

static int compare_places(const void *a, const void *b)
{
    const struct super_expert *x = a, *y = b;

    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

static void find_supers(struct coverage *c, struct arena *a, const struct plan *p, const struct plan_output *o,
                        const struct run_result *result)
{
    struct super_expert *all = mem_alloc((p->weight_count + 1) * sizeof *all);
    size_t count = 0;

    for (size_t i = 0; i < p->weight_count; i++) {
        const struct tensor_id *id = &p->weights[i]->id;
        if (plan_row_is_fed(&o->rows[i]) && id->role == ROLE_EXPERT_DOWN)
            all[count++] =
                (struct super_expert){(uint64_t)id->layer, (uint64_t)id->expert, result->calibrated[i].output_most};
    }
    qsort(all, count, sizeof *all, compare_places);
    c->supers = arena_array(a, count, sizeof *c->supers);
    c->super_count = coverage_supers(all, count, c->supers, &c->median_most);
    mem_free(all);
}

void coverage_make(struct coverage *c, struct arena *a, const struct plan *p, const struct plan_output *o,
                   const struct run_result *result)
{
    const struct arch *arch = &p->source->arch;
    uint64_t layers = arch_layers_stored(arch);
    uint64_t *tokens = arena_array(a, arch->experts + 1, sizeof *tokens);

    *c = (struct coverage){.layers = arena_array(a, layers, sizeof *c->layers), .min_tokens = p->min_tokens};
    for (uint64_t layer = 0; layer < layers; layer++) {
        struct coverage_layer *l = &c->layers[c->layer_count];
        struct sums sums = {0};
        *l = (struct coverage_layer){.layer = layer};
        for (size_t i = 0; i < p->weight_count; i++)
            if (plan_row_is_fed(&o->rows[i]) && p->weights[i]->id.layer == (int64_t)layer)
                add_weight(l, &sums, tokens, p->weights[i], &result->calibrated[i]);
        if (l->weights == 0)
            continue;
        close_layer(l, &sums, tokens, p->min_tokens);
        c->starved += l->starved;
        c->unvisited += l->unvisited;
        c->other_endings += l->other_endings;
        c->any_moments |= l->loss_wide >= 0 || l->loss_down >= 0;
        c->any_weighed |= l->weighed;
        c->layer_count++;
    }
    find_supers(c, a, p, o, result);
}

/* ---- reports ---- */

static void print_supers(const struct coverage *c, struct buf *out)
{
    if (c->super_count == 0)
        return;
    buf_puts(out, "super experts, whose outputs are massive:");
    for (size_t i = 0; i < c->super_count && i < SUPERS_LISTED; i++)
        buf_printf(out, "%s %" PRIu64 " of layer %" PRIu64 " (%.3g)", i ? "," : "", c->supers[i].expert,
                   c->supers[i].layer, (double)c->supers[i].output_most);
    if (c->super_count > SUPERS_LISTED)
        buf_printf(out, ", and %zu more", c->super_count - SUPERS_LISTED);
    buf_printf(out,
               "; the median expert's go up to %.3g. Engines take one scheme for all experts of a layer: a rule with "
               "\"layers\" keeps theirs wider.\n",
               (double)c->median_most);
}

static void print_note(const struct coverage *c, struct buf *out)
{
    print_supers(c, out);
    if (c->starved > 0)
        buf_printf(out, "%zu expert%s got fewer than %" PRIu64 " token%s, %zu of them none: they %s.\n", c->starved,
                   plural(c->starved), c->min_tokens, plural(c->min_tokens), c->unvisited,
                   c->any_moments   ? "were rounded by what all tokens of their layer say"
                   : c->any_weighed ? "were weighed by what all tokens of their layer say, or not at all"
                                    : "go by the largest input of all experts of their layer, as the others do");
    if (c->other_endings > 0)
        buf_printf(out, "%zu weight%s did not end by the method that was asked for; quern.json says which and why.\n",
                   c->other_endings, plural(c->other_endings));
}

/* "1.234e-03", or "-" where there is none. */
#define LOSS_TEXT 16
static const char *loss_text(double loss, char text[LOSS_TEXT])
{
    snprintf(text, LOSS_TEXT, loss >= 0 ? "%.3e" : "-", loss);
    return text;
}

static void print_experts(const struct coverage *c, const struct coverage_layer *l, struct buf *out)
{
    if (l->experts == 0) {
        buf_printf(out, "%10s %7s %7s %8s %7s %10s", "-", "-", "-", "-", "-", "-");
        return;
    }
    buf_printf(out, "%10" PRIu64 " %7" PRIu64 " %7" PRIu64 " %8zu", l->tokens_min, l->tokens_median, l->tokens_max,
               l->starved);
    if (c->any_moments)
        buf_printf(out, " %7.3f %10.3f", l->to_prior, l->to_diagonal);
    else
        buf_printf(out, " %7s %10s", "-", "-");
}

void coverage_print(const struct coverage *c, struct buf *out)
{
    char wide[LOSS_TEXT], down[LOSS_TEXT];

    buf_puts(out, "calibration    tokens per expert        starved  shrinkage to          output error\n"
                  "layer             min  median     max           all   diagonal       wide       down\n");
    for (size_t i = 0; i < c->layer_count; i++) {
        const struct coverage_layer *l = &c->layers[i];
        buf_printf(out, "%5" PRIu64 "      ", l->layer);
        print_experts(c, l, out);
        buf_printf(out, " %10s %10s\n", loss_text(l->loss_wide, wide), loss_text(l->loss_down, down));
    }
    print_note(c, out);
}

void coverage_markdown(const struct coverage *c, struct buf *out)
{
    char wide[LOSS_TEXT], down[LOSS_TEXT];

    buf_puts(out, "\n## Calibration\n\n"
                  "| layer | tokens per expert: least | median | most | starved | output error, gate and up | down |\n"
                  "|--:|--:|--:|--:|--:|--:|--:|\n");
    for (size_t i = 0; i < c->layer_count; i++) {
        const struct coverage_layer *l = &c->layers[i];
        buf_printf(out, "| %" PRIu64 " | %" PRIu64 " | %" PRIu64 " | %" PRIu64 " | %zu | %s | %s |\n", l->layer,
                   l->tokens_min, l->tokens_median, l->tokens_max, l->starved, loss_text(l->loss_wide, wide),
                   loss_text(l->loss_down, down));
    }
    buf_puts(out, "\nOutput error: the expected square error of a linear's output over its size, by the inputs that "
                  "were seen.\n\n");
    print_note(c, out);
}

static void put_supers(const struct coverage *c, struct json_writer *w)
{
    json_begin_array(w, "super_experts");
    for (size_t i = 0; i < c->super_count; i++) {
        json_begin_object(w, NULL);
        w->compact = true;
        json_put_u64(w, "layer", c->supers[i].layer);
        json_put_u64(w, "expert", c->supers[i].expert);
        json_put_double(w, "output_most", (double)c->supers[i].output_most);
        json_end(w, '}');
        w->compact = false;
    }
    json_end(w, ']');
}

void coverage_json(const struct coverage *coverage, struct json_writer *w, const struct plan *p,
                   const struct plan_output *o, const struct run_result *result)
{
    json_put_u64(w, "min_tokens", coverage->min_tokens);
    json_put_u64(w, "starved_experts", coverage->starved);
    json_put_u64(w, "unvisited_experts", coverage->unvisited);
    put_supers(coverage, w);
    json_begin_array(w, "coverage");
    for (size_t i = 0; i < p->weight_count; i++) {
        const struct calibrated_result *c = &result->calibrated[i];
        if (!plan_row_is_fed(&o->rows[i]))
            continue;
        json_begin_object(w, NULL);
        w->compact = true;
        json_put_string(w, "weight", p->weights[i]->name);
        json_put_u64(w, "tokens", c->tokens);
        if (p->weights[i]->id.expert >= 0)
            json_put_double(w, "routed_weight", c->routed_weight);
        json_put_double(w, "to_prior", c->to_prior);
        json_put_double(w, "to_diagonal", c->to_diagonal);
        if (c->loss_energy > 0)
            json_put_double(w, "output_error", c->loss_error / c->loss_energy);
        json_put_double(w, "input_most", (double)c->input_most);
        if (p->weights[i]->id.role == ROLE_EXPERT_DOWN && c->output_most >= 0)
            json_put_double(w, "output_most", (double)c->output_most);
        json_put_string(w, "ending", ending_name(c->ending));
        json_put_string(w, "reason", reason_text(c->reason));
        json_end(w, '}');
        w->compact = false;
    }
    json_end(w, ']');
}
