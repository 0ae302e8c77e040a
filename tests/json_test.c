#include "formats/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "formats/base/file.h"
#include "tests/ct.h"

#define TEXT(t) (t), sizeof(t) - 1

static bool parses(const char *text, size_t bytes, unsigned flags, struct err *e)
{
    struct json_doc d = {0};
    bool ok = json_parse(&d, text, bytes, flags, e);

    json_release(&d);
    return ok;
}

/* ---- what RFC 8259 allows ---- */

static const struct good {
    const char *name, *text;
    size_t bytes;
} good[] = {
    {"null", TEXT("null")},
    {"true", TEXT("true")},
    {"false", TEXT("false")},
    {"zero", TEXT("0")},
    {"minus zero", TEXT("-0")},
    {"all of a number", TEXT("-12.50e+10")},
    {"exponent alone", TEXT("1E400")},
    {"small exponent", TEXT("1e-400")},
    {"number of 70 digits", TEXT("[1111111111222222222233333333334444444444555555555566666666667777777777, 1]")},
    {"fraction of 70 digits", TEXT("[0.1111111111222222222233333333334444444444555555555566666666667777777777]")},
    {"empty string", TEXT("\"\"")},
    {"all short escapes", TEXT("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"")},
    {"surrogate pair", TEXT("\"\\uD83D\\uDE00\"")},
    {"delete is no control character", TEXT("\"\x7f\"")},
    {"two, three and four bytes", TEXT("\"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\"")},
    {"the ends of UTF-8's ranges", TEXT("\"\xc2\x80 \xdf\xbf \xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf "
                                        "\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf\"")},
    {"empty array", TEXT("[]")},
    {"empty object", TEXT(" { } ")},
    {"space everywhere", TEXT("\t{ \"a\" :\r\n[ 1 , 2 ] , \"b\" : { } }\n")},
    {"the same key in two objects", TEXT("[{\"a\":1},{\"a\":1}]")},
    {"the same key at two depths", TEXT("{\"a\":{\"a\":1},\"b\":{\"a\":{\"b\":1}}}")},
    {"empty key", TEXT("{\"\":1}")},
};

TEST(json, what_the_rfc_allows_is_read)
{
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct err e = {0};
        ct_case("%s", good[i].name);
        EXPECT_OK(parses(good[i].text, good[i].bytes, JSON_STRICT, &e), e);
        EXPECT_OK(parses(good[i].text, good[i].bytes, JSON_COMMENTS, &e), e);
    }
}

/* ---- what it does not ---- */

static const struct bad {
    const char *name, *text;
    size_t bytes;
    unsigned flags;
    const char *part;
} bad[] = {
    {"nothing", TEXT(""), 0, "the text ends where a value should be at line 1 column 1"},
    {"space alone", TEXT(" \n "), 0, "the text ends where a value should be at line 2 column 2"},
    {"byte order mark", TEXT("\xef\xbb\xbf{}"), 0, "byte order mark"},
    {"two values", TEXT("1 2"), 0, "'2' stands where the end of the text should be at line 1 column 3"},
    {"NUL behind", TEXT("{}\0"), 0, "byte 0x00 stands where the end of the text"},
    {"NUL inside", TEXT("[1,\0 2]"), 0, "byte 0x00 stands where a value"},
    {"form feed", TEXT("[\f]"), 0, "byte 0x0c stands where a value"},
    {"no-break space", TEXT("[\xc2\xa0]"), 0, "byte 0xc2 stands where a value"},
    {"half a word", TEXT("tru"), 0, "'t' stands where a value should be"},
    {"capital word", TEXT("True"), 0, "'T' stands where a value should be"},
    {"longer word", TEXT("nulls"), 0, "'s' stands where the end of the text"},
    {"NaN", TEXT("[NaN]"), 0, "'N' stands where a value"},
    {"infinity", TEXT("-Infinity"), 0, "minus sign without digits"},
    {"bare word as key", TEXT("{a:1}"), 0, "'a' stands where a key or '}' should be"},
    {"number as key", TEXT("{1:1}"), 0, "'1' stands where a key or '}' should be"},
    {"no colon", TEXT("{\"a\" 1}"), 0, "'1' stands where ':' should be"},
    {"no value", TEXT("{\"a\":}"), 0, "'}' stands where a value should be"},
    {"no value, comments allowed", TEXT("{\"a\":}"), JSON_COMMENTS, "'}' stands where a value should be"},
    {"no comma", TEXT("[1 2]"), 0, "'2' stands where ',' or ']' should be"},
    {"no comma in an object", TEXT("{\"a\":1 \"b\":2}"), 0, "'\"' stands where ',' or '}' should be"},
    {"trailing comma", TEXT("[1,]"), 0, "']' stands where a value should be"},
    {"trailing comma in an object", TEXT("{\"a\":1,}"), 0, "'}' stands where a key should be"},
    {"leading comma", TEXT("[,1]"), JSON_COMMENTS, "',' stands where a value should be"},
    {"comma alone", TEXT("[,]"), JSON_COMMENTS, "',' stands where a value should be"},
    {"two trailing commas", TEXT("[1,,]"), JSON_COMMENTS, "',' stands where a value should be"},
    {"trailing comma behind the root", TEXT("{},"), JSON_COMMENTS, "',' stands where the end of the text"},
    {"array without an end", TEXT("[1"), 0, "the text ends where ',' or ']' should be"},
    {"object without an end", TEXT("{\"a\":1"), 0, "the text ends where ',' or '}' should be"},
    {"wrong bracket", TEXT("[1}"), 0, "'}' stands where ',' or ']' should be"},
    {"wrong bracket, first", TEXT("{]"), 0, "']' stands where a key or '}' should be"},
    {"string without an end", TEXT("[\"abc"), 0, "string without an end at line 1 column 2"},
    {"string that ends in a backslash", TEXT("\"abc\\"), 0, "unknown escape"},
    {"raw newline", TEXT("\"a\nb\""), 0, "raw control character in a string at line 1 column 3"},
    {"raw NUL", TEXT("\"a\0b\""), 0, "raw control character in a string"},
    {"raw tab in a key", TEXT("{\"a\t\":1}"), 0, "raw control character in a string"},
    {"unknown escape", TEXT("\"\\x41\""), 0, "unknown escape"},
    {"backslash and NUL", TEXT("\"\\\0\""), 0, "unknown escape"},
    {"three hex digits", TEXT("\"\\u123\""), 0, "\\u without four hex digits"},
    {"hex digits that end", TEXT("\"\\u12"), 0, "\\u without four hex digits"},
    {"sign in hex digits", TEXT("\"\\u+123\""), 0, "\\u without four hex digits"},
    {"escaped NUL", TEXT("\"a\\u0000\""), 0, "\\u0000 in a string"},
    {"escaped NUL in a key", TEXT("{\"a\\u0000\":1}"), 0, "\\u0000 in a string"},
    {"lone high surrogate", TEXT("\"\\ud800\""), 0, "lone high surrogate at line 1 column 2"},
    {"high surrogate and a letter", TEXT("\"\\ud800a\""), 0, "lone high surrogate"},
    {"high surrogate that ends", TEXT("\"\\ud800\\u"), 0, "lone high surrogate"},
    {"two high surrogates", TEXT("\"\\ud800\\ud800\""), 0, "lone high surrogate"},
    {"lone low surrogate", TEXT("\"\\udc00\""), 0, "lone low surrogate"},
    {"pair in the wrong order", TEXT("\"\\ude00\\ud83d\""), 0, "lone low surrogate"},
    {"overlong slash", TEXT("\"\xc0\xaf\""), 0, "invalid UTF-8 at line 1 column 2"},
    {"overlong in three bytes", TEXT("\"\xe0\x9f\xbf\""), 0, "invalid UTF-8"},
    {"overlong in four bytes", TEXT("\"\xf0\x8f\xbf\xbf\""), 0, "invalid UTF-8"},
    {"surrogate in UTF-8", TEXT("\"\xed\xa0\x80\""), 0, "invalid UTF-8"},
    {"past U+10FFFF", TEXT("\"\xf4\x90\x80\x80\""), 0, "invalid UTF-8"},
    {"five bytes", TEXT("\"\xf8\x88\x80\x80\x80\""), 0, "invalid UTF-8"},
    {"lone continuation", TEXT("\"\x80\""), 0, "invalid UTF-8"},
    {"truncated sequence", TEXT("\"\xe2\x82\""), 0, "invalid UTF-8"},
    {"truncated at the end", TEXT("\"\xf0\x9f\x98"), 0, "invalid UTF-8"},
    {"invalid UTF-8 in a comment", TEXT("// \xff\n1"), JSON_COMMENTS, "invalid UTF-8"},
    {"leading zero", TEXT("01"), 0, "number with a leading zero"},
    {"minus leading zero", TEXT("-01"), 0, "number with a leading zero"},
    {"plus", TEXT("+1"), 0, "'+' stands where a value should be"},
    {"minus alone", TEXT("-"), 0, "minus sign without digits"},
    {"point first", TEXT(".5"), 0, "'.' stands where a value should be"},
    {"point last", TEXT("5."), 0, "no digit behind the decimal point"},
    {"exponent without digits", TEXT("1e"), 0, "no digit in the exponent"},
    {"exponent of a sign", TEXT("1e+"), 0, "no digit in the exponent"},
    {"hexadecimal", TEXT("0x10"), 0, "'x' stands where the end of the text"},
    {"duplicate key", TEXT("{\"a\":1,\"b\":2,\"a\":3}"), 0, "duplicate key 'a' at line 1 column 14"},
    {"duplicate key by an escape", TEXT("{\"ab\":1,\"\\u0061b\":3}"), 0, "duplicate key 'ab'"},
    {"duplicate key by two escapes", TEXT("{\"\\/\":1,\"\\u002F\":3}"), 0, "duplicate key '/'"},
    {"duplicate key beyond the BMP", TEXT("{\"\xf0\x9f\x98\x80\":1,\"\\uD83D\\uDE00\":3}"), 0, "duplicate key"},
    {"duplicate empty key", TEXT("{\"\":1,\"\":3}"), 0, "duplicate key ''"},
    {"duplicate key inside", TEXT("{\"x\":[{\"y\":0,\"y\":0}]}"), 0, "duplicate key 'y' at line 1 column 14, in 'x'"},
    {"comment", TEXT("// no\n1"), 0, "'/' stands where a value"},
    {"comment without an end", TEXT("1 /* "), JSON_COMMENTS, "comment without an end at line 1 column 3"},
    {"comment that begins and ends in one star", TEXT("/*/ 1"), JSON_COMMENTS, "comment without an end"},
    {"slash alone", TEXT("/ 1"), JSON_COMMENTS, "'/' stands where a comment"},
    {"minus in integers", TEXT("{\"a\":[1,-1]}"), JSON_INTEGERS_ONLY,
     "'-1' is not an integer from 0 to 2^64-1 at line 1 column 9, in 'a'"},
    {"fraction in integers", TEXT("[1.0]"), JSON_INTEGERS_ONLY, "'1.0' is not an integer"},
    {"exponent in integers", TEXT("[1e3]"), JSON_INTEGERS_ONLY, "'1e3' is not an integer"},
    {"2^64 in integers", TEXT("[18446744073709551616]"), JSON_INTEGERS_ONLY,
     "'18446744073709551616' is not an integer"},
    {"leading space", TEXT(" {}"), JSON_NO_LEADING_SPACE, "byte 0x20 stands where the first byte of a value"},
    {"leading newline", TEXT("\n{}"), JSON_NO_LEADING_SPACE, "byte 0x0a stands where the first byte of a value"},
};

TEST(json, what_the_rfc_forbids_is_refused_with_its_place)
{
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err e = {0};
        ct_case("%s", bad[i].name);
        EXPECT_FALSE(parses(bad[i].text, bad[i].bytes, bad[i].flags, &e));
        EXPECT_ERR(e, ERR_FORMAT, bad[i].part);
    }
}

