/* Forward passes against tests/fixtures/forward: what samples/training/dsv3.py gives for the same small checkpoints
 * (tests/oracle/make_forward_golden.py). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/ct.h"
#include "tests/forward_support.h"
#include "tests/gemm_support.h"
#include "verify/forward_private.h"
#include "verify/mtp.h"
#include "verify/step.h"

#define TOLERANCE 1e-5 /* of the largest value */
#define BY_TILES  2e-5 /* whose products keep 17 bits of what enters them */
#define EMULATED  1e-3 /* of what a layer adds to a token */

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
static void expect_rows(struct expected *x, const char *name, const float *got, size_t cols, const size_t *shown,
                        double tolerance)
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
    EXPECT_NEAR_F64(0, off / largest, tolerance);
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

static void expect_kind(const char *kind, double tolerance)
{
    static const size_t shown[] = {0, 1, 127, 128, 149, 150, 170};
    struct made m;
    struct expected x;
    struct choices c = {.expected = &x};
    struct observer o = {.ctx = &c, .routing = compare_choices};
    struct forward_options options = {.threads = 2};
    float *hidden = NULL, *logits = NULL;
    struct err e = {0};

    ct_case("%s", kind);
    made_init(&m, kind);
    made_open(&m);
    expected_open(&x, kind);
    struct batch b = made_batch(&m);
    ASSERT_OK(made_run(&m, &options, &b, &o, &hidden, &logits, &e), e);
    EXPECT_TRUE(c.compared >= MADE_TOKENS);
    EXPECT_EQ_U64(0, c.differ);
    expect_rows(&x, "hidden", hidden, m.arch.hidden_size, shown, tolerance);
    expect_rows(&x, "logits", logits, m.arch.vocab_size, shown, tolerance);
    expected_release(&x);
    made_release(&m);
}

TEST(forward_golden, every_kind_of_checkpoint_gives_what_the_pytorch_model_gives)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        expect_kind(kinds[i], TOLERANCE);
}

/* The sums of the class "amx", on any machine. */
TEST(forward_golden, products_by_tiles_give_what_the_pytorch_model_gives)
{
    static const char *const some[] = {"fp8-blocks", "ue8m0", "int4", "v2-lite"};
    const struct kernel *before = kernel_get();

    kernel_use(gemm_support_tiles(before, &gemm_tiles_ref));
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++)
        expect_kind(some[i], BY_TILES);
    kernel_use(before);
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
    expect_rows(&x, "mtp_logits", logits, m.arch.vocab_size, shown, TOLERANCE);
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
    expect_rows(x, "hidden", hidden, m->arch.hidden_size, hidden_shown, TOLERANCE);
    expect_rows(x, "logits", logits, m->arch.vocab_size, logits_shown, TOLERANCE);
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

/* ---- what other programs round ---- */

/* Rows of the fixture as float32. */
static float *expected_floats(struct expected *x, const char *name, size_t cols, size_t *rows)
{
    const struct tensor *t = checkpoint_find(&x->file, name);
    const void *data = expected_get(x, name, rows);
    float *floats = arena_array(&x->arena, *rows * cols + 1, sizeof *floats);

    for (size_t i = 0; data && i < *rows * cols; i++) {
        uint32_t bits =
            t->dtype == DTYPE_BF16 ? (uint32_t)((const uint16_t *)data)[i] << 16 : ((const uint32_t *)data)[i];
        memcpy(&floats[i], &bits, sizeof bits);
    }
    return floats;
}

/* How many rows are as wanted, within EMULATED of what the layer adds to `in`. */
static size_t rows_near(const float *got, const float *want, const float *in, size_t rows, size_t cols)
{
    size_t near = 0;

    for (size_t r = 0; r < rows; r++, got += cols, want += cols, in += cols) {
        double off = 0, added = 0;
        for (size_t i = 0; i < cols; i++) {
            off += (double)(got[i] - want[i]) * (double)(got[i] - want[i]);
            added += (double)(want[i] - in[i]) * (double)(want[i] - in[i]);
        }
        near += off <= EMULATED * EMULATED * added;
    }
    return near;
}

