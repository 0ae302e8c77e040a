/* `quern diff` for build servers: one test case for each threshold. The dialect is the one that Jenkins' and
 * GitLab's readers share: testsuites > testsuite > properties, testcase > failure, system-out. No time and no host:
 * the same comparison gives the same file. */
#include <inttypes.h>
#include <math.h>

#include "verify/diff_report.h"
#include "verify/diff_words.h"
#include "verify/markup.h"

static void put_property(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "      <property name=\"%s\" value=\"", name);
    markup_escape(out, value);
    buf_puts(out, "\"/>\n");
}

static void put_number(struct buf *out, const char *name, double value)
{
    char text[WORD_TEXT];

    if (!isnan(value))
        put_property(out, name, word_number(value, text));
}

static void put_properties(const struct diff_report *r, struct buf *out)
{
    const struct outputs *o = &r->candidates[0].outputs;
    char text[WORD_TEXT];
    struct buf words = {0};

    buf_puts(out, "    <properties>\n");
    put_property(out, r->golden ? "golden" : "ref", r->ref);
    for (size_t i = 0; i < r->candidate_count; i++)
        put_property(out, i == 0 ? "cand" : "cand2", r->candidates[i].path);
    put_property(out, "text", r->text);
    put_property(out, "tokens", word_count(r->tokens, text));
    put_number(out, "kl", o->kl.mean);
    put_number(out, "kl_lower_bound", o->kl_bound.mean);
    put_number(out, "top1", o->top1.mean);
    put_number(out, "perplexity_ratio", o->ppl_ratio);
    put_number(out, "routing_overlap", r->candidates[0].routing_overlap);
    words_outlier(r, &r->candidates[0], &words);
    put_property(out, "layers", words.data);
    buf_puts(out, "    </properties>\n");
    buf_release(&words);
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
    words_outlier(r, &r->candidates[0], &words);
    markup_escape(out, words.data);
    buf_puts(out, "</failure>\n    </testcase>\n");
    buf_release(&words);
}

void diff_print_junit(const struct diff_report *r, struct buf *out)
{
    size_t tests = r->check_count ? r->check_count : 1, failed = 0;
    struct buf text = {0};

    for (size_t i = 0; i < r->check_count; i++)
        failed += !r->checks[i].ok;
    buf_puts(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    buf_printf(out, "<testsuites name=\"quern diff\" tests=\"%zu\" failures=\"%zu\" errors=\"0\" time=\"0\">\n", tests,
               failed);
    buf_printf(out,
               "  <testsuite name=\"quern diff\" tests=\"%zu\" failures=\"%zu\" errors=\"0\" skipped=\"0\" "
               "time=\"0\">\n",
               tests, failed);
    put_properties(r, out);
    for (size_t i = 0; i < r->check_count; i++)
        put_case(r, &r->checks[i], out);
    if (r->check_count == 0) /* readers complain about a suite without a case */
        buf_puts(out, "    <testcase classname=\"quern.diff\" name=\"compared, no thresholds given\" time=\"0\"/>\n");
    diff_print_text(r, &text);
    buf_puts(out, "    <system-out>");
    markup_escape(out, text.data);
    buf_puts(out, "</system-out>\n  </testsuite>\n</testsuites>\n");
    buf_release(&text);
}
