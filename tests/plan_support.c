#include "tests/plan_support.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/map.h"
#include "formats/safetensors.h"

const struct scheme support_fp8 = {
    .kind = SCHEME_FP8_BLOCK, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32, .block_rows = 128, .block_cols = 128};
const struct scheme support_fp8_tensor = {.kind = SCHEME_FP8_TENSOR, .dtype = DTYPE_F8_E4M3, .scale = SCALE_F32};
const struct scheme support_kimi_int4 = {
    .kind = SCHEME_INT4, .dtype = DTYPE_I32, .scale = SCALE_BF16, .group_cols = 32, .shape_i64 = false};
const struct scheme support_bf16 = {.kind = SCHEME_PLAIN, .dtype = DTYPE_BF16};

static bool only_experts(enum role role)
{
    return role == ROLE_EXPERT_GATE || role == ROLE_EXPERT_UP || role == ROLE_EXPERT_DOWN;
}

static const char *quantization_of(const struct scheme *s)
{
    switch (s->kind) {
    case SCHEME_FP8_BLOCK:
        return QUANT_FP8_TEXT;
    case SCHEME_FP8_TENSOR:
        return "{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\"}";
    case SCHEME_INT4:
        return QUANT_INT4_TEXT(32);
    case SCHEME_RAW:
    case SCHEME_PLAIN:
    case SCHEME_FP8_CHANNEL:
    case SCHEME_KIND_COUNT:
        break;
    }
    return NULL;
}

bool support_model(struct ckpt_maker *m, const struct scheme *linear)
{
    struct model tiny = models[MODEL_TINY];

    tiny.quantization = quantization_of(linear);
    return support_model_of(m, &tiny, linear);
}

bool support_model_of(struct ckpt_maker *m, const struct model *of, const struct scheme *linear)
{
    struct arch arch;
    struct err e = {0};

    *m = (struct ckpt_maker){0};
    m->config = model_config(&m->arena, of);
    if (!arch_parse(&arch, &m->arena, m->config, strlen(m->config), &e))
        return ct_err(__FILE__, __LINE__, "arch_parse", &e, ERR_NONE, NULL);
    ckpt_model(m, &arch, linear, linear->kind == SCHEME_INT4 ? only_experts : NULL);
    return true;
}

void support_odd_tensors(struct ckpt_maker *m)
{
    static const struct {
        const char *name;
        enum dtype_id dtype;
        uint32_t rank;
        uint64_t dims[3];
    } odd[] = {
        {"model.layers.0.odd.bytes", DTYPE_U8, 1, {3}},         {"model.layers.0.odd.double", DTYPE_F64, 1, {1}},
        {"model.layers.0.odd.half", DTYPE_F16, 2, {7, 3}},      {"model.layers.0.odd.one", DTYPE_BF16, 1, {1}},
        {"model.layers.0.odd.shape", DTYPE_I32, 1, {3}},        {"model.layers.0.odd.cube", DTYPE_BF16, 3, {3, 5, 7}},
        {"model.layers.0.odd.codes", DTYPE_F8_E5M2, 2, {1, 1}}, {"model.layers.0.odd.scalar", DTYPE_F32, 0, {0}},
    };

    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++)
        ckpt_add(m, odd[i].name, odd[i].dtype, odd[i].rank, odd[i].dims, NULL);
}

void support_input_scale(struct ckpt_maker *m, const char *module)
{
    const float scale = 0.5f;

    ckpt_vector(m, arena_printf(&m->arena, "%s.input_scale", module), DTYPE_F32, 1, &scale);
}

/* ---- what must hold ---- */

