/* Pairing. Pass 1 makes one weight of every tensor that holds codes, or stands
 * alone; the tensors come sorted by place, so the weights do. Pass 2 hangs
 * scales, zero points and shapes on them by name, whatever shard they are in.
 * Pass 3 reads the storage off what is there: dtypes and shapes of the tensors
 * decide, config.json is only asked what they cannot tell. */
#include "formats/weight.h"

#include <inttypes.h>
#include <string.h>

struct pairing {
    struct weights *w;
    const struct checkpoint *c;
    const struct arch *arch;
    bool read_shapes;
    const struct err_sink *sink; /* NULL: the first defect ends it */
};

static uint64_t ceil_div(uint64_t n, uint64_t by)
{
    return n / by + (n % by != 0);
}

static bool is_plain(enum dtype_id id)
{
    return id == DTYPE_F32 || id == DTYPE_F16 || id == DTYPE_BF16;
}

static bool is_other_fp8(enum dtype_id id)
{
    return id == DTYPE_F8_E5M2 || id == DTYPE_F8_E4M3FNUZ || id == DTYPE_F8_E5M2FNUZ;
}

/* ---- pass 1: what stands for a weight ---- */

static bool is_main_part(const struct tensor_id *id)
{
    return id->role == ROLE_UNKNOWN || id->part == NAME_WEIGHT || id->part == NAME_PACKED || id->part == NAME_BIAS;
}

/* module + ".weight": what both "X.weight" and "X.weight_packed" begin with. */
static const char *logical_name(struct arena *a, const struct tensor *t, const struct tensor_id *id)
{
    if (id->role == ROLE_UNKNOWN || id->part != NAME_PACKED)
        return t->name;
    return arena_strndup(a, t->name, id->module_bytes + strlen(".weight"));
}

static bool add_weight(struct pairing *p, const struct tensor *t, const struct tensor_id *id, struct err *e)
{
    struct weights *ws = p->w;
    struct weight *w = &ws->items[ws->count];

    w->id = *id;
    w->module = arena_strndup(&ws->arena, t->name, id->module_bytes);
    w->name = logical_name(&ws->arena, t, id);
    w->parts[PART_CODES] = t;
    if (!map_put(&ws->by_name, w->name, ws->count))
        return err_broken(e, ERR_FORMAT, "weight-twice", "module '%s' has both '%s' and '%s'", w->module,
                          ws->items[map_get(&ws->by_name, w->name)].parts[PART_CODES]->name, t->name);
    ws->count++;
    return true;
}

/* ---- pass 2: what belongs to one ---- */

static struct weight *owner(const struct pairing *p, const struct tensor *t, const struct tensor_id *id)
{
    static const char ending[] = ".weight";
    struct buf name = {0};
    size_t i;

    if (id->part == NAME_INPUT_SCALE) {
        buf_add(&name, t->name, id->module_bytes);
        buf_puts(&name, ending);
        i = map_get(&p->w->by_name, name.data);
        buf_release(&name);
    } else {
        i = map_get_n(&p->w->by_name, t->name, id->module_bytes + strlen(ending));
    }
    return i == MAP_NONE ? NULL : &p->w->items[i];
}

static bool attach(const struct pairing *p, const struct tensor *t, const struct tensor_id *id, struct err *e)
{
    static const enum part parts[] = {
        [NAME_SCALE_INV] = PART_SCALE,
        [NAME_SCALE] = PART_SCALE,
        [NAME_SHAPE] = PART_SHAPE,
        [NAME_ZERO_POINT] = PART_ZERO_POINT,
    };
    struct weight *w;

    if (id->part == NAME_G_IDX)
        return err_broken(e, ERR_UNSUPPORTED, "columns-reordered",
                          "tensor '%s': columns in activation order (g_idx) cannot be read", t->name);
    w = owner(p, t, id);
    if (!w)
        return err_broken(e, ERR_FORMAT, "part-orphan",
                          "tensor '%s' belongs to no weight: there is no '%.*s.weight' nor '.weight_packed'", t->name,
                          (int)id->module_bytes, t->name);
    const struct tensor **slot = id->part == NAME_INPUT_SCALE ? &w->input_scale : &w->parts[parts[id->part]];
    if (*slot)
        return err_broken(e, ERR_FORMAT, "scale-twice", "weight '%s' has two scales, '%s' and '%s'", w->name,
                          (*slot)->name, t->name);
    *slot = t;
    return true;
}

