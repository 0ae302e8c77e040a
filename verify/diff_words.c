#include "verify/diff_words.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/units.h"
#include "verify/layer_metrics.h"

#define NORMAL_95 1.96

void diff_report_note(struct diff_report *r, const char *fmt, ...)
{
    const char **notes = arena_array(&r->arena, r->note_count + 1, sizeof *notes);
    va_list args, again;

    va_start(args, fmt);
    va_copy(again, args);
    int bytes = vsnprintf(NULL, 0, fmt, args);
    char *text = arena_alloc(&r->arena, (size_t)bytes + 1);
    vsnprintf(text, (size_t)bytes + 1, fmt, again);
    va_end(again);
    va_end(args);
    if (r->note_count)
        memcpy(notes, r->notes, r->note_count * sizeof *notes);
    notes[r->note_count++] = text;
    r->notes = notes;
}

void diff_report_release(struct diff_report *r)
{
    arena_release(&r->arena);
    *r = (struct diff_report){0};
}

const char *word_number(double x, char text[WORD_TEXT])
{
    double size = fabs(x);

    if (isnan(x))
        snprintf(text, WORD_TEXT, "n/a");
    else if (x == 0)
        snprintf(text, WORD_TEXT, "0");
    else if (size < 0.999e-3 || size >= 9999.5)
        snprintf(text, WORD_TEXT, "%.2e", x);
    else if (size < 9.995) /* one digit before the point, or zeros behind it */
        snprintf(text, WORD_TEXT, "%.*f", size < 0.009995 ? 5 : size < 0.09995 ? 4 : size < 0.9995 ? 3 : 2, x);
    else
        snprintf(text, WORD_TEXT, "%.*f", size < 99.95 ? 1 : 0, x);
    return text;
}

const char *word_percent(double share, char text[WORD_TEXT])
{
    if (isnan(share))
        snprintf(text, WORD_TEXT, "n/a");
    else
        snprintf(text, WORD_TEXT, "%.2f%%", 100 * share);
    return text;
}

const char *word_count(uint64_t n, char text[WORD_TEXT])
{
    char digits[WORD_TEXT];
    int length = snprintf(digits, sizeof digits, "%" PRIu64, n), at = 0;

    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = 0;
    return text;
}

const char *word_metric(enum diff_metric metric, double x, char text[WORD_TEXT])
{
    if (metric == METRIC_TOP1 || metric == METRIC_ROUTING)
        return word_percent(x, text);
    /* A ratio is near 1, where three digits are few. */
    if (metric == METRIC_PPL_RATIO && !isnan(x))
        return snprintf(text, WORD_TEXT, "%.5f", x), text;
    return word_number(x, text);
}

/* ---- sentences ---- */

static size_t failed_count(const struct diff_report *r)
{
    size_t failed = 0;

    for (size_t i = 0; i < r->check_count; i++)
        failed += !r->checks[i].ok;
    return failed;
}

const char *words_status(const struct diff_report *r)
{
    return r->check_count == 0 ? "no thresholds" : r->agree ? "PASS" : "FAIL";
}

void words_verdict(const struct diff_report *r, struct buf *out)
{
    size_t failed = failed_count(r);

    if (r->check_count == 0)
        buf_puts(out, "no thresholds were given, so nothing was judged");
    else if (failed && r->check_count == 1)
        buf_puts(out, "the threshold failed");
    else if (failed)
        buf_printf(out, "%zu of %zu thresholds failed", failed, r->check_count);
    else
        buf_printf(out,
                   r->check_count == 1   ? "the threshold holds"
                   : r->check_count == 2 ? "both thresholds hold"
                                         : "all %zu thresholds hold",
                   r->check_count);
}

void words_check(const struct diff_check *c, struct buf *out)
{
    char value[WORD_TEXT], limit[WORD_TEXT];
    const char *side = c->at_most ? (c->ok ? "not above" : "above") : (c->ok ? "not below" : "below");

    buf_printf(out, "%s is %s, %s %s (%s %s)", c->what, word_metric(c->metric, c->value, value), side,
               word_metric(c->metric, c->limit, limit), c->option, c->asked);
}

