/* Repacking for many: files by rank, and DeepSeek's own model-parallel ones. */
#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "tests/repack_support.h"
#include "verify/expert_map.h"

/* ---- ranks ---- */

static bool file_has(const struct safetensors *s, const char *name)
{
    for (size_t i = 0; i < s->tensor_count; i++)
        if (strcmp(s->tensors[i].name, name) == 0)
            return true;
    return false;
}

static void add_names(const char *path, struct safetensors *s, struct arena *a)
{
    struct file f = {0};
    struct err e = {0};

    EXPECT_OK(file_open(&f, path, &e) && safetensors_read(s, a, &f, &e), e);
    file_close(&f);
}

/* A rank's own files, with the shared ones, hold all that the placement gives it. */
TEST(repack_ranks, a_rank_finds_its_experts_in_its_own_files)
{
    const char *src = repack_model(1);
    struct repack_case c = {.order = {.kind = ORDER_HOT},
                            .ep = {.ranks = 4, .nodes = 2},
                            .by_rank = true,
                            .target = {.zones = ZONES_EXPERTS, .renumber = true}};

    for (unsigned redundant = 0; redundant <= 8; redundant += 8) {
        struct repacked r;
        struct arena a = {0};
        struct err e = {0};
        const char *dst = path_join(&a, ct_temp_dir(), "dst");

        ct_case("%u redundant", redundant);
        c.ep.replicas = models[MODEL_TINY].experts + redundant;
        EXPECT_OK(support_repack(&r, src, dst, &c, &e), e);
        repacked_expect_same(&r, dst, true);
        for (unsigned rank = 0; rank < 4; rank++) {
            struct safetensors own = {0}, replicas = {0};
            const char *first = arena_printf(&a, "%s/model-rank-%03u-00001-of-00001.safetensors", dst, rank);
            if (path_exists(first)) /* else it has nothing but replicas */
                add_names(first, &own, &a);
            const char *more = arena_printf(&a, "%s/replicas-rank-%03u-00001-of-00001.safetensors", dst, rank);
            if (path_exists(more))
                add_names(more, &replicas, &a);
            EXPECT_TRUE(redundant > 0 || (replicas.tensor_count == 0 && own.tensor_count > 0));
            for (size_t i = 0; i < r.placement.count; i++) {
                const struct placement_layer *l = &r.placement.items[i];
                uint64_t slots = r.placement.shape.replicas / 4;
                for (uint64_t slot = rank * slots; slot < (rank + 1) * slots; slot++) {
                    const char *name = arena_printf(&a, "model.layers.%d.mlp.experts.%u.down_proj.weight_scale_inv",
                                                    (int)l->layer, l->slot_expert[slot]);
                    ct_case("rank %u, %s", rank, name);
                    EXPECT_TRUE(file_has(&own, name) || file_has(&replicas, name));
                }
            }
        }
        repacked_close(&r);
        arena_release(&a);
    }
}

/* ---- model-parallel files ---- */

/* "NAME DTYPE [SHAPE] SHA256" of every tensor of a file, sorted by name. */
static void file_digest(const char *path, char hex[HASH_HEX_BYTES])
{
    struct safetensors s = {0};
    struct arena a = {0};
    struct file f = {0};
    struct hash h = {0};
    struct err e = {0};

    EXPECT_OK(file_open(&f, path, &e) && safetensors_read(&s, &a, &f, &e), e);
    hash_init(&h);
    for (const char *last = ""; last;) {
        const struct tensor *next = NULL;
        for (size_t i = 0; i < s.tensor_count; i++)
            if (strcmp(s.tensors[i].name, last) > 0 && (!next || strcmp(s.tensors[i].name, next->name) < 0))
                next = &s.tensors[i];
        last = next ? next->name : NULL;
        if (!next)
            continue;
        char shape[TENSOR_SHAPE_TEXT], own[HASH_HEX_BYTES], line[600];
        void *data = mem_alloc((size_t)next->bytes + 1);
        EXPECT_OK(file_read(&f, next->offset, data, (size_t)next->bytes, &e), e);
        hash_hex(data, (size_t)next->bytes, own);
        snprintf(line, sizeof line, "%s %s %s %s\n", next->name, dtype_get(next->dtype)->name,
                 tensor_shape_text(next->rank, next->dims, shape), own);
        hash_update(&h, line, strlen(line));
        mem_free(data);
    }
    hash_final_hex(&h, hex);
    file_close(&f);
    arena_release(&a);
}