/* ---- pass 3: how it is stored ---- */

static bool wrong_shape(const struct tensor *t, const char *rule, uint32_t rank, const uint64_t *dims, const char *why,
                        struct err *e)
{
    char got[TENSOR_SHAPE_TEXT], want[TENSOR_SHAPE_TEXT];

    return err_broken(e, ERR_FORMAT, rule, "tensor '%s' is %s, not the %s that %s", t->name,
                      tensor_shape_text(t->rank, t->dims, got), tensor_shape_text(rank, dims, want), why);
}

static bool wrong_dtype(const struct tensor *t, const char *rule, const char *want, struct err *e)
{
    return err_broken(e, ERR_UNSUPPORTED, rule, "tensor '%s' is %s, not %s", t->name, dtype_get(t->dtype)->name, want);
}

static bool is_shape(const struct tensor *t, uint64_t rows, uint64_t cols)
{
    return t->rank == 2 && t->dims[0] == rows && t->dims[1] == cols;
}

static bool check_matrix(const struct tensor *t, struct err *e)
{
    char got[TENSOR_SHAPE_TEXT];

    return t->rank == 2 || err_broken(e, ERR_FORMAT, "shape-mismatch", "tensor '%s' is %s, not a matrix", t->name,
                                      tensor_shape_text(t->rank, t->dims, got));
}

static bool check_vector(const struct arch *arch, const struct weight *w, struct err *e)
{
    const struct tensor *t = w->parts[PART_CODES];
    uint64_t want = arch_length(arch, w->id.role, w->module);
    char got[TENSOR_SHAPE_TEXT];

    if (t->rank != 1)
        return err_broken(e, ERR_FORMAT, "shape-mismatch", "tensor '%s' is %s, not a vector", t->name,
                          tensor_shape_text(t->rank, t->dims, got));
    return want == 0 || w->id.part == NAME_BIAS || t->dims[0] == want ||
           wrong_shape(t, "shape-mismatch", 1, &want, "config.json promises", e);
}

static bool is_vector(enum role role)
{
    return role == ROLE_NORM || role == ROLE_MTP_NORM || role == ROLE_ROUTER_BIAS;
}

static bool check_arch(const struct pairing *p, const struct weight *w, struct err *e)
{
    uint64_t want[2];

    if (is_vector(w->id.role))
        return check_vector(p->arch, w, e);
    if (w->id.part == NAME_BIAS || !arch_shape(p->arch, w->id.role, &want[0], &want[1]))
        return true;
    return is_shape(w->parts[PART_CODES], want[0], want[1]) ||
           wrong_shape(w->parts[PART_CODES], "shape-mismatch", 2, want, "config.json promises", e);
}

static enum scale_kind scale_kind_of(enum dtype_id id)
{
    switch ((int)id) {
    case DTYPE_F32:
        return SCALE_F32;
    case DTYPE_BF16:
        return SCALE_BF16;
    case DTYPE_F16:
        return SCALE_F16;
    case DTYPE_F8_E8M0:
        return SCALE_E8M0;
    default:
        return SCALE_NONE;
    }
}

static bool ends_with(const char *s, const char *ending)
{
    size_t bytes = strlen(s), tail = strlen(ending);

    return bytes >= tail && memcmp(s + bytes - tail, ending, tail) == 0;
}

static bool resolve_fp8_block(const struct pairing *p, struct weight *w, bool inv, struct err *e)
{
    const struct tensor *scale = w->parts[PART_SCALE];
    uint64_t rows = p->arch->quant_block_rows, cols = p->arch->quant_block_cols;

    w->stored.kind = SCHEME_FP8_BLOCK;
    w->stored.block_rows = rows > 0 ? (uint32_t)rows : FP8_BLOCK_ELEMS;
    w->stored.block_cols = cols > 0 ? (uint32_t)cols : FP8_BLOCK_ELEMS;
    w->stored.compressed_tensors = !inv;
    if (w->stored.scale == SCALE_F32 && inv && p->arch->quant_ue8m0)
        w->stored.scale = SCALE_F32_POW2;
    const uint64_t grid[2] = {ceil_div(w->rows, w->stored.block_rows), ceil_div(w->cols, w->stored.block_cols)};
    if (is_shape(scale, grid[0], grid[1]))
        return true;
    char codes[TENSOR_SHAPE_TEXT];
    tensor_shape_text(2, w->parts[PART_CODES]->dims, codes);
    return wrong_shape(scale, "scale-shape", 2, grid, "its codes need", e) ||
           err_in(e, "codes %s in blocks of %u x %u", codes, w->stored.block_rows, w->stored.block_cols);
}

