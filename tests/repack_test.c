#include <string.h>

#include "convert/repack_report.h"
#include "formats/base/file.h"
#include "tests/repack_support.h"
#include "verify/expert_map.h"

static void expect_same_config(const struct repacked *r, const char *dst)
{
    struct arena a = {0};
    struct err e = {0};
    char *text = NULL;
    size_t bytes = 0;

    ASSERT_OK(file_slurp(path_join(&a, dst, "config.json"), 1u << 20, &text, &bytes, &e), e);
    ASSERT_EQ_U64(r->source.checkpoint.config_bytes, bytes);
    EXPECT_MEM_EQ(r->source.checkpoint.config, text, bytes);
    mem_free(text);
    arena_release(&a);
}

TEST(repack, not_a_value_changes_in_any_storage_layout_and_order)
{
    static const struct {
        const char *name;
        enum plan_zones zones;
        enum order_kind order;
        bool renumber;
        uint64_t shard_bytes;
    } ways[] = {
        {"by index", ZONES_EXPERTS, ORDER_INDEX, false, 0},
        {"hot, small shards", ZONES_EXPERTS, ORDER_HOT, false, 300000},
        {"hot, aligned, renumbered", ZONES_EXPERTS_ALIGNED, ORDER_HOT, true, 0},
        {"coactive, renumbered, small shards", ZONES_EXPERTS, ORDER_COACTIVE, true, 300000},
    };

    for (size_t s = 0; s < repack_storage_count; s++) {
        const char *src = repack_model(s);
        for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
            struct repack_case c = {.order = {.kind = ways[i].order},
                                    .target = {.zones = ways[i].zones,
                                               .renumber = ways[i].renumber,
                                               .shard_bytes = ways[i].shard_bytes,
                                               .keep_unknown = true}};
            struct repacked r;
            struct arena a = {0};
            struct err e = {0};
            const char *dst = path_join(&a, ct_temp_dir(), "dst");
            ct_case("%s, %s", repack_storages[s].name, ways[i].name);
            EXPECT_OK(support_repack(&r, src, dst, &c, &e), e);
            support_check_layout(&r.plan);
            repacked_expect_same(&r, dst, ways[i].renumber);
            expect_same_config(&r, dst);
            repacked_close(&r);
            arena_release(&a);
        }
    }
}

/* It moves bytes; whether they are numbers is verify's to say. */
TEST(repack, codes_that_are_no_numbers_are_moved_as_they_are)
{
    struct repack_case c = {.target = {.zones = ZONES_EXPERTS}};
    struct ckpt_maker m = {0};
    struct repacked r;
    struct arena a = {0};
    struct err e = {0};
    const char *src = ct_temp_dir(), *dst = path_join(&a, ct_temp_dir(), "dst");
    size_t planted = 0;

    ASSERT_TRUE(support_model(&m, &support_fp8));
    for (size_t i = 0; i < m.count; i++)
        if (m.tensors[i].dtype == DTYPE_F8_E4M3 || m.tensors[i].dtype == DTYPE_BF16) {
            memset(m.data[i], 0xFF, 2);
            planted++;
        }
    EXPECT_TRUE(planted > 0);
    ckpt_write(&m, src);
    EXPECT_OK(support_repack(&r, src, dst, &c, &e), e);
    repacked_expect_same(&r, dst, false);
    repacked_close(&r);
    ckpt_release(&m);
    arena_release(&a);
}

/* ---- where experts stand ---- */

/* Each expert of a V3-like model in one read; its parts in the order gate, up, down; by place in the file. */
static void expect_contiguous(const struct repacked *r, const char *dst, const char *what, double reads)
{
    struct source own = {0};
    struct expert_map m = {0};
    struct routing_stats none = {.experts_per_token = 1};
    struct expert_cost cost;
    struct err e = {0};

    ASSERT_OK(source_open(&own, dst, true, &e), e);
    expert_map_open(&m, &own);
    expert_map_cost(&m, &none, 1, &cost);
    ct_case("%s", what);
    EXPECT_NEAR_F64(reads, cost.reads_per_expert, 1e-9);
    for (size_t i = 0; i < r->orders.count; i++) {
        const struct expert_order *order = &r->orders.items[i];
        for (uint32_t place = 1; place < r->orders.experts; place++) {
            const struct expert_run *before = expert_map_get(&m, order->layer, order->experts[place - 1])->items;
            const struct expert_run *after = expert_map_get(&m, order->layer, order->experts[place])->items;
            EXPECT_TRUE(before->file < after->file ||
                        (before->file == after->file && before->offset + before->bytes == after->offset));
        }
    }
    expert_map_release(&m);
    source_close(&own);
}