TEST(repack_ranks, model_parallel_files_are_those_of_deepseeks_own_program)
{
    char *text = NULL, *state = NULL;
    size_t bytes = 0, count = 0;
    struct arena a = {0};
    struct err e = {0};
    struct conversion_case to_bf16 = {.recipe = "bf16"};
    const char *dir = ct_temp_dir(), *plain = path_join(&a, dir, "plain");

    ASSERT_OK(support_convert("samples/tiny-v3", plain, &to_bf16, &e), e);
    ASSERT_OK(file_slurp("tests/fixtures/golden/mp.txt", 1u << 20, &text, &bytes, &e), e);
    for (char *line = strtok_r(text, "\n", &state); line; line = strtok_r(NULL, "\n", &state)) {
        char kase[32], name[64], want[HASH_HEX_BYTES], have[HASH_HEX_BYTES];
        if (line[0] == '#')
            continue;
        ASSERT_EQ_I64(3, sscanf(line, "%31s %63s %64s", kase, name, want));
        ct_case("%s %s", kase, name);
        const char *dst = path_join(&a, dir, kase);
        struct repack_case c = {.target = {.mp = (uint64_t)(kase[strlen(kase) - 1] - '0')}};
        struct repacked r = {0};
        if (!path_exists(dst)) {
            EXPECT_OK(support_repack(&r, kase[0] == 'f' ? "samples/tiny-v3" : plain, dst, &c, &e), e);
            EXPECT_FALSE(path_exists(path_join(&a, dst, "model.safetensors.index.json")));
            repacked_close(&r);
        }
        file_digest(path_join(&a, dst, name), have);
        EXPECT_STR_EQ(want, have);
        count++;
    }
    EXPECT_EQ_U64(7, count);
    mem_free(text);
    arena_release(&a);
}

/* Codes and scales of FP8 are split alike: each share decodes to its part of the matrix. */
TEST(repack_ranks, shares_of_quantized_matrices_have_their_own_scales)
{
    struct model wide = models[MODEL_TINY];
    struct ckpt_maker m = {0};
    struct repack_case c = {.target = {.mp = 2}};
    struct repacked r;
    struct arena a = {0};
    struct err e = {0};
    const char *src = ct_temp_dir(), *dst = path_join(&a, ct_temp_dir(), "dst");

    wide.intermediate = wide.moe_intermediate = 512;
    wide.heads = 8;
    wide.nope = 64;
    wide.v = 64;
    ASSERT_TRUE(support_model_of(&m, &wide, &support_fp8));
    ckpt_write(&m, src);
    EXPECT_OK(support_repack(&r, src, dst, &c, &e), e);
    const struct tensor *down = checkpoint_find(&r.source.checkpoint, "model.layers.0.mlp.down_proj.weight");
    const struct tensor *scale = checkpoint_find(&r.source.checkpoint, "model.layers.0.mlp.down_proj.weight_scale_inv");
    ASSERT_TRUE(down && scale);
    uint8_t *codes = support_read_tensor(&r.source.checkpoint, down),
            *scales = support_read_tensor(&r.source.checkpoint, scale);
    for (size_t rank = 0; rank < 2; rank++) {
        struct checkpoint own = {0};
        const struct tensor *t[2];
        ASSERT_OK(checkpoint_open(&own, arena_printf(&a, "%s/model%zu-mp2.safetensors", dst, rank), &e), e);
        t[0] = checkpoint_find(&own, "layers.0.ffn.w2.weight");
        t[1] = checkpoint_find(&own, "layers.0.ffn.w2.scale");
        ASSERT_TRUE(t[0] && t[1]);
        EXPECT_EQ_U64(256, t[0]->dims[1]);
        EXPECT_EQ_U64(2, t[1]->dims[1]);
        uint8_t *own_codes = support_read_tensor(&own, t[0]), *own_scales = support_read_tensor(&own, t[1]);
        for (size_t row = 0; row < down->dims[0]; row++)
            EXPECT_MEM_EQ(codes + row * 512 + rank * 256, own_codes + row * 256, 256);
        for (size_t row = 0; row < scale->dims[0]; row++)
            EXPECT_MEM_EQ(scales + (row * 4 + rank * 2) * 4, own_scales + row * 2 * 4, 8);
        mem_free(own_codes);
        mem_free(own_scales);
        checkpoint_close(&own);
    }
    mem_free(codes);
    mem_free(scales);
    repacked_close(&r);
    ckpt_release(&m);
    arena_release(&a);
}
