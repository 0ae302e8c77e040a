/* `quern diff` for programs. Unknown numbers are null. */
#include <math.h>
#include <string.h>

#include "formats/json.h"
#include "verify/diff_report.h"
#include "verify/layer_metrics.h"

static void put_spread(struct json_writer *w, const char *key, const struct stat_spread *s)
{
    json_begin_object(w, key);
    json_put_double(w, "mean", s->mean);
    json_put_double(w, "standard_error", s->se);
    json_put_double(w, "median", s->median);
    json_put_double(w, "p90", s->p90);
    json_put_double(w, "p99", s->p99);
    json_put_double(w, "max", s->max);
    json_end(w, '}');
}

static void put_mean(struct json_writer *w, const char *key, const struct stat_mean *s)
{
    json_begin_object(w, key);
    json_put_double(w, "mean", s->mean);
    json_put_double(w, "standard_error", s->se);
    json_end(w, '}');
}

static void put_histogram(struct json_writer *w, const struct outputs *o)
{
    json_begin_object(w, "kl_histogram");
    json_put_i64(w, "log10_first_edge", KL_BIN_LOW);
    json_put_u64(w, "bins_per_decade", 3);
    json_begin_array(w, "counts");
    w->compact = true;
    for (size_t b = 0; b < KL_BINS; b++)
        json_put_u64(w, NULL, o->histogram[b]);
    json_end(w, ']');
    w->compact = false;
    json_end(w, '}');
}

static void put_outputs(struct json_writer *w, const struct outputs *o)
{
    if (o->kl_known)
        put_spread(w, "kl", &o->kl);
    put_spread(w, "kl_lower_bound", &o->kl_bound);
    put_mean(w, "top1", &o->top1);
    put_mean(w, "top5", &o->top5);
    json_put_u64(w, "decisive_positions", o->decisive);
    json_put_u64(w, "decisive_flips", o->decisive_flips);
    json_put_u64(w, "scored_positions", o->scored);
    json_put_double(w, "perplexity_ref", o->ppl_ref);
    json_put_double(w, "perplexity_cand", o->ppl_cand);
    json_begin_object(w, "perplexity_ratio");
    json_put_double(w, "ratio", o->ppl_ratio);
    json_put_double(w, "low95", o->ratio_low);
    json_put_double(w, "high95", o->ratio_high);
    json_end(w, '}');
    json_put_double(w, "delta_p_rms", o->delta_p_rms);
    put_histogram(w, o);
}

static void put_layer(struct json_writer *w, const struct diff_report *r, const struct diff_layer *l)
{
    json_begin_object(w, NULL);
    w->compact = true;
    json_put_u64(w, "layer", l->layer);
    json_put_bool(w, "moe", l->moe);
    if (r->golden) {
        json_put_double(w, "added_error", l->added_error);
        json_put_double(w, "cumulative_error", l->cumulative_error);
    } else {
        json_put_double(w, "local_error", l->local_error);
        json_put_double(w, "local_floor_bf16", l->local_floor);
        json_put_double(w, "cumulative_error", l->cumulative_error);
        json_put_double(w, "cosine", l->cosine);
    }
    json_put_double(w, "peer_median", l->peer_median);
    json_put_bool(w, "stands_out", l->stands_out);
    if (!r->golden && !isnan(l->overlap)) {
        json_put_double(w, "routing_overlap", l->overlap);
        json_put_double(w, "routing_jaccard", l->jaccard);
        json_put_double(w, "routing_sets_changed", l->sets_changed);
        json_put_double(w, "routing_sets_changed_local", l->sets_changed_local);
    }
    json_end(w, '}');
    w->compact = false;
}

static void put_counts(struct json_writer *w, const char *key, const uint64_t *counts, uint64_t n)
{
    if (!counts)
        return;
    json_begin_array(w, key);
    for (uint64_t i = 0; i < n; i++)
        json_put_u64(w, NULL, counts[i]);
    json_end(w, ']');
}

static void put_loads(struct json_writer *w, const struct diff_report *r, const struct diff_candidate *c)
{
    if (!c->loads || r->load_count == 0)
        return;
    json_begin_array(w, "expert_load");
    for (uint64_t i = 0; i < r->load_count; i++) {
        json_begin_object(w, NULL);
        w->compact = true;
        json_put_u64(w, "layer", c->loads[i].layer);
        put_counts(w, "ref", c->loads[i].ref, r->experts);
        put_counts(w, "cand", c->loads[i].cand, r->experts);
        json_end(w, '}');
        w->compact = false;
    }
    json_end(w, ']');
}

static void put_weights(struct json_writer *w, const struct diff_candidate *c)
{
    if (!c->weights_known)
        return;
    json_begin_object(w, "exact_weights");
    json_put_u64(w, "compared", c->weights_compared);
    json_put_u64(w, "unexpected", c->weights_unexpected);
    json_begin_array(w, "first");
    for (size_t i = 0; i < c->unexpected_count; i++)
        json_put_string(w, NULL, c->unexpected[i]);
    json_end(w, ']');
    json_end(w, '}');
}

