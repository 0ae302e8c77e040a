#include "tests/forward_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "quant/bits.h"
#include "tests/ct.h"

const struct sequence made_contexts[2] = {{0, 150, 0}, {150, 21, 0}};

/* splitmix64 from FNV-1a of the name. */
static uint64_t start_of(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (const char *c = name; *c; c++)
        h = (h ^ (uint8_t)*c) * 0x100000001b3u;
    return h;
}

static uint8_t byte_at(uint64_t start, uint64_t i)
{
    uint64_t z = start + (i + 1) * 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint8_t)((z ^ (z >> 31)) >> 56);
}

uint8_t made_byte(const char *name, uint64_t i)
{
    return byte_at(start_of(name), i);
}

/* The least k with 4^k >= cols. */
static int width_of(uint64_t cols)
{
    int k = 0;

    while ((UINT64_C(1) << (2 * k)) < cols)
        k++;
    return k;
}

struct drawing {
    struct made *made;
    const char *dtype, *kind;
};

/* Values that every plain type holds exactly. */
static void add_plain(const struct drawing *d, const char *name, enum dtype_id dtype, uint32_t rank,
                      const uint64_t *dims, const float *x)
{
    uint64_t n = dims[0] * (rank > 1 ? dims[1] : 1);
    void *data = arena_alloc(&d->made->maker.arena, n * 4);

    for (uint64_t i = 0; i < n; i++)
        if (dtype == DTYPE_F32) {
            ((float *)data)[i] = x[i];
        } else if (dtype == DTYPE_BF16) {
            ((uint16_t *)data)[i] = (uint16_t)(float_bits(x[i]) >> 16);
        } else {
            _Float16 half = (_Float16)x[i];
            memcpy((uint16_t *)data + i, &half, 2);
        }
    ckpt_add(&d->made->maker, name, dtype, rank, dims, data);
}

static enum dtype_id plain_dtype(const struct drawing *d)
{
    return strcmp(d->dtype, "float32") == 0 ? DTYPE_F32 : strcmp(d->dtype, "float16") == 0 ? DTYPE_F16 : DTYPE_BF16;
}

static float scale_at(uint64_t start, uint64_t i, int exponent, bool pow2)
{
    uint8_t b = byte_at(start, i);

    return pow2 ? ldexpf(1.0f, b % 2 - exponent) : ldexpf((float)(8 + b % 8), -3 - exponent);
}

static void add_fp8(const struct drawing *d, const char *name, const uint64_t dims[2])
{
    const struct arch *a = &d->made->arch;
    struct arena *arena = &d->made->maker.arena;
    uint64_t grid[2] = {(dims[0] + a->quant_block_rows - 1) / a->quant_block_rows,
                        (dims[1] + a->quant_block_cols - 1) / a->quant_block_cols};
    uint8_t *codes = arena_alloc(arena, dims[0] * dims[1]);
    float *scales = arena_array(arena, grid[0] * grid[1], sizeof *scales);
    const char *scale_name = arena_printf(arena, "%s_scale_inv", name);
    uint64_t start = start_of(name), scale_start = start_of(scale_name);

    for (uint64_t i = 0; i < dims[0] * dims[1]; i++) {
        uint8_t b = byte_at(start, i);
        codes[i] = (uint8_t)((b & 0x80) | (5 + b / 8 % 4) << 3 | b % 8);
    }
    for (uint64_t i = 0; i < grid[0] * grid[1]; i++)
        scales[i] = scale_at(scale_start, i, width_of(dims[1]) + 1, a->quant_ue8m0);
    ckpt_add(&d->made->maker, name, DTYPE_F8_E4M3, 2, dims, codes);
    ckpt_add(&d->made->maker, scale_name, DTYPE_F32, 2, grid, scales);
}

static void add_int4(const struct drawing *d, const char *name, const uint64_t dims[2])
{
    struct arena *arena = &d->made->maker.arena;
    const uint64_t words_dims[2] = {dims[0], dims[1] / 8}, groups[2] = {dims[0], dims[1] / 32}, two[1] = {2};
    uint32_t *words = arena_array(arena, dims[0] * words_dims[1], sizeof *words);
    uint16_t *scales = arena_array(arena, groups[0] * groups[1], sizeof *scales);
    const int64_t shape[2] = {(int64_t)dims[0], (int64_t)dims[1]};
    uint64_t start = start_of(name), scale_start = start_of(arena_printf(arena, "%s_scale", name));

    for (uint64_t i = 0; i < dims[0] * dims[1]; i++)
        words[i / 8] |= (uint32_t)(byte_at(start, i) / 16) << (i % 8 * 4);
    for (uint64_t i = 0; i < groups[0] * groups[1]; i++)
        scales[i] = (uint16_t)(float_bits(scale_at(scale_start, i, width_of(dims[1]) + 2, false)) >> 16);
    ckpt_add(&d->made->maker, arena_printf(arena, "%s_packed", name), DTYPE_I32, 2, words_dims, words);
    ckpt_add(&d->made->maker, arena_printf(arena, "%s_scale", name), DTYPE_BF16, 2, groups, scales);
    ckpt_add(&d->made->maker, arena_printf(arena, "%s_shape", name), DTYPE_I64, 1, two, shape);
}

static float value_at(const struct drawing *d, enum role role, uint64_t start, uint64_t i, uint64_t rows, uint64_t cols)
{
    int b = byte_at(start, i);

    if (role == ROLE_ROUTER_BIAS)
        return (float)(b - 128) / 512.0f - (strcmp(d->kind, "negative-bias") == 0 ? 2.0f : 0.0f);
    if (rows == 0)
        return 1.0f + (float)(b / 8 - 16) / 64.0f;
    if (role == ROLE_EMBED)
        return (float)(b - 128) / 64.0f;
    return ldexpf((float)(b - 128), -6 - width_of(cols));
}