/* A text without NUL behind it: a reader that steps past the end is seen by the sanitizer. */
TEST(json, every_prefix_of_a_document_is_refused_or_read_without_looking_further)
{
    static const char text[] = "{\"a\\u00e9\\ud83d\\ude00\":[-1.5e+3,true,null,\"\\n\"],\"b\":{\"c\":/*x*/0,},}//y";

    for (size_t bytes = 0; bytes < sizeof text - 1; bytes++) {
        char *copy = mem_grow(NULL, bytes + 1, 1);
        memcpy(copy, text, bytes);
        copy[bytes] = '1'; /* would go on with a number */
        ct_case("%zu bytes", bytes);
        EXPECT_TRUE(parses(copy, bytes, JSON_COMMENTS, NULL) == (bytes >= sizeof text - 4 && bytes != sizeof text - 3));
        mem_free(copy);
    }
}

TEST(json, nesting_of_127_is_read_and_of_128_refused)
{
    static const char *const brackets[] = {"[]", "{}"};

    for (size_t kind = 0; kind < 2; kind++)
        for (size_t depth = 127; depth <= 128; depth++) {
            struct buf text = {0};
            struct err e = {0};
            ct_case("%s %zu", brackets[kind], depth);
            for (size_t i = 0; i < depth; i++) {
                buf_add(&text, brackets[kind], 1);
                if (kind && i + 1 < depth)
                    buf_puts(&text, "\"k\":");
            }
            for (size_t i = 0; i < depth; i++)
                buf_add(&text, brackets[kind] + 1, 1);
            EXPECT_TRUE(parses(text.data, text.bytes, JSON_STRICT, &e) == (depth == 127));
            if (depth == 128)
                EXPECT_ERR(e, ERR_FORMAT, "nesting deeper than 127");
            buf_release(&text);
        }
}

