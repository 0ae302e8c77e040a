#include "formats/base/pattern.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/pool.h"
#include "tests/ct.h"

/* The answers are those of CPython's re.match and re.search. */
static const struct row {
    const char *regex, *text;
    bool match, search;
} rows[] = {
    {"", "", true, true},
    {"", "abc", true, true},
    {"abc", "abcdef", true, true},
    {"bcd", "abcdef", false, true},
    {"^bcd", "abcdef", false, false},
    {"abc$", "abcdef", false, false},
    {"abc$", "abc\n", true, true},
    {"abc\\Z", "abc\n", false, false},
    {"abc\\Z", "abc", true, true},
    {"^b", "a\nb", false, false},
    {"(?m)^b", "a\nb", false, true},
    {"a$", "a\nb", false, false},
    {"(?m)a$", "a\nb", true, true},
    {"a.c", "a\nc", false, false},
    {"(?s)a.c", "a\nc", true, true},
    {"(?i)LM_head", "lm_HEAD", true, true},
    {".*\\.experts\\.\\d+\\.(gate|up)_proj\\.weight$", "model.layers.3.mlp.experts.12.up_proj.weight", true, true},
    {".*\\.experts\\.\\d+\\.(gate|up)_proj\\.weight$", "model.layers.3.mlp.shared_experts.up_proj.weight", false,
     false},
    {"(?!lm_head).*weight", "lm_head.weight", false, true},
    {"(?P<layer>\\d+)\\.(?P=layer)", "7.7", true, true},
    {"(?P<layer>\\d+)\\.(?P=layer)", "7.8", false, false},
    {"(\\d)\\1", "55", true, true},
    {"(\\d)\\1", "56", false, false},
    {"(?P<a>x)(y)\\2", "xyy", true, true},
    {"(?P<a>x)(y)\\1", "xyx", true, true},
    {"gr\xc3\xbc\xc3\x9f",
     "gr\xc3\xbc\xc3\x9f"
     "e",
     true, true},
    {"^.$", "\xe2\x82\xac", true, true},
    {"\\w+$",
     "\xc3\xa4"
     "b",
     true, true},
    {"\\Aabc\\Z", "abc", true, true},
    {"a{2,3}$", "aaaa", false, true},
    {"a{,2}b", "aab", true, true},
    {"[[a]b]", "ab]", true, true},
    {"[a&&b]", "&", true, true},
    {"a++b", "aab", true, true},
    {"x*?y", "xxy", true, true},
    {"(?:a|b)+", "ba", true, true},
    {"(?<=a)b", "ab", false, true},
    {"(?#note)a", "a", true, true},
    {"(?x) a b # c", "ab", true, true},
    {"\\bmlp\\b", "a.mlp.b", false, true},
    {"[^\\W\\d]", "5a", false, true},
    {"(?>a)b", "ab", true, true},
    {"\\x41", "A", true, true},
    {"\\u0041", "A", true, true},
    {"model.layers.[0-9]{1,2}$", "model.layers.61", true, true},
    {"a|b$", "b\n", true, true},
};

TEST(pattern, matches_as_python_does)
{
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct pattern p = {0};
        struct err e = {0};

        ct_case("'%s' on '%s'", rows[r].regex, rows[r].text);
        ASSERT_OK(pattern_compile(&p, rows[r].regex, &e), e);
        EXPECT_TRUE(pattern_match(&p, rows[r].text) == rows[r].match);
        EXPECT_TRUE(pattern_search(&p, rows[r].text) == rows[r].search);
        pattern_release(&p);
        pattern_release(&p);
    }
}

TEST(pattern, broken_ones_are_refused_with_a_reason)
{
    static const char *const bad[] = {"(", "[a", "*", "a{2,1}(", "(?P<x", "(?P=nobody)", "\xe2("};

    for (size_t b = 0; b < sizeof bad / sizeof bad[0]; b++) {
        struct pattern p = {0};
        struct err e = {0};

        ct_case("'%s'", bad[b]);
        EXPECT_FALSE(pattern_compile(&p, bad[b], &e));
        EXPECT_ERR(e, ERR_FORMAT, "pattern '");
        EXPECT_TRUE(p.re == NULL);
        pattern_release(&p);
    }
}

