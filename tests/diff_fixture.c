#include "tests/diff_fixture.h"

#include <math.h>
#include <string.h>

#include "tests/kernel_support.h"
#include "verify/layer_metrics.h"

const char *const diff_fixture_names[FIXTURE_COUNT] = {"small", "large", "golden", "paired", "hostile"};

static double uniform(uint64_t *seed)
{
    return (double)(support_random(seed) >> 11) * 0x1p-53;
}

static double bell(uint64_t *seed)
{
    double sum = 0;

    for (int i = 0; i < 12; i++)
        sum += uniform(seed);
    return sum - 6;
}

static void make_outputs(struct diff_report *r, struct diff_candidate *c, double size, uint64_t *seed)
{
    size_t n = r->tokens, *starts = arena_array(&r->arena, r->contexts + 1, sizeof *starts);
    struct position *p = arena_array(&r->arena, n, sizeof *p);

    for (size_t i = 0; i < n; i++) {
        double kl = size * exp(1.4 * bell(seed)), d = sqrt(kl) * bell(seed);
        p[i] = (struct position){.kl = r->golden ? NAN : kl,
                                 .kl_bound = 0.93 * kl,
                                 .nll_ref = 4.2 + bell(seed),
                                 .margin = (float)uniform(seed),
                                 .top5 = (uint8_t)(kl > size ? 4 : 5),
                                 .top1 = uniform(seed) > 4 * sqrt(kl),
                                 .scored = (i + 1) % r->context_tokens != 0};
        p[i].nll_cand = p[i].nll_ref + d / 10 + kl / 2;
    }
    for (size_t s = 0; s <= r->contexts; s++)
        starts[s] = s * r->context_tokens;
    outputs_summarize(&c->outputs, p, starts, r->contexts);
}

static void make_layers(struct diff_report *r, struct diff_candidate *c, size_t damaged, uint64_t *seed)
{
    size_t n = r->layer_count, moe_count = 0;
    double *errors = arena_array(&r->arena, n, sizeof *errors), *floors = arena_array(&r->arena, n, sizeof *floors);
    bool *moe = arena_array(&r->arena, n, sizeof *moe), *out = arena_array(&r->arena, n, sizeof *out);
    double sum2 = 0;

    c->layers = arena_array(&r->arena, n, sizeof *c->layers);
    c->routing_overlap = c->routing_sets_changed = r->golden ? NAN : 0;
    for (size_t i = 0; i < n; i++) {
        struct diff_layer *l = &c->layers[i];
        *l = (struct diff_layer){.layer = i, .moe = i >= (n > 10 ? 3 : 1), .overlap = NAN, .cosine = NAN};
        double own = (l->moe ? 0.045 : 0.003) * (1 + 0.1 * bell(seed)) * (i == damaged ? 11 : 1);
        sum2 += 0.2 * own * own;
        l->cumulative_error = sqrt(sum2);
        l->local_error = r->golden ? NAN : own;
        l->added_error = r->golden ? own : NAN;
        l->local_floor = r->golden ? NAN : 0.0027 * (1 + 0.1 * bell(seed));
        l->cosine = 1 - sum2 / 2;
        if (l->moe && !r->golden) {
            l->overlap = 1 - 0.4 * l->cumulative_error;
            l->jaccard = l->overlap / (2 - l->overlap);
            l->sets_changed = fmin(1, 2.2 * l->cumulative_error);
            l->sets_changed_local = 0.3 * own;
            c->routing_overlap += l->overlap;
            c->routing_sets_changed += l->sets_changed;
            moe_count++;
        }
        errors[i] = own;
        floors[i] = l->local_floor;
        moe[i] = l->moe;
    }
    c->routing_overlap /= (double)moe_count;
    c->routing_sets_changed /= (double)moe_count;
    c->first_outlier = outliers_find(out, errors, r->golden ? NULL : floors, moe, n);
    for (size_t i = 0; i < n; i++) {
        c->layers[i].stands_out = out[i];
        c->layers[i].peer_median = outlier_peer_median(errors, moe, n, i);
    }
}

static void make_loads(struct diff_report *r, struct diff_candidate *c, uint64_t *seed)
{
    c->loads = arena_array(&r->arena, r->load_count + 1, sizeof *c->loads);
    for (uint64_t i = 0; i < r->load_count; i++) {
        uint64_t *ref = arena_array(&r->arena, r->experts, sizeof *ref);
        uint64_t *cand = arena_array(&r->arena, r->experts, sizeof *cand);
        for (uint64_t k = 0; k < r->experts; k++) {
            ref[k] = (uint64_t)(60 * exp(0.8 * bell(seed)));
            cand[k] = (uint64_t)((double)ref[k] * (1 + 0.05 * bell(seed)));
        }
        c->loads[i] = (struct diff_load){r->layer_count - r->load_count + i, r->golden ? NULL : ref, cand};
    }
}