void words_outlier(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    const char *kind = r->golden ? "added" : "local";
    char error[WORD_TEXT], median[WORD_TEXT], times[WORD_TEXT];

    if (c->first_outlier == NO_LAYER) {
        buf_printf(out, "no layer's %s error stands out", kind);
        return;
    }
    const struct diff_layer *l = &c->layers[c->first_outlier];
    double seen = r->golden ? l->added_error : l->local_error;
    size_t others = 0;
    for (size_t i = c->first_outlier + 1; i < r->layer_count; i++)
        others += c->layers[i].stands_out;
    buf_printf(out, "layer %" PRIu64 " (%s) is the first whose %s error stands out: %s, ", l->layer,
               l->moe ? "MoE" : "dense", kind, word_number(seen, error));
    if (l->peer_median > 0)
        buf_printf(out, "%s times the median of its peers, %s", word_number(seen / l->peer_median, times),
                   word_number(l->peer_median, median));
    else
        buf_puts(out, "where its peers have none at all");
    if (others)
        buf_printf(out, "; %zu later layer%s out as well", others, others == 1 ? " stands" : "s stand");
}

void words_paired(const struct diff_report *r, struct buf *out)
{
    const struct paired *p = &r->paired;
    double kl = p->kl.mean, away = isnan(p->kl.se) || p->kl.se == 0 ? NAN : fabs(kl) / p->kl.se;
    char mean[WORD_TEXT], se[WORD_TEXT], sign[WORD_TEXT], nll[WORD_TEXT], nll_se[WORD_TEXT];

    if (kl == 0)
        buf_puts(out, "both candidates are as near to the reference");
    else
        buf_printf(out, "%s is nearer to the reference", r->candidates[kl < 0 ? 0 : 1].path);
    buf_printf(out, ": KL differs by %s +- %s", word_number(kl, mean), word_number(p->kl.se, se));
    if (!isnan(away))
        buf_printf(out, " (%.1f standard errors%s)", away, away < NORMAL_95 ? ": within noise" : "");
    buf_printf(out, ", negative log-likelihood by %s +- %s; ", word_number(p->nll.mean, nll),
               word_number(p->nll.se, nll_se));
    buf_printf(out, "nearer in %" PRIu64 " context%s against %" PRIu64 " (sign test p %s)", p->a_nearer,
               plural(p->a_nearer), p->b_nearer, word_number(p->sign_p, sign));
}

void words_size(const struct diff_report *r, struct buf *out)
{
    char tokens[WORD_TEXT], contexts[WORD_TEXT];

    buf_printf(out, "%s token%s in %s context%s", word_count(r->tokens, tokens), plural(r->tokens),
               word_count(r->contexts, contexts), plural(r->contexts));
}

void words_floor(const struct diff_floor *f, struct buf *out)
{
    char kl[WORD_TEXT], top1[WORD_TEXT], routing[WORD_TEXT], ratio[WORD_TEXT], count[WORD_TEXT];

    buf_printf(out, "KL %s, top 1 %s", word_number(f->kl, kl), word_percent(f->top1, top1));
    if (!isnan(f->log_ratio))
        buf_printf(out, ", perplexity within a factor of 1 + %s", word_number(f->log_ratio, ratio));
    if (!isnan(f->routing_overlap))
        buf_printf(out, ", routing %s", word_percent(f->routing_overlap, routing));
    buf_printf(out, " (%s position%s)", word_count(f->positions, count), plural(f->positions));
}

void words_units(const struct diff_report *r, const char *plus_minus, struct buf *out)
{
    buf_puts(out, "KL in nats");
    if (r->contexts > 1)
        buf_printf(out, "; %s: one standard error, clustered by context", plus_minus);
}

void words_weights(const struct diff_candidate *c, struct buf *out)
{
    char some[WORD_TEXT], all[WORD_TEXT];

    if (c->weights_unexpected)
        buf_printf(out, "%s of %s weights that must not change, or whose shape must not, did",
                   word_count(c->weights_unexpected, some), word_count(c->weights_compared, all));
    else
        buf_printf(out, "all %s weights that must not change are identical", word_count(c->weights_compared, all));
}

/* ---- rows ---- */

static struct words_row *add_row(struct words_row *rows, size_t *count, const char *name)
{
    struct words_row *row = &rows[(*count)++];

    *row = (struct words_row){.name = name};
    buf_puts(&row->value, "");
    buf_puts(&row->more, "");
    return row;
}

