/* Forward passes against tests/fixtures/forward: what samples/training/dsv3.py gives for the same small checkpoints
 * (tests/oracle/make_forward_golden.py). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/ct.h"
#include "tests/forward_support.h"
#include "verify/forward_private.h"
#include "verify/mtp.h"
#include "verify/step.h"

#define TOLERANCE 1e-5 /* of the largest value */

struct expected {
    struct checkpoint file;
    struct arena arena;
};

static void expected_open(struct expected *x, const char *kind)
{
    struct buf path = {0};
    struct err e = {0};

    *x = (struct expected){0};
    buf_printf(&path, "tests/fixtures/forward/%s.safetensors", kind);
    ASSERT_OK(checkpoint_open(&x->file, path.data, &e), e);
    buf_release(&path);
}

static void expected_release(struct expected *x)
{
    checkpoint_close(&x->file);
    arena_release(&x->arena);
}

static const void *expected_get(struct expected *x, const char *name, size_t *rows)
{
    const struct tensor *t = checkpoint_find(&x->file, name);
    struct err e = {0};

    *rows = 0;
    if (!t)
        return NULL;
    void *data = arena_alloc(&x->arena, t->bytes);
    EXPECT_OK(checkpoint_read(&x->file, t, 0, data, t->bytes, &e), e);
    *rows = t->dims[0];
    return data;
}

/* Rows `shown` of got against all rows of the expected tensor. */
static void expect_rows(struct expected *x, const char *name, const float *got, size_t cols, const size_t *shown)
{
    size_t rows;
    const float *want = expected_get(x, name, &rows);
    double largest = 0, off = 0;

    EXPECT_TRUE(rows > 0);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) {
            double w = want[r * cols + c], g = got[shown[r] * cols + c];
            largest = fmax(largest, fabs(w));
            off = isnan(g) ? INFINITY : fmax(off, fabs(w - g));
        }
    ct_case("%s", name);
    EXPECT_NEAR_F64(0, off / largest, TOLERANCE);
}

/* ---- whole models ---- */

struct choices {
    struct expected *expected;
    size_t compared, differ;
};

static bool compare_choices(void *ctx, const struct routing *r, struct err *e)
{
    struct choices *c = ctx;
    char name[32];
    size_t rows;

    (void)e;
    snprintf(name, sizeof name, "experts.%d", (int)r->layer);
    const int32_t *want = expected_get(c->expected, name, &rows);
    EXPECT_TRUE(rows >= r->first + r->tokens);
    for (size_t t = 0; want && t < r->tokens; t++) {
        c->compared++;
        c->differ += memcmp(want + (r->first + t) * r->top_k, r->ids + t * r->top_k, r->top_k * sizeof *want) != 0;
    }
    return true;
}

static const char *const kinds[] = {"fp8",     "fp8-blocks",    "ue8m0", "int4",       "v2",
                                    "v2-lite", "negative-bias", "eps",   "every-other"};

TEST(forward_golden, every_kind_of_checkpoint_gives_what_the_pytorch_model_gives)
{
    static const size_t shown[] = {0, 1, 127, 128, 149, 150, 170};

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct made m;
        struct expected x;
        struct choices c = {.expected = &x};
        struct observer o = {.ctx = &c, .routing = compare_choices};
        struct forward_options options = {.threads = 2};
        float *hidden = NULL, *logits = NULL;
        struct err e = {0};

        ct_case("%s", kinds[i]);
        made_init(&m, kinds[i]);
        made_open(&m);
        expected_open(&x, kinds[i]);
        struct batch b = made_batch(&m);
        ASSERT_OK(made_run(&m, &options, &b, &o, &hidden, &logits, &e), e);
        EXPECT_TRUE(c.compared >= MADE_TOKENS);
        EXPECT_EQ_U64(0, c.differ);
        expect_rows(&x, "hidden", hidden, m.arch.hidden_size, shown);
        expect_rows(&x, "logits", logits, m.arch.vocab_size, shown);
        expected_release(&x);
        made_release(&m);
    }
}

TEST(forward_golden, mtp_logits_are_what_the_pytorch_model_gives)
{
    static const size_t shown[] = {0, 127, 128, 148, 149, 168};
    struct made m;
    struct expected x;
    struct forward_options options = {.threads = 2};
    struct forward *f = NULL;
    struct stream s[2] = {{0}}, draft = {0};
    struct mtp_batch mtp;
    struct err e = {0};

    made_init(&m, "fp8");
    made_open(&m);
    expected_open(&x, "fp8");
    struct batch b = made_batch(&m);
    ASSERT_OK(forward_open(&f, &m.source, &options, &e) && forward_begin(f, &b, &e) && forward_stream(f, &s[0], &e) &&
                  forward_stream(f, &s[1], &e) && forward_embed(f, &s[0], &e),
              e);
    for (size_t i = 0; i < m.arch.layers; i++)
        ASSERT_OK(forward_layer(f, i, &s[i % 2], &s[(i + 1) % 2], NULL, &e), e);
    mtp_batch_init(&mtp, &b);
    ASSERT_EQ_U64(MADE_TOKENS - 2, mtp.batch.tokens);
    float *logits = arena_array(&m.maker.arena, mtp.batch.tokens * m.arch.vocab_size, sizeof *logits);
    ASSERT_OK(forward_mtp(f, &mtp, &s[m.arch.layers % 2], &draft, NULL, &e), e);
    ASSERT_OK(forward_mtp_logits(f, &draft, 0, mtp.batch.tokens, logits, &e), e);
    expect_rows(&x, "mtp_logits", logits, m.arch.vocab_size, shown);
    mtp_batch_release(&mtp);
    stream_close(&s[0]);
    stream_close(&s[1]);
    stream_close(&draft);
    forward_close(f);
    expected_release(&x);
    made_release(&m);
}