TEST(repack, an_expert_is_one_read_and_stands_at_its_place)
{
    static const struct {
        size_t storage;
        enum plan_zones zones;
        double reads;
    } cases[] = {
        {0, ZONES_EXPERTS, 1}, {1, ZONES_EXPERTS, 1}, {1, ZONES_EXPERTS_ALIGNED, 2},
        {4, ZONES_EXPERTS, 1}, {5, ZONES_EXPERTS, 1}, {6, ZONES_EXPERTS, 1},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *src = repack_model(cases[i].storage);
        struct repack_case c = {.order = {.kind = ORDER_HOT},
                                .target = {.zones = cases[i].zones, .keep_unknown = true, .shard_bytes = 400000}};
        struct repacked r;
        struct arena a = {0};
        struct err e = {0};
        const char *dst = path_join(&a, ct_temp_dir(), "dst");
        ct_case("%s", repack_storages[cases[i].storage].name);
        EXPECT_OK(support_repack(&r, src, dst, &c, &e), e);
        EXPECT_TRUE(r.plan.outputs[0].shard_count > 1);
        expect_contiguous(&r, dst, repack_storages[cases[i].storage].name, cases[i].reads);
        repacked_close(&r);
        arena_release(&a);
    }
}

/* What stands behind an expert's number; NULL: no expert's. */
static const char *behind_number(const char *name)
{
    const char *at = strstr(name, ".mlp.experts.");

    return at ? strchr(at + strlen(".mlp.experts."), '.') : NULL;
}

/* All gates, all of their scales, all ups and so on, as stacked formats have them: no two parts of an expert touch. */
static void scatter_experts(struct ckpt_maker *m)
{
    for (size_t i = 1; i < m->count; i++)
        for (size_t k = i; k > 0; k--) {
            const char *a = behind_number(m->tensors[k - 1].name), *b = behind_number(m->tensors[k].name);
            struct tensor t = m->tensors[k];
            void *data = m->data[k];
            if (!b || (a && strcmp(a, b) <= 0))
                break;
            m->tensors[k] = m->tensors[k - 1];
            m->data[k] = m->data[k - 1];
            m->tensors[k - 1] = t;
            m->data[k - 1] = data;
        }
}

TEST(repack, three_or_six_reads_of_an_expert_become_one)
{
    static const struct {
        const struct scheme *linear;
        enum plan_zones zones;
        double before, after;
        const char *said;
    } cases[] = {
        {&support_bf16, ZONES_EXPERTS, 3, 1, "source   3.00 reads of "},
        {&support_fp8, ZONES_EXPERTS, 6, 1, "source   6.00 reads of "},
        {&support_fp8, ZONES_EXPERTS_ALIGNED, 6, 2, "repacked 2.00 reads of "},
        {&support_kimi_int4, ZONES_EXPERTS, 6, 1, "repacked 1.00 reads of "},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct repack_case c = {.order = {.kind = ORDER_HOT}, .target = {.zones = cases[i].zones}};
        struct routing_stats none = {.experts_per_token = 1};
        struct ckpt_maker m = {0};
        struct expert_map map = {0};
        struct expert_cost cost;
        struct repacked r;
        struct arena a = {0};
        struct buf text = {0};
        struct err e = {0};
        const char *src = path_join(&a, ct_temp_dir(), "src"), *dst = path_join(&a, ct_temp_dir(), "dst");

        ct_case("case %zu, %.0f to %.0f", i, cases[i].before, cases[i].after);
        ASSERT_OK(dir_make(src, &e), e);
        ASSERT_TRUE(support_model(&m, cases[i].linear));
        scatter_experts(&m);
        ckpt_write(&m, src);
        ASSERT_OK(support_repack(&r, src, dst, &c, &e), e);
        expert_map_open(&map, &r.source);
        expert_map_cost(&map, &none, 1, &cost);
        EXPECT_NEAR_F64(cases[i].before, cost.reads_per_expert, 1e-9);
        expect_contiguous(&r, dst, cases[i].said, cases[i].after);
        struct repack_facts facts = {.plan = &r.plan, .orders = &r.orders, .window_bytes = 1000000, .align = 4096};
        repack_report_text(&text, &facts);
        EXPECT_STR_HAS(text.data, cases[i].said);
        buf_release(&text);
        expert_map_release(&map);
        repacked_close(&r);
        ckpt_release(&m);
        arena_release(&a);
    }
}

