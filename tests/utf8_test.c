#include "formats/base/utf8.h"

#include <string.h>

#include "tests/ct.h"

TEST(utf8, every_code_point_comes_back)
{
    for (uint32_t code = 0; code < 0x110000; code++) {
        char text[UTF8_BYTES_MAX];
        size_t bytes = utf8_put(code, text);
        bool surrogate = code >= 0xd800 && code < 0xe000;

        if (utf8_step(text, bytes) != (surrogate ? 0 : bytes) || (!surrogate && utf8_code(text, bytes) != code) ||
            (bytes > 1 && utf8_step(text, bytes - 1) != 0)) {
            ct_case("U+%04x", code);
            EXPECT_TRUE(false);
            return;
        }
    }
}

TEST(utf8, the_first_bad_byte_is_found)
{
    static const struct {
        const char *text;
        size_t end;
    } rows[] = {
        {"", 0},
        {"abc", 3},
        {"a\x80", 1},
        {"\xc1\xbf", 0},
        {"\xe0\x9f\xbf", 0},
        {"a\xe2\x82", 1},
        {"\xed\xa0\x80", 0},
        {"\xf0\x8f\xbf\xbf", 0},
        {"\xf4\x90\x80\x80", 0},
        {"\xf5\x80\x80\x80", 0},
        {"\xe2\x82\xac\xff", 3},
        {"\xf0\x9f\x98\x80", 4},
    };

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        ct_case("row %zu", r);
        EXPECT_EQ_U64(rows[r].end, utf8_end(rows[r].text, strlen(rows[r].text)));
    }
}

TEST(utf8, an_end_that_may_still_grow_is_told_from_a_broken_one)
{
    static const struct {
        const char *text;
        size_t unfinished;
    } rows[] = {
        {"", 0},      {"abc", 0},          {"\xe2\x82\xac", 0},
        {"a\xe2", 1}, {"a\xe2\x82", 2},    {"\xf0\x9f\x98", 3},
        {"a\x82", 0}, {"\x82\x82\x82", 0}, {"\xf0\x9f\x98\x80", 0},
        {"\xff", 0},  {"\xed\xa0", 0},     {"\xe2\x82\xac\xc3", 1},
    };

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        ct_case("row %zu", r);
        EXPECT_EQ_U64(rows[r].unfinished, utf8_unfinished(rows[r].text, strlen(rows[r].text)));
    }
}

TEST(utf8, white_space_is_unicodes)
{
    size_t count = 0;

    for (uint32_t code = 0; code < 0x110000; code++)
        count += utf8_is_space(code);
    EXPECT_EQ_U64(25, count);
    EXPECT_TRUE(utf8_is_space(0x3000));
    EXPECT_FALSE(utf8_is_space(0x200b));
    EXPECT_FALSE(utf8_is_space(0x1c));
}
