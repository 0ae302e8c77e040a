/* What two rows of logits say about each other, and what many of them say
 * together. Log-softmax, KL and sums in float64, in a written order, with our
 * own exp and log (quant/logits.h): the same for any number of threads and on
 * every CPU.
 *
 * A position is one token of a context; its logits predict the next one. Every
 * position has a KL; all but the last of a context have a next token and so
 * are scored (negative log-likelihood, perplexity).
 *
 * Standard errors are clustered by context: positions of one text are not
 * independent, contexts nearly are. For contexts c with n_c positions and mean
 * m_c:  SE^2 = C / (C - 1) * sum (n_c (m_c - m))^2 / (sum n_c)^2, which for
 * equal lengths is sd(m_c) / sqrt C. With one context it is not known: NaN. */
#ifndef VERIFY_METRICS_H
#define VERIFY_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"

/* The largest logits of a row, in falling order; of equals the lower id is first. */
#define TOP_MAX 64u
struct top {
    uint32_t count; /* what was asked for, or the vocabulary when it is smaller */
    uint32_t ids[TOP_MAX];
    float logits[TOP_MAX];
};
void top_find(struct top *t, const float *logits, size_t vocab, uint32_t most); /* most: at most TOP_MAX */

/* A row reduced to what a golden file keeps: natural logarithms of probabilities. */
struct top_logprobs {
    uint32_t count;
    uint32_t ids[TOP_MAX];
    float logprobs[TOP_MAX]; /* falling */
    float rest;              /* ln of the probability of all others; -infinity: there are none */
};

#define NO_TOKEN UINT32_MAX

struct position {
    double kl;       /* KL(ref || cand), nats; NaN when only the golden file's part of the reference is known */
    double kl_bound; /* over the reference's top 64 and one bucket for the rest: never above kl */
    double nll_ref, nll_cand;   /* of the next token; 0 when it is not scored */
    uint32_t top_ref, top_cand; /* the most likely tokens */
    float margin;               /* the reference's p1 - p2 */
    uint8_t top5;               /* ids that both have among their five largest */
    bool top1;                  /* the same largest */
    bool scored;
};

/* vocab: ids that are compared; what a row has behind them (padding) is not looked at. next: the token that follows,
 * or NO_TOKEN. A row that is not finite is refused. */
bool position_compare(struct position *p, const float *ref, const float *cand, size_t vocab, uint32_t next,
                      struct err *e) CHECKED;
/* The same from a golden file's row; nll_ref is what it recorded. */
bool position_compare_golden(struct position *p, const struct top_logprobs *ref, double nll_ref, const float *cand,
                             size_t vocab, uint32_t next, struct err *e) CHECKED;
/* What a golden file keeps of a row, and the row's negative log-likelihood of next. */
bool position_record(struct top_logprobs *t, double *nll, const float *logits, size_t vocab, uint32_t next,
                     struct err *e) CHECKED;

struct stat_mean {
    double mean, se;
};
struct stat_spread {
    double mean, se, median, p90, p99, max; /* quantiles: linear between neighbours, as numpy's */
};

/* KL by powers of ten and thirds: bin b holds [10^(KL_BIN_LOW + b / 3), ...); the first also all below, the last also
 * all above. */
#define KL_BINS    27u
#define KL_BIN_LOW (-8)

/* How the outputs of one candidate differ from the reference's. */
struct outputs {
    uint64_t contexts, positions, scored;
    bool kl_known; /* false: a golden file's reference; kl is NaN then */
    struct stat_spread kl, kl_bound;
    struct stat_mean top1, top5;       /* shares, 1 is agreement */
    uint64_t decisive, decisive_flips; /* positions where the reference's p1 - p2 > 0.1; of these, another top 1 */
    double ppl_ref, ppl_cand;          /* exp of the mean negative log-likelihood; NaN when nothing is scored */
    struct stat_mean log_ratio;        /* mean of nll_cand - nll_ref */
    double ppl_ratio, ratio_low, ratio_high; /* exp(mean), exp(mean -+ 1.96 SE) */
    double delta_p_rms;                      /* of the next token's probability */
    uint64_t histogram[KL_BINS];             /* of kl, or of kl_bound when that is all there is */
};

/* starts: contexts + 1 rising offsets into positions, the last one their count. */
void outputs_summarize(struct outputs *o, const struct position *positions, const size_t *starts, size_t contexts);

/* Two candidates against one reference, token by token: a minus b. */
struct paired {
    struct stat_mean kl;  /* difference of KL (of bounds, when that is all there is); below 0: a is nearer */
    struct stat_mean nll; /* difference of negative log-likelihood */
    uint64_t a_nearer, b_nearer, ties; /* contexts by mean KL */
    double sign_p;                     /* two-sided sign test over the contexts without ties; 1 when there are none */
    uint64_t a_nearer_positions, b_nearer_positions;
};
void paired_summarize(struct paired *out, const struct position *a, const struct position *b, const size_t *starts,
                      size_t contexts);

/* Mean of values[starts[0] .. starts[contexts]) with its clustered error. */
struct stat_mean clustered_mean(const double *values, const size_t *starts, size_t contexts);
/* The q-quantile of ascending values, linear between neighbours. */
double quantile_sorted(const double *ascending, size_t count, double q);
double median_of(double *values, size_t count); /* sorts them */

#endif