static bool resolve_fp8(const struct pairing *p, struct weight *w, struct err *e)
{
    const struct tensor *scale = w->parts[PART_SCALE];

    if (!scale)
        return err_broken(e, ERR_FORMAT, "scale-missing",
                          "tensor '%s' holds F8_E4M3 codes, but there is no '%s_scale_inv' nor '%s_scale'", w->name,
                          w->name, w->name);
    if (!check_matrix(w->parts[PART_CODES], e))
        return false;
    w->stored.scale = scale_kind_of(scale->dtype);
    if (w->stored.scale == SCALE_NONE)
        return wrong_dtype(scale, "scale-dtype", "F32, BF16, F16 or F8_E8M0 as scales are", e);
    if (ends_with(scale->name, "_inv"))
        return resolve_fp8_block(p, w, true, e);
    /* A one-row matrix has the same numbers either way. */
    if (scale->rank == 0 || (scale->rank == 1 && scale->dims[0] == 1))
        w->stored.kind = SCHEME_FP8_TENSOR;
    else if ((scale->rank == 1 && scale->dims[0] == w->rows) || is_shape(scale, w->rows, 1))
        w->stored.kind = SCHEME_FP8_CHANNEL;
    else
        return resolve_fp8_block(p, w, false, e);
    return w->stored.scale != SCALE_E8M0 ||
           wrong_dtype(scale, "scale-dtype", "F32, BF16 or F16 as scales of rows are", e);
}

/* The two numbers of weight_shape. */
static bool read_shape(const struct pairing *p, const struct tensor *t, uint64_t shape[2], struct err *e)
{
    int64_t wide[2] = {0};
    int32_t narrow[2] = {0};
    void *numbers = t->dtype == DTYPE_I64 ? (void *)wide : (void *)narrow;

    if (!checkpoint_read(p->c, t, 0, numbers, (size_t)t->bytes, e))
        return false;
    for (size_t i = 0; i < 2; i++) {
        int64_t value = t->dtype == DTYPE_I64 ? wide[i] : narrow[i];
        if (value < 0)
            return err_broken(e, ERR_FORMAT, "packed-shape", "tensor '%s' holds %" PRId64, t->name, value);
        shape[i] = (uint64_t)value;
    }
    return true;
}

static bool check_shape_tensor(const struct weight *w, struct err *e)
{
    static const uint64_t two[1] = {2};
    const struct tensor *t = w->parts[PART_SHAPE];

    if (!t)
        return err_broken(e, ERR_FORMAT, "packed-shape", "tensor '%s' has no '%s_shape'", w->parts[PART_CODES]->name,
                          w->name);
    if (t->dtype != DTYPE_I32 && t->dtype != DTYPE_I64)
        return wrong_dtype(t, "packed-shape", "I32 or I64", e);
    return (t->rank == 1 && t->dims[0] == 2) || wrong_shape(t, "packed-shape", 1, two, "a matrix needs", e);
}

/* The logical shape: config.json's where it knows the role, and weight_shape's, which must agree. */
static bool find_int4_shape(const struct pairing *p, struct weight *w, struct err *e)
{
    const struct tensor *codes = w->parts[PART_CODES], *shape = w->parts[PART_SHAPE];
    uint64_t want[2] = {codes->dims[0], codes->dims[1] * 8}, told[2] = {0};
    bool known = arch_shape(p->arch, w->id.role, &want[0], &want[1]);

    if (p->read_shapes && !p->c->shards[shape->shard].removed) {
        if (!read_shape(p, shape, told, e))
            return false;
        if (known && (told[0] != want[0] || told[1] != want[1]))
            return err_broken(e, ERR_FORMAT, "packed-shape",
                              "tensor '%s' says [%" PRIu64 ", %" PRIu64 "], but config.json promises [%" PRIu64
                              ", %" PRIu64 "]",
                              shape->name, told[0], told[1], want[0], want[1]);
        want[0] = told[0];
        want[1] = told[1];
    }
    w->rows = want[0];
    w->cols = want[1];
    return true;
}

