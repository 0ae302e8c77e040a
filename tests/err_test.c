#include "formats/base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/ct.h"

TEST(err, set_returns_false_and_keeps_code_and_text)
{
    struct err e = {0};

    EXPECT_FALSE(err_set(&e, ERR_FORMAT, "end offset %d is past the file size %d", 900, 512));
    EXPECT_ERR(e, ERR_FORMAT, "end offset 900 is past the file size 512");
    EXPECT_EQ_I64(0, e.sys);
}

TEST(err, a_null_err_swallows_the_message)
{
    EXPECT_FALSE(err_set(NULL, ERR_FORMAT, "x"));
    EXPECT_FALSE(err_sys(NULL, "x"));
    EXPECT_FALSE(err_in(NULL, "x"));
}

TEST(err, the_systems_reason_comes_behind_the_text)
{
    struct err e = {0};

    errno = ENOSPC;
    EXPECT_FALSE(err_sys(&e, "cannot write '%s'", "a"));
    EXPECT_EQ_I64(ENOSPC, e.sys);
    EXPECT_EQ_I64(ERR_IO, e.code);
    EXPECT_STR_EQ("cannot write 'a': No space left on device", e.text);
}

TEST(err, the_systems_reason_survives_a_long_text)
{
    struct err e = {0};
    char name[1000];

    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    errno = ENOENT;
    err_sys(&e, "cannot open '%s'", name);
    EXPECT_EQ_U64(sizeof e.text - 1, strlen(e.text));
    EXPECT_STR_HAS(e.text, "nnn...: No such file or directory");
}

TEST(err, context_goes_in_front_and_code_stays)
{
    struct err e = {0};

    err_set(&e, ERR_LIMIT, "too long");
    err_in(&e, "tensor '%s'", "layers.3.w1");
    EXPECT_FALSE(err_in(&e, "shard %d", 42));
    EXPECT_ERR(e, ERR_LIMIT, "");
    EXPECT_STR_EQ("shard 42: tensor 'layers.3.w1': too long", e.text);
}

TEST(err, context_alone_has_no_colon)
{
    struct err e = {0};

    err_in(&e, "shard");
    EXPECT_STR_EQ("shard", e.text);
}

TEST(err, arguments_may_point_into_the_text)
{
    struct err e = {0};

    err_set(&e, ERR_FORMAT, "inner");
    err_set(&e, ERR_IO, "<%s>", e.text);
    EXPECT_ERR(e, ERR_IO, "<inner>");
    err_in(&e, "%s", e.text);
    EXPECT_STR_EQ("<inner>: <inner>", e.text);
}

TEST(err, text_lengths_around_the_room_are_cut_with_dots)
{
    char text[2000];
    struct err e;

    for (size_t bytes = sizeof e.text - 6; bytes < sizeof text; bytes += bytes < 500 ? 1 : 300) {
        ct_case("%zu bytes", bytes);
        memset(text, 'x', bytes);
        text[bytes] = '\0';
        err_set(&e, ERR_FORMAT, "%s", text);
        bool fits = bytes < sizeof e.text;
        EXPECT_EQ_U64(fits ? bytes : sizeof e.text - 1, strlen(e.text));
        EXPECT_TRUE(fits == !strstr(e.text, "..."));
    }
}

TEST(err, a_cut_never_splits_a_character)
{
    struct err e;
    char text[1200] = "";

    for (size_t lead = 0; lead < 3; lead++) {
        ct_case("%zu bytes in front", lead);
        memset(text, 'x', lead);
        for (size_t at = lead; at + 4 < sizeof text; at += 3)
            memcpy(text + at, "\xe2\x82\xac", 4);
        err_set(&e, ERR_FORMAT, "%s", text);
        size_t kept = strlen(e.text) - 3 - lead;
        EXPECT_STR_EQ("...", e.text + lead + kept);
        EXPECT_EQ_U64(0, kept % 3);
    }
}

