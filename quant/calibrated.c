#include "quant/calibrated.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "quant/bits.h"
#include "quant/decode.h"

struct method_info {
    bool feedback, act_order;
    enum ldlq_scales scales;
};

static const struct method_info methods[METHOD_COUNT] = {
    [METHOD_GPTQ] = {.feedback = true, .act_order = false, .scales = LDLQ_DYNAMIC},
    [METHOD_LDLQ] = {.feedback = true, .act_order = true, .scales = LDLQ_SEARCHED},
};

static const char *const ending_names[ENDING_COUNT] = {
    [ENDING_PLAIN] = "plain",
    [ENDING_FEEDBACK] = "feedback",
    [ENDING_DIAGONAL] = "diagonal search",
    [ENDING_SEARCH] = "search",
};

static const char *const reason_texts[REASON_COUNT] = {
    [REASON_ASKED] = "as asked",
    [REASON_NO_TOKENS] = "no tokens reached it",
    [REASON_SILENT] = "every input was 0",
    [REASON_NOT_FINITE] = "an input was not finite",
    [REASON_PIVOT] = "no damping made the factor exist",
    [REASON_VARIANCES] = "statistics hold variances alone",
    [REASON_PRIOR] = "no tokens reached it: by all tokens of its layer",
};

struct calibrated_options calibrated_defaults(enum method method)
{
    return (struct calibrated_options){
        .method = method,
        .shrink = {.mu = SHRINK_MU, .mu_alone = SHRINK_MU_ALONE, .pseudo_tokens = SHRINK_PSEUDO_TOKENS},
        .check_rows = LOSS_ROWS};
}

/* ---- an input ---- */

static size_t rounded_up(size_t bytes)
{
    struct scratch s = {0};

    (void)scratch_take(&s, bytes);
    return s.used_bytes;
}

size_t calibrated_bytes(size_t cols)
{
    return rounded_up(shrink_bytes(cols)) + factor_bytes(cols);
}

size_t calibrated_scratch_bytes(size_t cols)
{
    return factor_scratch_bytes(cols);
}

static bool is_finite(const struct moments *m)
{
    for (size_t j = 0; j < m->cols; j++)
        if ((float_bits(m->sum[j * m->stride + j]) & 0x7F800000u) == 0x7F800000u)
            return false;
    return true;
}

static void end_in(struct calibrated *c, enum ending ending, enum reason reason)
{
    c->ending = ending;
    c->reason = reason;
}

/* What is wrong with moments that do not shrink. */
static enum reason why_not(const struct moments *own, const struct moments *prior)
{
    if (!own || (own->tokens == 0 && (!prior || prior->tokens == 0)))
        return REASON_NO_TOKENS;
    return is_finite(own) && (!prior || is_finite(prior)) ? REASON_SILENT : REASON_NOT_FINITE;
}

static bool shrink(struct calibrated *c, const struct moments *own, const struct moments *prior, void *memory)
{
    if (!own || !is_finite(own) || (prior && !is_finite(prior)))
        return false;
    if (c->options.method == METHOD_GPTQ)
        return shrink_damp(&c->shrunk, own, GPTQ_DAMP, memory);
    return shrink_moments(&c->shrunk, own, prior, &c->options.shrink, memory);
}

void calibrated_make(struct calibrated *c, const struct kernel *k, const struct calibrated_options *o,
                     const struct moments *own, const struct moments *prior, unsigned threads, void *memory,
                     void *scratch)
{
    const struct method_info *info = &methods[o->method];

    *c = (struct calibrated){.kernel = k, .options = *o};
    c->has_moments = shrink(c, own, prior, memory);
    if (!info->feedback) {
        end_in(c, ENDING_PLAIN, REASON_ASKED);
    } else if (!c->has_moments) {
        end_in(c, ENDING_SEARCH, why_not(own, prior));
    } else {
        uint8_t *rest = (uint8_t *)memory + rounded_up(shrink_bytes(own->cols));
        if (factor_make(&c->factor, k, &c->shrunk, info->act_order, threads, rest, scratch))
            end_in(c, ENDING_FEEDBACK, REASON_ASKED);
        else
            end_in(c, ENDING_DIAGONAL, REASON_PIVOT);
    }
}

