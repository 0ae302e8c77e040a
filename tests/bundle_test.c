/* Bundles as they stand on disk, whatever wrote them. */
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/map.h"
#include "formats/json.h"
#include "formats/manifest.h"
#include "tests/plan_support.h"

#define SAMPLE "samples/tiny-v3"

/* Every tensor of the bundle stands in exactly one row of quern.json, and no other. */
static void check_rows(const struct json *root, const struct checkpoint *c)
{
    struct map named = {0};
    size_t count = 0;

    for (const struct json *row = json_first(json_get(root, "weights")); row; row = json_next(row))
        for (const struct json *t = json_first(json_get(row, "tensors")); t; t = json_next(t), count++) {
            ct_case("%s", json_string(t));
            EXPECT_TRUE(map_put(&named, json_string(t), count)); /* once */
            EXPECT_TRUE(checkpoint_find(c, json_string(t)) != NULL);
        }
    EXPECT_EQ_U64(c->tensor_count, count);
    map_release(&named);
}

/* Sizes and hashes are the files', and every file but quern.json is listed. */
static void check_files(const struct json_doc *d, const char *dir)
{
    const struct json *files = json_get(d->root, "files");
    struct arena a = {0};
    struct err e = {0};
    char **names = NULL, hex[HASH_HEX_BYTES];
    size_t count = 0;

    EXPECT_OK(dir_list(dir, &a, &names, &count, &e), e);
    for (size_t i = 0; i < count; i++) {
        const struct json *file = json_get(files, names[i]);
        ct_case("%s", names[i]);
        if (strcmp(names[i], MANIFEST_NAME) == 0)
            continue;
        support_file_hash(dir, names[i], hex);
        EXPECT_STR_EQ(hex, file ? json_string(json_get(file, "sha256")) : "not listed");
    }
    arena_release(&a);
}

static void check_manifest(const char *dir, const struct checkpoint *c)
{
    struct arena a = {0};
    struct json_doc d = {0};
    struct err e = {0};

    ASSERT_OK(json_load(&d, path_join(&a, dir, MANIFEST_NAME), 64u << 20, JSON_STRICT, &e), e);
    check_rows(d.root, c);
    check_files(&d, dir);
    json_release(&d);
    arena_release(&a);
}

/* An engine's view: opens (which holds index and headers against each other both ways), pairs and fits config.json. */
static void check_bundle(const char *dir)
{
    struct source s = {0};
    struct err e = {0};

    ASSERT_OK(source_open(&s, dir, true, &e), e);
    EXPECT_EQ_U64(0, s.checkpoint.note_count); /* total_size is right */
    check_manifest(dir, &s.checkpoint);
    source_close(&s);
}

/* The dry run's numbers are the plan's. */
static void check_sizes(const char *src, const char *dst, const struct conversion_case *c)
{
    struct planned p;
    struct arena a = {0};
    struct err e = {0};

    EXPECT_OK(planned_open(&p, src, "nowhere", c, &e), e);
    for (size_t i = 0; e.code == ERR_NONE && i < p.plan.outputs[0].shard_count; i++) {
        struct file f = {0};
        EXPECT_OK(file_open(&f, path_join(&a, dst, p.plan.outputs[0].shards[i].name), &e), e);
        EXPECT_EQ_U64(p.plan.outputs[0].shards[i].bytes, f.bytes);
        file_close(&f);
    }
    planned_close(&p);
    arena_release(&a);
}

TEST(bundle, what_is_written_is_what_quern_json_and_the_plan_say)
{
    static const struct conversion_case cases[] = {
        {.recipe = "int4:g32:asym:absmax"},
        {.recipe = "int4:g128:absmax", .options = {.shard_bytes = 1000000}},
        {.recipe = "bf16", .options = {.keep_shards = true}},
        {.recipe = "fp8-channel", .options = {.shard_bytes = 3000000}},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct arena a = {0};
        struct err e = {0};
        const char *dst = path_join(&a, ct_temp_dir(), "out");
        ct_case("%s", cases[i].recipe);
        EXPECT_OK(support_convert(SAMPLE, dst, &cases[i], &e), e);
        check_bundle(dst);
        check_sizes(SAMPLE, dst, &cases[i]);
        arena_release(&a);
    }
}

