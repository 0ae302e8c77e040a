#include "formats/checkpoint.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "formats/index.h"
#include "formats/safetensors.h"
#include "tests/ct.h"

/* ---- making checkpoints ---- */

static char *in_dir(const char *dir, const char *name)
{
    static char path[4096];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put_text(const char *dir, const char *name, const char *text)
{
    struct err e = {0};

    EXPECT_OK(file_write_whole(in_dir(dir, name), text, strlen(text), &e), e);
}

/* U8 tensors of four bytes, each byte the tensor's place among `names` (separated by spaces). */
static void put_shard(const char *dir, const char *file_name, const char *names)
{
    struct tensor t[16] = {0};
    struct tensor *list[16];
    char copy[512], *rest = NULL;
    struct buf file = {0};
    struct err e = {0};
    uint64_t file_bytes = 0;
    size_t count = 0;

    snprintf(copy, sizeof copy, "%s", names);
    for (char *name = strtok_r(copy, " ", &rest); name; name = strtok_r(NULL, " ", &rest)) {
        t[count] = (struct tensor){.name = name, .dtype = DTYPE_U8, .rank = 1, .dims = {4}, .bytes = 4};
        list[count] = &t[count];
        count++;
    }
    EXPECT_OK(safetensors_layout(&file, list, count, &file_bytes, &e), e);
    for (size_t i = 0; i < count; i++)
        for (int k = 0; k < 4; k++)
            buf_add(&file, &(uint8_t){(uint8_t)i}, 1);
    EXPECT_OK(file_write_whole(in_dir(dir, file_name), file.data, file.bytes, &e), e);
    buf_release(&file);
}

#define ONE                  "model-00001-of-00002.safetensors"
#define TWO                  "model-00002-of-00002.safetensors"
#define INDEX(metadata, map) "{" metadata "\"weight_map\":{" map "}}"
#define GOOD_MAP             "\"c\":\"" TWO "\",\"a\":\"" ONE "\",\"b\":\"" ONE "\",\"d\":\"" TWO "\""

static const char *good_checkpoint(void)
{
    const char *dir = ct_temp_dir();

    put_shard(dir, ONE, "b a");
    put_shard(dir, TWO, "c d");
    put_text(dir, INDEX_FILE_NAME, INDEX("\"metadata\":{\"total_size\":16},", GOOD_MAP));
    put_text(dir, "config.json", "{\"model_type\":\"deepseek_v3\"}");
    return dir;
}

static void expect_refused(const char *path, enum err_code code, const char *part)
{
    struct checkpoint c = {0};
    struct err e = {0};

    EXPECT_FALSE(checkpoint_open(&c, path, &e));
    EXPECT_ERR(e, code, part);
    checkpoint_close(&c);
}

/* ---- what opens ---- */

TEST(checkpoint, a_sharded_folder_opens_with_tensors_by_shard_and_offset)
{
    static const char *const names[] = {"b", "a", "c", "d"};
    const char *dir = good_checkpoint();
    struct checkpoint c = {0};
    struct err e = {0};

    ASSERT_OK(checkpoint_open(&c, dir, &e), e);
    EXPECT_TRUE(c.indexed);
    EXPECT_STR_EQ(dir, c.path);
    EXPECT_STR_EQ(dir, c.dir);
    ASSERT_EQ_U64(2, c.shard_count);
    EXPECT_STR_EQ(ONE, c.shards[0].name);
    EXPECT_STR_EQ(TWO, c.shards[1].name);
    EXPECT_EQ_U64(4096, c.shards[0].data_offset);
    EXPECT_EQ_U64(4104, c.shards[1].bytes);
    ASSERT_EQ_U64(4, c.tensor_count);
    EXPECT_EQ_U64(16, c.tensor_bytes);
    EXPECT_EQ_U64(0, c.note_count);
    EXPECT_STR_EQ("{\"model_type\":\"deepseek_v3\"}", c.config);
    EXPECT_EQ_U64(strlen(c.config), c.config_bytes);
    for (uint32_t i = 0; i < 4; i++) {
        uint8_t got[3] = {9, 9, 9}, want[2] = {(uint8_t)(i % 2), (uint8_t)(i % 2)};
        const struct tensor *t = checkpoint_find(&c, names[i]);
        ct_case("%s", names[i]);
        ASSERT_TRUE(t == &c.tensors[i]);
        EXPECT_EQ_U64(i / 2, t->shard);
        EXPECT_OK(checkpoint_read(&c, t, 2, got, 2, &e), e);
        EXPECT_MEM_EQ(want, got, 2);
        EXPECT_EQ_U64(9, got[2]);
        EXPECT_OK(checkpoint_read(&c, t, 4, got, 0, &e), e);
    }
    EXPECT_TRUE(checkpoint_find(&c, "e") == NULL);
    checkpoint_close(&c);
    checkpoint_close(&c);
}

TEST(checkpoint, one_file_opens_with_the_config_beside_it)
{
    const char *dir = good_checkpoint();
    struct checkpoint c = {0};
    struct err e = {0};

    ASSERT_OK(checkpoint_open(&c, in_dir(dir, TWO), &e), e);
    EXPECT_FALSE(c.indexed);
    EXPECT_STR_EQ(dir, c.dir);
    EXPECT_EQ_U64(1, c.shard_count);
    EXPECT_EQ_U64(2, c.tensor_count);
    EXPECT_TRUE(c.config != NULL);
    checkpoint_close(&c);
}

TEST(checkpoint, a_folder_without_an_index_has_one_file)
{
    const char *dir = ct_temp_dir();
    struct checkpoint c = {0};
    struct err e = {0};

    put_shard(dir, "weights.safetensors", "x y");
    ASSERT_OK(checkpoint_open(&c, dir, &e), e);
    EXPECT_STR_EQ("weights.safetensors", c.shards[0].name);
    EXPECT_TRUE(c.config == NULL);
    checkpoint_close(&c);

    put_shard(dir, "adapter.safetensors", "z");
    expect_refused(dir, ERR_FORMAT, "but 2 .safetensors files");

    put_shard(dir, "model.safetensors", "w");
    ASSERT_OK(checkpoint_open(&c, dir, &e), e);
    EXPECT_STR_EQ("model.safetensors", c.shards[0].name);
    ASSERT_EQ_U64(1, c.note_count);
    EXPECT_STR_EQ("2 .safetensors files beside 'model.safetensors' are not read: there is no index", c.notes[0].text);
    checkpoint_close(&c);
}

TEST(checkpoint, links_into_a_blob_store_are_followed)
{
    const char *store = ct_temp_dir(), *dir = ct_temp_dir();
    static const char *const names[] = {ONE, TWO, INDEX_FILE_NAME, "config.json"};
    struct checkpoint c = {0};
    struct err e = {0};

    put_shard(store, ONE, "b a");
    put_shard(store, TWO, "c d");
    put_text(store, INDEX_FILE_NAME, INDEX("", GOOD_MAP));
    put_text(store, "config.json", "{}");
    for (size_t i = 0; i < 4; i++) {
        char target[4096];
        snprintf(target, sizeof target, "%s/%s", store, names[i]);
        EXPECT_EQ_I64(0, symlink(target, in_dir(dir, names[i])));
    }
    ASSERT_OK(checkpoint_open(&c, dir, &e), e);
    EXPECT_EQ_U64(4, c.tensor_count);
    checkpoint_close(&c);
}

/* metadata is anything or nothing, as published checkpoints have it. */
TEST(checkpoint, metadata_is_optional_and_a_wrong_total_is_a_note)
{
    static const struct {
        const char *metadata, *note;
    } rows[] = {
        {"", NULL},
        {"\"metadata\":{},", NULL},
        {"\"metadata\":null,", NULL},
        {"\"metadata\":[],", NULL},
        {"\"metadata\":{\"total_size\":16},", NULL},
        {"\"metadata\":{\"total_size\":16.0},", NULL},
        {"\"metadata\":{\"total_size\":\"16\"},", NULL},
        {"\"metadata\":{\"total_size\":5},", "index: total_size 5 is not the 16 that headers say"},
    };
    const char *dir = good_checkpoint();

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct checkpoint c = {0};
        struct err e = {0};
        char text[512];
        ct_case("%s", rows[i].metadata);
        snprintf(text, sizeof text, "{%s\"weight_map\":{" GOOD_MAP "}}", rows[i].metadata);
        put_text(dir, INDEX_FILE_NAME, text);
        ASSERT_OK(checkpoint_open(&c, dir, &e), e);
        EXPECT_EQ_U64(rows[i].note ? 1 : 0, c.note_count);
        if (rows[i].note && c.note_count)
            EXPECT_STR_EQ(rows[i].note, c.notes[0].text);
        checkpoint_close(&c);
    }
}