/* ---- values ---- */

TEST(json, integers_are_exact_above_two_to_the_53)
{
    static const struct {
        const char *text;
        bool is_u64;
        uint64_t u64;
        double value;
    } rows[] = {
        {"0", true, 0, 0.0},
        {"9007199254740993", true, 9007199254740993u, 9007199254740992.0},
        {"18446744073709551615", true, UINT64_MAX, 18446744073709551616.0},
        {"18446744073709551616", false, 0, 18446744073709551616.0},
        {"99999999999999999999999", false, 0, 99999999999999999999999.0},
        {"1.0", false, 0, 1.0},
        {"1e3", false, 0, 1000.0},
        {"-1", false, 0, -1.0},
        {"-0", false, 0, -0.0},
        {"1e999", false, 0, (double)INFINITY},
        {"0.1", false, 0, 0.1},
        /* The decimal expansion of 0.1's double and a digit more: 64 bytes and longer were cut by cJSON. */
        {"0.1000000000000000055511151231257827021181583404541015625000000000001", false, 0, 0.1},
        {"100000000000000000000000000000000000000000000000000000000000000000000000000000000", false, 0, 1e80},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct json_doc d = {0};
        struct err e = {0};
        uint64_t u64 = 0;
        struct buf text = {0};
        const struct json *array = NULL, *m = NULL;
        /* In the middle, so that a wrong index would show. */
        buf_printf(&text, "{\"x\":[[7,{\"y\":[8]}],{},[],%s,9]}", rows[i].text);
        ct_case("%s", rows[i].text);
        ASSERT_OK(json_parse(&d, text.data, text.bytes, JSON_STRICT, &e), e);
        array = json_get(d.root, "x");
        m = json_next(json_next(json_next(json_first(array))));
        EXPECT_TRUE(json_u64(&d, m, &u64) == rows[i].is_u64);
        EXPECT_EQ_U64(rows[i].u64, u64);
        EXPECT_TRUE(json_double(&d, m) == rows[i].value);
        EXPECT_TRUE(json_u64(&d, json_next(m), &u64) && u64 == 9);
        json_release(&d);
        buf_release(&text);
    }
}