/* ---- a matrix ---- */

bool calibrated_check(enum method method, const struct scheme *from, const struct scheme *to, struct err *e)
{
    struct scheme plain = *to;

    if (methods[method].feedback)
        return ldlq_check(from, to, e);
    plain.method = to->kind == SCHEME_INT4 ? method : METHOD_ABSMAX;
    return transform_check(from, &plain, e);
}

static struct ldlq ldlq_of(const struct calibrated *c, const struct loss_matrix *m)
{
    return (struct ldlq){.kernel = c->kernel,
                         .from = m->from,
                         .to = m->to,
                         .cols = m->cols,
                         .factor = &c->factor,
                         .scales = methods[c->options.method].scales};
}

/* Rounding to nearest: the method as asked for, or what takes its place. */
static struct transform transform_of(const struct calibrated *c, const struct loss_matrix *m)
{
    struct transform t = {.kernel = c->kernel, .from = m->from, .to = m->to, .cols = m->cols};
    bool absmax = c->ending == ENDING_PLAIN && c->options.method == METHOD_ABSMAX;

    t.to.method = m->to.kind == SCHEME_INT4 && !absmax ? METHOD_SEARCH : METHOD_ABSMAX;
    t.weights = c->ending == ENDING_DIAGONAL ? c->shrunk.variance : NULL;
    return t;
}

size_t calibrated_round_scratch_bytes(const struct loss_matrix *m)
{
    struct calibrated any = {.options = {.method = METHOD_LDLQ}};
    struct ldlq l = ldlq_of(&any, m);
    size_t solve = ldlq_scratch_bytes(&l, m->rows), measure = loss_scratch_bytes(m);

    return rounded_up(m->rows * sizeof(float)) + (solve > measure ? solve : measure);
}

static void add_running(struct rounded *r, const float *row_loss, uint64_t rows, uint64_t check_rows)
{
    for (uint64_t row = 0; row < rows; row++) {
        r->running_all += (double)row_loss[row];
        if (moments_takes(row, rows, check_rows))
            r->running += (double)row_loss[row];
    }
}

bool calibrated_round(const struct calibrated *c, const struct loss_matrix *m, void *scratch, struct rounded *r,
                      struct err *e)
{
    float *row_loss = scratch;
    void *rest = (uint8_t *)scratch + rounded_up(m->rows * sizeof *row_loss);

    *r = (struct rounded){.ending = c->ending, .reason = c->reason};
    if (c->ending == ENDING_FEEDBACK) {
        struct ldlq l = ldlq_of(c, m);
        if (!ldlq_run(&l, 0, m->rows, m->rows, &m->in, &m->out, rest, &r->weights, row_loss, e))
            return false;
        add_running(r, row_loss, m->rows, c->options.check_rows);
    } else {
        struct transform t = transform_of(c, m);
        if (!transform_run(&t, 0, m->rows, m->rows, &m->in, &m->out, rest, &r->weights, e))
            return false;
    }
    return !c->has_moments || loss_measure(c->kernel, &c->shrunk, m, c->options.check_rows, rest, &r->loss, e);
}

const char *ending_name(enum ending ending)
{
    assert(ending < ENDING_COUNT);
    return ending_names[ending];
}

const char *reason_text(enum reason reason)
{
    assert(reason < REASON_COUNT);
    return reason_texts[reason];
}

const char *calibrated_text(const struct calibrated *c, char text[CALIBRATED_TEXT])
{
    const char *name = scheme_method_name(c->options.method);

    if (c->ending == ENDING_PLAIN || (c->ending == ENDING_FEEDBACK && c->factor.retries == 0))
        snprintf(text, CALIBRATED_TEXT, "%s", name);
    else if (c->ending == ENDING_FEEDBACK)
        snprintf(text, CALIBRATED_TEXT, "%s, damping raised %u times to %.3g (pivot %.3g at column %u)", name,
                 c->factor.retries, c->shrunk.to_diagonal, (double)c->factor.failed.value,
                 c->factor.order[c->factor.failed.row]);
    else
        snprintf(text, CALIBRATED_TEXT, "%s, %s", ending_names[c->ending], reason_texts[c->reason]);
    return text;
}