/* ---- what the index may not say ---- */

static const struct {
    const char *name, *index, *part;
} bad_index[] = {
    {"not JSON", "{\"weight_map\":", "model.safetensors.index.json': the text ends where a value should be"},
    {"an array", "[]", "the index is an array, not an object"},
    {"no weight_map", "{\"metadata\":{}}", "weight_map is missing"},
    {"weight_map is an array", "{\"weight_map\":[]}", "weight_map is an array, not an object"},
    {"weight_map is empty", INDEX("", ""), "weight_map is empty"},
    {"a shard that is a number", INDEX("", "\"a\":1"), "the shard of tensor 'a' is a number, not a string"},
    {"a tensor twice", INDEX("", GOOD_MAP ",\"\\u0061\":\"" TWO "\""), "duplicate key 'a'"},
    {"a file that is not there", INDEX("", GOOD_MAP ",\"e\":\"model-00003.safetensors\""),
     "shard 'model-00003.safetensors': the index names it for tensor 'e': cannot open"},
    {"a tensor that is not there", INDEX("", GOOD_MAP ",\"e\":\"" TWO "\""),
     "tensor 'e' is not in shard '" TWO "', where the index has it"},
    {"a tensor left out", INDEX("", "\"c\":\"" TWO "\",\"a\":\"" ONE "\",\"b\":\"" ONE "\""),
     "tensor 'd' of shard '" TWO "' is not in the index"},
    {"a tensor in the wrong shard",
     INDEX("", "\"c\":\"" TWO "\",\"a\":\"" TWO "\",\"b\":\"" ONE "\",\"d\":\"" TWO "\""),
     "tensor 'a' is in shard '" ONE "', but the index has it in '" TWO "'"},
    {"parent folder", INDEX("", "\"a\":\"../x.safetensors\""),
     "tensor 'a' is '../x.safetensors', not a plain file name"},
    {"only dots", INDEX("", "\"a\":\"..\""), "is '..', not a plain file name"},
    {"one dot", INDEX("", "\"a\":\".\""), "is '.', not a plain file name"},
    {"absolute", INDEX("", "\"a\":\"/etc/passwd\""), "is '/etc/passwd', not a plain file name"},
    {"a subfolder", INDEX("", "\"a\":\"x/y.safetensors\""), "not a plain file name"},
    {"an escaped slash", INDEX("", "\"a\":\"x\\u002fy.safetensors\""), "not a plain file name"},
    {"a backslash", INDEX("", "\"a\":\"x\\\\y.safetensors\""), "not a plain file name"},
    {"dots inside", INDEX("", "\"a\":\"x..safetensors\""), "not a plain file name"},
    {"a side file's name", INDEX("", "\"a\":\"README.md\""), "is 'README.md', not a .safetensors file"},
    {"no name", INDEX("", "\"a\":\"\""), "is '', not a plain file name"},
    {"NUL", INDEX("", "\"a\":\"x\\u0000\""), "\\u0000 in a string"},
};