TEST(json, look_ups_find_types_keys_and_strings)
{
    static const char text[] =
        "{\"n\":null,\"b\":true,\"d\":1.5,\"s\":\"a\\u00e9\\ud83d\\ude00\\/\",\"a\":[1,2],\"o\":{}}";
    static const struct {
        const char *key;
        enum json_type type;
        size_t count;
    } rows[] = {
        {"n", JSON_NULL, 0},   {"b", JSON_BOOL, 0},  {"d", JSON_NUMBER, 0},
        {"s", JSON_STRING, 0}, {"a", JSON_ARRAY, 2}, {"o", JSON_OBJECT, 0},
    };
    struct json_doc d = {0};
    struct err e = {0};
    uint64_t u64 = 0;
    double number = 0;
    const char *s = NULL;
    const struct json *m = NULL;

    ASSERT_OK(json_parse(&d, TEXT(text), JSON_STRICT, &e), e);
    EXPECT_EQ_U64(6, json_count(d.root));
    m = json_first(d.root);
    for (size_t i = 0; i < 6; i++, m = json_next(m)) {
        ct_case("%s", rows[i].key);
        EXPECT_STR_EQ(rows[i].key, json_key(m));
        EXPECT_TRUE(m == json_get(d.root, rows[i].key));
        EXPECT_EQ_I64(rows[i].type, json_type(m));
        EXPECT_EQ_U64(rows[i].count, json_count(m));
        EXPECT_TRUE((json_string(m) != NULL) == (rows[i].type == JSON_STRING));
        EXPECT_TRUE(json_bool(m) == (rows[i].type == JSON_BOOL));
        EXPECT_TRUE(isnan(json_double(&d, m)) == (rows[i].type != JSON_NUMBER));
    }
    EXPECT_TRUE(m == NULL);
    EXPECT_TRUE(json_get(d.root, "N") == NULL);
    EXPECT_TRUE(json_get(json_get(d.root, "a"), "n") == NULL);
    EXPECT_TRUE(json_key(json_first(json_get(d.root, "a"))) == NULL);

    EXPECT_OK(json_need_string(d.root, "s", &s, &e), e);
    EXPECT_STR_EQ("a\xc3\xa9\xf0\x9f\x98\x80/", s);
    EXPECT_OK(json_need_double(&d, d.root, "d", &number, &e), e);
    EXPECT_TRUE(number == 1.5);
    EXPECT_FALSE(json_need_u64(&d, d.root, "d", &u64, &e));
    EXPECT_ERR(e, ERR_FORMAT, "'d' is 1.5, not an integer from 0 to 2^64-1");
    EXPECT_FALSE(json_need_u64(&d, d.root, "s", &u64, &e));
    EXPECT_ERR(e, ERR_FORMAT, "'s' is a string, not a number");
    EXPECT_FALSE(json_need_string(d.root, "zz", &s, &e));
    EXPECT_ERR(e, ERR_FORMAT, "'zz' is missing");
    EXPECT_FALSE(json_need_string(json_get(d.root, "a"), "k", &s, &e));
    EXPECT_ERR(e, ERR_FORMAT, "an array stands where an object with 'k' should be");
    json_release(&d);
    json_release(&d);
}

