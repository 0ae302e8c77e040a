#include "formats/base/units.h"
#include "tests/ct.h"

TEST(units, bytes_have_three_digits_and_a_unit_of_a_thousand)
{
    static const struct {
        double bytes;
        const char *text;
    } rows[] = {{0, "0 B"},        {999, "999 B"},      {1000, "1.00 kB"},  {9994, "9.99 kB"},
                {9996, "10.0 kB"}, {99960, "100 kB"},   {999499, "999 kB"}, {999500, "1.00 MB"},
                {689e9, "689 GB"}, {1.5e12, "1.50 TB"}, {2e15, "2.00 PB"},  {123456e15, "123456 PB"}};

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[BYTES_TEXT];
        ct_case("%g", rows[i].bytes);
        EXPECT_STR_EQ(rows[i].text, bytes_text(rows[i].bytes, text));
    }
}

TEST(units, one_is_singular_and_none_is_not)
{
    EXPECT_STR_EQ("s", plural(0));
    EXPECT_STR_EQ("are", is_are(0));
    EXPECT_STR_EQ("", plural(1));
    EXPECT_STR_EQ("is", is_are(1));
    EXPECT_STR_EQ("s", plural(2));
    EXPECT_STR_EQ("are", is_are(UINT64_MAX));
}