TEST(checkpoint, a_wrong_index_is_refused_by_name)
{
    const char *dir = good_checkpoint();

    for (size_t i = 0; i < sizeof bad_index / sizeof bad_index[0]; i++) {
        struct checkpoint c = {0};
        struct err e = {0};
        ct_case("%s", bad_index[i].name);
        put_text(dir, INDEX_FILE_NAME, bad_index[i].index);
        EXPECT_FALSE(checkpoint_open(&c, dir, &e));
        EXPECT_STR_HAS(e.text, bad_index[i].part);
        EXPECT_STR_HAS(e.text, dir);
        EXPECT_TRUE(c.shards == NULL);
        checkpoint_close(&c);
    }
}

TEST(checkpoint, an_index_of_more_than_10000_shards_is_refused)
{
    struct arena a = {0};
    struct buf text = {0};
    struct index x = {0};
    struct err e = {0};

    buf_puts(&text, "{\"weight_map\":{");
    for (unsigned i = 0; i < CHECKPOINT_SHARDS_MAX; i++)
        buf_printf(&text, "%s\"t%u\":\"s%u.safetensors\"", i ? "," : "", i, i);
    buf_puts(&text, ",\"t\":\"s5.safetensors\"}}");
    EXPECT_OK(index_parse(&x, &a, text.data, text.bytes, &e), e);
    EXPECT_EQ_U64(CHECKPOINT_SHARDS_MAX, x.shard_count);
    EXPECT_STR_EQ("s5.safetensors", x.shards[x.entries[CHECKPOINT_SHARDS_MAX].shard]);
    text.bytes -= strlen("5.safetensors\"}}");
    buf_puts(&text, "new.safetensors\"}}");
    EXPECT_FALSE(index_parse(&x, &a, text.data, text.bytes, &e));
    EXPECT_ERR(e, ERR_LIMIT, "more shards than the limit of 10000");
    buf_release(&text);
    arena_release(&a);
}

