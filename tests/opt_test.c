#include "formats/base/opt.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "tests/ct.h"

static struct values {
    bool force, verbose;
    const char *recipe, *json;
    struct opt_list keep;
    uint64_t threads, shard_size, any;
    double damping;
} v;

static const struct opt opts[] = {
    {"force", 'f', OPT_FLAG, &v.force, NULL, "replace what is there", 0, 0},
    {"verbose", 'v', OPT_FLAG, &v.verbose, NULL, "say more", 0, 0},
    {"recipe", 'r', OPT_STRING, &v.recipe, "FILE", "what to do with which tensor", 0, 0},
    {"keep", 0, OPT_LIST, &v.keep, "PATTERN", "tensors to leave alone", 0, 0},
    {"threads", 't', OPT_U64, &v.threads, "N", "at most so many threads", 1, 1024},
    {"shard-size", 0, OPT_SIZE, &v.shard_size, "SIZE", "cut the output into files of this size", 1, 0},
    {"any", 0, OPT_U64, &v.any, "N", "any number", 0, 0},
    {"damping", 'd', OPT_F64, &v.damping, "X", "how much", 0, 0},
    {"json", 'j', OPT_MAYBE, &v.json, "FILE", "print JSON, here or there", 0, 0},
    {0},
};
static const struct opt_command command = {"convert", "SRC DST", "Converts a checkpoint.", 1, 2, opts};

#define ARGS_MAX 12
static const char *operands[2];
static size_t operand_count;
static bool help;

/* Parses the words of a text, which stand apart by one space; "''" is the empty word. */
static bool parse(const char *text, struct err *e)
{
    static char words[400], name[] = "convert";
    char *argv[ARGS_MAX] = {name}, *rest = NULL;
    int argc = 1;

    mem_free(v.keep.items);
    v = (struct values){0};
    snprintf(words, sizeof words, "%s", text);
    for (char *w = strtok_r(words, " ", &rest); w && argc < ARGS_MAX; w = strtok_r(NULL, " ", &rest))
        argv[argc++] = strcmp(w, "''") ? w : w + 2;
    return opt_parse(&command, argc, argv, operands, &operand_count, &help, e);
}

TEST(opt, all_spellings_of_options_and_operands)
{
    struct err e = {0};

    ASSERT_OK(parse("-f src --threads 4 --shard-size=5G dst --keep a --keep=b -d-1.5e3", &e), e);
    EXPECT_TRUE(v.force && !v.verbose && !help);
    EXPECT_EQ_U64(4, v.threads);
    EXPECT_EQ_U64((uint64_t)5 << 30, v.shard_size);
    EXPECT_EQ_U64(2, v.keep.count);
    EXPECT_STR_EQ("a", v.keep.items[0]);
    EXPECT_STR_EQ("b", v.keep.items[1]);
    EXPECT_NEAR_F64(-1500, v.damping, 0);
    EXPECT_EQ_U64(2, operand_count);
    EXPECT_STR_EQ("src", operands[0]);
    EXPECT_STR_EQ("dst", operands[1]);
}

TEST(opt, letters_bundle_and_carry_values)
{
    struct err e = {0};

    ASSERT_OK(parse("-fvt8 -", &e), e);
    EXPECT_TRUE(v.force && v.verbose);
    EXPECT_EQ_U64(8, v.threads);
    EXPECT_STR_EQ("-", operands[0]);
    ASSERT_OK(parse("-t 9 x", &e), e);
    EXPECT_EQ_U64(9, v.threads);
}

TEST(opt, the_last_of_two_wins)
{
    struct err e = {0};

    ASSERT_OK(parse("--threads 4 --threads 5 -r a -r b x", &e), e);
    EXPECT_EQ_U64(5, v.threads);
    EXPECT_STR_EQ("b", v.recipe);
}

TEST(opt, two_dashes_end_the_options)
{
    struct err e = {0};

    ASSERT_OK(parse("-- --force --", &e), e);
    EXPECT_FALSE(v.force);
    EXPECT_STR_EQ("--force", operands[0]);
    EXPECT_STR_EQ("--", operands[1]);
}

TEST(opt, an_empty_value_is_a_value)
{
    struct err e = {0};

    ASSERT_OK(parse("--recipe= x", &e), e);
    EXPECT_STR_EQ("", v.recipe);
    ASSERT_OK(parse("--recipe '' x", &e), e);
    EXPECT_STR_EQ("", v.recipe);
}

TEST(opt, a_value_that_may_be_absent_is_never_the_next_word)
{
    struct err e = {0};

    ASSERT_OK(parse("a b", &e), e);
    EXPECT_TRUE(v.json == NULL);
    ASSERT_OK(parse("--json a b", &e), e);
    EXPECT_STR_EQ("", v.json);
    EXPECT_EQ_U64(2, operand_count);
    ASSERT_OK(parse("a --json=out.json", &e), e);
    EXPECT_STR_EQ("out.json", v.json);
    ASSERT_OK(parse("-jf a", &e), e);
    EXPECT_STR_EQ("", v.json);
    EXPECT_TRUE(v.force);
}

TEST(opt, help_asks_for_nothing_else)
{
    static const char *const texts[] = {"--help", "-h", "-fh", "a b --help", "--help --nonsense"};
    struct err e = {0};

    for (size_t t = 0; t < sizeof texts / sizeof texts[0]; t++) {
        ct_case("%s", texts[t]);
        EXPECT_OK(parse(texts[t], &e), e);
        EXPECT_TRUE(help);
    }
}

