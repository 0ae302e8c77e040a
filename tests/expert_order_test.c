#include "convert/expert_order.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "tests/ct.h"

static const char config[HASH_HEX_BYTES] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/* Layers 0 and 2 of three have 8 experts in 4 groups, and MTP's layer 3. */
static struct arch small_arch(void)
{
    return (struct arch){.layers = 3,
                         .mtp_layers = 1,
                         .experts = 8,
                         .experts_per_token = 2,
                         .first_dense_layers = 0,
                         .moe_layer_freq = 2,
                         .groups = 4,
                         .topk_groups = 2};
}

static void add(struct routing_stats *s, uint64_t layer, uint32_t a, uint32_t b, unsigned times)
{
    const uint32_t ids[2] = {a, b};
    const float weights[2] = {0.5f, 0.5f};

    while (times-- > 0)
        routing_stats_add(s, layer, ids, weights, 1);
}

static void expect_order(const struct expert_orders *o, uint64_t layer, const uint32_t want[8])
{
    const struct expert_order *item = expert_orders_find(o, layer);

    ct_case("layer %d", (int)layer);
    ASSERT_TRUE(item != NULL);
    EXPECT_MEM_EQ(want, item->experts, 8 * sizeof *want);
    for (uint32_t i = 0; i < 8; i++)
        EXPECT_EQ_U64(i, item->place[item->experts[i]]);
}

TEST(expert_order, hot_ones_come_first_and_ties_keep_their_order)
{
    static const uint32_t free_order[8] = {5, 2, 6, 0, 1, 7, 3, 4}, group_order[8] = {5, 4, 6, 7, 2, 3, 0, 1},
                          index[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    struct arch arch = small_arch();
    struct routing_stats s = {0};
    struct arena a = {0};
    struct err e = {0};

    routing_stats_init(&s, 8, 2, 3, config, false);
    add(&s, 0, 2, 5, 3);
    add(&s, 0, 5, 6, 2);
    add(&s, 0, 0, 1, 1);
    add(&s, 0, 6, 7, 1); /* counts 1 1 3 0 0 5 3 1 */
    add(&s, 2, 0, 1, 1);
    for (unsigned groups = 0; groups < 2; groups++) {
        struct expert_order_options options = {.kind = ORDER_HOT, .keep_groups = groups, .stats = &s};
        struct expert_orders o;
        ASSERT_OK(expert_orders_make(&o, &a, &arch, &options, &e), e);
        ASSERT_EQ_U64(3, o.count);
        expect_order(&o, 0, groups ? group_order : free_order);
        expect_order(&o, 2, index);
        expect_order(&o, 3, index);
        EXPECT_TRUE(o.items[0].measured && !o.items[2].measured);
        EXPECT_TRUE(expert_orders_find(&o, 1) == NULL);
    }
    routing_stats_release(&s);
    arena_release(&a);
}

static bool make_from(const char *text, bool keep_groups, struct expert_orders *o, struct arena *a, struct err *e)
{
    struct arch arch = small_arch();
    char *path = path_join(a, ct_temp_dir(), "order");
    struct expert_order_options options = {.kind = ORDER_FILE, .keep_groups = keep_groups, .path = path};

    return file_write_whole(path, text, strlen(text), e) && expert_orders_make(o, a, &arch, &options, e);
}

TEST(expert_order, a_file_says_it_layer_by_layer)
{
    static const uint32_t two[8] = {7, 6, 5, 4, 3, 2, 1, 0}, others[8] = {1, 0, 2, 3, 4, 5, 6, 7};
    static const char *const texts[] = {
        "# by hand\n\n2: 7 6 5 4 3 2 1 0\n*: 1 0 2 3 4 5 6 7 # all others\n",
        "*:1,0,2,3,4,5,6,7\r\n 2 : 7, 6, 5, 4, 3, 2, 1, 0",
    };

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct expert_orders o;
        struct arena a = {0};
        struct err e = {0};
        ASSERT_OK(make_from(texts[i], true, &o, &a, &e), e);
        expect_order(&o, 0, others);
        expect_order(&o, 2, two);
        expect_order(&o, 3, others);
        arena_release(&a);
    }
}

TEST(expert_order, a_file_that_is_no_order_is_refused_by_line)
{
    static const struct {
        const char *text, *want;
        bool groups;
    } cases[] = {
        {"\n0: 0 1 2 3 4 5 6\n", "line 2 names 7 experts of 8", false},
        {"0: 0 1 2 3 4 5 6 6\n", "line 1 names expert 6 twice", false},
        {"0: 0 1 2 3 4 5 6 8\n", "line 1 names expert 8 of 8", false},
        {"0: 0 1 2 3 4 5 6 x\n", "line 1 has 'x' where", false},
        {"0: 0 1 2 3 4 5 6 99999999999999999999\n", "line 1 names expert", false},
        {"1: 0 1 2 3 4 5 6 7\n", "layer 1, which has no routed experts", false},
        {"0 0 1 2 3 4 5 6 7\n", "line 1 has no ':'", false},
        {"all: 0 1 2\n", "line 1 does not begin with a layer's number or '*'", false},
        {"0: 0 1 2 3 4 5 6 7\n0: 0 1 2 3 4 5 6 7\n", "line 2 gives an order that there was", false},
        {"*: 0 1 2 3 4 5 6 7\n*: 0 1 2 3 4 5 6 7\n", "line 2 gives an order that there was", false},
        {"0: 0 2 1 3 4 5 6 7\n", "layer 0: experts 0 and 2 would share a group, but are of groups 0 and 1", true},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct expert_orders o;
        struct arena a = {0};
        struct err e = {0};
        ct_case("%s", cases[i].want);
        EXPECT_FALSE(make_from(cases[i].text, cases[i].groups, &o, &a, &e));
        EXPECT_STR_HAS(e.text, cases[i].want);
        EXPECT_STR_HAS(e.text, "/order': ");
        arena_release(&a);
    }
}

/* Without renumbering an order is only where experts stand in the file. */
TEST(expert_order, may_cross_groups_when_numbers_stay)
{
    struct expert_orders o;
    struct arena a = {0};
    struct err e = {0};

    EXPECT_OK(make_from("*: 0 2 1 3 4 5 6 7", false, &o, &a, &e), e);
    arena_release(&a);
}