static void run_layer(struct forward *f, const struct batch *b, uint64_t layer, const float *in, float *out)
{
    size_t d = f->arch->hidden_size;
    struct stream s[2] = {{0}};
    const float *rows;
    struct err e = {0};

    ASSERT_OK(forward_begin(f, b, &e) && forward_stream(f, &s[0], &e) && forward_stream(f, &s[1], &e) &&
                  stream_write(&s[0], 0, b->tokens, in, &e) && forward_layer(f, layer, &s[0], &s[1], NULL, &e) &&
                  stream_read(&s[1], 0, b->tokens, out, &rows, &e),
              e);
    if (rows != out)
        memcpy(out, rows, b->tokens * d * sizeof *out);
    stream_close(&s[0]);
    stream_close(&s[1]);
}

/* Sums are float64 there and float32 here: now and then a value falls on the other side of an edge between two
 * roundings, and moves its token. Half of the tokens and more have none (of bf16, 27 of 32 and more are the same bits),
 * and without the rounding all are far off. */
static void expect_emulated(struct forward *f, struct forward *plain, struct expected *x, const char *kind)
{
    size_t d = f->arch->hidden_size, rows = 0, tokens = 0;
    const int32_t *ids = expected_get(x, "ids", &tokens);
    struct sequence one = {.tokens = tokens};
    struct batch b = {(const uint32_t *)ids, tokens, &one, 1};
    float *got = arena_array(&x->arena, tokens * d, sizeof *got);

    for (unsigned layer = 0; layer < f->arch->layers; layer++) {
        const char *to = arena_printf(&x->arena, "%s.%u", kind, layer + 1);
        const float *in = expected_floats(x, arena_printf(&x->arena, "bf16.%u", layer), d, &rows);
        const float *want = expected_floats(x, to, d, &rows);
        size_t first = (tokens - rows) * d;
        ct_case("%s", to);
        ASSERT_TRUE(rows > 0);
        run_layer(f, &b, layer, in, got);
        EXPECT_TRUE(rows_near(got + first, want, in + first, rows, d) >= rows / 2);
        run_layer(plain, &b, layer, in, got);
        EXPECT_EQ_U64(0, rows_near(got + first, want, in + first, rows, d));
    }
}

static void expect_emulated_logits(struct forward *f, struct expected *x)
{
    size_t d = f->arch->hidden_size, vocab = f->arch->vocab_size, rows = 0, tokens = 0, same = 0;
    const char *last = arena_printf(&x->arena, "bf16.%u", (unsigned)f->arch->layers);
    const float *in = expected_floats(x, last, d, &tokens), *want = expected_floats(x, "logits", vocab, &rows);
    float *got = arena_array(&x->arena, rows * vocab, sizeof *got);
    struct stream s = {0};
    struct err e = {0};

    ct_case("logits");
    ASSERT_OK(forward_stream(f, &s, &e) && stream_write(&s, 0, tokens, in, &e) &&
                  forward_logits(f, &s, tokens - rows, rows, got, &e),
              e);
    for (size_t i = 0; i < rows * vocab; i++)
        same += got[i] == want[i];
    EXPECT_TRUE(rows == 2 && same >= rows * vocab * 99 / 100);
    stream_close(&s);
}

TEST(forward_golden, emulation_rounds_where_the_other_programs_do)
{
    static const struct {
        const char *kind;
        enum emulate emulate;
    } cases[] = {{"bf16", EMULATE_BF16}, {"fp8-activations", EMULATE_FP8_ACTIVATIONS}};
    struct forward_options exact = {.threads = 2};
    struct forward *plain = NULL;
    struct source s = {0};
    struct expected x;
    struct err e = {0};

    ASSERT_OK(source_open(&s, "samples/tiny-v3", true, &e) && forward_open(&plain, &s, &exact, &e), e);
    expected_open(&x, "emulate");
    for (size_t i = 0; i < 2; i++) {
        struct forward_options o = {.threads = 2, .emulate = cases[i].emulate};
        struct forward *f = NULL;
        ASSERT_OK(forward_open(&f, &s, &o, &e), e);
        expect_emulated(f, plain, &x, cases[i].kind);
        if (cases[i].emulate == EMULATE_BF16)
            expect_emulated_logits(f, &x);
        forward_close(f);
    }
    expected_release(&x);
    forward_close(plain);
    source_close(&s);
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
    expect_rows(&x, "hidden", hidden, m.arch.hidden_size, shown, TOLERANCE);
    expect_rows(&x, "logits", logits, m.arch.vocab_size, shown, TOLERANCE);
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
    expect_rows(&x, "logits", logits, m.arch.vocab_size, shown, TOLERANCE);
    cache_release(&c);
    forward_close(f);
    expected_release(&x);
    made_release(&m);
}
