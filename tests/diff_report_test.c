#include "verify/diff_report.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/json.h"
#include "tests/ct.h"
#include "tests/diff_fixture.h"
#include "verify/diff_words.h"
#include "verify/html_chart.h"
#include "verify/markup.h"

typedef void writer(const struct diff_report *r, struct buf *out);

static const struct {
    const char *name;
    writer *write;
} writers[] = {{"text", diff_print_text},
               {"json", diff_print_json},
               {"junit", diff_print_junit},
               {"markdown", diff_print_markdown},
               {"html", diff_print_html}};
#define WRITERS (sizeof writers / sizeof writers[0])

static char *written(writer *write, enum diff_fixture kind)
{
    struct diff_report r;
    struct buf out = {0};

    diff_fixture_make(&r, kind);
    write(&r, &out);
    diff_report_release(&r);
    return out.data;
}

static bool has_word(const char *text, const char *word)
{
    size_t n = strlen(word);

    for (const char *at = text; (at = strcasestr(at, word)); at += n)
        if ((at == text || !isalpha((unsigned char)at[-1])) && !isalpha((unsigned char)at[n]))
            return true;
    return false;
}

TEST(diff_report, no_writer_prints_what_is_no_number)
{
    for (size_t w = 0; w < WRITERS; w++)
        for (int kind = 0; kind < FIXTURE_COUNT; kind++) {
            char *text = written(writers[w].write, (enum diff_fixture)kind);
            ct_case("%s, %s", writers[w].name, diff_fixture_names[kind]);
            EXPECT_FALSE(has_word(text, "nan") || has_word(text, "inf") || has_word(text, "(null)"));
            mem_free(text);
        }
}

TEST(diff_report, all_reports_of_a_failure_name_threshold_layer_and_weight)
{
    for (size_t w = 0; w < WRITERS; w++) {
        char *text = written(writers[w].write, FIXTURE_LARGE);
        ct_case("%s", writers[w].name);
        EXPECT_STR_HAS(text, "max-kl");
        EXPECT_STR_HAS(text, "0.0319");
        EXPECT_STR_HAS(text, "37");
        EXPECT_STR_HAS(text, strcmp(writers[w].name, "markdown") ? "e_score_correction_bias" : "e\\_score");
        mem_free(text);
    }
}

TEST(diff_report, json_is_json_and_complete)
{
    for (int kind = 0; kind < FIXTURE_COUNT; kind++) {
        struct json_doc d = {0};
        struct err e = {0};
        char *text = written(diff_print_json, (enum diff_fixture)kind);
        ct_case("%s", diff_fixture_names[kind]);
        ASSERT_OK(json_parse(&d, text, strlen(text), JSON_STRICT, &e), e);
        const struct json *first = json_first(json_get(d.root, "candidates"));
        EXPECT_EQ_U64(kind == FIXTURE_LARGE ? 61 : 4, json_count(json_get(first, "layers")));
        EXPECT_TRUE(!json_get(first, "kl") == (kind == FIXTURE_GOLDEN));
        EXPECT_TRUE(json_get(first, "kl_lower_bound") && json_get(first, "perplexity_ratio"));
        EXPECT_EQ_U64(kind == FIXTURE_GOLDEN ? 0 : 4, json_count(json_get(d.root, "checks")));
        EXPECT_EQ_U64(KL_BINS, json_count(json_get(json_get(first, "kl_histogram"), "counts")));
        json_release(&d);
        mem_free(text);
    }
}

/* By libxml2's own tool, against the dialect of tests/fixtures/junit.xsd. */
static void expect_schema(struct arena *a, const char *text)
{
    const char *path = path_join(a, ct_temp_dir(), "junit.xml");
    struct err e = {0};

    ASSERT_OK(file_write_whole(path, text, strlen(text), &e), e);
    EXPECT_EQ_I64(0, system(arena_printf(a,
                                         "xmllint --noout --nonet --schema tests/fixtures/junit.xsd '%s' "
                                         "2>'%s.log' || { cat '%s.log'; false; }",
                                         path, path, path)));
}