TEST(bundle, odd_tensors_arrive_byte_for_byte)
{
    struct conversion_case c = {.recipe = "int4:g32:absmax", .options = {.keep_unknown = true, .shard_bytes = 200000}};
    struct ckpt_maker m;
    struct checkpoint from = {0}, to = {0};
    struct arena a = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir(), *dst = path_join(&a, dir, "out");

    ASSERT_TRUE(support_model(&m, &support_fp8));
    support_odd_tensors(&m);
    ckpt_write(&m, dir);
    EXPECT_OK(support_convert(dir, dst, &c, &e), e);
    EXPECT_OK(checkpoint_open(&from, dir, &e), e);
    EXPECT_OK(checkpoint_open(&to, dst, &e), e);
    size_t compared = 0;
    for (size_t i = 0; e.code == ERR_NONE && i < from.tensor_count; i++) {
        const struct tensor *t = &from.tensors[i], *u = checkpoint_find(&to, t->name);
        char want[HASH_HEX_BYTES], got[HASH_HEX_BYTES];
        if (!strstr(t->name, ".odd."))
            continue;
        ct_case("%s", t->name);
        compared++;
        EXPECT_TRUE(u && u->dtype == t->dtype && u->rank == t->rank);
        if (!u)
            continue;
        support_tensor_hash(&from, t, want);
        support_tensor_hash(&to, u, got);
        EXPECT_STR_EQ(want, got);
    }
    EXPECT_EQ_U64(8, compared);
    checkpoint_close(&from);
    checkpoint_close(&to);
    ckpt_release(&m);
    arena_release(&a);
}

static void slurp(const char *dir, const char *name, char **text, size_t *bytes)
{
    struct arena a = {0};
    struct err e = {0};

    EXPECT_OK(file_slurp(path_join(&a, dir, name), 64u << 20, text, bytes, &e), e);
    arena_release(&a);
}

TEST(bundle, side_files_are_copied_and_others_stay_behind)
{
    static const char *const travel[] = {"tokenizer.json", "chat template.jinja", "modeling_deepseek.py",
                                         "b\xc3\xa4r.txt"};
    static const char *const stay[] = {"pytorch_model.bin", "model.gguf", ".hidden", "model.sig",
                                       "hf_quant_config.json"};
    struct conversion_case c = {.recipe = "bf16"};
    struct ckpt_maker m;
    struct arena a = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir(), *dst = path_join(&a, dir, "out");

    ASSERT_TRUE(support_model(&m, &support_fp8));
    ckpt_write(&m, dir);
    for (size_t i = 0; i < sizeof travel / sizeof travel[0]; i++)
        EXPECT_OK(file_write_whole(path_join(&a, dir, travel[i]), travel[i], i == 3 ? 0 : strlen(travel[i]), &e), e);
    for (size_t i = 0; i < sizeof stay / sizeof stay[0]; i++)
        EXPECT_OK(file_write_whole(path_join(&a, dir, stay[i]), "x", 1, &e), e);
    EXPECT_OK(support_convert(dir, dst, &c, &e), e);
    for (size_t i = 0; e.code == ERR_NONE && i < sizeof travel / sizeof travel[0]; i++) {
        char want[HASH_HEX_BYTES], got[HASH_HEX_BYTES];
        ct_case("%s", travel[i]);
        support_file_hash(dir, travel[i], want);
        support_file_hash(dst, travel[i], got);
        EXPECT_STR_EQ(want, got);
    }
    for (size_t i = 0; i < sizeof stay / sizeof stay[0]; i++) {
        ct_case("%s", stay[i]);
        EXPECT_FALSE(path_exists(path_join(&a, dst, stay[i])));
    }
    ckpt_release(&m);
    arena_release(&a);
}

TEST(bundle, nothing_of_this_machine_or_day_is_in_it)
{
    static const char *const files[] = {"README.md", "quern.json", "config.json", "model.safetensors.index.json"};
    static const char *const words[] = {"/tmp", "quern-test-", "samples/", "/home", "/root", ":00", "202"};
    struct conversion_case c = {.recipe = "int4:g128:absmax", .options = {.shard_bytes = 4000000}};
    struct arena a = {0};
    struct err e = {0};
    const char *dst = path_join(&a, ct_temp_dir(), "out");

    ASSERT_OK(support_convert(SAMPLE, dst, &c, &e), e);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        /* "202" may be part of a number or a hash in all but the card. */
        for (size_t w = 0; w < sizeof words / sizeof words[0] - (i > 0 ? 1 : 0); w++) {
            char *text = NULL;
            size_t bytes = 0;
            ct_case("%s: %s", files[i], words[w]);
            slurp(dst, files[i], &text, &bytes);
            EXPECT_TRUE(!text || !strstr(text, words[w]));
            mem_free(text);
        }
    arena_release(&a);
}

TEST(bundle, threads_and_memory_change_no_byte)
{
    static const struct {
        unsigned threads;
        uint64_t memory_bytes;
    } runs[] = {{1, 0}, {2, 0}, {7, 0}, {7, 48u << 20}, {2, 56u << 20}, {64, 0}};
    char want[HASH_HEX_BYTES] = "";

    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        struct conversion_case c = {.recipe = "int4:g32:absmax",
                                    .options = {.shard_bytes = 3000000},
                                    .threads = runs[i].threads,
                                    .memory_bytes = runs[i].memory_bytes};
        struct arena a = {0};
        struct err e = {0};
        char got[HASH_HEX_BYTES];
        const char *dst = path_join(&a, ct_temp_dir(), "out");
        ct_case("%u threads, %llu bytes", runs[i].threads, (unsigned long long)runs[i].memory_bytes);
        EXPECT_OK(support_convert(SAMPLE, dst, &c, &e), e);
        if (e.code == ERR_NONE) {
            support_dir_hash(dst, got);
            if (i == 0)
                memcpy(want, got, sizeof want);
            EXPECT_STR_EQ(want, got);
        }
        arena_release(&a);
    }
}