TEST(json, comments_and_one_trailing_comma_are_space)
{
    static const char text[] = "// first\n{ /* a // b */ \"a\": [1, 2, /**/ ], // \"x\": 1,\n"
                               "  \"url\": \"http://x/*y*/\",\n  \"b\": {\"c\": 3, /*\n*/ },\n} // last";
    struct json_doc d = {0};
    struct err e = {0};
    uint64_t c = 0;

    ASSERT_OK(json_parse(&d, TEXT(text), JSON_COMMENTS, &e), e);
    EXPECT_EQ_U64(3, json_count(d.root));
    EXPECT_EQ_U64(2, json_count(json_get(d.root, "a")));
    EXPECT_STR_EQ("http://x/*y*/", json_string(json_get(d.root, "url")));
    EXPECT_OK(json_need_u64(&d, json_get(d.root, "b"), "c", &c, &e), e);
    EXPECT_EQ_U64(3, c);
    json_release(&d);
}

TEST(json, a_line_number_counts_the_lines_of_comments)
{
    static const char text[] = "/* one\n two */\n{\"a\": !}";
    struct err e = {0};

    EXPECT_FALSE(parses(TEXT(text), JSON_COMMENTS, &e));
    EXPECT_ERR(e, ERR_FORMAT, "'!' stands where a value should be at line 3 column 7");
}