TEST(diff_report, junit_is_valid_against_the_schema)
{
    if (system("command -v xmllint >/dev/null 2>&1") != 0)
        ct_skip("xmllint is not installed (libxml2-utils)");
    for (int kind = 0; kind < FIXTURE_COUNT; kind++) {
        struct arena a = {0};
        struct diff_report r;
        struct buf error = {0};
        char *text = written(diff_print_junit, (enum diff_fixture)kind);
        ct_case("%s", diff_fixture_names[kind]);
        expect_schema(&a, text);
        diff_fixture_make(&r, (enum diff_fixture)kind);
        diff_print_junit_error(&r, "tensor '<a&b>\x1b\xff': offset 900 is past 512", &error);
        expect_schema(&a, error.data);
        EXPECT_TRUE(strncmp(error.data, DIFF_JUNIT_HEAD, strlen(DIFF_JUNIT_HEAD)) == 0);
        EXPECT_TRUE(strncmp(text, DIFF_JUNIT_HEAD, strlen(DIFF_JUNIT_HEAD)) == 0);
        diff_report_release(&r);
        buf_release(&error);
        mem_free(text);
        arena_release(&a);
    }
}

TEST(diff_report, a_junit_failure_tells_of_its_own_candidate)
{
    struct diff_report r;
    struct buf out = {0};

    diff_fixture_make(&r, FIXTURE_PAIRED);
    r.candidates[1].first_outlier = 2;
    r.checks[0].ok = r.checks[1].ok = false;
    r.checks[1].candidate = r.candidates[1].path;
    diff_print_junit(&r, &out);
    const char *first = strstr(out.data, "name=\"max-kl of tiny-v3-int4\"");
    const char *second = strstr(out.data, "name=\"min-top1 of tiny-v3-int4-g32\"");
    EXPECT_TRUE(first && second && first < second);
    if (first && second) {
        EXPECT_TRUE(strstr(first, "\">no layer") < second);
        EXPECT_TRUE(strstr(second, "\">layer 2 (MoE) is the first whose local error stands out") != NULL);
    }
    buf_release(&out);
    diff_report_release(&r);
}

TEST(diff_report, junit_properties_are_numbers_for_programs)
{
    struct diff_report r;
    struct buf out = {0};

    diff_fixture_make(&r, FIXTURE_PAIRED);
    r.candidates[0].outputs.ppl_ratio = 1.0030912;
    r.candidates[1].outputs.kl.mean = 0.00079912;
    diff_print_junit(&r, &out);
    EXPECT_STR_HAS(out.data, "<property name=\"tokens\" value=\"4096\"/>");
    EXPECT_STR_HAS(out.data, "<property name=\"perplexity_ratio\" value=\"1.00309\"/>");
    EXPECT_STR_HAS(out.data, "<property name=\"cand2.kl\" value=\"0.00079912\"/>");
    buf_release(&out);
    diff_report_release(&r);
}

TEST(diff_report, the_page_holds_no_script_and_asks_for_nothing)
{
    static const char *const never[] = {"<script", "http:", "https:", "url(",  "@import",
                                        "<link",   "<img",  "src=",   "onload"};

    for (int kind = 0; kind < FIXTURE_COUNT; kind++) {
        char *text = written(diff_print_html, (enum diff_fixture)kind);
        for (size_t i = 0; i < sizeof never / sizeof never[0]; i++) {
            ct_case("%s: %s", diff_fixture_names[kind], never[i]);
            EXPECT_TRUE(strstr(text, never[i]) == NULL);
        }
        EXPECT_TRUE(strlen(text) < 500000);
        mem_free(text);
    }
}

/* Every element that is opened is closed, in the order of a tree. */
TEST(diff_report, the_page_is_a_tree)
{
    static const char *const void_elements[] = {"meta", "br", "!DOCTYPE"};

    for (int kind = 0; kind < FIXTURE_COUNT; kind++) {
        char *text = written(diff_print_html, (enum diff_fixture)kind), *open[64];
        size_t depth = 0, lengths[64];
        ct_case("%s", diff_fixture_names[kind]);
        for (char *at = strchr(text, '<'); at; at = strchr(at + 1, '<')) {
            bool closes = at[1] == '/', alone = false;
            char *name = at + 1 + closes, *end = strchr(at, '>');
            size_t n = strcspn(name, " >/");
            ASSERT_TRUE(end != NULL);
            for (size_t i = 0; i < 3; i++)
                alone |= strlen(void_elements[i]) == n && strncmp(name, void_elements[i], n) == 0;
            if (alone || end[-1] == '/')
                continue;
            if (closes) {
                ASSERT_TRUE(depth > 0 && lengths[depth - 1] == n && strncmp(open[depth - 1], name, n) == 0);
                depth--;
                continue;
            }
            ASSERT_TRUE(depth < 64);
            open[depth] = name;
            lengths[depth++] = n;
        }
        EXPECT_EQ_U64(0, depth);
        mem_free(text);
    }
}

