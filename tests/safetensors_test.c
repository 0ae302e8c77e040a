#include "formats/safetensors.h"

#include <string.h>

#include "formats/json.h"
#include "tests/ct.h"
#include "tests/hostile_safetensors.h"

/* The targets that a fuzzer would drive, under names of their own. */
#define LLVMFuzzerTestOneInput fuzz_json
#include "tests/fuzz/fuzz_json.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_safetensors
#include "tests/fuzz/fuzz_safetensors.c"
#undef LLVMFuzzerTestOneInput

static void build(struct buf *file, uint64_t length, const char *header, size_t header_bytes, size_t data_bytes)
{
    for (unsigned i = 0; i < 8; i++)
        buf_add(file, &(uint8_t){(uint8_t)(length >> 8 * i)}, 1);
    buf_add(file, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++)
        buf_add(file, "", 1);
}

/* In a block of its own size, so that the sanitizer sees a step past it. */
static bool parses(const void *data, size_t bytes, struct err *e)
{
    struct arena a = {0};
    struct safetensors s = {0};
    uint8_t *copy = mem_grow(NULL, bytes ? bytes : 1, 1);
    bool ok = false;

    if (bytes)
        memcpy(copy, data, bytes);
    ok = safetensors_parse(&s, &a, copy, bytes, bytes, e);
    arena_release(&a);
    mem_free(copy);
    return ok;
}

static bool header_parses(const char *header, size_t data_bytes, struct err *e)
{
    struct buf file = {0};
    bool ok = false;

    build(&file, strlen(header), header, strlen(header), data_bytes);
    ok = parses(file.data, file.bytes, e);
    buf_release(&file);
    return ok;
}

/* ---- refusals ---- */

TEST(safetensors, hostile_files_are_refused_by_cause_and_borderline_ones_read)
{
    for (size_t i = 0; i < HOSTILE_COUNT; i++) {
        const struct hostile *h = &hostile_files[i];
        struct buf file = {0};
        struct err e = {0};
        ct_case("%s", h->name);
        build(&file, h->length, h->header, h->header_bytes, h->data_bytes);
        if (h->code == ERR_NONE) {
            EXPECT_OK(parses(file.data, file.bytes, &e), e);
        } else {
            EXPECT_FALSE(parses(file.data, file.bytes, &e));
            EXPECT_ERR(e, h->code, h->message_part);
        }
        buf_release(&file);
    }
}

TEST(safetensors, a_file_of_less_than_eight_bytes_is_refused)
{
    for (size_t bytes = 0; bytes < 8; bytes++) {
        struct err e = {0};
        ct_case("%zu bytes", bytes);
        EXPECT_FALSE(parses("\1\0\0\0\0\0\0\0", bytes, &e));
        EXPECT_ERR(e, ERR_FORMAT, "no room for the header's length: the file has");
    }
}

static const struct {
    const char *name, *header;
    size_t data_bytes;
    enum err_code code;
    const char *message_part;
} more[] = {
    {"no header", "", 0, ERR_FORMAT, "header: the text ends where a value should be"},
    {"leading tab", "\t{}", 0, ERR_FORMAT, "byte 0x09 stands where the first byte of a value should be"},
    {"a number", "7", 0, ERR_FORMAT, "the header is a number, not an object"},
    {"rank 8", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,2],\"data_offsets\":[0,2]}}", 2, ERR_NONE, NULL},
    {"rank 9", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,2]}}", 2, ERR_LIMIT,
     "tensor 'a': shape has 9 dimensions, more than the limit of 8"},
    {"shape is a number", "{\"a\":{\"dtype\":\"U8\",\"shape\":2,\"data_offsets\":[0,2]}}", 2, ERR_FORMAT,
     "tensor 'a': shape is a number, not an array"},
    {"shape is an object", "{\"a\":{\"dtype\":\"U8\",\"shape\":{\"0\":2},\"data_offsets\":[0,2]}}", 2, ERR_FORMAT,
     "tensor 'a': shape is an object, not an array"},
    {"offsets are an object", "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":{\"a\":0,\"b\":2}}}", 2,
     ERR_FORMAT, "tensor 'a': data_offsets is an object, not an array"},
    {"offsets are strings", "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[\"0\",2]}}", 2, ERR_FORMAT,
     "tensor 'a': data_offsets holds something else than integers"},
    {"offsets are null", "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":null}}", 2, ERR_FORMAT,
     "tensor 'a': data_offsets is null, not an array"},
    {"tensor is null", "{\"a\":null}", 0, ERR_FORMAT, "tensor 'a': described by null, not by an object"},
    {"unknown field of the wrong type",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2],\"x\":{\"y\":[]}}}", 2, ERR_NONE, NULL},
    {"the lower offset names the first fault",
     "{\"z\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]},\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_"
     "offsets\":[0,2]}}",
     9, ERR_FORMAT, "tensor 'a': offsets span 2 bytes, but shape [3] of U8 takes 3"},
    {"several empty tensors in one place",
     "{\"z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_"
     "offsets\":[0,0]}}",
     0, ERR_NONE, NULL},
};