TEST(json, a_file_is_named_in_its_errors)
{
    struct arena a = {0};
    struct json_doc d = {0};
    struct err e = {0};
    char *path = path_join(&a, ct_temp_dir(), "x.json");

    ASSERT_OK(file_write_whole(path, TEXT("{\"a\":1}"), &e), e);
    EXPECT_OK(json_load(&d, path, 7, JSON_STRICT, &e), e);
    json_release(&d);
    EXPECT_FALSE(json_load(&d, path, 6, JSON_STRICT, &e));
    EXPECT_ERR(e, ERR_LIMIT, "x.json");
    ASSERT_OK(file_write_whole(path, TEXT("{\"a\":}"), &e), e);
    EXPECT_FALSE(json_load(&d, path, 100, JSON_STRICT, &e));
    EXPECT_ERR(e, ERR_FORMAT, "x.json': '}' stands where a value should be at line 1 column 6");
    EXPECT_FALSE(json_load(&d, path_join(&a, ct_temp_dir(), "absent"), 100, JSON_STRICT, &e));
    EXPECT_ERR(e, ERR_IO, "absent");
    arena_release(&a);
}

/* Of CPU, so that a crowded machine makes no difference. */
static double seconds(void)
{
    struct timespec t = {0};

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

TEST(json, an_object_of_100000_keys_is_checked_in_linear_time)
{
    struct buf text = {0};
    struct err e = {0};
    double begin = 0;

    buf_puts(&text, "{");
    for (int i = 0; i < 100000; i++)
        buf_printf(&text, "\"model.layers.%d.mlp.experts.%d.down_proj.weight\":\"model-00001-of-00163.safetensors\",",
                   i / 768, i % 768);
    buf_puts(&text, "\"model.layers.0.mlp.experts.5.down_proj.weight\":0}");
    begin = seconds();
    EXPECT_FALSE(parses(text.data, text.bytes, JSON_STRICT, &e));
    /* 20 ms on the machine it was written on; a quadratic check takes minutes. */
    EXPECT_TRUE(seconds() - begin < 3.0);
    EXPECT_ERR(e, ERR_FORMAT, "duplicate key 'model.layers.0.mlp.experts.5.down_proj.weight'");
    buf_release(&text);
}

/* ---- spans ---- */

TEST(json, a_member_span_is_the_value_and_nothing_else)
{
    static const char text[] =
        " { \"a\" : [1, {\"b\": \"}\"}] ,\n \"b\":\"x\\\"y,\" , \"\\u0063\": 12\n, \"d\":{ }\t} ";
    static const struct {
        const char *key, *value;
    } rows[] = {
        {"a", "[1, {\"b\": \"}\"}]"}, {"b", "\"x\\\"y,\""}, {"c", "12"}, {"d", "{ }"}, {"e", NULL}, {"", NULL},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t begin = 0, end = 0;
        bool found = json_member_span(TEXT(text), rows[i].key, &begin, &end);
        ct_case("'%s'", rows[i].key);
        ASSERT_TRUE(found == (rows[i].value != NULL));
        if (!found)
            continue;
        ASSERT_EQ_U64(strlen(rows[i].value), end - begin);
        EXPECT_MEM_EQ(rows[i].value, text + begin, end - begin);
    }
}

TEST(json, there_is_no_span_where_there_is_no_object)
{
    static const char *const texts[] = {"",     " ",      "[]",      "{}",       "\"a\"",
                                        "{\"a", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":\"x"};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        size_t begin = 0, end = 0;
        ct_case("%s", texts[i]);
        EXPECT_FALSE(json_member_span(texts[i], strlen(texts[i]), "a", &begin, &end));
    }
}

/* ---- writing ---- */

static void write_sample(struct json_writer *w, bool compact_rows)
{
    json_begin_object(w, NULL);
    json_put_string(w, "name", "a\"b");
    json_put_string(w, "nothing", NULL);
    json_begin_array(w, "rows");
    for (uint64_t i = 0; i < 2; i++) {
        json_begin_object(w, NULL);
        w->compact = w->compact || compact_rows;
        json_put_u64(w, "i", i);
        json_put_bool(w, "odd", i & 1);
        json_end(w, '}');
        if (compact_rows)
            w->compact = false;
    }
    json_end(w, ']');
    json_begin_array(w, "none");
    json_end(w, ']');
    json_put_i64(w, "low", INT64_MIN);
    json_put_raw(w, "raw", "[1, 2]");
    json_end(w, '}');
}

