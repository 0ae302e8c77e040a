#include "convert/layer_rows.h"

#include "formats/base/mem.h"
#include "tests/ct.h"

TEST(layer_rows, every_row_of_a_layer_is_found_in_its_order)
{
    static const int64_t layers[] = {2, -1, 0, 2, 4, 0, 2, 3, 9};
    static const uint32_t want[5][3] = {{2, 5}, {0}, {0, 3, 6}, {7}, {4}};
    static const size_t counts[5] = {2, 0, 3, 1, 1};
    enum { COUNT = sizeof layers / sizeof layers[0] };
    struct weight weights[COUNT] = {0};
    const struct weight *list[COUNT];
    struct plan p = {.weights = list, .weight_count = COUNT};
    struct layer_rows l;

    for (size_t i = 0; i < COUNT; i++) {
        weights[i].id.layer = layers[i];
        list[i] = &weights[i];
    }
    layer_rows_make(&l, &p, 5);
    for (size_t layer = 0; layer < 5; layer++) {
        ct_case("layer %zu", layer);
        ASSERT_EQ_U64(counts[layer], l.begin[layer + 1] - l.begin[layer]);
        for (size_t i = 0; i < counts[layer]; i++)
            EXPECT_EQ_U64(want[layer][i], l.rows[l.begin[layer] + i]);
    }
    EXPECT_EQ_U64(7, l.begin[5]);
    layer_rows_release(&l);
    layer_rows_release(&l);
    EXPECT_TRUE(l.rows == NULL);
}