/* ---- what the folder may not hold ---- */

TEST(checkpoint, a_tensor_in_two_shards_is_refused_with_both)
{
    const char *dir = good_checkpoint();

    put_shard(dir, TWO, "c a d");
    expect_refused(dir, ERR_FORMAT, "tensor 'a' is in two shards, '" ONE "' and '" TWO "'");
}

TEST(checkpoint, an_extra_tensor_is_refused)
{
    const char *dir = good_checkpoint();

    put_shard(dir, TWO, "c d extra");
    expect_refused(dir, ERR_FORMAT, "tensor 'extra' of shard '" TWO "' is not in the index");
}

TEST(checkpoint, a_truncated_shard_is_refused)
{
    const char *dir = good_checkpoint();

    EXPECT_EQ_I64(0, truncate(in_dir(dir, TWO), 4103));
    expect_refused(dir, ERR_FORMAT, "shard '" TWO "': data is missing: the tensors take 8 bytes, the file has 7");
    EXPECT_EQ_I64(0, truncate(in_dir(dir, TWO), 100));
    expect_refused(dir, ERR_FORMAT, "shard '" TWO "': header length 4088 is past the 92 bytes behind it in the file");
    EXPECT_EQ_I64(0, truncate(in_dir(dir, TWO), 0));
    expect_refused(dir, ERR_FORMAT, "shard '" TWO "': no room for the header's length: the file has 0 bytes");
}

TEST(checkpoint, a_link_to_nowhere_is_called_one)
{
    static const char *const names[] = {TWO, INDEX_FILE_NAME, "config.json"};

    for (size_t i = 0; i < 3; i++) {
        const char *dir = good_checkpoint();
        ct_case("%s", names[i]);
        EXPECT_EQ_I64(0, unlink(in_dir(dir, names[i])));
        EXPECT_EQ_I64(0, symlink("../blobs/0123", in_dir(dir, names[i])));
        expect_refused(dir, ERR_IO, "is a link to '../blobs/0123', which is not there");
    }
}

TEST(checkpoint, what_is_no_regular_file_is_refused_without_waiting)
{
    const char *dir = good_checkpoint();

    EXPECT_EQ_I64(0, unlink(in_dir(dir, TWO)));
    EXPECT_EQ_I64(0, mkfifo(in_dir(dir, TWO), 0600));
    expect_refused(dir, ERR_FORMAT, "a special file, not a regular file");
    EXPECT_EQ_I64(0, unlink(in_dir(dir, TWO)));
    EXPECT_EQ_I64(0, mkdir(in_dir(dir, TWO), 0700));
    expect_refused(dir, ERR_FORMAT, "a folder, not a regular file");
}

TEST(checkpoint, an_empty_or_absent_folder_is_refused)
{
    const char *dir = ct_temp_dir();

    expect_refused(dir, ERR_FORMAT, "no model.safetensors.index.json and no .safetensors file in '");
    expect_refused(in_dir(dir, "absent"), ERR_IO, "absent");
}

TEST(checkpoint, a_shard_cut_while_open_is_an_error_with_its_name)
{
    const char *dir = good_checkpoint();
    struct checkpoint c = {0};
    struct err e = {0};
    uint8_t data[4];

    ASSERT_OK(checkpoint_open(&c, dir, &e), e);
    EXPECT_EQ_I64(0, truncate(in_dir(dir, TWO), 4102));
    EXPECT_OK(checkpoint_read(&c, checkpoint_find(&c, "c"), 0, data, 4, &e), e);
    EXPECT_FALSE(checkpoint_read(&c, checkpoint_find(&c, "d"), 0, data, 4, &e));
    EXPECT_ERR(e, ERR_IO, "shard '" TWO "': tensor 'd': ");
    EXPECT_STR_HAS(e.text, "was cut while it was read");
    checkpoint_close(&c);
}

