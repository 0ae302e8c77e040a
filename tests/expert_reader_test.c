/* Experts read ahead: what is read, the order of giving back, and that a forward pass has the same bits with it. */
#include "verify/expert_reader.h"

#include <string.h>
#include <unistd.h>

#include "formats/base/pool.h"
#include "tests/ct.h"
#include "tests/forward_support.h"
#include "verify/expert_place.h"
#include "verify/forward_private.h"

/* As tests/fixtures/forward has it, but with experts that are large enough to be read ahead. */
static void wide_init(struct made *m, const char *kind)
{
    bool int4 = strcmp(kind, "int4") == 0;

    made_init_with(m, kind, "\"moe_intermediate_size\": 32,",
                   int4 ? "\"moe_intermediate_size\": 2752," : "\"moe_intermediate_size\": 1408,");
}

/* Three bytes at the beginning, so that what is behind them is not aligned in its file. */
static void shift_tensors(struct ckpt_maker *m)
{
    const uint64_t three = 3;

    ckpt_add(m, "odd", DTYPE_U8, 1, &three, NULL);
    struct tensor t = m->tensors[0];
    void *data = m->data[0];
    m->tensors[0] = m->tensors[m->count - 1];
    m->data[0] = m->data[m->count - 1];
    m->tensors[m->count - 1] = t;
    m->data[m->count - 1] = data;
}

