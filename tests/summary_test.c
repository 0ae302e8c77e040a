#include "convert/summary.h"

#include "formats/base/units.h"
#include "tests/plan_support.h"

TEST(summary, sizes_have_three_digits)
{
    static const struct {
        uint64_t bytes;
        const char *want;
    } cases[] = {
        {0, "0 B"},          {999, "999 B"},       {1000, "1.00 kB"},        {9994, "9.99 kB"},
        {9995, "10.0 kB"},   {99949, "99.9 kB"},   {99950, "100 kB"},        {999499, "999 kB"},
        {999500, "1.00 MB"}, {1000000, "1.00 MB"}, {688574839360, "689 GB"}, {UINT64_MAX, "18447 PB"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[BYTES_TEXT];
        EXPECT_STR_EQ(cases[i].want, bytes_text((double)cases[i].bytes, text));
    }
}

/* Rows are a partition: nothing is counted twice, nothing is left out. */
TEST(summary, rows_add_up_to_the_plan)
{
    static const char *const recipes[] = {"f32", "fp8", "int4:g32:asym"};

    for (size_t i = 0; i < sizeof recipes / sizeof recipes[0]; i++) {
        struct conversion_case c = {.recipe = recipes[i]};
        struct planned p;
        struct summary s;
        struct arena a = {0};
        struct err e = {0};
        uint64_t in = 0, out = 0, weights = 0;
        ct_case("%s", recipes[i]);
        ASSERT_OK(planned_open(&p, "samples/tiny-v3", "nowhere", &c, &e), e);
        summary_make(&s, &a, &p.plan, &p.plan.outputs[0], NULL);
        for (size_t r = 0; r < s.row_count; r++) {
            in += s.rows[r].in_bytes;
            out += s.rows[r].out_bytes;
            weights += s.rows[r].weight_count;
        }
        EXPECT_EQ_U64(p.source.checkpoint.tensor_bytes, in);
        EXPECT_EQ_U64(p.plan.outputs[0].tensor_bytes, out);
        EXPECT_EQ_U64(p.plan.weight_count, weights);
        arena_release(&a);
        planned_close(&p);
    }
}
