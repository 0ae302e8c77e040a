#include "convert/space.h"
#include "tests/convert_support.h"
#include "tests/ct.h"

TEST(space, the_peak_is_what_the_shards_take)
{
    struct planned p = {0};
    struct conversion_case c = {.recipe = "bf16", .options = {.shard_bytes = 1000000}};
    struct err e = {0};

    ASSERT_OK(planned_open(&p, "samples/tiny-v3", "nowhere", &c, &e), e);
    EXPECT_EQ_U64(p.plan.outputs[0].file_bytes, space_peak(&p.plan, 0, false));
    planned_close(&p);
}

/* The most that is there at once: all of the output, less the source shards whose last reader is two output shards
 * back. */
TEST(space, a_source_that_goes_makes_room)
{
    struct planned p = {0};
    struct conversion_case c = {.recipe = "bf16", .options = {.shard_bytes = 1000000}};
    struct err e = {0};
    uint64_t source = 0;

    ASSERT_OK(planned_open(&p, "samples/tiny-v3", "nowhere", &c, &e), e);
    for (size_t i = 0; i < p.source.checkpoint.shard_count; i++)
        source += p.source.checkpoint.shards[i].bytes;
    uint64_t whole = p.plan.outputs[0].file_bytes, peak = space_peak(&p.plan, 0, true);
    if (!path_same_device("nowhere", "samples/tiny-v3")) {
        planned_close(&p);
        ct_skip("the sample is on another file system");
    }
    EXPECT_TRUE(peak < whole);
    EXPECT_TRUE(peak >= whole - source);
    planned_close(&p);
}

TEST(space, too_little_is_refused_with_both_numbers)
{
    struct planned p = {0};
    struct conversion_case c = {.recipe = "f32"};
    struct err e = {0};

    ASSERT_OK(planned_open(&p, "samples/tiny-v3", "nowhere", &c, &e), e);
    EXPECT_OK(space_check(&p.plan, false, &e), e);
    p.plan.outputs[0].shards[0].bytes = UINT64_C(1) << 62;
    EXPECT_FALSE(space_check(&p.plan, false, &e));
    EXPECT_ERR(e, ERR_IO, "not enough room for 'nowhere'");
    EXPECT_STR_HAS(e.text, " free");
    planned_close(&p);
}