TEST(checkpoint, unknown_fields_are_noted)
{
    static const char header[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"x\":1}}";
    const char *dir = ct_temp_dir();
    struct buf file = {0};
    struct checkpoint c = {0};
    struct err e = {0};

    buf_add(&file, (const char[]){(char)(sizeof header - 1), 0, 0, 0, 0, 0, 0, 0}, 8);
    buf_puts(&file, header);
    EXPECT_OK(file_write_whole(in_dir(dir, "model.safetensors"), file.data, file.bytes, &e), e);
    ASSERT_OK(checkpoint_open(&c, dir, &e), e);
    ASSERT_EQ_U64(1, c.note_count);
    EXPECT_STR_EQ("shard 'model.safetensors': 1 unknown field of tensors is ignored", c.notes[0].text);
    checkpoint_close(&c);
    buf_release(&file);
}

/* ---- size ---- */

/* Of CPU, so that a crowded machine makes no difference. */
static double seconds(void)
{
    struct timespec t = {0};

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* 163 shards of 565 tensors with no bytes: the names and headers of a whole DeepSeek-V3. */
static void put_large_checkpoint(const char *dir)
{
    struct tensor *t = mem_alloc(565 * sizeof *t);
    struct tensor **list = mem_alloc(565 * sizeof(struct tensor *));
    struct buf index = {0};
    struct err e = {0};

    buf_puts(&index, "{\"metadata\":{},\"weight_map\":{");
    for (unsigned s = 0; s < 163; s++) {
        struct arena a = {0};
        struct buf head = {0};
        uint64_t file_bytes = 0;
        char name[64];
        snprintf(name, sizeof name, "model-%05u-of-000163.safetensors", s + 1);
        for (unsigned i = 0; i < 565; i++) {
            t[i] = (struct tensor){
                .name = arena_printf(&a, "model.layers.%u.mlp.experts.%u.down_proj.weight_scale_inv", s, i),
                .dtype = DTYPE_F32,
                .rank = 2,
                .dims = {0, 56},
            };
            list[i] = &t[i];
            buf_printf(&index, "%s\"%s\":\"%s\"", s + i ? "," : "", t[i].name, name);
        }
        EXPECT_OK(safetensors_layout(&head, list, 565, &file_bytes, &e), e);
        EXPECT_OK(file_write_whole(in_dir(dir, name), head.data, head.bytes, &e), e);
        buf_release(&head);
        arena_release(&a);
    }
    buf_puts(&index, "}}");
    put_text(dir, INDEX_FILE_NAME, index.data);
    buf_release(&index);
    mem_free(t);
    mem_free(list);
}

TEST(checkpoint, a_full_size_model_opens_in_about_a_second_and_with_few_descriptors)
{
    const char *dir = ct_temp_dir();
    struct checkpoint c = {0};
    struct err e = {0};
    struct rlimit old = {0}, few = {0};
    double begin = 0;

    put_large_checkpoint(dir);
    ASSERT_EQ_I64(0, getrlimit(RLIMIT_NOFILE, &old));
    few = old;
    few.rlim_cur = 64;
    ASSERT_EQ_I64(0, setrlimit(RLIMIT_NOFILE, &few));
    begin = seconds();
    EXPECT_OK(checkpoint_open(&c, dir, &e), e);
    EXPECT_TRUE(seconds() - begin < 5.0); /* under a sanitizer; 0.25 s otherwise */
    EXPECT_EQ_U64(163, c.shard_count);
    EXPECT_EQ_U64(92095, c.tensor_count);
    setrlimit(RLIMIT_NOFILE, &old);
    checkpoint_close(&c);
}

TEST(checkpoint, a_shard_s_name_says_whether_it_is_one_of_several)
{
    static const struct {
        const char *name;
        uint64_t part, parts; /* 0: not one of several */
    } cases[] = {
        {"model-00001-of-00163.safetensors", 1, 163}, {"model-00007-of-000007.safetensors", 7, 7},
        {"x-2-of-3.safetensors", 2, 3},               {"model-00001-of-00001.safetensors", 0, 0},
        {"model.safetensors", 0, 0},                  {"best-of-5.safetensors", 0, 0},
        {"a-1-of-.safetensors", 0, 0},                {"a-1-of-3", 0, 0},
        {"-of-3.safetensors", 0, 0},                  {"a-1-of-3.safetensors.old", 0, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t part = 0, parts = 0;
        ct_case("%s", cases[i].name);
        EXPECT_TRUE(checkpoint_shard_part(cases[i].name, &part, &parts) == (cases[i].parts > 0));
        if (cases[i].parts == 0)
            continue;
        EXPECT_EQ_U64(cases[i].part, part);
        EXPECT_EQ_U64(cases[i].parts, parts);
    }
}