static bool check_int4_codes(const struct pairing *p, const struct weight *w, struct err *e)
{
    const struct tensor *codes = w->parts[PART_CODES];
    const uint64_t want[2] = {w->rows, ceil_div(w->cols, 8)};

    if (is_shape(codes, want[0], want[1]))
        return true;
    /* weight_shape has been read and believed: then the number of words tells the bits. */
    for (uint64_t bits = 1; p->read_shapes && w->cols < UINT32_MAX && bits <= 16; bits++)
        if (bits != 4 && is_shape(codes, w->rows, ceil_div(w->cols * bits, 32)))
            return err_broken(e, ERR_UNSUPPORTED, "bits-unknown",
                              "tensor '%s' holds %" PRIu64 "-bit codes, and only 4 bits are known", codes->name, bits);
    return wrong_shape(codes, "shape-mismatch", 2, want, "its 4-bit codes need", e);
}

static bool resolve_int4_groups(const struct pairing *p, struct weight *w, struct err *e)
{
    const struct tensor *scale = w->parts[PART_SCALE];
    uint64_t groups = scale->rank == 2 ? scale->dims[1] : 0;
    char got[TENSOR_SHAPE_TEXT];

    if (scale->rank != 2 || scale->dims[0] != w->rows || groups == 0 || w->cols % groups != 0 ||
        w->cols / groups > UINT32_MAX)
        return err_broken(e, ERR_FORMAT, "scale-shape",
                          "tensor '%s' is %s, which does not divide [%" PRIu64 ", %" PRIu64 "] into groups",
                          scale->name, tensor_shape_text(scale->rank, scale->dims, got), w->rows, w->cols);
    /* One group in a row is a channel, unless one of config.json's groups has that width. */
    if (groups > 1 || arch_has_group(p->arch, w->cols))
        w->stored.group_cols = (uint32_t)(w->cols / groups);
    return true;
}

static bool check_zero_points(const struct weight *w, struct err *e)
{
    const struct tensor *t = w->parts[PART_ZERO_POINT];

    if (!t)
        return true;
    const uint64_t want[2] = {ceil_div(w->rows, 8), w->parts[PART_SCALE]->dims[1]};
    if (t->dtype != DTYPE_I32)
        return wrong_dtype(t, "zero-point-shape", "I32 as packed zero points are", e);
    return is_shape(t, want[0], want[1]) || wrong_shape(t, "zero-point-shape", 2, want, "its scales need", e);
}

static bool resolve_int4(const struct pairing *p, struct weight *w, struct err *e)
{
    const struct tensor *codes = w->parts[PART_CODES], *scale = w->parts[PART_SCALE];

    w->stored.kind = SCHEME_INT4;
    if (p->arch->quant_bits != 0 && p->arch->quant_bits != 4)
        return err_broken(e, ERR_UNSUPPORTED, "bits-unknown",
                          "tensor '%s' holds %" PRIu64 "-bit codes by config.json, and only 4 bits are known",
                          codes->name, p->arch->quant_bits);
    if (codes->dtype != DTYPE_I32)
        return wrong_dtype(codes, "codes-dtype", "I32 as packed codes are", e);
    if (!check_matrix(codes, e) || !check_shape_tensor(w, e))
        return false;
    if (!scale)
        return err_broken(e, ERR_FORMAT, "scale-missing", "tensor '%s' holds packed codes, but there is no '%s_scale'",
                          codes->name, w->name);
    if (codes->dims[1] > UINT64_MAX / 8)
        return err_set(e, ERR_LIMIT, "tensor '%s' is past any size", codes->name);
    w->stored.scale = scale_kind_of(scale->dtype);
    if (w->stored.scale == SCALE_NONE || w->stored.scale == SCALE_E8M0 || ends_with(scale->name, "_inv"))
        return wrong_dtype(scale, "scale-dtype", "a BF16, F16 or F32 '.weight_scale'", e);
    w->stored.shape_i64 = w->parts[PART_SHAPE]->dtype == DTYPE_I64;
    w->stored.asymmetric = w->parts[PART_ZERO_POINT] != NULL;
    return find_int4_shape(p, w, e) && check_int4_codes(p, w, e) && resolve_int4_groups(p, w, e) &&
           check_zero_points(w, e);
}