static void make_check(struct diff_report *r, enum diff_metric metric, const char *option, const char *what,
                       const char *asked, double value, double limit, bool at_most)
{
    struct diff_check *c = &r->checks[r->check_count++];

    *c = (struct diff_check){.metric = metric,
                             .option = option,
                             .what = what,
                             .candidate = r->candidates[0].path,
                             .asked = asked,
                             .value = value,
                             .limit = limit,
                             .at_most = at_most,
                             .ok = at_most ? value <= limit : value >= limit};
    r->agree &= c->ok;
}

static void make_checks(struct diff_report *r)
{
    const struct diff_candidate *c = &r->candidates[0];

    r->checks = arena_array(&r->arena, 4, sizeof *r->checks);
    make_check(r, METRIC_KL, "--max-kl", "mean KL", "0.02", c->outputs.kl.mean, 0.02, true);
    make_check(r, METRIC_TOP1, "--min-top1", "top-1 agreement", "5floor", c->outputs.top1.mean, 0.75, false);
    make_check(r, METRIC_PPL_RATIO, "--max-ppl-ratio", "perplexity ratio", "1.01", c->outputs.ppl_ratio, 1.01, true);
    make_check(r, METRIC_ROUTING, "--min-routing", "routing agreement", "0.95", c->routing_overlap, 0.95, false);
}

static void make_candidate(struct diff_report *r, const char *path, double size, size_t damaged, uint64_t *seed)
{
    struct diff_candidate *c = &r->candidates[r->candidate_count++];

    *c = (struct diff_candidate){.path = path, .mtp_acceptance = r->golden ? NAN : 0.6112};
    make_outputs(r, c, size, seed);
    make_layers(r, c, damaged, seed);
    make_loads(r, c, seed);
    if (r->golden)
        return;
    c->weights_known = true;
    c->weights_compared = 290;
    if (damaged == NO_LAYER)
        return;
    static const char *unexpected[] = {
        "model.layers.37.mlp.gate.weight: 4,096 values differ (relative error 0.0394), but it must never change",
        "model.layers.37.mlp.gate.e_score_correction_bias: 1 value differs (relative error 0.5), but it must never "
        "change"};
    c->weights_unexpected = 31;
    c->unexpected = unexpected;
    c->unexpected_count = 2;
}

void diff_fixture_make(struct diff_report *r, enum diff_fixture kind)
{
    bool large = kind == FIXTURE_LARGE, hostile = kind == FIXTURE_HOSTILE;
    uint64_t seed = 42;

    *r = (struct diff_report){.version = "0.1.0",
                              .golden = kind == FIXTURE_GOLDEN,
                              .ref = kind == FIXTURE_GOLDEN ? "golden.safetensors" : "models/DeepSeek-V3",
                              .model = large ? "deepseek_v3, 61 layers, hidden 7,168, vocabulary 129,280"
                                             : "deepseek_v3, 4 layers, hidden 256, vocabulary 4,096",
                              .text = "built-in texts",
                              .emulate = large ? "bf16" : "none",
                              .contexts = kind == FIXTURE_GOLDEN ? 1 : 16,
                              .context_tokens = 256,
                              .layer_count = large ? 61 : 4,
                              .load_count = large ? 58 : 3,
                              .experts = large ? 256 : 16,
                              .top_k = large ? 8 : 4,
                              .ref_mtp_acceptance = kind == FIXTURE_GOLDEN ? NAN : 0.6203,
                              .agree = true};
    r->tokens = r->contexts * r->context_tokens;
    r->bf16 = (struct diff_floor){true, "BF16 activations", 1024, 2.1e-5, 0.9971, 4.1e-4, 0.9912};
    r->order = (struct diff_floor){kind != FIXTURE_GOLDEN, "summation order", 1024, 3.2e-12, 1, 3.1e-7, 0.99998};
    if (hostile) {
        r->ref = "<script>alert(1)</script>&\"'";
        r->text = "a|b*c*\n\x1b[31mred\xff\xc0\x80";
        diff_report_note(r, "%s", "<b>note</b> & \xed\xa0\x80");
    }
    make_candidate(r,
                   hostile
                       ? "very/long/path/without/a/space/anywhere/so/that/a/narrow/screen/has/to/break/it/somewhere/"
                         "or/overflow/V3-int4-g128-with-every-word-that-anyone-could-put-into-a-name"
                   : large ? "out/DeepSeek-V3-int4"
                           : "tiny-v3-int4",
                   large ? 0.012 : 0.0007, large ? 37 : NO_LAYER, &seed);
    if (kind == FIXTURE_PAIRED) {
        make_candidate(r, "tiny-v3-int4-g32", 0.0005, NO_LAYER, &seed);
        r->has_paired = true;
        r->paired = (struct paired){{7.1e-4, 6e-5}, {2.0e-4, 9e-5}, 2, 14, 0, 0.0042, 1507, 2571};
    }
    if (kind != FIXTURE_GOLDEN)
        make_checks(r);
    if (large)
        diff_report_note(r, "the last 128 ids of the candidate's vocabulary are padding and were left out");
}
