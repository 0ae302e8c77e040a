#include "formats/manifest.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/json.h"
#include "tests/ct.h"

#define SHA256 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* Names are the checkpoint's, and a checkpoint may hold any. */
TEST(manifest, names_of_any_kind_come_back_as_they_are)
{
    static const char *names[] = {"plain", "a \"quoted\" one", "back\\slash", "line\nbreak", "b\xc3\xa4r", "tab\t\x01"};
    struct manifest_row rows[6] = {0};
    struct manifest_drop drop = {.tensor = "gone \"away\"", .why = "because"};
    struct manifest m = {.tool_version = "1",
                         .kernel_class = "exact",
                         .recipe_text = "{\"rules\": []}",
                         .config_sha256 = SHA256,
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
                                        .scheme = "int4 g128",
                                        .method = "search",
                                        .tensors = &names[k],
                                        .tensor_count = 1,
                                        .sources = &names[k],
                                        .source_count = 1,
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
        struct manifest_row row = {
            .name = "w", .role = "norm", .why = "", .scheme = "BF16", .method = "copy", .error = cases[i].error};
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

/* ---- reading ---- */

static struct manifest full_manifest(void)
{
    static uint64_t shape[] = {256, 128};
    static const char *tensors[] = {"a.weight_packed", "a.weight_scale", "a.weight_shape"}, *sources[] = {"a.weight"};
    static struct manifest_calibration calibration = {"feedback", "as asked", 7, 2.5, 0.25, 0.5, 3.5, 812, 0.001};
    static struct manifest_row rows[] = {
        {"a.weight", "expert_up", shape, 2, "int4 g128", "search", true, true, "rule 1", tensors, 3, sources, 1, 0.125, &calibration},
        {"b.weight", "norm", shape, 1, "BF16", "copy", false, false, "kept", tensors, 0, sources, 1, -1, NULL},
        {"c", "norm", shape, 0, "BF16", "copy", false, false, "kept", tensors, 0, sources, 0, INFINITY, NULL},
    };
    static struct manifest_file files[] = {{"b", 7, SHA256}, {"a \"b\"", 0, SHA256}};
    static struct manifest_drop drops[] = {{"gone", "stale"}};
    static struct manifest_super supers[] = {{3, 17, 812}};
    static uint32_t ids[] = {5, 4294967295u}, experts[] = {0, 3, 1, 2};
    static double logprobs[] = {-0.12345, -17.5};
    static struct manifest_position positions[] = {{ids, 2, logprobs, 2}, {ids, 0, logprobs, 0}};
    static struct manifest_choices routing[] = {{3, experts, 4}};
    static struct manifest_fingerprint print = {"exact", ids, 2, positions, 2, positions, 1, routing, 1};

    return (struct manifest){
        .version = MANIFEST_VERSION,
        .tool_version = "1",
        .kernel_class = "exact",
        .recipe_text = "{\"rules\":[1, {\"a\":\"}\"}]}",
        .config_sha256 = SHA256,
        .calibration = "7 tokens",
        .supers = supers,
        .super_count = 1,
        .sources = files,
        .source_count = 1,
        .files = files,
        .file_count = 2,
        .drops = drops,
        .drop_count = 1,
        .fingerprint = &print,
        .no_fingerprint = NULL,
        .rows = rows,
        .row_count = 3,
    };
}

static void expect_written(const struct manifest *m, const char *want)
{
    struct buf text = {0};

    manifest_write(&text, m);
    EXPECT_STR_EQ(want, text.data);
    buf_release(&text);
}

/* Every field in its place, and nothing lost: what is read writes the same text again. */
TEST(manifest, what_is_read_is_what_was_written)
{
    struct manifest full = full_manifest(), least = full, got;

    least.source_count = least.row_count = least.drop_count = least.super_count = 0;
    least.fingerprint = NULL;
    least.no_fingerprint = "left out";
    for (size_t i = 0; i < 2; i++) {
        struct arena a = {0};
        struct buf text = {0};
        struct err e = {0};
        ct_case("%s", i == 0 ? "full" : "least");
        manifest_write(&text, i == 0 ? &full : &least);
        EXPECT_OK(manifest_parse(&got, &a, text.data, text.bytes, &e), e);
        if (e.code == ERR_NONE)
            expect_written(&got, text.data);
        buf_release(&text);
        arena_release(&a);
    }
}

TEST(manifest, a_row_is_read_field_by_field)
{
    struct manifest m = full_manifest(), got;
    struct arena a = {0};
    struct buf text = {0};
    struct err e = {0};

    manifest_write(&text, &m);
    ASSERT_OK(manifest_parse(&got, &a, text.data, text.bytes, &e), e);
    ASSERT_EQ_U64(3, got.row_count);
    EXPECT_STR_EQ("a.weight_scale", got.rows[0].tensors[1]);
    EXPECT_EQ_U64(128, got.rows[0].shape[1]);
    EXPECT_TRUE(got.rows[0].positive_scales && !got.rows[1].positive_scales);
    EXPECT_TRUE(got.rows[0].error == 0.125 && got.rows[1].error < 0 && isinf(got.rows[2].error));
    EXPECT_STR_EQ("a \"b\"", got.files[1].name);
    EXPECT_STR_EQ(m.recipe_text, got.recipe_text);
    ASSERT_TRUE(got.fingerprint != NULL);
    EXPECT_EQ_U64(4294967295u, got.fingerprint->prompt[1]);
    EXPECT_TRUE(got.fingerprint->positions[0].logprobs[1] == -17.5);
    EXPECT_EQ_U64(1, got.fingerprint->mtp_count);
    EXPECT_EQ_U64(5, got.fingerprint->mtp[0].ids[0]);
    EXPECT_EQ_U64(3, got.fingerprint->routing[0].layer);
    buf_release(&text);
    arena_release(&a);
}

/* One change of the full text each: `from` stands in it once or first. */
static const struct {
    const char *from, *to, *part;
    enum err_code code;
} bad[] = {
    {"\"manifest\": 1", "\"manifest\": 2", "'manifest': version 2, and this program knows version 1", ERR_UNSUPPORTED},
    {"\"manifest\": 1", "\"manifest\": 2, \"new\": 0", "version 2", ERR_UNSUPPORTED},
    {"\"manifest\": 1,", "", "'manifest' is missing", ERR_FORMAT},
    {"\"quern\"", "\"qu3rn\"", "'qu3rn' is not known here", ERR_FORMAT},
    {"\"exact\"", "1", "'kernel_class': a number, not a string", ERR_FORMAT},
    {"0123456789abcdef\"", "0123456789abcdeF\"", "not 64 lower-case hex digits", ERR_FORMAT},
    {"0123456789abcdef\"", "0123456789abcde\"", "not 64 lower-case hex digits", ERR_FORMAT},
    {"\"bytes\":7", "\"bytes\":-7", "'source_files': 'b': 'bytes': -7, not a whole number", ERR_FORMAT},
    {"\"bytes\":7", "\"bytes\":\"7\"", "'bytes': a string, not a number", ERR_FORMAT},
    {"\"bytes\":7,", "", "'bytes' is missing", ERR_FORMAT},
    {"\"dropped\": [", "\"dropped\": [1,", "'dropped': item 0: a number, not an object", ERR_FORMAT},
    {"[256,128]", "{}", "'shape': an object, not an array", ERR_FORMAT},
    {"[256,128]", "[256,null]", "'shape': item 1: null, not a number", ERR_FORMAT},
    {"\"error\":0.125", "\"error\":-0.125", "'error': -0.125, less than 0", ERR_FORMAT},
    {"\"error\":0.125", "\"error\":true", "'error': a boolean, not a number", ERR_FORMAT},
    {"\"positive_scales\":true", "\"positive_scales\":1", "'positive_scales': a number, not a boolean", ERR_FORMAT},
    {"4294967295", "4294967296", "'prompt': item 1: 4294967296, more than 4294967295", ERR_FORMAT},
    {"\"a.weight_scale\"", "7", "'tensors': item 1: a number, not a string", ERR_FORMAT},
    {"-17.5", "\"\"", "'logprobs': item 1: a string, not a number", ERR_FORMAT},
    {"\"weights\": [", "\"weights\": 0, \"w\": [", "'weights': a number, not an array", ERR_FORMAT},
    {"]\n}", "]\n", "line ", ERR_FORMAT},
};

TEST(manifest, what_is_not_as_written_is_refused)
{
    struct manifest m = full_manifest();
    struct buf text = {0};

    manifest_write(&text, &m);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct arena a = {0};
        struct err e = {0};
        struct buf changed = {0};
        struct manifest got;
        const char *at = strstr(text.data, bad[i].from);
        ct_case("%s", bad[i].to);
        ASSERT_TRUE(at != NULL);
        buf_add(&changed, text.data, (size_t)(at - text.data));
        buf_puts(&changed, bad[i].to);
        buf_puts(&changed, at + strlen(bad[i].from));
        EXPECT_FALSE(manifest_parse(&got, &a, changed.data, changed.bytes, &e));
        EXPECT_ERR(e, bad[i].code, bad[i].part);
        buf_release(&changed);
        arena_release(&a);
    }
    buf_release(&text);
}

/* Whatever the fuzzer was given to start from is read, or refused with a message. */
TEST(manifest, the_fuzz_corpus_is_replayed)
{
    struct arena names_arena = {0};
    struct err e = {0};
    char **names = NULL;
    size_t count = 0, read = 0;

    ASSERT_OK(dir_list("tests/fuzz/corpus/manifest", &names_arena, &names, &count, &e), e);
    for (size_t i = 0; i < count; i++) {
        struct arena a = {0};
        struct manifest m;
        char path[512];
        e = (struct err){0};
        ct_case("%s", names[i]);
        snprintf(path, sizeof path, "tests/fuzz/corpus/manifest/%s", names[i]);
        if (manifest_load(&m, &a, path, &e))
            read++;
        else
            EXPECT_STR_HAS(e.text, names[i]);
        arena_release(&a);
    }
    EXPECT_TRUE(read > 0 && read < count);
    arena_release(&names_arena);
}
