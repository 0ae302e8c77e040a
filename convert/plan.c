#include "convert/plan.h"

#include <string.h>

#include "convert/measured.h"
#include "formats/base/log.h"
#include "formats/engine.h"
#include "quant/calibrated.h"

#define NAMES_LISTED_MAX 4u

static size_t size_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

static uint64_t round_up_line(uint64_t bytes)
{
    return (bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
}

/* ---- which weights, and which not ---- */

static void drop(struct plan_output *o, const char *name, const char *why)
{
    o->drops[o->drop_count++] = (struct plan_drop){.name = name, .why = why};
}

static bool refuse_unknown(const struct source *s, struct err *e)
{
    struct buf names = {0};
    size_t count = 0;

    for (size_t i = 0; i < s->weights.count; i++) {
        if (s->weights.items[i].id.role != ROLE_UNKNOWN)
            continue;
        if (count++ < NAMES_LISTED_MAX)
            buf_printf(&names, "%s'%s'", count > 1 ? ", " : "", s->weights.items[i].name);
    }
    if (count > 0)
        err_set(e, ERR_UNSUPPORTED,
                "%zu %s no place in this architecture: %s%s; --keep-unknown copies such tensors as they are", count,
                count == 1 ? "tensor has" : "tensors have", names.data, count > NAMES_LISTED_MAX ? ", ..." : "");
    buf_release(&names);
    return count == 0;
}

const struct weight *plan_input_scale(struct arena *a, const struct weight *w)
{
    struct weight *scale = arena_alloc(a, sizeof *scale);

    *scale = (struct weight){
        .module = w->module,
        .name = w->input_scale->name,
        .id = w->id,
        .stored = {.kind = SCHEME_RAW, .dtype = w->input_scale->dtype, .method = METHOD_COPY},
        .rows = 1,
        .cols = tensor_elems(w->input_scale),
        .parts = {[PART_CODES] = w->input_scale},
    };
    scale->id.part = NAME_INPUT_SCALE;
    return scale;
}

static bool choose_weights(struct plan *p, bool keep_unknown, struct err *e)
{
    const struct weights *ws = &p->source->weights;

    if (!keep_unknown && !refuse_unknown(p->source, e))
        return false;
    p->weights = arena_array(&p->arena, ws->count * 2, sizeof(*p->weights));
    for (size_t i = 0; i < ws->count; i++) {
        const struct weight *w = &ws->items[i];
        if (w->id.role == ROLE_ROPE_CACHE)
            continue;
        p->weights[p->weight_count++] = w;
        if (w->input_scale)
            p->weights[p->weight_count++] = plan_input_scale(&p->arena, w);
    }
    return true;
}

/* ---- what each becomes ---- */

static bool is_input_scale(const struct weight *w)
{
    return w->id.part == NAME_INPUT_SCALE;
}

static void set_part(struct plan *p, struct plan_row *row, enum part part, const struct part_layout *l)
{
    struct tensor *t = &row->parts[part];
    const struct weight *w = row->weight;

    t->name = strcmp(l->suffix, ".weight") == 0 ? w->name : arena_printf(&p->arena, "%s%s", w->module, l->suffix);
    t->dtype = l->dtype;
    t->rank = l->rank;
    memcpy(t->dims, l->dims, sizeof t->dims);
    t->bytes = l->bytes;
}

/* Copies and plain tensors keep the source tensor's own shape, of whatever rank. */
static bool set_plain_part(struct plan_row *row, struct err *e)
{
    const struct tensor *from = row->weight->parts[PART_CODES];
    struct tensor *t = &row->parts[PART_CODES];

    *t = *from;
    t->name = row->weight->name;
    t->dtype = row->scheme.dtype;
    if (!dtype_bytes(t->dtype, tensor_elems(t), &t->bytes))
        return err_set(e, ERR_LIMIT, "tensor '%s' as %s is past any size", t->name, dtype_get(t->dtype)->name);
    return true;
}

static bool set_parts(struct plan *p, struct plan_row *row, struct err *e)
{
    const struct weight *w = row->weight;
    struct part_layout layout[PART_COUNT] = {0};
    bool to_plain = row->scheme.kind == SCHEME_RAW || row->scheme.kind == SCHEME_PLAIN;
    bool from_plain = w->stored.kind == SCHEME_RAW || w->stored.kind == SCHEME_PLAIN;

    if (to_plain && from_plain)
        return set_plain_part(row, e);
    if (!scheme_layout(&row->scheme, w->rows, w->cols, layout, e))
        return err_in(e, "'%s'", w->module);
    for (enum part part = 0; part < PART_COUNT; part++)
        if (layout[part].present)
            set_part(p, row, part, &layout[part]);
    return true;
}

/* What the forward pass shows the inputs of: the linears of attention and of every MLP, which stand side by side. */
static bool is_seen(const struct arch *arch, const struct tensor_id *id)
{
    return id->layer >= 0 && id->layer <= (int64_t)arch->layers && id->role >= ROLE_Q_PROJ &&
           id->role <= ROLE_EXPERT_DOWN;
}

/* Statistics have eh_proj too. */
static bool is_collected(const struct arch *arch, const struct tensor_id *id)
{
    return is_seen(arch, id) || (id->role == ROLE_MTP_PROJ && id->layer == (int64_t)arch->layers);
}

/* An indexer, or a second MTP layer, is rounded without calibration; a static scale cannot be had without. */
static void calibrate_row(struct plan *p, struct plan_row *row)
{
    row->calibrated = is_seen(&p->source->arch, &row->weight->id);
    if (row->calibrated)
        return;
    if (row->scheme.static_input)
        row->scheme = (struct scheme){.kind = SCHEME_PLAIN, .dtype = DTYPE_BF16, .method = METHOD_ROUND};
    else
        row->scheme.method = row->scheme.kind == SCHEME_INT4 ? METHOD_SEARCH : METHOD_ABSMAX;
    row->why = arena_printf(&p->arena, "%s; its inputs are not seen: %s", row->why,
                            row->scheme.kind == SCHEME_PLAIN ? "BF16" : scheme_method_name(row->scheme.method));
}

static bool feed_row(struct plan *p, struct plan_row *row, struct err *e)
{
    const struct scheme *to = &row->scheme;

    if (p->statistics && measured_wants(to) && is_collected(&p->source->arch, &row->weight->id))
        return measured_row(&p->arena, p->statistics, row, e);
    if (scheme_is_calibrated(to))
        calibrate_row(p, row);
    return true;
}

static bool choose_row(struct plan *p, struct plan_output *o, size_t i, struct err *e)
{
    const struct weight *w = p->weights[i];
    struct plan_row *row = &o->rows[i];
    struct choice choice = {0};

    row->weight = w;
    if (is_input_scale(w)) {
        row->scheme = w->stored;
        row->why = "kept: static activation scale";
        return set_parts(p, row, e);
    }
    if (!recipe_choose(o->recipe, &p->arena, &p->source->arch, w, &choice, e))
        return false;
    row->scheme = choice.scheme;
    row->why = choice.why;
    row->fell_back = choice.fell_back;
    if (!feed_row(p, row, e))
        return false;
    if (row->calibrated ? !calibrated_check(row->scheme.method, &w->stored, &row->scheme, e)
                        : row->scheme.method != METHOD_COPY && !transform_check(&w->stored, &row->scheme, e))
        return err_in(e, "'%s'", w->name);
    return set_parts(p, row, e);
}

static void drop_rope_caches(const struct plan *p, struct plan_output *o)
{
    const struct weights *ws = &p->source->weights;

    for (size_t i = 0; i < ws->count; i++)
        if (ws->items[i].id.role == ROLE_ROPE_CACHE)
            drop(o, ws->items[i].name, "a stale rotary cache that no engine reads");
}

/* An activation scale makes sense beside FP8 codes only, and one that is measured anew takes the old one's place; a
 * part without a name is left out of the layout. */
static void drop_orphan_input_scales(const struct plan *p, struct plan_output *o)
{
    for (size_t i = 1; i < p->weight_count; i++) {
        enum scheme_kind kind = o->rows[i - 1].scheme.kind;
        bool fp8 = kind == SCHEME_FP8_BLOCK || kind == SCHEME_FP8_CHANNEL || kind == SCHEME_FP8_TENSOR;
        bool anew = o->rows[i - 1].scheme.static_input;
        if (!is_input_scale(p->weights[i]) || (fp8 && !anew))
            continue;
        o->rows[i].parts[PART_CODES] = (struct tensor){0};
        drop(o, p->weights[i]->name,
             anew ? "a static activation scale that was measured anew"
                  : "a static activation scale of a linear that is FP8 no more");
    }
}

static bool check_fused(const struct plan *p, const struct plan_output *o, struct err *e)
{
    struct engine_weight *list = mem_alloc(p->weight_count * sizeof *list + 1);
    size_t count = 0;

    for (size_t i = 0; i < p->weight_count; i++)
        if (!is_input_scale(p->weights[i]))
            list[count++] = (struct engine_weight){.weight = p->weights[i], .scheme = &o->rows[i].scheme};
    bool ok = engine_check_fused(list, count, e);
    mem_free(list);
    return ok || err_in(e, "recipe '%s' (--allow-unfused overrides)", o->recipe->name);
}

static bool open_output(struct plan *p, struct plan_output *o, const struct plan_target *target,
                        const struct plan_options *options, struct err *e)
{
    o->dir = target->dir;
    o->recipe = target->recipe;
    o->rows = arena_array(&p->arena, p->weight_count, sizeof *o->rows);
    for (size_t i = 0; i < p->weight_count; i++)
        if (!choose_row(p, o, i, e))
            return false;
    o->drops = arena_array(&p->arena, p->source->weights.count + p->weight_count, sizeof *o->drops);
    drop_rope_caches(p, o);
    drop_orphan_input_scales(p, o);
    if (!options->allow_unfused && !check_fused(p, o, e))
        return false;
    if (!plan_layout(p, o, options, e))
        return false;
    for (size_t i = 0; i < p->weight_count; i++)
        if (o->rows[i].calibrated)
            o->shards[o->rows[i].parts[PART_CODES].shard].calibrated = true;
    return true;
}

/* ---- jobs ---- */

static uint64_t job_rows(const struct weight *w)
{
    uint64_t rows = w->cols > 0 ? PLAN_JOB_WEIGHTS / w->cols / PLAN_JOB_ROWS * PLAN_JOB_ROWS : w->rows;

    if (rows < PLAN_JOB_ROWS)
        rows = PLAN_JOB_ROWS;
    return rows < w->rows ? rows : w->rows;
}

static void slice_piece(const struct weight *w, const struct plan_piece *piece, const struct job *j, enum part part,
                        struct plan_slice *in)
{
    uint64_t row = piece->row_order ? 0 : piece->row + j->row, count = piece->row_order ? piece->rows : j->count;
    struct scheme_window win =
        scheme_window(&w->stored, part, piece->rows, piece->cols, row, count, piece->col, w->cols);

    in->offset = win.offset;
    in->bytes = win.lines * win.line_bytes;
    in->line_bytes = win.line_bytes == win.stride_bytes ? 0 : win.line_bytes;
    in->stride_bytes = win.stride_bytes;
    if (!piece->row_order)
        return;
    in->line_bytes = in->stride_bytes = in->bytes / piece->rows;
    in->bytes = in->line_bytes * j->count;
    in->line_order = piece->row_order + j->row;
}

void plan_job_in(const struct plan *p, const struct job *j, struct plan_slice in[PART_COUNT])
{
    const struct weight *w = p->weights[j->weight];

    memset(in, 0, PART_COUNT * sizeof *in);
    for (enum part part = 0; part < PART_COUNT; part++) {
        if (!w->parts[part] || part == PART_SHAPE)
            continue;
        in[part].tensor = w->parts[part];
        if (p->pieces && p->pieces[j->weight])
            slice_piece(w, p->pieces[j->weight], j, part, &in[part]);
        else
            scheme_slice(&w->stored, part, w->rows, w->cols, j->row, j->count, &in[part].offset, &in[part].bytes);
    }
}

void plan_row_slices(const struct plan_row *row, uint64_t first, uint64_t count, struct plan_slice out[PART_COUNT])
{
    const struct weight *w = row->weight;

    memset(out, 0, PART_COUNT * sizeof *out);
    for (enum part part = 0; part < PART_COUNT; part++) {
        if (row->parts[part].dtype == DTYPE_NONE || part == PART_SHAPE)
            continue;
        bool one = (part == PART_SCALE && row->scheme.kind == SCHEME_FP8_TENSOR) || part == PART_INPUT_SCALE;
        if (one && first > 0)
            continue; /* one number for all jobs, and each byte is written once */
        out[part].tensor = &row->parts[part];
        scheme_slice(&row->scheme, part, w->rows, w->cols, first, count, &out[part].offset, &out[part].bytes);
    }
}

void plan_job_out(const struct plan *p, const struct job *j, size_t output, struct plan_slice out[PART_COUNT])
{
    const struct plan_row *row = &p->outputs[output].rows[j->weight];

    if (row->calibrated)
        memset(out, 0, PART_COUNT * sizeof *out);
    else
        plan_row_slices(row, j->row, j->count, out);
}

bool plan_is_calibrated(const struct plan_output *o)
{
    for (size_t i = 0; i < o->shard_count; i++)
        if (o->shards[i].calibrated)
            return true;
    return false;
}

bool plan_row_is_fed(const struct plan_row *row)
{
    return row->calibrated || row->measured;
}

bool plan_is_fed(const struct plan *p, const struct plan_output *o)
{
    for (size_t i = 0; i < p->weight_count; i++)
        if (plan_row_is_fed(&o->rows[i]))
            return true;
    return false;
}

bool plan_row_has_most(const struct plan_row *row)
{
    return row->measured && row->scheme.static_input;
}

size_t plan_calibrated_output(const struct plan *p)
{
    size_t o = 0;

    while (o < p->output_count && !plan_is_calibrated(&p->outputs[o]))
        o++;
    return o;
}

static size_t slices_bytes(const struct plan_slice s[PART_COUNT])
{
    size_t bytes = 0;

    for (enum part part = 0; part < PART_COUNT; part++)
        if (s[part].tensor)
            bytes += round_up_line(s[part].bytes);
    return bytes;
}

static void measure_job(struct plan *p, const struct job *j)
{
    struct plan_slice s[PART_COUNT];
    size_t in = 0, out = 0;
    uint64_t read_bytes = 0;
    bool most = false;

    plan_job_in(p, j, s);
    in = slices_bytes(s);
    for (enum part part = 0; part < PART_COUNT; part++)
        read_bytes += s[part].bytes;
    for (size_t o = 0; o < p->output_count; o++) {
        const struct plan_row *row = &p->outputs[o].rows[j->weight];
        struct transform t = {
            .kernel = kernel_get(), .from = row->weight->stored, .to = row->scheme, .cols = row->weight->cols};

        plan_job_out(p, j, o, s);
        for (enum part part = 0; part < PART_COUNT; part++)
            p->write_bytes += s[part].bytes;
        if (row->scheme.method == METHOD_COPY || row->calibrated)
            continue; /* written from where it was read */
        out += slices_bytes(s);
        most |= plan_row_has_most(row);
        size_t weights = row->measured ? measured_scratch_bytes(t.cols) : 0;
        p->scratch_bytes_max = size_max(p->scratch_bytes_max, transform_scratch_bytes(&t) + weights);
    }
    p->read_bytes += read_bytes;
    p->most_bytes += most ? read_bytes : 0;
    p->in_bytes_max = size_max(p->in_bytes_max, in);
    p->out_bytes_max = size_max(p->out_bytes_max, out);
}

/* A weight that every output takes from the calibrated run, or leaves out, is no job's. */
static bool any_output_converts(const struct plan *p, size_t weight)
{
    for (size_t o = 0; o < p->output_count; o++)
        if (!p->outputs[o].rows[weight].calibrated)
            return true;
    return false;
}

void plan_cut_jobs(struct plan *p)
{
    size_t count = 0;

    for (size_t i = 0; i < p->weight_count; i++) {
        const struct weight *w = p->weights[i];
        uint64_t rows = any_output_converts(p, i) ? job_rows(w) : 0;
        count += rows > 0 ? (w->rows + rows - 1) / rows : 0;
    }
    p->jobs = arena_array(&p->arena, count, sizeof *p->jobs);
    for (size_t i = 0; i < p->weight_count; i++) {
        const struct weight *w = p->weights[i];
        uint64_t rows = any_output_converts(p, i) ? job_rows(w) : 0;
        for (uint64_t row = 0; row < w->rows && rows > 0; row += rows) {
            uint64_t left = w->rows - row;
            p->jobs[p->job_count] = (struct job){.weight = (uint32_t)i, .row = row, .count = left < rows ? left : rows};
            measure_job(p, &p->jobs[p->job_count++]);
        }
    }
}

size_t *plan_last_jobs(const struct plan *p)
{
    size_t *last = mem_alloc(p->source->checkpoint.shard_count * sizeof *last);
    struct plan_slice in[PART_COUNT];

    for (size_t j = 0; j < p->job_count; j++) {
        plan_job_in(p, &p->jobs[j], in);
        for (enum part part = 0; part < PART_COUNT; part++)
            if (in[part].tensor)
                last[in[part].tensor->shard] = j + 1;
    }
    return last;
}

bool plan_open(struct plan *p, const struct source *s, const struct plan_options *options, struct err *e)
{
    *p = (struct plan){.source = s, .statistics = options->statistics};
    if (!choose_weights(p, options->keep_unknown, e))
        goto failed;
    p->outputs = arena_array(&p->arena, options->target_count, sizeof *p->outputs);
    for (size_t i = 0; i < options->target_count; i++) {
        p->output_count = i + 1;
        if (!open_output(p, &p->outputs[i], &options->targets[i], options, e))
            goto failed;
    }
    plan_cut_jobs(p);
    return true;
failed:
    plan_close(p);
    return false;
}

void plan_close(struct plan *p)
{
    for (size_t i = 0; i < p->output_count; i++)
        for (size_t k = 0; k < p->outputs[i].shard_count; k++) {
            buf_release(&p->outputs[i].shards[k].prefix);
            buf_release(&p->outputs[i].shards[k].suffix);
        }
    arena_release(&p->arena);
    *p = (struct plan){0};
}