TEST(safetensors, more_faults_are_refused_by_cause)
{
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++) {
        struct err e = {0};
        ct_case("%s", more[i].name);
        if (more[i].code == ERR_NONE) {
            EXPECT_OK(header_parses(more[i].header, more[i].data_bytes, &e), e);
        } else {
            EXPECT_FALSE(header_parses(more[i].header, more[i].data_bytes, &e));
            EXPECT_ERR(e, more[i].code, more[i].message_part);
        }
    }
}

/* ---- the example of the format's description, accepted by the reference reader ---- */

static const char worked_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[1,2],\"data_offsets\":[8,12]},"
    "\"c\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,2],\"data_offsets\":[12,16]}}     ";
static const uint8_t worked_data[] = {
    0x00, 0x00, 0x80, 0x3f, 0x00, 0x00, 0x20, 0xc0, /* a = 1.0, -2.5 */
    0x80, 0x3f, 0x00, 0xc0,                         /* b = 1.0, -2.0 */
    0x38, 0xb8, 0x7e, 0x01,                         /* c = 1.0, -1.0, 448, 2^-9 */
};

TEST(safetensors, the_worked_file_is_read_field_by_field)
{
    struct arena a = {0};
    struct buf file = {0};
    struct safetensors s = {0};
    struct err e = {0};

    build(&file, 0xd0, worked_header, sizeof worked_header - 1, 0);
    buf_add(&file, worked_data, sizeof worked_data);
    ASSERT_EQ_U64(232, file.bytes);
    ASSERT_OK(safetensors_parse(&s, &a, (const uint8_t *)file.data, file.bytes, file.bytes, &e), e);
    EXPECT_EQ_U64(216, s.data_offset);
    EXPECT_STR_EQ("pt", s.metadata_format);
    EXPECT_EQ_U64(0, s.ignored_fields);
    ASSERT_EQ_U64(3, s.tensor_count);
    EXPECT_STR_EQ("a", s.tensors[0].name);
    EXPECT_EQ_I64(DTYPE_F32, s.tensors[0].dtype);
    EXPECT_EQ_U64(1, s.tensors[0].rank);
    EXPECT_EQ_U64(2, s.tensors[0].dims[0]);
    EXPECT_EQ_U64(216, s.tensors[0].offset);
    EXPECT_EQ_U64(8, s.tensors[0].bytes);
    EXPECT_STR_EQ("b", s.tensors[1].name);
    EXPECT_EQ_I64(DTYPE_BF16, s.tensors[1].dtype);
    EXPECT_EQ_U64(2, s.tensors[1].rank);
    EXPECT_EQ_U64(1, s.tensors[1].dims[0]);
    EXPECT_EQ_U64(2, s.tensors[1].dims[1]);
    EXPECT_EQ_U64(224, s.tensors[1].offset);
    EXPECT_EQ_U64(4, s.tensors[1].bytes);
    EXPECT_EQ_I64(DTYPE_F8_E4M3, s.tensors[2].dtype);
    EXPECT_EQ_U64(228, s.tensors[2].offset);
    arena_release(&a);
    buf_release(&file);
}

TEST(safetensors, tensors_come_by_offset_and_extra_fields_are_counted)
{
    static const char header[] = "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[1,4],\"x\":1,\"y\":[{}]},"
                                 "\"\\u0061\":{\"data_offsets\":[0,1],\"shape\":[],\"dtype\":\"I8\"}}";
    struct arena a = {0};
    struct buf file = {0};
    struct safetensors s = {0};
    struct err e = {0};

    build(&file, sizeof header - 1, header, sizeof header - 1, 4);
    ASSERT_OK(safetensors_parse(&s, &a, (const uint8_t *)file.data, file.bytes, file.bytes, &e), e);
    ASSERT_EQ_U64(2, s.tensor_count);
    EXPECT_STR_EQ("a", s.tensors[0].name);
    EXPECT_EQ_U64(0, s.tensors[0].rank);
    EXPECT_STR_EQ("b", s.tensors[1].name);
    EXPECT_EQ_U64(s.data_offset + 1, s.tensors[1].offset);
    EXPECT_EQ_U64(2, s.ignored_fields);
    EXPECT_TRUE(s.metadata_format == NULL);
    arena_release(&a);
    buf_release(&file);
}