TEST(json, the_writer_indents_by_two_with_rows_on_one_line)
{
    struct buf out = {0};
    struct json_writer w = {.out = &out};
    struct err e = {0};

    write_sample(&w, true);
    EXPECT_STR_EQ("{\n"
                  "  \"name\": \"a\\\"b\",\n"
                  "  \"nothing\": null,\n"
                  "  \"rows\": [\n"
                  "    {\"i\":0,\"odd\":false},\n"
                  "    {\"i\":1,\"odd\":true}\n"
                  "  ],\n"
                  "  \"none\": [],\n"
                  "  \"low\": -9223372036854775808,\n"
                  "  \"raw\": [1, 2]\n"
                  "}",
                  out.data);
    EXPECT_OK(parses(out.data, out.bytes, JSON_STRICT, &e), e);
    buf_release(&out);
}

TEST(json, a_compact_writer_writes_no_space)
{
    struct buf out = {0};
    struct json_writer w = {.out = &out, .compact = true};

    write_sample(&w, false);
    EXPECT_STR_EQ("{\"name\":\"a\\\"b\",\"nothing\":null,\"rows\":[{\"i\":0,\"odd\":false},{\"i\":1,\"odd\":true}],"
                  "\"none\":[],\"low\":-9223372036854775808,\"raw\":[1, 2]}",
                  out.data);
    buf_release(&out);
}

TEST(json, quotes_escape_what_must_be_and_read_back)
{
    char all[260] = "";
    struct buf out = {0};
    struct json_doc d = {0};
    struct err e = {0};

    json_quote(&out, "a\"\\/\b\f\n\r\t\x01\x1f\x7f\xc3\xa9");
    EXPECT_STR_EQ("\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xc3\xa9\"", out.data);
    out.bytes = 0;
    for (int i = 1; i < 128; i++)
        all[i - 1] = (char)i;
    json_quote(&out, all);
    ASSERT_OK(json_parse(&d, out.data, out.bytes, JSON_STRICT, &e), e);
    EXPECT_STR_EQ(all, json_string(d.root));
    json_release(&d);
    buf_release(&out);
}

/* Names of folders are bytes; each that is no UTF-8 becomes U+FFFD. */
TEST(json, a_string_that_is_no_text_is_written_as_one)
{
    static const struct {
        const char *value, *text;
    } rows[] = {
        {"\xff", "\"\xEF\xBF\xBD\""},
        {"a\xc3(\"", "\"a\xEF\xBF\xBD(\\\"\""},
        {"\xc3\xa9\xe2\x82", "\"\xc3\xa9\xEF\xBF\xBD\xEF\xBF\xBD\""},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf out = {0};
        struct json_writer w = {.out = &out};
        ct_case("row %zu", i);
        json_put_string(&w, NULL, rows[i].value);
        EXPECT_STR_HAS(out.data, rows[i].text);
        buf_release(&out);
    }
}

TEST(json, doubles_are_short_and_read_back)
{
    static const struct {
        double value;
        const char *text;
    } rows[] = {
        {0.0, "0"},
        {1.0, "1"},
        {-2.5, "-2.5"},
        {0.1, "0.1"},
        {1e-6, "1e-06"},
        {1e300, "1e+300"},
        {1.0 / 3, "0.3333333333333333"},
        {0.1 + 0.2, "0.30000000000000004"},
        {5e-324, "4.94065645841247e-324"},
        {(double)NAN, "null"},
        {-(double)INFINITY, "null"},
    };
    uint64_t state = 1;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf out = {0};
        struct json_writer w = {.out = &out};
        json_put_double(&w, NULL, rows[i].value);
        EXPECT_STR_EQ(rows[i].text, out.data);
        buf_release(&out);
    }
    for (int i = 0; i < 2000; i++) {
        struct buf out = {0};
        struct json_writer w = {.out = &out};
        double value = 0;
        state = state * 6364136223846793005u + 1442695040888963407u;
        memcpy(&value, &state, sizeof value);
        json_put_double(&w, NULL, value);
        if (isfinite(value))
            EXPECT_TRUE(strtod(out.data, NULL) == value);
        buf_release(&out);
    }
}
