#include "verify/diff_checks.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/logits.h"

const char *const diff_threshold_options[METRIC_COUNT] = {
    [METRIC_KL] = "--max-kl",
    [METRIC_TOP1] = "--min-top1",
    [METRIC_PPL_RATIO] = "--max-ppl-ratio",
    [METRIC_ROUTING] = "--min-routing",
};

static bool is_share(enum diff_metric m)
{
    return m == METRIC_TOP1 || m == METRIC_ROUTING;
}

static bool parse(struct diff_threshold *t, enum diff_metric m, const char *text, struct err *e)
{
    static const char unit[] = "floor";
    const char *option = diff_threshold_options[m];
    char *rest = NULL;

    errno = 0;
    t->asked = text;
    t->value = strtod(text, &rest);
    t->floors = strcmp(rest, unit) == 0;
    if (rest == text || strspn(text, "0123456789.eE+-") < (size_t)(rest - text) || (*rest && !t->floors) || errno ||
        !isfinite(t->value) || t->value < 0)
        return err_set(e, ERR_USAGE, "option '%s' wants a number such as %s, or noise floors such as 5floor, not '%s'",
                       option,
                       m == METRIC_PPL_RATIO ? "1.01"
                       : is_share(m)         ? "0.97"
                                             : "0.02",
                       text);
    if (is_share(m) && !t->floors && t->value > 1)
        return err_set(e, ERR_USAGE, "option '%s' wants a share from 0 to 1, not '%s'", option, text);
    return true;
}

bool diff_thresholds_parse(struct diff_threshold t[METRIC_COUNT], const char *const texts[METRIC_COUNT], struct err *e)
{
    for (int m = 0; m < METRIC_COUNT; m++) {
        t[m] = (struct diff_threshold){0};
        if (texts[m] && !parse(&t[m], (enum diff_metric)m, texts[m], e))
            return false;
    }
    return true;
}

static const char *what_is(const struct diff_report *r, enum diff_metric m)
{
    switch (m) {
    case METRIC_KL:
        return r->golden ? "mean KL (lower bound)" : "mean KL";
    case METRIC_TOP1:
        return "top-1 agreement";
    case METRIC_PPL_RATIO:
        return "perplexity ratio";
    case METRIC_ROUTING:
        return "routing agreement";
    case METRIC_COUNT:
        break;
    }
    return "";
}

static double value_of(const struct diff_report *r, const struct diff_candidate *c, enum diff_metric m)
{
    switch (m) {
    case METRIC_KL:
        return r->golden ? c->outputs.kl_bound.mean : c->outputs.kl.mean;
    case METRIC_TOP1:
        return c->outputs.top1.mean;
    case METRIC_PPL_RATIO:
        return c->outputs.ppl_ratio;
    case METRIC_ROUTING:
        return c->routing_overlap;
    case METRIC_COUNT:
        break;
    }
    return NAN;
}

/* How far the floor is from agreement, as a share. Where nothing disagreed, one more choice might have: a floor of
 * nothing would forbid what was too rare to be seen. */
static double share_floor(const struct diff_report *r, enum diff_metric m)
{
    const struct diff_floor *f = &r->bf16;
    double choices = (double)f->positions, seen = 1 - (m == METRIC_TOP1 ? f->top1 : f->routing_overlap);

    if (m == METRIC_ROUTING)
        choices *= (double)(r->load_count * r->top_k);
    return seen < 1 / choices ? 1 / choices : seen;
}

static double limit_of(const struct diff_report *r, const struct diff_threshold *t, enum diff_metric m)
{
    if (!t->floors)
        return t->value;
    if (m == METRIC_KL)
        return t->value * r->bf16.kl;
    if (m == METRIC_PPL_RATIO)
        return exp64(t->value * r->bf16.log_ratio);
    double limit = 1 - t->value * share_floor(r, m);
    return limit > 0 || isnan(limit) ? limit : 0;
}

static bool check(struct diff_report *r, const struct diff_candidate *c, enum diff_metric m,
                  const struct diff_threshold *t, struct err *e)
{
    struct diff_check *k = &r->checks[r->check_count++];

    if (t->floors && !r->bf16.known)
        return err_set(e, ERR_USAGE, "'%s %s' counts noise floors, and %s", diff_threshold_options[m], t->asked,
                       r->golden ? "the golden file was made without" : "none was measured");
    *k = (struct diff_check){
        .metric = m,
        .option = diff_threshold_options[m],
        .what = what_is(r, m),
        .candidate = c->path,
        .asked = t->asked,
        .value = value_of(r, c, m),
        .limit = limit_of(r, t, m),
        .at_most = !is_share(m),
    };
    if (isnan(k->value))
        return err_set(e, ERR_USAGE, "'%s' is about the %s, which is not known %s", k->option, k->what,
                       m == METRIC_ROUTING ? (r->golden ? "from a golden file" : "of a model without routed experts")
                                           : "of contexts of one token");
    if (isnan(k->limit))
        return err_set(
            e, ERR_USAGE,
            "'%s %s' counts noise floors, and that of the %s is not known: no token it was measured on has a "
            "next one",
            k->option, k->asked, k->what);
    k->ok = k->at_most ? k->value <= k->limit : k->value >= k->limit;
    r->agree &= k->ok;
    return true;
}

bool diff_checks_run(struct diff_report *r, const struct diff_threshold t[METRIC_COUNT], struct err *e)
{
    r->checks = arena_array(&r->arena, (size_t)METRIC_COUNT * DIFF_CANDIDATES_MAX, sizeof *r->checks);
    r->agree = true;
    for (int m = 0; m < METRIC_COUNT; m++)
        for (size_t i = 0; t[m].asked && i < r->candidate_count; i++)
            if (!check(r, &r->candidates[i], (enum diff_metric)m, &t[m], e))
                return false;
    return true;
}