/* ---- writing ---- */

TEST(safetensors, a_layout_is_read_back_as_it_was_meant)
{
    struct tensor t[] = {
        {.name = "w", .dtype = DTYPE_BF16, .rank = 2, .dims = {3, 5}, .bytes = 30},
        {.name = "quoted \" \\ \x01 \xc3\xa9", .dtype = DTYPE_F8_E4M3, .rank = 1, .dims = {7}, .bytes = 7},
        {.name = "none", .dtype = DTYPE_F32, .rank = 3, .dims = {4, 0, 2}, .bytes = 0},
        {.name = "scalar", .dtype = DTYPE_F64, .rank = 0, .bytes = 8},
        {.name = "packed", .dtype = DTYPE_F4, .rank = 1, .dims = {10}, .bytes = 5},
    };
    struct tensor *list[] = {&t[0], &t[1], &t[2], &t[3], &t[4]};
    struct arena a = {0};
    struct buf head = {0};
    struct safetensors s = {0};
    struct output out = {0};
    struct file f = {0};
    struct err e = {0};
    uint64_t file_bytes = 0;
    char *path = path_join(&a, ct_temp_dir(), "m.safetensors");

    ASSERT_OK(safetensors_layout(&head, list, 5, &file_bytes, &e), e);
    EXPECT_EQ_U64(0, head.bytes % SAFETENSORS_DATA_ALIGN);
    EXPECT_EQ_U64(head.bytes + 50, file_bytes);
    EXPECT_EQ_U64(head.bytes, t[0].offset);
    EXPECT_EQ_U64(head.bytes + 30, t[1].offset);
    EXPECT_EQ_U64(head.bytes + 37, t[2].offset);
    EXPECT_EQ_U64(head.bytes + 37, t[3].offset);
    EXPECT_EQ_U64(head.bytes + 45, t[4].offset);
    EXPECT_STR_HAS(head.data + 8, "{\"__metadata__\":{\"format\":\"pt\"},\"w\":{\"dtype\":\"BF16\",\"shape\":[3,5],"
                                  "\"data_offsets\":[0,30]},\"quoted \\\" \\\\ \\u0001 \xc3\xa9\":{");

    ASSERT_OK(output_open(&out, path, file_bytes, false, &e), e);
    EXPECT_OK(output_write(&out, 0, head.data, head.bytes, &e), e);
    EXPECT_OK(output_commit(&out, &e), e);
    output_release(&out);
    ASSERT_OK(file_open(&f, path, &e), e);
    EXPECT_EQ_U64(file_bytes, f.bytes);
    ASSERT_OK(safetensors_read(&s, &a, &f, &e), e);
    ASSERT_EQ_U64(5, s.tensor_count);
    EXPECT_EQ_U64(head.bytes, s.data_offset);
    EXPECT_STR_EQ("pt", s.metadata_format);
    for (size_t i = 0; i < 5; i++) {
        /* "none" has no bytes and stands where "scalar" begins: shorter first. */
        ct_case("%s", t[i].name);
        EXPECT_STR_EQ(t[i].name, s.tensors[i].name);
        EXPECT_EQ_I64(t[i].dtype, s.tensors[i].dtype);
        EXPECT_EQ_U64(t[i].rank, s.tensors[i].rank);
        EXPECT_MEM_EQ(t[i].dims, s.tensors[i].dims, sizeof t[i].dims);
        EXPECT_EQ_U64(t[i].offset, s.tensors[i].offset);
        EXPECT_EQ_U64(t[i].bytes, s.tensors[i].bytes);
    }
    file_close(&f);
    buf_release(&head);
    arena_release(&a);
}

TEST(safetensors, a_layout_without_tensors_is_a_whole_file)
{
    struct buf head = {0};
    struct err e = {0};
    uint64_t file_bytes = 0;

    ASSERT_OK(safetensors_layout(&head, NULL, 0, &file_bytes, &e), e);
    EXPECT_EQ_U64(SAFETENSORS_DATA_ALIGN, file_bytes);
    EXPECT_OK(parses(head.data, head.bytes, &e), e);
    buf_release(&head);
}

