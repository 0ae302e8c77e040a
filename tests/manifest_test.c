#include "formats/manifest.h"

#include <string.h>

#include "formats/json.h"
#include "tests/ct.h"

static const struct scheme int4 = {
    .kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = 128, .method = METHOD_SEARCH};

/* Names are the checkpoint's, and a checkpoint may hold any. */
TEST(manifest, names_of_any_kind_come_back_as_they_are)
{
    static const char *const names[] = {"plain",       "a \"quoted\" one", "back\\slash",
                                        "line\nbreak", "b\xc3\xa4r",       "tab\t\x01"};
    struct manifest_row rows[6] = {0};
    struct manifest_drop drop = {.tensor = "gone \"away\"", .why = "because"};
    struct manifest m = {.tool_version = "1",
                         .kernel_class = "exact",
                         .recipe_text = "{\"rules\": []}",
                         .config_sha256 = "00",
                         .rows = rows,
                         .row_count = 6,
                         .drops = &drop,
                         .drop_count = 1};
    struct buf text = {0};
    struct json_doc d = {0};
    struct err e = {0};
    size_t i = 0;

    for (size_t k = 0; k < 6; k++)
        rows[k] = (struct manifest_row){.name = names[k],
                                        .role = "norm",
                                        .why = names[k],
                                        .scheme = &int4,
                                        .tensors = {names[k]},
                                        .sources = {names[k]},
                                        .error = -1};
    manifest_write(&text, &m);
    ASSERT_OK(json_parse(&d, text.data, text.bytes, JSON_STRICT, &e), e);
    for (const struct json *row = json_first(json_get(d.root, "weights")); row; row = json_next(row), i++) {
        EXPECT_STR_EQ(names[i], json_string(json_get(row, "weight")));
        EXPECT_STR_EQ(names[i], json_string(json_first(json_get(row, "tensors"))));
        EXPECT_STR_EQ("int4 g128", json_string(json_get(row, "scheme")));
        EXPECT_TRUE(json_get(row, "error") == NULL);
    }
    EXPECT_EQ_U64(6, i);
    EXPECT_STR_EQ(drop.tensor, json_string(json_get(json_first(json_get(d.root, "dropped")), "tensor")));
    json_release(&d);
    buf_release(&text);
}

TEST(manifest, errors_have_six_digits_and_nothing_is_not_a_number)
{
    static const struct {
        double error;
        const char *want;
    } cases[] = {{0.0123456789, "0.0123457"}, {0, "0"}, {1.0 / 0.0, "null"}, {0.0 / 0.0, NULL}, {-1, NULL}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct manifest_row row = {.name = "w", .role = "norm", .why = "", .scheme = &int4, .error = cases[i].error};
        struct manifest m = {.tool_version = "1",
                             .kernel_class = "exact",
                             .recipe_text = "{}",
                             .config_sha256 = "",
                             .rows = &row,
                             .row_count = 1};
        struct buf text = {0};
        struct json_doc d = {0};
        struct err e = {0};
        ct_case("%g", cases[i].error);
        manifest_write(&text, &m);
        EXPECT_OK(json_parse(&d, text.data, text.bytes, JSON_STRICT, &e), e);
        const char *at = strstr(text.data, "\"error\"");
        EXPECT_TRUE((at != NULL) == (cases[i].want != NULL));
        if (at && cases[i].want)
            EXPECT_STR_HAS(at, cases[i].want);
        json_release(&d);
        buf_release(&text);
    }
}
