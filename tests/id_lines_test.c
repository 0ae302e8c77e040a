#include "verify/id_lines.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "tests/ct.h"

TEST(id_lines, a_sequence_a_line)
{
    const char *const text = "# ids\n1 2,3\t 4\r\n\n  \n7\n4095";
    static const struct id_line want[] = {{0, 4, 2}, {4, 1, 5}, {5, 1, 6}};
    struct id_lines l = {0};
    struct err e = {0};

    ASSERT_OK(id_lines_parse(&l, text, strlen(text), 4096, &e), e);
    ASSERT_EQ_U64(3, l.line_count);
    ASSERT_EQ_U64(6, l.ids.count);
    EXPECT_MEM_EQ(want, l.lines, sizeof want);
    EXPECT_EQ_U64(4095, l.ids.ids[5]);
    id_lines_release(&l);
    ASSERT_OK(id_lines_parse(&l, "", 0, 1, &e), e);
    EXPECT_EQ_U64(0, l.line_count);
    id_lines_release(&l);
}

TEST(id_lines, what_is_no_id_is_refused_with_its_line)
{
    static const struct {
        const char *text, *message;
    } rows[] = {
        {"1\n2 x\n", "line 2: 'x' is no token id"},
        {"-1", "line 1: '-1' is no token id"},
        {"1.5", "line 1: '1.5' is no token id"},
        {"[1]", "line 1: '[1]' is no token id"},
        {"100", "line 1: id 100 is past the vocabulary of 100 tokens"},
        {"18446744073709551617", "line 1: '18446744073709551617' is no token id"},
    };

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct id_lines l = {0};
        struct err e = {0};
        ct_case("'%s'", rows[r].text);
        EXPECT_FALSE(id_lines_parse(&l, rows[r].text, strlen(rows[r].text), 100, &e));
        EXPECT_ERR(e, ERR_FORMAT, rows[r].message);
        EXPECT_TRUE(l.lines == NULL && l.ids.ids == NULL);
    }
}

/* What the fuzzer is given to start from: one is read, the others are refused. */
TEST(id_lines, the_fuzz_corpus_is_replayed)
{
    static const struct {
        const char *name, *message; /* NULL: read */
    } files[] = {{"lines", NULL}, {"past", "line 1: id 129280 is past"}, {"nul", "line 1: '1' is no token id"}};

    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        struct id_lines l = {0};
        struct err e = {0};
        char path[64], *text = NULL;
        size_t bytes = 0;
        ct_case("%s", files[i].name);
        snprintf(path, sizeof path, "tests/fuzz/corpus/id_lines/%s", files[i].name);
        ASSERT_OK(file_slurp(path, 4096, &text, &bytes, &e), e);
        EXPECT_TRUE(id_lines_parse(&l, text, bytes, 129280, &e) == !files[i].message);
        if (files[i].message)
            EXPECT_ERR(e, ERR_FORMAT, files[i].message);
        else
            EXPECT_EQ_U64(6, l.ids.count);
        id_lines_release(&l);
        mem_free(text);
    }
}