/* Every tensor of one bundle in another. What the recipe leaves as it is may be F32 in one and BF16 in the other. */
static void check_same_tensors(const char *want_dir, const char *got_dir)
{
    struct checkpoint want = {0}, got = {0};
    struct err e = {0};

    EXPECT_OK(checkpoint_open(&want, want_dir, &e), e);
    EXPECT_OK(checkpoint_open(&got, got_dir, &e), e);
    EXPECT_EQ_U64(want.tensor_count, got.tensor_count);
    for (size_t i = 0; i < want.tensor_count; i++) {
        const struct tensor *t = checkpoint_find(&got, want.tensors[i].name);
        char a[HASH_HEX_BYTES], b[HASH_HEX_BYTES];
        ct_case("%s", want.tensors[i].name);
        EXPECT_TRUE(t != NULL);
        if (!t || (want.tensors[i].dtype == DTYPE_F32 && t->dtype == DTYPE_BF16))
            continue;
        support_tensor_hash(&want, &want.tensors[i], a);
        support_tensor_hash(&got, t, b);
        EXPECT_STR_EQ(a, b);
    }
    checkpoint_close(&want);
    checkpoint_close(&got);
}

TEST(bundle, the_shard_size_changes_no_tensor)
{
    static const uint64_t sizes[] = {4096, 1000000};
    struct arena a = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir(), *one = path_join(&a, dir, "one");

    ASSERT_OK(support_convert(SAMPLE, one, &(struct conversion_case){.recipe = "fp8-channel"}, &e), e);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct conversion_case c = {.recipe = "fp8-channel", .options = {.shard_bytes = sizes[i]}};
        const char *dst = path_join(&a, dir, i == 0 ? "least" : "middle");
        ct_case("%llu", (unsigned long long)sizes[i]);
        EXPECT_OK(support_convert(SAMPLE, dst, &c, &e), e);
        if (e.code == ERR_NONE)
            check_same_tensors(one, dst);
    }
    arena_release(&a);
}

/* ---- packed sources ---- */

TEST(bundle, packed_sources_convert_like_the_floats_they_stand_for)
{
    /* A packed checkpoint to F32 and on is the same as going there at once: codes times scale is exact in F32. */
    static const char *const targets[] = {"bf16", "fp8", "int4:g64:absmax", "int4:g32:asym:absmax"};
    struct ckpt_maker m;
    struct arena a = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir(), *wide = path_join(&a, dir, "f32");

    ASSERT_TRUE(support_model(&m, &support_kimi_int4));
    ckpt_write(&m, dir);
    ASSERT_OK(support_convert(dir, wide, &(struct conversion_case){.recipe = "f32"}, &e), e);
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        struct conversion_case c = {.recipe = targets[i]};
        const char *direct = path_join(&a, dir, arena_printf(&a, "direct%zu", i));
        const char *around = path_join(&a, dir, arena_printf(&a, "around%zu", i));
        ct_case("%s", targets[i]);
        EXPECT_OK(support_convert(dir, direct, &c, &e), e);
        EXPECT_OK(support_convert(wide, around, &c, &e), e);
        if (e.code != ERR_NONE)
            break;
        check_bundle(direct);
        check_same_tensors(around, direct);
    }
    ckpt_release(&m);
    arena_release(&a);
}

TEST(bundle, a_packed_bundle_of_ours_is_a_source)
{
    static const char *const first[] = {"int4:g32:absmax", "int4:g128:asym:absmax"};
    static const char *const then[] = {"bf16", "fp8", "[{\"match\": \"*\", \"scheme\": \"keep\"}]"};

    for (size_t i = 0; i < sizeof first / sizeof first[0]; i++) {
        struct arena a = {0};
        struct err e = {0};
        const char *dir = ct_temp_dir(), *packed = path_join(&a, dir, "packed");
        ASSERT_OK(support_convert(SAMPLE, packed, &(struct conversion_case){.recipe = first[i]}, &e), e);
        for (size_t k = 0; k < sizeof then / sizeof then[0]; k++) {
            const char *dst = path_join(&a, dir, arena_printf(&a, "then%zu", k));
            ct_case("%s, then %s", first[i], then[k]);
            EXPECT_OK(support_convert(packed, dst, &(struct conversion_case){.recipe = then[k]}, &e), e);
            if (e.code == ERR_NONE)
                check_bundle(dst);
            if (e.code == ERR_NONE && k == 2)
                check_same_tensors(packed, dst); /* kept is kept */
        }
        arena_release(&a);
    }
}
