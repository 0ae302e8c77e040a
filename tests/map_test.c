#include "formats/base/map.h"

#include <string.h>

#include "formats/base/mem.h"
#include "tests/ct.h"

TEST(map, a_hundred_thousand_keys_are_all_found)
{
    enum { KEY_COUNT = 100000 };
    struct arena a = {0};
    struct map m = {0};

    for (size_t i = 0; i < KEY_COUNT; i++)
        ASSERT_TRUE(map_put(&m, arena_printf(&a, "model.layers.%zu.experts.%zu.w", i % 61, i), i));
    EXPECT_EQ_U64(KEY_COUNT, m.count);
    for (size_t i = 0; i < KEY_COUNT; i++) {
        ct_case("key %zu", i);
        ASSERT_EQ_U64(i, map_get(&m, arena_printf(&a, "model.layers.%zu.experts.%zu.w", i % 61, i)));
        ASSERT_EQ_U64(MAP_NONE, map_get(&m, arena_printf(&a, "model.layers.%zu.experts.%zu.b", i % 61, i)));
    }
    map_release(&m);
    arena_release(&a);
}

TEST(map, a_second_put_leaves_the_first)
{
    struct map m = {0};

    EXPECT_TRUE(map_put(&m, "a", 1));
    EXPECT_FALSE(map_put(&m, "a", 2));
    EXPECT_EQ_U64(1, map_get(&m, "a"));
    EXPECT_EQ_U64(1, m.count);
    map_release(&m);
}

TEST(map, keys_may_be_part_of_a_longer_text)
{
    struct map m = {0};

    map_put(&m, "layers", 1);
    map_put(&m, "layers.0", 2);
    map_put(&m, "", 3);
    EXPECT_EQ_U64(1, map_get_n(&m, "layers.0", 6));
    EXPECT_EQ_U64(2, map_get_n(&m, "layers.0.w", 8));
    EXPECT_EQ_U64(3, map_get_n(&m, "x", 0));
    EXPECT_EQ_U64(MAP_NONE, map_get_n(&m, "layers.0", 7));
    EXPECT_EQ_U64(MAP_NONE, map_get_n(&m, "layers\0", 7));
    map_release(&m);
}

TEST(map, an_empty_map_has_nothing)
{
    struct map m = {0};

    EXPECT_EQ_U64(MAP_NONE, map_get(&m, "a"));
    map_release(&m);
    map_release(&m);
}