static int compare_offsets(const void *a, const void *b)
{
    const struct tensor *x = *(const struct tensor *const *)a, *y = *(const struct tensor *const *)b;

    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static const struct tensor **list_tensors(const struct plan *p, const struct plan_output *o, size_t *count)
{
    const struct tensor **list = mem_alloc((p->weight_count * PART_COUNT + 1) * sizeof(*list));

    *count = 0;
    for (size_t i = 0; i < p->weight_count; i++)
        for (enum part part = 0; part < PART_COUNT; part++)
            if (o->rows[i].parts[part].dtype != DTYPE_NONE)
                list[(*count)++] = &o->rows[i].parts[part];
    qsort(list, *count, sizeof *list, compare_offsets);
    return list;
}

static void check_names(const struct tensor *const *list, size_t count)
{
    struct map names = {0};

    for (size_t i = 0; i < count; i++)
        if (!map_put(&names, list[i]->name, i))
            EXPECT_STR_EQ("a name that is there once", list[i]->name);
    map_release(&names);
}

/* The header that the plan will write is read back as a stranger's. */
static void check_header(const struct plan_shard *s, size_t tensor_count)
{
    struct safetensors header = {0};
    struct arena a = {0};
    struct err e = {0};

    EXPECT_OK(safetensors_parse(&header, &a, (const uint8_t *)s->prefix.data, s->prefix.bytes, s->bytes, &e), e);
    EXPECT_EQ_U64(tensor_count, header.tensor_count);
    EXPECT_EQ_U64(0, header.data_offset % SAFETENSORS_DATA_ALIGN);
    arena_release(&a);
}

static void check_shard(const struct plan_shard *s, const struct tensor *const *list, size_t count)
{
    uint64_t header = 0;

    for (size_t i = 0; i < 8; i++)
        header |= (uint64_t)(uint8_t)s->prefix.data[i] << (8 * i);
    uint64_t at = 8 + header;
    for (size_t i = 0; i < count; i++) {
        const struct tensor *t = list[i];
        if (t->offset != at || t->offset % dtype_get(t->dtype)->align != 0) {
            ct_case("%s: %s", s->name, t->name);
            EXPECT_EQ_U64(at, t->offset);
            EXPECT_EQ_U64(0, t->offset % dtype_get(t->dtype)->align);
        }
        at = t->offset + t->bytes;
    }
    EXPECT_EQ_U64(s->bytes, at);
}

static void check_output(const struct plan *p, const struct plan_output *o)
{
    size_t count = 0, begin = 0, end = 0;
    const struct tensor **list = list_tensors(p, o, &count);
    uint64_t tensor_bytes = 0, file_bytes = 0;

    check_names(list, count);
    for (size_t s = 0; s < o->shard_count; s++, begin = end) {
        for (end = begin; end < count && list[end]->shard == s; end++)
            tensor_bytes += list[end]->bytes;
        EXPECT_TRUE(end > begin); /* no shard without a tensor */
        if (end == begin)
            continue;
        check_shard(&o->shards[s], list + begin, end - begin);
        check_header(&o->shards[s], end - begin);
        file_bytes += o->shards[s].bytes;
    }
    EXPECT_EQ_U64(count, end);
    EXPECT_EQ_U64(tensor_bytes, o->tensor_bytes);
    EXPECT_EQ_U64(file_bytes, o->file_bytes);
    mem_free(list);
}

void support_check_layout(const struct plan *p)
{
    for (size_t o = 0; o < p->output_count; o++)
        check_output(p, &p->outputs[o]);
}

/* ---- jobs ---- */

static bool is_whole_in_every_slice(const struct scheme *s, enum part part)
{
    return s->kind == SCHEME_FP8_TENSOR && part == PART_SCALE;
}

/* done: bytes of each part so far. */
static void advance(const struct scheme *s, const struct plan_slice slices[PART_COUNT], uint64_t done[PART_COUNT])
{
    for (enum part part = 0; part < PART_COUNT; part++) {
        if (!slices[part].tensor)
            continue;
        if (is_whole_in_every_slice(s, part))
            done[part] = 0;
        if (slices[part].offset != done[part]) {
            ct_case("%s", slices[part].tensor->name);
            EXPECT_EQ_U64(done[part], slices[part].offset);
        }
        done[part] += slices[part].bytes;
    }
}

static void check_whole(const struct tensor *t, enum part part, uint64_t done)
{
    if (!t || t->dtype == DTYPE_NONE || part == PART_SHAPE || t->bytes == done)
        return;
    ct_case("%s", t->name);
    EXPECT_EQ_U64(t->bytes, done);
}

void support_check_jobs(const struct plan *p)
{
    uint64_t(*in)[PART_COUNT] = mem_alloc((p->weight_count + 1) * sizeof *in);
    uint64_t(*out)[PART_COUNT] = mem_alloc((p->weight_count + 1) * sizeof *out);
    struct plan_slice slices[PART_COUNT];

    for (size_t o = 0; o < p->output_count; o++) {
        memset(in, 0, p->weight_count * sizeof *in);
        memset(out, 0, p->weight_count * sizeof *out);
        for (size_t j = 0; j < p->job_count; j++) {
            const struct job *job = &p->jobs[j];
            plan_job_in(p, job, slices);
            advance(&p->weights[job->weight]->stored, slices, in[job->weight]);
            plan_job_out(p, job, o, slices);
            advance(&p->outputs[o].rows[job->weight].scheme, slices, out[job->weight]);
        }
        for (size_t i = 0; i < p->weight_count; i++)
            for (enum part part = 0; part < PART_COUNT; part++) {
                check_whole(p->weights[i]->parts[part], part, in[i][part]);
                check_whole(&p->outputs[o].rows[i].parts[part], part, out[i][part]);
            }
    }
    mem_free(in);
    mem_free(out);
}