TEST(pattern, catastrophic_backtracking_ends_as_no_match)
{
    struct pattern p = {0};
    struct err e = {0};

    ASSERT_OK(pattern_compile(&p, "(a|aa)+$", &e), e);
    EXPECT_FALSE(pattern_match(&p, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"));
    EXPECT_FALSE(pattern_search(&p, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"));
    pattern_release(&p);
}

TEST(pattern, text_that_is_not_utf8_never_matches)
{
    struct pattern p = {0};
    struct err e = {0};

    ASSERT_OK(pattern_compile(&p, ".*", &e), e);
    EXPECT_FALSE(pattern_match(&p, "abc\xe2"));
    EXPECT_FALSE(pattern_search(&p, "\xf0"));
    pattern_release(&p);
}

/* ---- find_all ---- */

struct found {
    char text[256];
    size_t left; /* matches to take; then the walk is ended */
};

static bool note_match(void *ctx, size_t begin, size_t end, struct err *e)
{
    struct found *f = ctx;
    size_t used = strlen(f->text);

    (void)e;
    snprintf(f->text + used, sizeof f->text - used, "%s%zu-%zu", used ? " " : "", begin, end);
    return --f->left > 0;
}

/* What the onig crate's find_iter gives (Rust, 6.5.1), by its rules. */
TEST(pattern, all_matches_from_left_to_right)
{
    static const struct {
        const char *regex, *text, *want;
    } find_rows[] = {
        {"a+", "aabaab", "0-2 3-5"},
        {"x", "aabaab", ""},
        {"a*", "aab", "0-2 3-3"},
        {"", "ab", "0-0 1-1 2-2"},
        {"", "", "0-0"},
        {"", "\xe2\x82\xac", "0-0 3-3"},
        {"(?=b)", "abb", "1-1 2-2"},
        {"\\s+(?!\\S)|\\s+", "a   b ", "1-3 3-4 5-6"},
        {"(?<=a)b", "abab", "1-2 3-4"},
        {"^.", "ab\ncd", "0-1 3-4"},
        {"[\\p{L}&&[^\\p{Han}]]+",
         "ab\xe6\xbc\xa2"
         "c",
         "0-2 5-6"},
        {"\\p{N}{1,3}", "12345", "0-3 3-5"},
    };

    for (size_t r = 0; r < sizeof find_rows / sizeof find_rows[0]; r++) {
        struct pattern p = {0};
        struct found f = {.left = 100};
        struct err e = {0};

        ct_case("'%s' on '%s'", find_rows[r].regex, find_rows[r].text);
        ASSERT_OK(pattern_compile_ruby(&p, find_rows[r].regex, &e), e);
        EXPECT_OK(pattern_find_all(&p, find_rows[r].text, strlen(find_rows[r].text), note_match, &f, &e), e);
        EXPECT_STR_EQ(find_rows[r].want, f.text);
        pattern_release(&p);
    }
}

TEST(pattern, a_walk_over_matches_can_be_ended)
{
    struct pattern p = {0};
    struct found f = {.left = 2};
    struct err e = {0};

    ASSERT_OK(pattern_compile_ruby(&p, "a", &e), e);
    EXPECT_FALSE(pattern_find_all(&p, "aaaa", 4, note_match, &f, &e));
    EXPECT_TRUE(e.code == ERR_NONE);
    EXPECT_STR_EQ("0-1 1-2", f.text);
    pattern_release(&p);
}

TEST(pattern, catastrophic_backtracking_in_a_walk_is_refused)
{
    struct pattern p = {0};
    struct found f = {.left = 100};
    struct err e = {0};
    const char *const text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab";

    ASSERT_OK(pattern_compile_ruby(&p, "(a|aa)+$", &e), e);
    EXPECT_FALSE(pattern_find_all(&p, text, strlen(text), note_match, &f, &e));
    EXPECT_ERR(e, ERR_LIMIT, "searching from byte 0 on");
    pattern_release(&p);
}

static bool match_job(void *ctx, size_t job, unsigned worker, struct err *e)
{
    struct pattern own = {0};

    (void)worker;
    if (!pattern_compile(&own, "x(\\d+)", e))
        return false;
    bool ok = pattern_match(ctx, job % 2 ? "layers.1.w" : "other") == (job % 2 == 1) && pattern_search(&own, "ax1");
    pattern_release(&own);
    return ok || err_set(e, ERR_FORMAT, "job %zu", job);
}

TEST(pattern, one_pattern_serves_many_threads)
{
    struct pattern p = {0};
    struct err e = {0};

    ASSERT_OK(pattern_compile(&p, "layers\\.(\\d+)\\.", &e), e);
    EXPECT_OK(pool_run(8, 2000, match_job, &p, &e), e);
    pattern_release(&p);
}