static void run_sample(struct made *m, struct expected *x, const struct batch *b)
{
    static const size_t hidden_shown[] = {0, 127, 128, 149}, logits_shown[] = {0, 128, 149};
    struct choices c = {.expected = x};
    struct observer o = {.ctx = &c, .routing = compare_choices};
    struct forward_options options = {.threads = 2};
    float *hidden = NULL, *logits = NULL;
    struct err e = {0};

    ASSERT_OK(made_run(m, &options, b, &o, &hidden, &logits, &e), e);
    EXPECT_EQ_U64(3 * 150, c.compared);
    EXPECT_EQ_U64(0, c.differ);
    expect_rows(x, "hidden", hidden, m->arch.hidden_size, hidden_shown);
    expect_rows(x, "logits", logits, m->arch.vocab_size, logits_shown);
}

TEST(forward_golden, the_sample_gives_what_the_pytorch_model_gives)
{
    struct sequence one = {.tokens = 150};
    struct made m = {.dir = "samples/tiny-v3"};
    struct expected x;
    struct err e = {0};
    size_t count;

    ASSERT_OK(source_open(&m.source, m.dir, true, &e), e);
    m.arch = m.source.arch;
    expected_open(&x, "tiny-v3");
    const int32_t *ids = expected_get(&x, "tokens", &count);
    ASSERT_EQ_U64(150, count);
    struct batch b = {(const uint32_t *)ids, count, &one, 1};
    run_sample(&m, &x, &b);
    expected_release(&x);
    made_release(&m);
}

/* ---- positions ---- */

TEST(forward_golden, positions_near_a_hundred_thousand_agree_with_float64)
{
    static const size_t shown[] = {97, 98, 99};
    struct sequence far = {.tokens = 100, .start_pos = 99900};
    struct made m;
    struct expected x;
    struct forward_options options = {.threads = 2};
    float *hidden = NULL, *logits = NULL;
    struct err e = {0};

    made_init(&m, "far");
    made_open(&m);
    expected_open(&x, "far");
    struct batch b = {made_ids(&m, far.tokens), far.tokens, &far, 1};
    ASSERT_OK(made_run(&m, &options, &b, NULL, &hidden, &logits, &e), e);
    expect_rows(&x, "hidden", hidden, m.arch.hidden_size, shown);
    expect_rows(&x, "logits", logits, m.arch.vocab_size, shown);
    expected_release(&x);
    made_release(&m);
}

#define LONG  32768u
#define PIECE 256u

/* Latents of a first layer depend on their own token alone: so pieces of the context, at their positions, fill the
 * cache without the work of attention over all of it. */
static void fill_cache(struct forward *f, const struct made *m, const uint32_t *ids, struct cache *c, size_t tokens)
{
    static const struct observer nobody = {0};
    struct sequence pieces[LONG / PIECE];
    struct batch b = {ids, tokens, pieces, (tokens + PIECE - 1) / PIECE};
    struct stream in = {0}, out = {0};
    struct err e = {0};

    for (size_t i = 0; i < b.sequence_count; i++) {
        size_t left = tokens - i * PIECE;
        pieces[i] = (struct sequence){i * PIECE, left < PIECE ? left : PIECE, i * PIECE};
    }
    (void)m;
    EXPECT_OK(forward_begin(f, &b, &e) && forward_stream(f, &in, &e) && forward_stream(f, &out, &e) &&
                  forward_embed(f, &in, &e),
              e);
    struct layer_run r = {.f = f, .weights = &f->layers[0], .in = &in, .out = &out, .observer = &nobody, .cache = c};
    EXPECT_OK(layer_run(&r, &e), e);
    c->tokens = tokens;
    stream_close(&in);
    stream_close(&out);
}

TEST(forward_golden, steps_behind_32_thousand_tokens_agree_with_float64)
{
    static const size_t shown[] = {0, 1};
    struct made m;
    struct expected x;
    struct forward_options options = {.threads = 2};
    struct forward *f = NULL;
    struct cache c = {0};
    struct err e = {0};

    made_init(&m, "long");
    made_open(&m);
    expected_open(&x, "long");
    uint32_t *ids = made_ids(&m, LONG);
    float *logits = arena_array(&m.maker.arena, 2 * m.arch.vocab_size, sizeof *logits);
    ASSERT_OK(forward_open(&f, &m.source, &options, &e), e);
    cache_open(&c, f, 0, LONG);
    fill_cache(f, &m, ids, &c, LONG - 2);
    for (size_t i = 0; i < 2; i++)
        ASSERT_OK(forward_step(f, &c, ids[LONG - 2 + i], logits + i * m.arch.vocab_size, &e), e);
    EXPECT_EQ_U64(LONG, c.tokens);
    expect_rows(&x, "logits", logits, m.arch.vocab_size, shown);
    cache_release(&c);
    forward_close(f);
    expected_release(&x);
    made_release(&m);
}
