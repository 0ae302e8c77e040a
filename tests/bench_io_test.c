#include "verify/bench_io.h"

#include <string.h>

#include "formats/base/file.h"
#include "samples/generate/synthetic_trace.h"
#include "tests/ct.h"
#include "verify/expert_map.h"

#define FILE_BYTES 300000u

static uint8_t *content;

static const char *put_file(struct arena *a)
{
    char *path = path_join(a, ct_temp_dir(), "f");
    struct err e = {0};

    content = arena_alloc(a, FILE_BYTES);
    for (size_t i = 0; i < FILE_BYTES; i++)
        content[i] = (uint8_t)(i * 2654435761u >> 13);
    EXPECT_OK(file_write_whole(path, content, FILE_BYTES, &e), e);
    return path;
}

/* Ranges that begin and end anywhere, the file's ragged end included. */
static const struct {
    uint64_t offset, bytes;
} ranges[] = {{0, 1},     {4095, 2}, {4096, 4096}, {12345, 54321}, {FILE_BYTES - 1, 1}, {200001, FILE_BYTES - 200001},
              {7, 299000}};
#define RANGE_COUNT (sizeof ranges / sizeof ranges[0])

TEST(read_team, reads_what_was_asked_for_by_any_method_at_any_depth)
{
    static const unsigned depths[] = {1, 3, 16};
    struct arena a = {0};
    const char *path = put_file(&a);

    for (enum read_method m = 0; m < READ_MMAP; m++)
        for (size_t d = 0; d < sizeof depths / sizeof depths[0]; d++) {
            struct read_task tasks[RANGE_COUNT];
            struct read_file f = {0};
            struct err e = {0};
            ct_case("%s at depth %u", read_method_name(m), depths[d]);
            if (!read_file_open(&f, path, m, &e)) {
                EXPECT_ERR(e, ERR_UNSUPPORTED, "without O_DIRECT");
                continue;
            }
            for (size_t i = 0; i < RANGE_COUNT; i++) {
                uint8_t *room = arena_alloc(&a, FILE_BYTES + 3 * READ_PAGE_BYTES);
                uint8_t *page = room + (READ_PAGE_BYTES - (uintptr_t)room % READ_PAGE_BYTES) % READ_PAGE_BYTES;
                tasks[i] = (struct read_task){&f, ranges[i].offset, ranges[i].bytes, page};
            }
            struct read_team *team = read_team_new(m, depths[d]);
            for (unsigned again = 0; again < 3; again++)
                EXPECT_OK(read_team_run(team, tasks, RANGE_COUNT, &e), e);
            read_team_free(team);
            for (size_t i = 0; i < RANGE_COUNT; i++) {
                size_t skip = m == READ_DIRECT ? ranges[i].offset % READ_PAGE_BYTES : 0;
                EXPECT_MEM_EQ(content + ranges[i].offset, tasks[i].to + skip, ranges[i].bytes);
            }
            read_file_forget(&f);
            read_file_close(&f);
        }
    arena_release(&a);
}

TEST(read_team, the_lowest_failing_read_is_reported)
{
    struct arena a = {0};
    const char *path = put_file(&a);

    for (enum read_method m = 0; m < READ_METHOD_COUNT; m++) {
        struct read_file f = {0};
        struct err e = {0};
        uint8_t *room = arena_alloc(&a, 4 * READ_PAGE_BYTES);
        uint8_t *page = room + (READ_PAGE_BYTES - (uintptr_t)room % READ_PAGE_BYTES) % READ_PAGE_BYTES;
        if (!read_file_open(&f, path, m, &e))
            continue;
        struct read_task tasks[] = {
            {&f, 0, 10, page}, {&f, FILE_BYTES + 50000, 10, page}, {&f, FILE_BYTES + 90000, 10, page}};
        struct read_team *team = read_team_new(m, 4);
        ct_case("%s", read_method_name(m));
        EXPECT_FALSE(read_team_run(team, tasks, 3, &e));
        EXPECT_ERR(e, ERR_IO, m == READ_DIRECT ? "348160" : "350000");
        EXPECT_OK(read_team_run(team, tasks, 1, &e), e);
        read_team_free(team);
        read_file_close(&f);
    }
    arena_release(&a);
}

/* ---- what a token costs ---- */