TEST(diff_report, markdown_tables_keep_their_columns)
{
    for (int kind = 0; kind < FIXTURE_COUNT; kind++) {
        char *text = written(diff_print_markdown, (enum diff_fixture)kind), *rest = NULL;
        size_t columns = 0, previous_table = 0;
        ct_case("%s", diff_fixture_names[kind]);
        char *script = strstr(text, "<script");
        EXPECT_TRUE((!script || script[-1] == '\\') && strstr(text, "<b>") == NULL);
        for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
            size_t bars = 0;
            if (line[0] != '|' || (line > text && line[-1] == '\n')) /* strtok leaves all but the first of two */
                columns = 0;
            if (line[0] != '|')
                continue;
            for (char *c = line; *c; c++)
                bars += *c == '|' && (c == line || c[-1] != '\\');
            if (columns)
                EXPECT_EQ_U64(columns, bars);
            previous_table += columns == 0;
            columns = bars;
        }
        EXPECT_TRUE(previous_table >= 1);
        mem_free(text);
    }
}

TEST(diff_report, numbers_have_three_digits)
{
    static const struct {
        double x;
        const char *want;
    } cases[] = {{0, "0"},       {0.00322, "0.00322"}, {1.2e-7, "1.20e-07"}, {0.02, "0.0200"},
                 {0.5, "0.500"}, {1, "1.00"},          {9.999, "10.0"},      {69.6, "69.6"},
                 {123.4, "123"}, {12345, "1.23e+04"},  {-0.25, "-0.250"},    {NAN, "n/a"}};
    char text[WORD_TEXT];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        EXPECT_STR_EQ(cases[i].want, word_number(cases[i].x, text));
    EXPECT_STR_EQ("1,234,567", word_count(1234567, text));
    EXPECT_STR_EQ("999", word_count(999, text));
    EXPECT_STR_EQ("96.24%", word_percent(0.9624, text));
}

TEST(diff_report, markup_passes_letters_and_nothing_else)
{
    static const struct {
        const char *in, *want;
    } cases[] = {
        {"plain", "plain"},
        {"<a b='c' d=\"e\">&", "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;"},
        {"\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80", "\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"},
        {"a\x01\x1b\x7f", "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xC3", "\xEF\xBF\xBD"},                                 /* cut off */
        {"\xE2\x82", "\xEF\xBF\xBD\xEF\xBF\xBD"},                 /* the same */
        {"\xC0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD"},                 /* overlong */
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}, /* a surrogate */
        {"\xEF\xBF\xBF", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}, /* not a character */
        {"tab\tline\n", "tab\tline\n"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf out = {0};
        ct_case("%zu", i);
        markup_escape(&out, cases[i].in);
        EXPECT_STR_EQ(cases[i].want, out.data);
        buf_release(&out);
    }
    struct buf out = {0};
    markdown_escape(&out, "a|b\n*c*_<d>`e`");
    EXPECT_STR_EQ("a\\|b \\*c\\*\\_\\<d\\>\\`e\\`", out.data);
    buf_release(&out);
}

TEST(diff_report, axes_have_round_ticks)
{
    static const double values[] = {0, 2e-3, 0.4, NAN};
    struct chart_axis log = chart_axis_log(values, 4), none = chart_axis_log(values, 1), share = {0.4, 1, false};
    struct chart_ticks t;

    EXPECT_TRUE(log.low == -3 && log.high == 0);
    EXPECT_TRUE(none.low == -6 && none.high == 0);
    EXPECT_NEAR_F64(2.0 / 3, chart_axis_at(&log, 0.1), 1e-12);
    EXPECT_TRUE(chart_axis_at(&log, 1e-9) == 0 && chart_axis_at(&log, INFINITY) == 1);
    chart_axis_ticks(&log, &t);
    EXPECT_EQ_U64(4, t.count);
    EXPECT_STR_EQ("10<sup>-3</sup>", t.items[0].label);
    EXPECT_STR_EQ("1", t.items[3].label);
    chart_axis_ticks(&share, &t);
    EXPECT_STR_EQ("40%", t.items[0].label);
    EXPECT_STR_EQ("100%", t.items[t.count - 1].label);
    chart_ticks_numbered(&t, 3, 58);
    EXPECT_STR_EQ("10", t.items[0].label);
    EXPECT_STR_EQ("60", t.items[t.count - 1].label);
    chart_ticks_numbered(&t, 0, 4);
    EXPECT_EQ_U64(4, t.count);
}