static const struct bad_row {
    const char *text, *message;
} bad_rows[] = {
    {"--foo x", "unknown option '--foo'"},
    {"--foo=3 x", "unknown option '--foo'"},
    {"--forc x", "unknown option '--forc'; did you mean '--force'?"},
    {"--shardsize=5G x", "unknown option '--shardsize'; did you mean '--shard-size'?"},
    {"-x", "unknown option '-x'"},
    {"-fx", "unknown option '-x'"},
    {"--force=yes x", "option '--force' takes no value, not 'yes'"},
    {"x --threads", "option '--threads' wants a value: N"},
    {"x -t", "option '--threads' wants a value: N"},
    {"--threads x", "option '--threads' wants a number from 1 to 1024, not 'x'"},
    {"--threads 0", "option '--threads' wants a number from 1 to 1024, not '0'"},
    {"--threads 1025", "not '1025'"},
    {"--threads -1", "not '-1'"},
    {"--threads +1", "not '+1'"},
    {"--threads 0x10", "not '0x10'"},
    {"--threads 4k", "not '4k'"},
    {"--threads ''", "not ''"},
    {"--any 18446744073709551616", "option '--any' wants a number, not '18446744073709551616'"},
    {"--shard-size 5X", "option '--shard-size' wants a size such as 4096, 5G or 500MB of at least 1, not '5X'"},
    {"--shard-size 0", "of at least 1, not '0'"},
    {"--damping x", "option '--damping' wants a number, not 'x'"},
    {"--damping nan", "not 'nan'"},
    {"--damping inf", "not 'inf'"},
    {"--damping 0x1p3", "not '0x1p3'"},
    {"--damping 1e999", "not '1e999'"},
    {"--damping 1.5.5", "not '1.5.5'"},
    {"--damping ''", "not ''"},
    {"", "'quern convert SRC DST' wants 1 operand, not 0"},
    {"a b c", "'c' is one operand too many for 'quern convert SRC DST'"},
};

TEST(opt, mistakes_are_named)
{
    for (size_t r = 0; r < sizeof bad_rows / sizeof bad_rows[0]; r++) {
        struct err e = {0};

        ct_case("'%s'", bad_rows[r].text);
        EXPECT_FALSE(parse(bad_rows[r].text, &e));
        EXPECT_ERR(e, ERR_USAGE, bad_rows[r].message);
    }
    mem_free(v.keep.items);
    v.keep.items = NULL;
}

TEST(opt, numbers_reach_their_limits)
{
    struct err e = {0};

    ASSERT_OK(parse("--any 18446744073709551615 --threads 1024 --damping .5 x", &e), e);
    EXPECT_EQ_U64(UINT64_MAX, v.any);
    EXPECT_EQ_U64(1024, v.threads);
    EXPECT_NEAR_F64(0.5, v.damping, 0);
}

static const struct size_row {
    const char *text;
    bool good;
    uint64_t bytes;
} size_rows[] = {
    {"0", true, 0},
    {"4096", true, 4096},
    {"1K", true, 1024},
    {"3M", true, 3145728},
    {"5G", true, 5368709120},
    {"2T", true, 2199023255552},
    {"1KB", true, 1000},
    {"500MB", true, 500000000},
    {"5GB", true, 5000000000},
    {"2TB", true, 2000000000000},
    {"18446744073709551615", true, UINT64_MAX},
    {"16777215T", true, 16777215ull << 40},
    {"18446744073709551616", false, 0},
    {"16777216T", false, 0},
    {"", false, 0},
    {"G", false, 0},
    {"-5G", false, 0},
    {"+5G", false, 0},
    {" 5G", false, 0},
    {"5 G", false, 0},
    {"5GiB", false, 0},
    {"5GBx", false, 0},
    {"5g", false, 0},
    {"5B", false, 0},
    {"1.5G", false, 0},
    {"0x5G", false, 0},
    {"5P", false, 0},
};

TEST(opt, sizes_with_and_without_units)
{
    for (size_t r = 0; r < sizeof size_rows / sizeof size_rows[0]; r++) {
        uint64_t bytes = 0;

        ct_case("'%s'", size_rows[r].text);
        EXPECT_TRUE(opt_parse_size(size_rows[r].text, &bytes) == size_rows[r].good);
        if (size_rows[r].good)
            EXPECT_EQ_U64(size_rows[r].bytes, bytes);
    }
}

TEST(opt, help_is_laid_out_in_columns)
{
    static const char want[] = "usage: quern convert [options] SRC DST\n"
                               "\n"
                               "Converts a checkpoint.\n"
                               "\n"
                               "  -f, --force            replace what is there\n"
                               "  -v, --verbose          say more\n"
                               "  -r, --recipe FILE      what to do with which tensor\n"
                               "      --keep PATTERN     tensors to leave alone\n"
                               "  -t, --threads N        at most so many threads\n"
                               "      --shard-size SIZE  cut the output into files of this size\n"
                               "      --any N            any number\n"
                               "  -d, --damping X        how much\n"
                               "  -j, --json[=FILE]      print JSON, here or there\n"
                               "  -h, --help             print this help\n";
    struct arena a = {0};
    struct err e = {0};
    char *path = path_join(&a, ct_temp_dir(), "help"), *got = NULL;
    size_t bytes = 0;
    int kept = dup(STDOUT_FILENO);

    fflush(stdout);
    ASSERT_TRUE(freopen(path, "w", stdout) != NULL);
    opt_print_help(&command);
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    ASSERT_OK(file_slurp(path, 10000, &got, &bytes, &e), e);
    EXPECT_STR_EQ(want, got);
    mem_free(got);
    arena_release(&a);
}