static void put_mean(struct buf *out, const char *(*word)(double, char[WORD_TEXT]), double mean, double se,
                     const char *plus_minus)
{
    char a[WORD_TEXT], b[WORD_TEXT];

    buf_puts(out, word(mean, a));
    if (!isnan(se))
        buf_printf(out, " %s %s", plus_minus, word(se, b));
}

static void put_spread(struct words_row *row, const struct stat_spread *s, const char *plus_minus)
{
    char median[WORD_TEXT], p90[WORD_TEXT], p99[WORD_TEXT], max[WORD_TEXT];

    put_mean(&row->value, word_number, s->mean, s->se, plus_minus);
    buf_printf(&row->more, "median %s, 90%% below %s, 99%% below %s, max %s", word_number(s->median, median),
               word_number(s->p90, p90), word_number(s->p99, p99), word_number(s->max, max));
}

static void add_perplexity(const struct outputs *o, struct words_row *rows, size_t *count)
{
    char ref[WORD_TEXT], cand[WORD_TEXT], ratio[WORD_TEXT], low[WORD_TEXT], high[WORD_TEXT], p[WORD_TEXT];

    if (o->scored == 0)
        return;
    struct words_row *row = add_row(rows, count, "perplexity ratio");
    buf_puts(&row->value, word_metric(METRIC_PPL_RATIO, o->ppl_ratio, ratio));
    if (!isnan(o->ratio_low))
        buf_printf(&row->more, "95%% %s to %s; ", word_metric(METRIC_PPL_RATIO, o->ratio_low, low),
                   word_metric(METRIC_PPL_RATIO, o->ratio_high, high));
    snprintf(ref, sizeof ref, "%.4g", o->ppl_ref);
    snprintf(cand, sizeof cand, "%.4g", o->ppl_cand);
    buf_printf(&row->more, "from %s to %s; next token's probability moves by %s (rms)", ref, cand,
               word_percent(o->delta_p_rms, p));
}

static void add_routing(const struct diff_report *r, const struct diff_candidate *c, struct words_row *rows,
                        size_t *count)
{
    char overlap[WORD_TEXT], changed[WORD_TEXT];

    if (isnan(c->routing_overlap))
        return;
    struct words_row *row = add_row(rows, count, "routing agreement");
    buf_puts(&row->value, word_percent(c->routing_overlap, overlap));
    buf_printf(&row->more, "of the %" PRIu64 " expert%s chosen per token and layer; %s of the sets changed", r->top_k,
               plural(r->top_k), word_percent(c->routing_sets_changed, changed));
}

static void add_mtp(const struct diff_report *r, const struct diff_candidate *c, struct words_row *rows, size_t *count)
{
    char ref[WORD_TEXT], cand[WORD_TEXT];

    if (isnan(c->mtp_acceptance))
        return;
    struct words_row *row = add_row(rows, count, "MTP acceptance");
    buf_puts(&row->value, word_percent(c->mtp_acceptance, cand));
    if (isnan(r->ref_mtp_acceptance))
        buf_puts(&row->more, "of its drafts, by its own main head");
    else
        buf_printf(&row->more, "of its drafts, by its own main head; the reference: %s",
                   word_percent(r->ref_mtp_acceptance, ref));
}

size_t words_rows(const struct diff_report *r, const struct diff_candidate *c, const char *plus_minus,
                  struct words_row rows[WORDS_ROWS_MAX])
{
    const struct outputs *o = &c->outputs;
    char a[WORD_TEXT], b[WORD_TEXT];
    size_t count = 0;
    struct words_row *row;

    if (o->kl_known)
        put_spread(add_row(rows, &count, "KL(REF || CAND)"), &o->kl, plus_minus);
    put_spread(add_row(rows, &count, "KL, lower bound"), &o->kl_bound, plus_minus);
    row = add_row(rows, &count, "top-1 agreement");
    put_mean(&row->value, word_percent, o->top1.mean, o->top1.se, plus_minus);
    buf_printf(&row->more, "where the reference leads by a probability of 0.1: %s of %s flipped",
               word_count(o->decisive_flips, a), word_count(o->decisive, b));
    row = add_row(rows, &count, "top-5 overlap");
    put_mean(&row->value, word_percent, o->top5.mean, o->top5.se, plus_minus);
    add_perplexity(o, rows, &count);
    add_routing(r, c, rows, &count);
    add_mtp(r, c, rows, &count);
    return count;
}

void words_rows_release(struct words_row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        buf_release(&rows[i].value);
        buf_release(&rows[i].more);
    }
}