static size_t largest_room(const struct source *s, uint64_t layer)
{
    const struct weight *mlp[MLP_PARTS];
    size_t most = 0;
    struct err e = {0};

    for (uint64_t i = 0; i < s->arch.experts; i++) {
        EXPECT_OK(layer_expert(s, layer, i, mlp, &e), e);
        size_t bytes = expert_room_bytes(mlp);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static void expect_same_matrix(const struct source *s, const struct weight *w, const struct coded *got)
{
    void *memory = mem_aligned(weight_memory_bytes(w));
    struct coded want;
    struct err e = {0};

    EXPECT_OK(weight_load(s, w, memory, &want, &e), e);
    EXPECT_EQ_U64(want.rows, got->rows);
    EXPECT_EQ_U64(want.cols, got->cols);
    for (enum part p = 0; p < PART_COUNT; p++) {
        EXPECT_EQ_I64(want.parts.part[p] != NULL, got->parts.part[p] != NULL);
        if (!want.parts.part[p])
            continue;
        EXPECT_EQ_U64(0, (uintptr_t)got->parts.part[p] % dtype_get(w->parts[p]->dtype)->block_bytes);
        EXPECT_MEM_EQ(want.parts.part[p], got->parts.part[p], w->parts[p]->bytes);
    }
    mem_free(memory);
}

struct users {
    const struct source *source;
    struct expert_reader *reader;
    const bool *wanted;
};

static bool use_expert(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct users *u = ctx;
    const struct weight *mlp[MLP_PARTS];
    struct coded got[MLP_PARTS];

    (void)worker;
    if (!u->wanted[job])
        return true;
    if (!expert_reader_take(u->reader, job, got, e) || !layer_expert(u->source, 1, job, mlp, e))
        return false;
    for (enum mlp_part m = 0; m < MLP_PARTS; m++)
        expect_same_matrix(u->source, mlp[m], &got[m]);
    expert_reader_give(u->reader, job);
    return true;
}

TEST(expert_reader, wanted_experts_come_as_they_are_stored_whoever_is_first)
{
    static const char *const kinds[] = {"fp8", "int4"};
    static const unsigned threads[] = {1, 3, 7};

    for (size_t i = 0; i < 6; i++) {
        struct made m;
        struct err e = {0};
        bool wanted[16];
        ct_case("%s, %u threads, %s", kinds[i / 3], threads[i / 2], i & 1 ? "direct" : "cached");
        wide_init(&m, kinds[i / 3]);
        if (i / 2 == 1)
            shift_tensors(&m.maker);
        made_open(&m);
        if (i / 2 == 1) {
            const struct weight *w = weights_find(&m.source.weights, "model.layers.1.mlp.experts.0.up_proj.weight");
            EXPECT_TRUE(w->parts[PART_SCALE]->offset % 2 == 1);
        }
        struct expert_reader *r = expert_reader_new(&m.source, threads[i / 2], largest_room(&m.source, 1), i & 1);
        ASSERT_TRUE(r != NULL);
        for (int round = 0; round < 4; round++) {
            for (size_t j = 0; j < 16; j++)
                wanted[j] = round == 0 || (round < 3 && (j + (size_t)round) % 3 == 0);
            expert_reader_begin(r, 2, true); /* dropped, maybe while the first is being read */
            expert_reader_begin(r, 1, round != 1);
            expert_reader_choose(r, wanted);
            struct users u = {&m.source, r, wanted};
            EXPECT_OK(pool_run(threads[i / 2], 16, use_expert, &u, &e), e);
            expert_reader_end(r);
        }
        expert_reader_free(r);
        made_release(&m);
    }
}

TEST(expert_reader, an_expert_that_cannot_be_read_is_refused_in_the_words_of_its_tensor)
{
    struct made m;
    struct err e = {0};
    struct coded got[MLP_PARTS];
    const bool wanted[16] = {true};

    wide_init(&m, "fp8");
    made_open(&m);
    const struct weight *w = weights_find(&m.source.weights, "model.layers.1.mlp.experts.0.up_proj.weight");
    const struct tensor *t = w->parts[PART_CODES];
    ASSERT_EQ_I64(0, truncate(m.source.checkpoint.shards[0].file.path, (off_t)(t->offset + 100)));
    for (int direct = 0; direct < 2; direct++) {
        struct expert_reader *r = expert_reader_new(&m.source, 2, largest_room(&m.source, 1), direct);
        ASSERT_TRUE(r != NULL);
        expert_reader_begin(r, 1, true);
        expert_reader_choose(r, wanted);
        EXPECT_FALSE(expert_reader_take(r, 0, got, &e));
        EXPECT_ERR(e, ERR_IO, "was cut while it was read");
        EXPECT_STR_HAS(e.text, "shard 'model.safetensors': tensor 'model.layers.1.mlp.experts.0.");
        expert_reader_give(r, 0);
        expert_reader_end(r);
        expert_reader_free(r);
    }
    made_release(&m);
}

/* ---- the forward pass ---- */

/* The least memory, and with `extra` bytes more the places for experts. */
static uint64_t least_memory(const struct made *m, const struct forward_options *o, const struct batch *b,
                             uint64_t extra, size_t *places)
{
    struct forward_options with = *o;
    struct forward *f = NULL;
    struct err e = {0};

    EXPECT_OK(forward_open(&f, &m->source, o, &e), e);
    with.memory_bytes = forward_memory_bytes(f, b) + extra;
    forward_close(f);
    EXPECT_OK(forward_open(&f, &m->source, &with, &e) && forward_begin(f, b, &e), e);
    *places = f->places;
    forward_close(f);
    return with.memory_bytes;
}

TEST(expert_reader, reading_ahead_changes_no_bit_of_a_forward_pass)
{
    static const char *const kinds[] = {"fp8", "int4"};
    static const size_t tokens[] = {32, 8}; /* the first: enough to read before the router has chosen */
    static const struct {
        unsigned threads;
        uint64_t extra;
        bool ahead;
    } runs[] = {{1, 0, false}, {7, 0, false}, {1, 8 << 20, true}, {7, 16 << 20, true}, {2, 64 << 20, true}};

    for (size_t i = 0; i < 2; i++) {
        struct made m;
        float *want = NULL, *got = NULL;
        struct err e = {0};
        wide_init(&m, kinds[i]);
        made_open(&m);
        struct sequence s = {.tokens = tokens[i]};
        struct batch b = {made_ids(&m, s.tokens), s.tokens, &s, 1};
        for (size_t j = 0; j < sizeof runs / sizeof runs[0]; j++) {
            struct forward_options o = {.threads = runs[j].threads};
            size_t places = 0;
            ct_case("%s, %u threads, %llu bytes more", kinds[i], o.threads, (unsigned long long)runs[j].extra);
            o.memory_bytes = least_memory(&m, &o, &b, runs[j].extra, &places);
            EXPECT_EQ_I64(runs[j].ahead, places > o.threads);
            ASSERT_OK(made_run(&m, &o, &b, NULL, NULL, j == 0 ? &want : &got, &e), e);
            if (j > 0)
                EXPECT_MEM_EQ(want, got, b.tokens * m.arch.vocab_size * sizeof *got);
        }
        made_release(&m);
    }
}

TEST(expert_reader, an_expert_that_cannot_be_computed_with_is_named_as_without)
{
    for (unsigned threads = 1; threads <= 7; threads += 3) {
        struct forward_options o = {.threads = threads};
        struct made m;
        float *logits = NULL;
        struct err e = {0};

        ct_case("%u threads", threads);
        wide_init(&m, "fp8");
        made_open(&m);
        struct sequence s = {.tokens = 8};
        struct batch b = {made_ids(&m, s.tokens), s.tokens, &s, 1};
        const struct weight *w = weights_find(&m.source.weights, "model.layers.2.mlp.experts.3.down_proj.weight");
        const struct tensor *t = w->parts[PART_CODES];
        ASSERT_EQ_I64(0, truncate(m.source.checkpoint.shards[0].file.path, (off_t)(t->offset + 1)));
        EXPECT_FALSE(made_run(&m, &o, &b, NULL, NULL, &logits, &e));
        EXPECT_ERR(e, ERR_IO, "was cut while it was read");
        EXPECT_STR_HAS(e.text, "shard 'model.safetensors': tensor 'model.");
        made_release(&m);
    }
}
