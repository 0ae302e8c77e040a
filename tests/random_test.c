#include "formats/base/random.h"

#include "tests/ct.h"

/* The first five of SplitMix64 from 1234567, as Rosetta Code lists them for it. */
TEST(random, is_splitmix64)
{
    static const uint64_t want[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                    4593380528125082431u, 16408922859458223821u};
    struct random_state r = {1234567};

    for (size_t i = 0; i < 5; i++)
        EXPECT_EQ_U64(want[i], random_u64(&r));
}

TEST(random, values_stay_below_and_are_even)
{
    struct random_state r = {7};
    unsigned seen[6] = {0};

    for (int i = 0; i < 60000; i++) {
        uint64_t value = random_below(&r, 6);
        double unit = random_unit(&r);
        ASSERT_TRUE(value < 6);
        ASSERT_TRUE(unit >= 0 && unit < 1);
        seen[value]++;
    }
    for (int i = 0; i < 6; i++)
        EXPECT_NEAR_F64(10000, seen[i], 400); /* four standard deviations are 365 */
    EXPECT_EQ_U64(0, random_below(&r, 1));
}