/* A wider model, whose int4 codes and scales are whole pages, as V3's are: every tensor of an expert is aligned. */
TEST(repack, whole_pages_stay_aligned)
{
    static const struct scheme int4 = {
        .kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = 32, .shape_i64 = true};
    static const struct {
        const struct scheme *scheme;
        enum plan_zones zones;
        bool every;
    } cases[] = {{&int4, ZONES_EXPERTS, true},
                 {&support_fp8, ZONES_EXPERTS_ALIGNED, true},
                 {&support_fp8, ZONES_EXPERTS, false}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model wide = models[MODEL_TINY];
        struct ckpt_maker m = {0};
        struct repack_case c = {.target = {.zones = cases[i].zones, .shard_bytes = 4000000}};
        struct repacked r;
        struct arena a = {0};
        struct err e = {0};
        const char *src = ct_temp_dir();
        size_t aligned = 0, all = 0;

        wide.hidden = wide.moe_intermediate = 512;
        ASSERT_TRUE(support_model_of(&m, &wide, cases[i].scheme));
        ckpt_write(&m, src);
        EXPECT_OK(repacked_open(&r, src, path_join(&a, ct_temp_dir(), "dst"), &c, &e), e);
        support_check_layout(&r.plan);
        for (size_t k = 0; k < r.plan.weight_count; k++)
            for (enum part part = 0; part < PART_SHAPE; part++) {
                const struct tensor *t = &r.plan.outputs[0].rows[k].parts[part];
                if (r.plan.weights[k]->id.expert < 0 || t->bytes < 4096)
                    continue;
                all++;
                aligned += t->offset % 4096 == 0;
            }
        ct_case("case %zu", i);
        EXPECT_TRUE(all > 0 && (aligned == all) == cases[i].every);
        repacked_close(&r);
        ckpt_release(&m);
        arena_release(&a);
    }
}

TEST(repack, data_begins_at_the_alignment_asked_for)
{
    const char *src = repack_model(1);

    for (uint64_t align = 4096; align <= 2u << 20; align *= 8) {
        struct repack_case c = {.target = {.zones = ZONES_EXPERTS, .align = align, .shard_bytes = 500000}};
        struct repacked r;
        struct err e = {0};
        ct_case("%d", (int)align);
        EXPECT_OK(repacked_open(&r, src, "nowhere", &c, &e), e);
        for (size_t i = 0; i < r.plan.outputs[0].shard_count; i++)
            EXPECT_EQ_U64(0, r.plan.outputs[0].shards[i].prefix.bytes % align);
        support_check_layout(&r.plan);
        repacked_close(&r);
    }
}

TEST(repack, threads_and_memory_change_no_byte)
{
    const char *src = repack_model(6);
    char want[65] = "", have[65];

    for (unsigned threads = 1; threads <= 7; threads += 3) {
        struct repack_case c = {.order = {.kind = ORDER_HOT},
                                .threads = threads,
                                .target = {.zones = ZONES_EXPERTS, .renumber = true, .shard_bytes = 300000}};
        struct repacked r;
        struct arena a = {0};
        struct err e = {0};
        const char *dst = path_join(&a, ct_temp_dir(), "dst");
        EXPECT_OK(support_repack(&r, src, dst, &c, &e), e);
        support_dir_hash(dst, have);
        if (threads == 1)
            memcpy(want, have, sizeof want);
        EXPECT_STR_EQ(want, have);
        repacked_close(&r);
        arena_release(&a);
    }
}

/* ---- refusals ---- */

static void quantized_router(struct ckpt_maker *m)
{
    ckpt_drop(m, "model.layers.1.mlp.gate.weight");
    ckpt_weight(m, "model.layers.1.mlp.gate", &support_fp8, models[MODEL_TINY].experts, models[MODEL_TINY].hidden);
}

static void unknown_tensor(struct ckpt_maker *m)
{
    ckpt_vector(m, "model.layers.1.mlp.gate.mystery", DTYPE_F32, 8, NULL);
}

TEST(repack, what_cannot_be_done_is_refused_with_the_reason)
{
    static const struct {
        void (*change)(struct ckpt_maker *m);
        struct repack_target target;
        const char *want;
    } cases[] = {
        {quantized_router,
         {.renumber = true},
         "'model.layers.1.mlp.gate.weight' is quantized: its rows cannot be renumbered"},
        {unknown_tensor, {0}, "'model.layers.1.mlp.gate.mystery' has no place in this architecture; --keep-unknown"},
        {unknown_tensor, {.renumber = true, .keep_unknown = true}, "whether it counts experts is not known"},
        {NULL, {.mp = 4}, "would cut a block of 128"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct repack_case c = {.target = cases[i].target, .order = {.kind = ORDER_HOT}};
        struct ckpt_maker m = {0};
        struct repacked r;
        struct err e = {0};
        const char *src = ct_temp_dir();
        ct_case("%s", cases[i].want);
        ASSERT_TRUE(support_model(&m, &support_fp8));
        if (cases[i].change)
            cases[i].change(&m);
        ckpt_write(&m, src);
        EXPECT_FALSE(repacked_open(&r, src, "nowhere", &c, &e));
        EXPECT_STR_HAS(e.text, cases[i].want);
        repacked_close(&r);
        ckpt_release(&m);
    }
}