static void put_candidate(struct json_writer *w, const struct diff_report *r, const struct diff_candidate *c)
{
    json_begin_object(w, NULL);
    json_put_string(w, "path", c->path);
    put_outputs(w, &c->outputs);
    if (!isnan(c->routing_overlap)) {
        json_put_double(w, "routing_overlap", c->routing_overlap);
        json_put_double(w, "routing_sets_changed", c->routing_sets_changed);
    }
    if (!isnan(c->mtp_acceptance))
        json_put_double(w, "mtp_acceptance", c->mtp_acceptance);
    if (c->first_outlier != NO_LAYER)
        json_put_u64(w, "first_layer_that_stands_out", c->layers[c->first_outlier].layer);
    else
        json_put_string(w, "first_layer_that_stands_out", NULL);
    json_begin_array(w, "layers");
    for (uint64_t i = 0; i < r->layer_count; i++)
        put_layer(w, r, &c->layers[i]);
    json_end(w, ']');
    put_loads(w, r, c);
    put_weights(w, c);
    json_end(w, '}');
}

static void put_floor(struct json_writer *w, const char *key, const struct diff_floor *f)
{
    if (!f->known)
        return;
    json_begin_object(w, key);
    json_put_string(w, "what", f->what);
    json_put_u64(w, "positions", f->positions);
    json_put_double(w, "kl", f->kl);
    json_put_double(w, "top1", f->top1);
    json_put_double(w, "log_perplexity_ratio", f->log_ratio);
    json_put_double(w, "routing_overlap", f->routing_overlap);
    json_end(w, '}');
}

static void put_paired(struct json_writer *w, const struct paired *p)
{
    json_begin_object(w, "paired");
    put_mean(w, "kl_difference", &p->kl);
    put_mean(w, "nll_difference", &p->nll);
    json_put_u64(w, "contexts_first_nearer", p->a_nearer);
    json_put_u64(w, "contexts_second_nearer", p->b_nearer);
    json_put_u64(w, "contexts_tied", p->ties);
    json_put_u64(w, "positions_first_nearer", p->a_nearer_positions);
    json_put_u64(w, "positions_second_nearer", p->b_nearer_positions);
    json_put_double(w, "sign_test_p", p->sign_p);
    json_end(w, '}');
}

static void put_check(struct json_writer *w, const struct diff_check *c)
{
    json_begin_object(w, NULL);
    w->compact = true;
    json_put_string(w, "option", c->option);
    json_put_string(w, "asked", c->asked);
    json_put_string(w, "what", c->what);
    json_put_string(w, "candidate", c->candidate);
    json_put_double(w, "value", c->value);
    json_put_string(w, "must_be", c->at_most ? "at most" : "at least");
    json_put_double(w, "limit", c->limit);
    json_put_bool(w, "ok", c->ok);
    json_end(w, '}');
    w->compact = false;
}

static void put_head(struct json_writer *w, const struct diff_report *r)
{
    json_put_string(w, "quern", r->version);
    json_put_string(w, r->golden ? "golden" : "ref", r->ref);
    json_put_string(w, "model", r->model);
    json_put_string(w, "text", r->text);
    json_put_string(w, "emulate", r->emulate);
    json_put_u64(w, "tokens", r->tokens);
    json_put_u64(w, "contexts", r->contexts);
    json_put_u64(w, "context_tokens", r->context_tokens);
    json_put_bool(w, "agree", r->agree);
    json_begin_array(w, "notes");
    for (size_t i = 0; i < r->note_count; i++)
        json_put_string(w, NULL, r->notes[i]);
    json_end(w, ']');
}

void diff_print_json(const struct diff_report *r, struct buf *out)
{
    struct json_writer w = {.out = out};

    json_begin_object(&w, NULL);
    put_head(&w, r);
    json_begin_array(&w, "checks");
    for (size_t i = 0; i < r->check_count; i++)
        put_check(&w, &r->checks[i]);
    json_end(&w, ']');
    json_begin_object(&w, "floors");
    put_floor(&w, "bf16", &r->bf16);
    put_floor(&w, "summation_order", &r->order);
    json_end(&w, '}');
    if (!isnan(r->ref_mtp_acceptance))
        json_put_double(&w, "ref_mtp_acceptance", r->ref_mtp_acceptance);
    json_begin_array(&w, "candidates");
    for (size_t i = 0; i < r->candidate_count; i++)
        put_candidate(&w, r, &r->candidates[i]);
    json_end(&w, ']');
    if (r->has_paired)
        put_paired(&w, &r->paired);
    json_end(&w, '}');
    buf_puts(out, "\n");
}