TEST(err, context_on_a_full_text_keeps_the_outermost_and_cuts_the_end)
{
    struct err e;
    char text[600];

    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    err_set(&e, ERR_FORMAT, "%s", text);
    err_in(&e, "tensor 't'");
    err_in(&e, "shard 's'");
    EXPECT_EQ_U64(0, (uint64_t)strncmp(e.text, "shard 's': tensor 't': xxx", 26) != 0);
    EXPECT_EQ_U64(sizeof e.text - 1, strlen(e.text));
    EXPECT_STR_EQ("x...", e.text + strlen(e.text) - 4);
}

TEST(err, a_huge_context_leaves_room_for_the_cause)
{
    struct err e;
    char text[3000];

    memset(text, 'c', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    err_set(&e, ERR_FORMAT, "the cause");
    err_in(&e, "%s", text);
    EXPECT_STR_HAS(e.text, "ccc...: the cause");
}

TEST(err, memory_is_refused_with_both_numbers)
{
    struct err e = {0};

    EXPECT_FALSE(err_memory(&e, 5, UINT64_MAX, "%u jobs need", 2u));
    EXPECT_ERR(e, ERR_MEMORY, "--memory 5 is less than the 18446744073709551615 bytes that 2 jobs need");
    EXPECT_FALSE(err_memory(NULL, 1, 2, "one job needs"));
}

TEST(err, exit_statuses_are_those_of_the_manual)
{
    static const struct row {
        enum err_code code;
        int status;
    } rows[] = {{ERR_NONE, 0},  {ERR_USAGE, 2},  {ERR_FORMAT, 3}, {ERR_UNSUPPORTED, 3},
                {ERR_LIMIT, 3}, {ERR_MEMORY, 4}, {ERR_IO, 4},     {ERR_CANCELLED, 4}};

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        ct_case("code %d", (int)rows[r].code);
        EXPECT_EQ_I64(rows[r].status, err_exit_status(rows[r].code));
    }
}

/* ---- rules and sinks ---- */

static void count_taken(void *ctx, const struct err *e)
{
    EXPECT_STR_EQ("scale-zero", e->rule);
    ++*(unsigned *)ctx;
}

TEST(err, a_rule_is_named_by_the_deepest_that_knows_it)
{
    struct err e = {0};

    EXPECT_FALSE(err_broken(&e, ERR_FORMAT, "scale-zero", "scale %d is 0", 3));
    EXPECT_ERR(e, ERR_FORMAT, "scale 3 is 0");
    EXPECT_FALSE(err_rule(&e, "shard-malformed"));
    EXPECT_FALSE(err_in(&e, "tensor 'a'"));
    EXPECT_STR_EQ("scale-zero", e.rule);
    err_set(&e, ERR_FORMAT, "another");
    EXPECT_TRUE(e.rule == NULL);
    err_rule(&e, "index-missing");
    EXPECT_STR_EQ("index-missing", e.rule);
    err_broken(NULL, ERR_FORMAT, "x", "nobody listens");
    err_rule(NULL, "x");
}

TEST(err, a_sink_takes_what_is_the_inputs_fault_and_nothing_else)
{
    static const struct {
        enum err_code code;
        bool taken;
    } cases[] = {{ERR_FORMAT, true}, {ERR_UNSUPPORTED, true}, {ERR_LIMIT, true},
                 {ERR_IO, false},    {ERR_CANCELLED, false},  {ERR_USAGE, false}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned taken = 0;
        struct err_sink sink = {.take = count_taken, .ctx = &taken};
        struct err e = {0};
        ct_case("code %d", cases[i].code);
        err_broken(&e, cases[i].code, "scale-zero", "no");
        EXPECT_FALSE(err_pass(NULL, &e));
        EXPECT_TRUE(err_pass(&sink, &e) == cases[i].taken);
        EXPECT_EQ_U64(cases[i].taken, taken);
        EXPECT_TRUE((e.code == ERR_NONE) == cases[i].taken);
    }
}