TEST(safetensors, the_header_estimate_is_never_too_small_and_rarely_large)
{
    struct tensor t = {.name = "model.layers.60.mlp.experts.255.down_proj.weight_packed",
                       .dtype = DTYPE_F8_E4M3FNUZ,
                       .rank = 2,
                       .dims = {7168, 2048},
                       .bytes = 7168 * 2048};
    struct tensor *list[] = {&t};
    struct buf head = {0};
    struct err e = {0};
    uint64_t file_bytes = 0;
    const char *end = NULL;
    size_t begin = sizeof "{\"__metadata__\":{\"format\":\"pt\"}," - 1 + 8, real = 0;

    ASSERT_OK(safetensors_layout(&head, list, 1, &file_bytes, &e), e);
    end = strstr(head.data + 8, "}}  ");
    ASSERT_TRUE(end != NULL);
    real = (size_t)(end - head.data) + 1 + 1 - begin; /* its own bracket and a comma */
    EXPECT_TRUE(safetensors_header_bytes(&t) >= real);
    EXPECT_TRUE(safetensors_header_bytes(&t) <= real + 40);
    t.name = "\x01\x02\"\\";
    EXPECT_EQ_U64(
        safetensors_header_bytes(&(struct tensor){.name = "", .dtype = t.dtype, .rank = 2, .dims = {7168, 2048}}) + 16,
        safetensors_header_bytes(&t));
    buf_release(&head);
}

TEST(safetensors, a_header_above_the_hubs_limit_is_not_written)
{
    size_t count = 200000;
    struct tensor *t = mem_alloc(count * sizeof *t);
    struct tensor **list = mem_alloc(count * sizeof(struct tensor *));
    struct arena a = {0};
    struct buf head = {0};
    struct err e = {0};
    uint64_t file_bytes = 0;

    for (size_t i = 0; i < count; i++) {
        t[i] = (struct tensor){.name = arena_printf(&a, "a.rather.long.name.as.they.are.in.these.models.%zu", i),
                               .dtype = DTYPE_U8,
                               .rank = 2,
                               .dims = {1000, 1000},
                               .bytes = 1000000};
        list[i] = &t[i];
    }
    EXPECT_FALSE(safetensors_layout(&head, list, count, &file_bytes, &e));
    EXPECT_ERR(e, ERR_LIMIT, "for 200000 tensors is past the limit of 25000000; use smaller shards");
    buf_release(&head);
    arena_release(&a);
    mem_free(list);
    mem_free(t);
}

/* ---- mutations ---- */

static uint64_t random_next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* One to four edits: a bit, a byte of JSON's alphabet, a piece doubled, a piece cut, a cut end. */
static void mutate(struct buf *file, uint64_t *state)
{
    static const char alphabet[] = "{}[]\",:\\u0d8-.eE1\x80\xff \n/*";
    size_t edits = 1 + random_next(state) % 4;

    while (edits-- && file->bytes > 16) {
        size_t at = random_next(state) % file->bytes, piece = 1 + random_next(state) % 8;
        if (piece > file->bytes - at)
            piece = file->bytes - at;
        switch (random_next(state) % 5) {
        case 0:
            file->data[at] = (char)(file->data[at] ^ 1 << random_next(state) % 8);
            break;
        case 1:
        case 2:
            file->data[at] = alphabet[random_next(state) % (sizeof alphabet - 1)];
            break;
        case 3: {
            char copy[8];
            memcpy(copy, file->data + at, piece);
            buf_add(file, copy, piece);
            break;
        }
        default:
            memmove(file->data + at, file->data + at + piece, file->bytes - at - piece);
            file->bytes -= piece;
        }
    }
}

/* Most edits break the length in front; putting it right lets the JSON be reached. */
static void fix_length(struct buf *file, size_t data_bytes)
{
    uint64_t n = file->bytes - 8 > data_bytes ? file->bytes - 8 - data_bytes : 0;

    for (unsigned i = 0; i < 8; i++)
        file->data[i] = (char)(n >> 8 * i & 0xff);
}

TEST(safetensors, twenty_thousand_mutations_neither_crash_nor_lie)
{
    uint64_t state = 20240607;

    for (int round = 0; round < 20000; round++) {
        const struct hostile *h = &hostile_files[random_next(&state) % HOSTILE_COUNT];
        struct buf file = {0};
        char *exact = NULL;
        ct_case("round %d, from '%s'", round, h->name);
        build(&file, h->length, h->header, h->header_bytes, h->data_bytes);
        mutate(&file, &state);
        if (round % 4)
            fix_length(&file, h->data_bytes);
        exact = mem_grow(NULL, file.bytes, 1);
        memcpy(exact, file.data, file.bytes);
        fuzz_safetensors((const uint8_t *)exact, file.bytes);
        exact[7] = (char)(round & 7); /* flags */
        fuzz_json((const uint8_t *)exact + 7, file.bytes - 7);
        mem_free(exact);
        buf_release(&file);
    }
}