static void add_values(const struct drawing *d, const char *name, enum role role, uint64_t rows, uint64_t cols)
{
    const uint64_t dims[2] = {rows ? rows : cols, cols};
    uint64_t n = (rows ? rows : 1) * cols, start = start_of(name);
    float *x = arena_array(&d->made->maker.arena, n, sizeof *x);

    for (uint64_t i = 0; i < n; i++)
        x[i] = value_at(d, role, start, i, rows, cols);
    add_plain(d, name, role == ROLE_ROUTER_BIAS ? DTYPE_F32 : plain_dtype(d), rows ? 2 : 1, dims, x);
}

/* MTP's embedding and head repeat the main ones; the oracle has them once. */
static const char *source_name(const char *name, enum role role)
{
    return role == ROLE_MTP_EMBED ? "model.embed_tokens.weight" : role == ROLE_MTP_HEAD ? "lm_head.weight" : name;
}

static void add_module(void *ctx, const char *module, enum role role, uint64_t rows, uint64_t cols)
{
    const struct drawing *d = ctx;
    const struct arch *a = &d->made->arch;
    const uint64_t dims[2] = {rows, cols};
    const char *name = role == ROLE_ROUTER_BIAS ? arena_strdup(&d->made->maker.arena, module)
                                                : arena_printf(&d->made->maker.arena, "%s.weight", module);

    if (role == ROLE_MTP_EMBED || role == ROLE_MTP_HEAD)
        return; /* the main ones are used */
    if (a->quant == QUANT_FP8 && role_get(role)->quantizable)
        add_fp8(d, name, dims);
    else if (a->quant == QUANT_COMPRESSED_TENSORS && strcmp(role_get(role)->group, "routed_expert") == 0)
        add_int4(d, name, dims);
    else
        add_values(d, source_name(name, role), role, rows, cols);
}

static void draw(struct made *m, const char *kind)
{
    struct err e = {0};

    ASSERT_OK(arch_parse(&m->arch, &m->maker.arena, m->config, strlen(m->config), &e), e);
    struct drawing d = {m, m->arch.torch_dtype ? m->arch.torch_dtype : "", kind};
    model_modules(&m->arch, add_module, &d);
    m->maker.config = m->config;
}

static void read_config(struct made *m, const char *kind)
{
    struct buf path = {0};
    size_t bytes = 0;
    struct err e = {0};

    *m = (struct made){.dir = ct_temp_dir()};
    buf_printf(&path, "tests/fixtures/forward/%s.json", kind);
    ASSERT_OK(file_slurp(path.data, 1u << 20, &m->config, &bytes, &e), e);
    buf_release(&path);
}

void made_init(struct made *m, const char *kind)
{
    read_config(m, kind);
    draw(m, kind);
}

void made_init_with(struct made *m, const char *kind, const char *from, const char *to)
{
    struct buf text = {0};

    read_config(m, kind);
    char *at = strstr(m->config, from);
    ASSERT_TRUE(at != NULL);
    buf_add(&text, m->config, (size_t)(at - m->config));
    buf_puts(&text, to);
    buf_puts(&text, at + strlen(from));
    mem_free(m->config);
    m->config = text.data;
    draw(m, kind);
}

void made_open(struct made *m)
{
    struct err e = {0};

    ckpt_write(&m->maker, m->dir);
    ASSERT_OK(source_open(&m->source, m->dir, true, &e), e);
}

void made_release(struct made *m)
{
    source_close(&m->source);
    ckpt_release(&m->maker);
    mem_free(m->config);
}

uint32_t *made_ids(struct made *m, size_t count)
{
    uint32_t *ids = arena_array(&m->maker.arena, count, sizeof *ids);
    uint64_t start = start_of("tokens");

    for (size_t i = 0; i < count; i++)
        ids[i] = byte_at(start, i) % (uint32_t)m->arch.vocab_size;
    return ids;
}

struct batch made_batch(struct made *m)
{
    return (struct batch){made_ids(m, MADE_TOKENS), MADE_TOKENS, made_contexts, 2};
}

bool made_run(struct made *m, const struct forward_options *o, const struct batch *b, const struct observer *observer,
              float **hidden, float **logits, struct err *e)
{
    struct forward *f = NULL;
    struct stream s[2] = {{0}};
    size_t d = m->arch.hidden_size, layers = m->arch.layers;
    const float *rows;
    bool ok = false;

    if (!forward_open(&f, &m->source, o, e) || !forward_begin(f, b, e) || !forward_stream(f, &s[0], e) ||
        !forward_stream(f, &s[1], e) || !forward_embed(f, &s[0], e))
        goto done;
    for (size_t i = 0; i < layers; i++)
        if (!forward_layer(f, i, &s[i % 2], &s[(i + 1) % 2], observer, e))
            goto done;
    if (hidden) {
        *hidden = arena_array(&m->maker.arena, b->tokens * d, sizeof **hidden);
        if (!stream_read(&s[layers % 2], 0, b->tokens, *hidden, &rows, e))
            goto done;
        if (rows != *hidden)
            memcpy(*hidden, rows, b->tokens * d * sizeof **hidden);
    }
    if (logits) {
        *logits = arena_array(&m->maker.arena, b->tokens * m->arch.vocab_size, sizeof **logits);
        if (!forward_logits(f, &s[layers % 2], 0, b->tokens, *logits, e))
            goto done;
    }
    ok = true;
done:
    stream_close(&s[0]);
    stream_close(&s[1]);
    forward_close(f);
    return ok;
}
