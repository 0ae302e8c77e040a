/* The sentences and number formats that the reports of `quern diff` share, so that all of them say the same. */
#ifndef VERIFY_DIFF_WORDS_H
#define VERIFY_DIFF_WORDS_H

#include "formats/base/mem.h"
#include "verify/diff_report.h"

#define WORD_TEXT 48
/* Three digits, plain from 1e-3 to 10,000, else with an exponent: "0.00322", "1.20e-07"; "n/a" for NaN. */
const char *word_number(double x, char text[WORD_TEXT]);
/* "96.24%"; "n/a" for NaN. */
const char *word_percent(double share, char text[WORD_TEXT]);
/* "4,096" */
const char *word_count(uint64_t n, char text[WORD_TEXT]);
/* The number of a check's metric in its own form: KL and ratio plain, shares as percent. */
const char *word_metric(enum diff_metric metric, double x, char text[WORD_TEXT]);

/* "PASS", "FAIL", or "no thresholds" */
const char *words_status(const struct diff_report *r);
/* One sentence: "2 of 4 thresholds failed" ... */
void words_verdict(const struct diff_report *r, struct buf *out);
/* "mean KL is 0.0302, above 0.02 (--max-kl 0.02)" */
void words_check(const struct diff_check *c, struct buf *out);
/* "layer 7 (MoE) stands out: its local error 0.61 is 11 times the median of its peers, 0.055", or that none does. */
void words_outlier(const struct diff_report *r, const struct diff_candidate *c, struct buf *out);
/* "the sign test over 16 contexts: a is nearer in 14 ..." */
void words_paired(const struct diff_report *r, struct buf *out);
/* "4,096 tokens in 16 contexts" */
void words_size(const struct diff_report *r, struct buf *out);
void words_floor(const struct diff_floor *f, struct buf *out);
/* "KL in nats; +-: one standard error, clustered by context" */
void words_units(const struct diff_report *r, const char *plus_minus, struct buf *out);
void words_weights(const struct diff_candidate *c, struct buf *out);

/* One row of the table of outputs; the same in every report that has words. */
struct words_row {
    const char *name;
    struct buf value, more; /* "0.00322 +- 0.00010"; what else there is to say */
};
#define WORDS_ROWS_MAX 12u
/* Fills rows, returns how many. plus_minus: "+-" or a sign of its own. */
size_t words_rows(const struct diff_report *r, const struct diff_candidate *c, const char *plus_minus,
                  struct words_row rows[WORDS_ROWS_MAX]);
void words_rows_release(struct words_row *rows, size_t count);

#endif