/* Nothing but codes is allowed beside numbers that are whole by themselves. */
static bool resolve_plain(struct weight *w, struct err *e)
{
    const struct tensor *codes = w->parts[PART_CODES];
    bool plain = is_plain(codes->dtype);

    if (is_other_fp8(codes->dtype))
        return wrong_dtype(codes, "codes-dtype", "F8_E4M3, the only FP8 known", e);
    for (enum part part = PART_SCALE; part < PART_COUNT; part++)
        if (w->parts[part])
            return err_broken(e, plain ? ERR_FORMAT : ERR_UNSUPPORTED, "part-orphan",
                              "tensor '%s' is %s, which '%s' does not go with", codes->name,
                              dtype_get(codes->dtype)->name, w->parts[part]->name);
    w->stored.kind = plain ? SCHEME_PLAIN : SCHEME_RAW;
    return true;
}

static void set_extent(struct weight *w)
{
    const struct tensor *t = w->parts[PART_CODES];

    w->rows = t->rank > 1 ? t->dims[0] : 1;
    w->cols = t->rank > 0 ? t->dims[t->rank - 1] : 1;
    for (uint32_t i = 1; t->rank > 2 && i < t->rank - 1; i++)
        w->cols *= t->dims[i]; /* the container has checked the product */
}

static bool resolve(const struct pairing *p, struct weight *w, struct err *e)
{
    const struct tensor *codes = w->parts[PART_CODES];

    set_extent(w);
    w->stored = (struct scheme){.kind = SCHEME_RAW, .dtype = codes->dtype};
    if (w->id.role == ROLE_UNKNOWN)
        return true;
    if (w->id.part == NAME_PACKED)
        return resolve_int4(p, w, e);
    if (!check_arch(p, w, e))
        return false;
    if (codes->dtype != DTYPE_F8_E4M3 || w->id.part == NAME_BIAS)
        return resolve_plain(w, e);
    if (w->parts[PART_ZERO_POINT] || w->parts[PART_SHAPE])
        return resolve_plain(w, e);
    return resolve_fp8(p, w, e);
}

/* ---- the whole ---- */

/* What was refused stands for its bytes alone. */
static void set_broken(struct weight *w)
{
    set_extent(w);
    w->broken = true;
    w->stored = (struct scheme){.kind = SCHEME_RAW, .dtype = w->parts[PART_CODES]->dtype};
}

static bool pair_all(struct pairing *p, struct tensor_id *ids, struct err *e)
{
    const struct checkpoint *c = p->c;

    for (size_t i = 0; i < c->tensor_count; i++) {
        arch_identify(p->arch, c->tensors[i].name, &ids[i]);
        if (is_main_part(&ids[i]) && !add_weight(p, &c->tensors[i], &ids[i], e) && !err_pass(p->sink, e))
            return false;
    }
    for (size_t i = 0; i < c->tensor_count; i++)
        if (!is_main_part(&ids[i]) && !attach(p, &c->tensors[i], &ids[i], e) && !err_pass(p->sink, e))
            return false;
    for (size_t i = 0; i < p->w->count; i++) {
        if (resolve(p, &p->w->items[i], e))
            continue;
        if (!err_pass(p->sink, e))
            return false;
        set_broken(&p->w->items[i]);
    }
    return true;
}

bool weights_open(struct weights *w, const struct checkpoint *c, const struct arch *arch, bool read_shapes,
                  const struct err_sink *sink, struct err *e)
{
    struct pairing p = {.w = w, .c = c, .arch = arch, .read_shapes = read_shapes, .sink = sink};
    struct tensor_id *ids = mem_alloc((c->tensor_count + 1) * sizeof *ids);

    memset(w, 0, sizeof *w);
    w->items = arena_array(&w->arena, c->tensor_count, sizeof *w->items);
    bool ok = pair_all(&p, ids, e);
    mem_free(ids);
    if (!ok)
        weights_release(w);
    return ok;
}

const struct weight *weights_find(const struct weights *w, const char *logical_name_)
{
    size_t i = map_get(&w->by_name, logical_name_);

    return i == MAP_NONE ? NULL : &w->items[i];
}

void weights_release(struct weights *w)
{
    map_release(&w->by_name);
    arena_release(&w->arena);
    memset(w, 0, sizeof *w);
}