static const char config[HASH_HEX_BYTES] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/* Two layers of four experts of two tensors; layer 0 has them apart, layer 1 in a row. */
static void put_map(struct expert_map *m)
{
    expert_map_init(m, 2, 4);
    for (uint64_t x = 0; x < 4; x++) {
        expert_map_add(m, 0, x, 0, 1000 + 100 * x, 40);
        expert_map_add(m, 0, x, 0, 5000 + 100 * x, 60);
        expert_map_add(m, 1, x, 1, 100 * x + 40, 60);
        expert_map_add(m, 1, x, 1, 100 * x, 40);
    }
    expert_map_finish(m);
}

TEST(expert_map, a_token_costs_what_is_counted_by_hand)
{
    static const uint32_t near[] = {1, 2}, far[] = {0, 3};
    static const float weights[] = {0.5f, 0.5f};
    struct routing_stats s = {0};
    struct expert_map m = {0};
    struct expert_cost c;

    put_map(&m);
    EXPECT_EQ_U64(2, expert_map_get(&m, 0, 3)->count);
    EXPECT_EQ_U64(1, expert_map_get(&m, 1, 3)->count);
    EXPECT_EQ_U64(300, expert_map_get(&m, 1, 3)->items[0].offset);
    EXPECT_EQ_U64(100, expert_map_get(&m, 1, 3)->items[0].bytes);
    routing_stats_init(&s, 4, 2, 2, config, true);
    routing_stats_add(&s, 0, near, weights, 1);
    routing_stats_add(&s, 1, near, weights, 1);
    routing_stats_add_sequence(&s, 1);
    expert_map_cost(&m, &s, 200, &c);
    EXPECT_NEAR_F64(1.5, c.reads_per_expert, 1e-12);
    EXPECT_NEAR_F64(100, c.bytes_per_expert, 1e-12);
    EXPECT_NEAR_F64(4, c.experts, 1e-12);
    EXPECT_NEAR_F64(5, c.reads, 1e-12); /* layer 0: four; layer 1: experts 1 and 2 are one */
    EXPECT_NEAR_F64(400, c.bytes, 1e-12);
    EXPECT_NEAR_F64(1 - (40 + 40 + 60 + 60 + 40) / 400.0, c.sequential, 1e-12);
    /* windows of 200 bytes: 1100-1140, 1200-1240; 5100-5160, 5200-5260; 100-300 */
    EXPECT_NEAR_F64(2 + 2 + 2, c.windows, 1e-12);
    routing_stats_add(&s, 1, far, weights, 1);
    routing_stats_add_sequence(&s, 1);
    expert_map_cost(&m, &s, 200, &c);
    EXPECT_NEAR_F64((5 + 2) / 2.0, c.reads, 1e-12);
    EXPECT_NEAR_F64((6 + 2) / 2.0, c.windows, 1e-12);
    routing_stats_release(&s);
    expert_map_release(&m);
}

TEST(bench_io, does_the_reads_that_the_map_predicts)
{
    struct synthetic_trace t = {.tokens = 50, .communities = 4, .loyalty = 0.9, .groups = 1, .seed = 3};
    struct bench_io_options o = {.methods = {true, true, true}, .depths = {1, 4}, .depth_count = 2};
    struct routing_stats s = {0};
    struct source source = {0};
    struct bench_io b = {0};
    struct err e = {0};
    double reads = -1;

    ASSERT_OK(source_open(&source, "samples/tiny-v3", true, &e), e);
    ASSERT_OK(routing_stats_open(&s, &source, true, &e), e);
    for (uint64_t layer = 1; layer < 5; layer++)
        synthetic_trace_add(&s, layer, &t);
    routing_stats_add_sequence(&s, 50);
    ASSERT_OK(bench_io_run(&b, &source, &s, &o, &e), e);
    EXPECT_EQ_U64(4, b.layers);
    EXPECT_NEAR_F64(16, b.experts, 0);
    ASSERT_EQ_U64(6, b.row_count);
    for (size_t i = 0; i < b.row_count; i++) {
        const struct bench_io_row *r = &b.rows[i];
        ct_case("%s at depth %u", read_method_name(r->method), r->depth);
        if (r->skipped)
            continue;
        EXPECT_EQ_U64(4, r->layers_read); /* no time: one token */
        EXPECT_TRUE(r->seconds > 0 && r->bytes >= 16 * 98304.0);
        EXPECT_TRUE(reads < 0 || r->reads == reads); /* the same tokens for all */
        reads = r->reads;
    }
    bench_io_release(&b);
    routing_stats_release(&s);
    source_close(&source);
}
