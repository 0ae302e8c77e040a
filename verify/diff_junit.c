/* `quern diff` for build servers: one test case for each threshold. The dialect is the one that Jenkins' and
 * GitLab's readers share: testsuites > testsuite > properties, testcase > failure, system-out. No time and no host:
 * the same comparison gives the same file. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "verify/diff_report.h"
#include "verify/diff_words.h"
#include "verify/markup.h"

static void put_property(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "      <property name=\"%s\" value=\"", name);
    markup_escape(out, value);
    buf_puts(out, "\"/>\n");
}

/* For programs: more digits than people want, and none between thousands. */
static void put_number(struct buf *out, const char *whose, const char *name, double value)
{
    char key[64], text[WORD_TEXT];

    if (isnan(value))
        return;
    snprintf(key, sizeof key, "%s%s", whose, name);
    snprintf(text, sizeof text, "%.6g", value);
    put_property(out, key, text);
}

static void put_candidate(const struct diff_report *r, const struct diff_candidate *c, const char *whose,
                          struct buf *out)
{
    const struct outputs *o = &c->outputs;
    struct buf words = {0}, key = {0};

    put_number(out, whose, "kl", o->kl_known ? o->kl.mean : NAN);
    put_number(out, whose, "kl_lower_bound", o->kl_bound.mean);
    put_number(out, whose, "top1", o->top1.mean);
    put_number(out, whose, "perplexity_ratio", o->ppl_ratio);
    put_number(out, whose, "routing_overlap", c->routing_overlap);
    buf_printf(&key, "%slayers", whose);
    words_outlier(r, c, &words);
    put_property(out, key.data, words.data);
    buf_release(&key);
    buf_release(&words);
}

static void put_paths(const struct diff_report *r, struct buf *out)
{
    put_property(out, r->golden ? "golden" : "ref", r->ref);
    for (size_t i = 0; i < r->candidate_count; i++)
        put_property(out, i == 0 ? "cand" : "cand2", r->candidates[i].path);
}

static void put_properties(const struct diff_report *r, struct buf *out)
{
    char text[WORD_TEXT];

    buf_puts(out, "    <properties>\n");
    put_paths(r, out);
    put_property(out, "text", r->text);
    snprintf(text, sizeof text, "%" PRIu64, r->tokens);
    put_property(out, "tokens", text);
    for (size_t i = 0; i < r->candidate_count; i++)
        put_candidate(r, &r->candidates[i], i == 0 ? "" : "cand2.", out);
    buf_puts(out, "    </properties>\n");
}

static const struct diff_candidate *candidate_of(const struct diff_report *r, const struct diff_check *c)
{
    size_t i = r->candidate_count - 1;

    while (i > 0 && strcmp(r->candidates[i].path, c->candidate) != 0)
        i--;
    return &r->candidates[i];
}

static void put_case(const struct diff_report *r, const struct diff_check *c, struct buf *out)
{
    struct buf words = {0};

    buf_puts(out, "    <testcase classname=\"quern.diff\" name=\"");
    markup_escape(out, c->option + 2);
    if (r->candidate_count > 1) {
        buf_puts(out, " of ");
        markup_escape(out, c->candidate);
    }
    buf_puts(out, "\" time=\"0\"");
    if (c->ok) {
        buf_puts(out, "/>\n");
        return;
    }
    words_check(c, &words);
    buf_puts(out, ">\n      <failure type=\"threshold\" message=\"");
    markup_escape(out, words.data);
    buf_puts(out, "\">");
    words.bytes = 0;
    words_outlier(r, candidate_of(r, c), &words);
    markup_escape(out, words.data);
    buf_puts(out, "</failure>\n    </testcase>\n");
    buf_release(&words);
}

static void put_head(struct buf *out, size_t tests, size_t failures, size_t errors)
{
    buf_printf(out, DIFF_JUNIT_HEAD "tests=\"%zu\" failures=\"%zu\" errors=\"%zu\" time=\"0\">\n", tests, failures,
               errors);
    buf_printf(out,
               "  <testsuite name=\"quern diff\" tests=\"%zu\" failures=\"%zu\" errors=\"%zu\" skipped=\"0\" "
               "time=\"0\">\n",
               tests, failures, errors);
}

static void put_end(struct buf *out, const char *text)
{
    buf_puts(out, "    <system-out>");
    markup_escape(out, text);
    buf_puts(out, "</system-out>\n  </testsuite>\n</testsuites>\n");
}

void diff_print_junit(const struct diff_report *r, struct buf *out)
{
    size_t tests = r->check_count ? r->check_count : 1, failed = 0;
    struct buf text = {0};

    for (size_t i = 0; i < r->check_count; i++)
        failed += !r->checks[i].ok;
    put_head(out, tests, failed, 0);
    put_properties(r, out);
    for (size_t i = 0; i < r->check_count; i++)
        put_case(r, &r->checks[i], out);
    if (r->check_count == 0) /* readers complain about a suite without a case */
        buf_puts(out, "    <testcase classname=\"quern.diff\" name=\"compared, no thresholds given\" time=\"0\"/>\n");
    diff_print_text(r, &text);
    put_end(out, text.data);
    buf_release(&text);
}

void diff_print_junit_error(const struct diff_report *r, const char *message, struct buf *out)
{
    put_head(out, 1, 0, 1);
    buf_puts(out, "    <properties>\n");
    put_paths(r, out);
    buf_puts(out, "    </properties>\n"
                  "    <testcase classname=\"quern.diff\" name=\"comparison\" time=\"0\">\n"
                  "      <error type=\"error\" message=\"");
    markup_escape(out, message);
    buf_puts(out, "\"/>\n    </testcase>\n");
    put_end(out, message);
}
