/* The file of calibration statistics, written and read. What a shape says is held against the file's own routing
 * statistics and against the other tensors of the same input. */
#include "formats/calib_stats.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/map.h"

#define VERSION    "2"
#define NAME_BYTES 96u
#define HASH_BLOCK (1u << 20)

/* ---- writing ---- */

static const char *name_of(struct arena *a, const char *kind, uint64_t layer, enum role role)
{
    return arena_printf(a, "%s.%" PRIu64 ".%s", kind, layer, role_get(role)->name);
}

static struct tensor_item *add(struct calib_writer *w, struct tensor_item item)
{
    w->items[w->count] = item;
    return &w->items[w->count++];
}

static void list_inputs(struct calib_writer *w)
{
    const struct calib_stats *s = w->stats;
    struct arena *a = &w->arena;

    for (size_t i = 0; i < s->input_count; i++) {
        const struct calib_input *in = &s->inputs[i];
        add(w, tensor_item_matrix(name_of(a, "sum2", in->layer, in->role), DTYPE_F64, in->n, in->cols, NULL));
    }
    for (size_t i = 0; i < s->input_count; i++) {
        const struct calib_input *in = &s->inputs[i];
        add(w, tensor_item_vector(name_of(a, "seen", in->layer, in->role), DTYPE_I64, in->n, in->seen));
    }
}

static void list_layers(struct calib_writer *w)
{
    const struct calib_stats *s = w->stats;
    struct arena *a = &w->arena;

    for (size_t i = 0; i < s->layer_count; i++)
        add(w, tensor_item_vector(arena_printf(a, "hidden.%" PRIu64, s->layers[i].layer), DTYPE_F64, 1,
                                  s->layers[i].hidden));
    for (size_t i = 0; i < s->loss_count; i++) {
        const struct calib_loss *l = &s->losses[i];
        add(w,
            tensor_item_matrix(name_of(a, "loss", l->layer, l->role), DTYPE_F64, CALIB_SCHEME_COUNT, l->n, l->loss[0]));
        add(w, tensor_item_vector(name_of(a, "energy", l->layer, l->role), DTYPE_F64, l->n, l->energy));
    }
}

/* Behind all that is eight bytes wide. */
static void list_peaks(struct calib_writer *w)
{
    for (size_t i = 0; i < w->stats->input_count; i++) {
        const struct calib_input *in = &w->stats->inputs[i];
        add(w, tensor_item_vector(name_of(&w->arena, "peak", in->layer, in->role), DTYPE_F32, in->n, in->peak));
    }
}

static const char *losses_text(struct arena *a)
{
    const char *text = "";

    for (enum calib_scheme i = 0; i < CALIB_SCHEME_COUNT; i++)
        text = arena_printf(a, "%s%s%s", text, i > 0 ? ", " : "", calib_scheme_name(i));
    return text;
}

static struct safetensors_meta *list_metadata(struct calib_writer *w, const struct routing_file *f, size_t *count)
{
    struct safetensors_meta *list = arena_array(&w->arena, f->metadata_count + 2, sizeof *list);

    memcpy(list, f->metadata, f->metadata_count * sizeof *list);
    *count = f->metadata_count;
    list[(*count)++] = (struct safetensors_meta){"calibration", VERSION};
    if (w->stats->has_losses)
        list[(*count)++] = (struct safetensors_meta){"losses", losses_text(&w->arena)};
    return list;
}

static bool measure(struct calib_writer *w, struct tensor **list, struct err *e)
{
    for (size_t i = 0; i < w->count; i++) {
        list[i] = &w->items[i].tensor;
        if (!dtype_bytes(list[i]->dtype, tensor_elems(list[i]), &list[i]->bytes))
            return err_set(e, ERR_LIMIT, "tensor '%s' is past any size", list[i]->name);
    }
    return true;
}

static void list_all(struct calib_writer *w, struct routing_file *f)
{
    const struct calib_stats *s = w->stats;

    routing_stats_list(&s->routing, &w->arena, f);
    w->items =
        arena_array(&w->arena, f->count + 3 * s->input_count + s->layer_count + 2 * s->loss_count, sizeof *w->items);
    list_inputs(w);
    list_layers(w);
    for (size_t i = 0; i < f->count; i++)
        add(w, f->items[i]);
    list_peaks(w);
}

static bool lay_out(struct calib_writer *w, const struct calib_stats *s, struct buf *head, uint64_t *file_bytes,
                    struct err *e)
{
    struct routing_file f;
    size_t metadata_count;

    *w = (struct calib_writer){.stats = s};
    list_all(w, &f);
    struct safetensors_meta *metadata = list_metadata(w, &f, &metadata_count);
    struct tensor **list = arena_array(&w->arena, w->count, sizeof *list);
    return measure(w, list, e) && safetensors_layout_meta(head, metadata, metadata_count, SAFETENSORS_DATA_ALIGN, list,
                                                          w->count, file_bytes, e);
}

bool calib_stats_file_bytes(const struct calib_stats *s, uint64_t *bytes, struct err *e)
{
    struct calib_writer w;
    struct buf head = {0};
    bool ok = lay_out(&w, s, &head, bytes, e);

    buf_release(&head);
    calib_writer_release(&w);
    return ok;
}

static bool writer_open(struct calib_writer *w, struct calib_stats *s, const char *path, bool resume, struct err *e)
{
    struct buf head = {0};
    uint64_t file_bytes = 0;
    bool ok = lay_out(w, s, &head, &file_bytes, e) && output_open(&w->out, path, file_bytes, resume, e) &&
              output_write(&w->out, 0, head.data, head.bytes, e);

    for (size_t i = 0; i < s->input_count && ok; i++)
        s->inputs[i].offset = w->items[i].tensor.offset;
    buf_release(&head);
    return ok || err_in(e, "'%s'", path);
}

bool calib_writer_open(struct calib_writer *w, struct calib_stats *s, const char *path, struct err *e)
{
    return writer_open(w, s, path, false, e);
}

bool calib_writer_reopen(struct calib_writer *w, struct calib_stats *s, const char *path, struct err *e)
{
    return writer_open(w, s, path, true, e);
}

/* "counts.3", "seen.3.router": 3. What is no layer's has the largest. */
static uint64_t layer_of(const struct tensor_item *t)
{
    const char *dot = strchr(t->tensor.name, '.');

    return dot ? strtoull(dot + 1, NULL, 10) : UINT64_MAX;
}

bool calib_writer_save(struct calib_writer *w, uint64_t first, uint64_t end, struct err *e)
{
    bool ok = true;

    for (size_t i = 0; i < w->count && ok; i++) {
        const struct tensor_item *t = &w->items[i];
        uint64_t layer = layer_of(t);
        if (t->data && layer >= first && layer < end)
            ok = output_write(&w->out, t->tensor.offset, t->data, (size_t)t->tensor.bytes, e);
    }
    return ok && output_sync(&w->out, e);
}

/* Each token fires as many. */
static void count_tokens(const struct routing_stats *s, struct routing_layer *l)
{
    uint64_t fired = 0;

    for (size_t i = 0; i < s->experts; i++)
        fired += (uint64_t)l->counts[i];
    l->tokens = fired / s->experts_per_token;
}

/* The items' data are the arrays of s, which are s's to change. */
bool calib_writer_load(const struct calib_writer *w, struct calib_stats *s, uint64_t end, struct err *e)
{
    struct file f = {0};
    bool ok = file_open(&f, w->out.partial_path, e);

    for (size_t i = 0; i < w->count && ok; i++) {
        const struct tensor_item *t = &w->items[i];
        if (t->data && layer_of(t) < end)
            ok = file_read(&f, t->tensor.offset, (void *)(uintptr_t)t->data, (size_t)t->tensor.bytes, e);
    }
    for (size_t i = 0; i < s->routing.count && ok; i++)
        if (s->routing.items[i].layer < end)
            count_tokens(&s->routing, &s->routing.items[i]);
    file_close(&f);
    return ok;
}

bool calib_writer_sum2(struct calib_writer *w, const struct calib_input *in, size_t index, const double *sum2,
                       struct err *e)
{
    size_t bytes = in->cols * sizeof *sum2;

    return output_write(&w->out, in->offset + index * bytes, sum2, bytes, e);
}

bool calib_writer_commit(struct calib_writer *w, struct err *e)
{
    bool ok = true;

    for (size_t i = 0; i < w->count && ok; i++) {
        const struct tensor_item *t = &w->items[i];
        if (t->data)
            ok = output_write(&w->out, t->tensor.offset, t->data, (size_t)t->tensor.bytes, e);
    }
    return ok && output_commit(&w->out, e);
}

void calib_writer_release(struct calib_writer *w)
{
    output_release(&w->out);
    arena_release(&w->arena);
    *w = (struct calib_writer){0};
}

/* ---- reading ---- */

struct reading {
    struct calib_stats *s;
    struct safetensors st;
    struct map by_name;
};

/* NULL: not there. */
static const struct tensor *find(const struct reading *r, const char *kind, uint64_t layer, enum role role)
{
    char name[NAME_BYTES];

    snprintf(name, sizeof name, "%s.%" PRIu64 ".%s", kind, layer, role_get(role)->name);
    size_t at = map_get(&r->by_name, name);
    return at == MAP_NONE ? NULL : &r->st.tensors[at];
}

static bool check_tensor(const struct tensor *t, enum dtype_id dtype, uint64_t rows, uint64_t cols, struct err *e)
{
    char got[TENSOR_SHAPE_TEXT], wanted[TENSOR_SHAPE_TEXT];
    uint64_t dims[] = {rows, cols};
    uint32_t rank = cols > 0 ? 2 : 1;

    return (t->dtype == dtype && t->rank == rank && t->dims[0] == rows && (rank == 1 || t->dims[1] == cols)) ||
           err_set(e, ERR_FORMAT, "tensor '%s' is %s %s, not %s %s", t->name, dtype_get(t->dtype)->name,
                   tensor_shape_text(t->rank, t->dims, got), dtype_get(dtype)->name,
                   tensor_shape_text(rank, dims, wanted));
}

/* A tensor that has to be there, of this shape, into data. cols 0: a vector. */
static bool fetch(const struct reading *r, const char *kind, uint64_t layer, enum role role, enum dtype_id dtype,
                  uint64_t rows, uint64_t cols, void *data, struct err *e)
{
    const struct tensor *t = find(r, kind, layer, role);

    if (!t)
        return err_set(e, ERR_FORMAT, "tensor '%s.%" PRIu64 ".%s' is missing", kind, layer, role_get(role)->name);
    return check_tensor(t, dtype, rows, cols, e) && file_read(&r->s->file, t->offset, data, (size_t)t->bytes, e);
}

/* Not negative, nor NaN; infinite only where `or_infinite`. */
static bool check_numbers(const double *x, size_t count, bool or_infinite, const char *kind, struct err *e)
{
    for (size_t i = 0; i < count; i++)
        if (!(x[i] >= 0) || (isinf(x[i]) && !or_infinite))
            return err_set(e, ERR_FORMAT, "number %zu of '%s' is %g", i, kind, x[i]);
    return true;
}

static bool read_input(struct reading *r, const struct tensor *sums, uint64_t layer, enum role role, struct err *e)
{
    struct calib_stats *s = r->s;
    size_t n = calib_places(role, s->routing.experts);
    struct calib_input *in = &s->inputs[s->input_count++];

    if (sums->rank != 2 || sums->dims[1] == 0 || sums->dims[1] > CALIB_COLS_MAX)
        return err_set(e, ERR_FORMAT, "tensor '%s' is not [%zu, 1 to %u]", sums->name, n, CALIB_COLS_MAX);
    if (!check_tensor(sums, DTYPE_F64, n, sums->dims[1], e))
        return false;
    *in = (struct calib_input){
        .layer = layer, .role = role, .n = n, .cols = (size_t)sums->dims[1], .offset = sums->offset};
    in->seen = arena_array(&s->arena, n, sizeof *in->seen);
    in->peak = arena_array(&s->arena, n, sizeof *in->peak);
    if (!fetch(r, "seen", layer, role, DTYPE_I64, n, 0, in->seen, e) ||
        !fetch(r, "peak", layer, role, DTYPE_F32, n, 0, in->peak, e))
        return false;
    for (size_t k = 0; k < n; k++)
        if (in->seen[k] < 0 || !(in->peak[k] >= 0) || isinf(in->peak[k]))
            return err_set(e, ERR_FORMAT, "layer %" PRIu64 ", input '%s': %" PRId64 " tokens, of at most %g", layer,
                           role_get(role)->name, in->seen[k], (double)in->peak[k]);
    return true;
}

static bool read_loss(struct reading *r, uint64_t layer, enum role role, struct err *e)
{
    struct calib_stats *s = r->s;
    size_t n = calib_places(role, s->routing.experts);
    struct calib_loss *l = &s->losses[s->loss_count++];
    double *block = arena_array(&s->arena, CALIB_SCHEME_COUNT * n, sizeof *block);

    *l = (struct calib_loss){.layer = layer, .role = role, .n = n, .energy = arena_array(&s->arena, n, sizeof(double))};
    for (enum calib_scheme c = 0; c < CALIB_SCHEME_COUNT; c++)
        l->loss[c] = block + c * n;
    return fetch(r, "loss", layer, role, DTYPE_F64, CALIB_SCHEME_COUNT, n, block, e) &&
           check_numbers(block, CALIB_SCHEME_COUNT * n, true, "loss", e) &&
           fetch(r, "energy", layer, role, DTYPE_F64, n, 0, l->energy, e) &&
           check_numbers(l->energy, n, false, "energy", e);
}

static bool read_hidden(struct reading *r, uint64_t layer, struct err *e)
{
    struct calib_layer *l = &r->s->layers[r->s->layer_count++];
    char name[NAME_BYTES];

    *l = (struct calib_layer){layer, arena_array(&r->s->arena, 1, sizeof *l->hidden)};
    snprintf(name, sizeof name, "hidden.%" PRIu64, layer);
    size_t at = map_get(&r->by_name, name);
    if (at == MAP_NONE)
        return err_set(e, ERR_FORMAT, "tensor '%s' is missing", name);
    return check_tensor(&r->st.tensors[at], DTYPE_F64, 1, 0, e) &&
           file_read(&r->s->file, r->st.tensors[at].offset, l->hidden, sizeof *l->hidden, e) &&
           check_numbers(l->hidden, 1, false, "hidden", e);
}

static bool read_layer(struct reading *r, uint64_t layer, struct err *e)
{
    struct calib_stats *s = r->s;
    size_t before = s->input_count;

    for (enum role role = 0; role < ROLE_COUNT; role++) {
        const struct tensor *sums = find(r, "sum2", layer, role);
        if (sums && !read_input(r, sums, layer, role, e))
            return false;
    }
    if (s->input_count == before)
        return true;
    for (enum role role = 0; role < ROLE_COUNT && s->has_losses; role++)
        if (find(r, "loss", layer, role) &&
            (!calib_input_find(s, layer, calib_input_of(role))
                 ? !err_set(e, ERR_FORMAT, "losses of '%s' without its input", role_get(role)->name)
                 : !read_loss(r, layer, role, e)))
            return false;
    return read_hidden(r, layer, e);
}

static bool read_metadata(struct reading *r, struct err *e)
{
    const char *version = safetensors_meta(&r->st, "calibration"), *losses = safetensors_meta(&r->st, "losses");

    if (!version)
        return err_set(e, ERR_FORMAT,
                       "routing statistics alone, without those of inputs: its metadata has no "
                       "'calibration'; quern calibrate makes them");
    if (strcmp(version, VERSION) != 0)
        return err_set(e, ERR_UNSUPPORTED, "version '%.40s' of calibration statistics, and only " VERSION " is known",
                       version);
    r->s->has_losses = losses != NULL;
    return !losses || strcmp(losses, losses_text(&r->s->arena)) == 0 ||
           err_set(e, ERR_UNSUPPORTED, "losses of '%.100s', not of '%s'", losses, losses_text(&r->s->arena));
}

static bool read_all(struct reading *r, struct err *e)
{
    struct calib_stats *s = r->s;
    size_t most = r->st.tensor_count + 1; /* each has a tensor of its own */

    s->inputs = arena_array(&s->arena, most, sizeof *s->inputs);
    s->losses = arena_array(&s->arena, most, sizeof *s->losses);
    s->layers = arena_array(&s->arena, most, sizeof *s->layers);
    for (size_t i = 0; i < r->st.tensor_count; i++)
        map_put(&r->by_name, r->st.tensors[i].name, i);
    for (uint64_t layer = 0; layer < ROUTING_LAYERS_MAX; layer++)
        if (!read_layer(r, layer, e))
            return err_in(e, "layer %" PRIu64, layer);
    return s->input_count > 0 || err_set(e, ERR_FORMAT, "it has sums of no input");
}

bool calib_stats_open(struct calib_stats *s, const char *path, struct err *e)
{
    struct reading r = {.s = s};
    struct arena a = {0};

    *s = (struct calib_stats){0};
    if (!routing_stats_read(&s->routing, path, e))
        return false;
    bool ok = file_open(&s->file, path, e) && safetensors_read(&r.st, &a, &s->file, e) && read_metadata(&r, e) &&
              read_all(&r, e);
    if (!ok)
        calib_stats_release(s);
    map_release(&r.by_name);
    arena_release(&a);
    return ok || err_in(e, "'%s'", path);
}

bool calib_stats_sum2(const struct calib_stats *s, const struct calib_input *in, size_t index, double *sum2,
                      struct err *e)
{
    size_t bytes = in->cols * sizeof *sum2;

    return (file_read(&s->file, in->offset + index * bytes, sum2, bytes, e) &&
            check_numbers(sum2, in->cols, false, "sum2", e)) ||
           err_in(e, "'%s': layer %" PRIu64 ", input '%s'", s->file.path, in->layer, role_get(in->role)->name);
}

bool calib_stats_sha256(const struct calib_stats *s, char hex[HASH_HEX_BYTES], struct err *e)
{
    const struct file *f = &s->file;
    uint8_t *block = mem_alloc(HASH_BLOCK);
    struct hash h = {0};
    bool ok = true;

    hash_init(&h);
    for (uint64_t at = 0; at < f->bytes && ok; at += HASH_BLOCK) {
        size_t bytes = f->bytes - at < HASH_BLOCK ? (size_t)(f->bytes - at) : HASH_BLOCK;
        ok = file_read(f, at, block, bytes, e);
        hash_update(&h, block, ok ? bytes : 0);
    }
    hash_final_hex(&h, hex);
    mem_free(block);
    return ok;
}

/* ---- several files into one ---- */

static bool add_sums(const struct calib_stats *from, size_t count, size_t input, size_t index, double *sum,
                     double *more, struct err *e)
{
    if (!calib_stats_sum2(&from[0], &from[0].inputs[input], index, sum, e))
        return false;
    for (size_t i = 1; i < count; i++) {
        const struct calib_input *in = &from[i].inputs[input];
        if (!calib_stats_sum2(&from[i], in, index, more, e))
            return false;
        for (size_t j = 0; j < in->cols; j++)
            sum[j] += more[j];
    }
    return true;
}

static bool write_sums(struct calib_writer *w, const struct calib_stats *from, size_t count, struct err *e)
{
    const struct calib_stats *s = w->stats;
    bool ok = true;

    for (size_t i = 0; i < s->input_count && ok; i++) {
        const struct calib_input *in = &s->inputs[i];
        double *sum = mem_alloc(in->cols * sizeof *sum), *more = mem_alloc(in->cols * sizeof *more);
        for (size_t k = 0; k < in->n && ok; k++)
            ok = add_sums(from, count, i, k, sum, more, e) && calib_writer_sum2(w, in, k, sum, e);
        mem_free(sum);
        mem_free(more);
    }
    return ok;
}

bool calib_stats_merge_files(const char *const *paths, size_t count, const char *out, bool *lost, struct err *e)
{
    struct calib_stats *from = mem_alloc((count + 1) * sizeof *from), *all = &from[count];
    struct calib_writer w = {0};
    bool ok = true;

    for (size_t i = 0; i < count && ok; i++)
        ok = calib_stats_open(&from[i], paths[i], e);
    ok = ok && calib_stats_open(all, paths[0], e);
    for (size_t i = 1; i < count && ok; i++)
        ok = calib_stats_merge(all, &from[i], lost, e) || err_in(e, "'%s' and '%s'", paths[0], paths[i]);
    ok = ok && calib_writer_open(&w, all, out, e) && write_sums(&w, from, count, e) && calib_writer_commit(&w, e);
    calib_writer_release(&w);
    for (size_t i = 0; i <= count; i++)
        calib_stats_release(&from[i]);
    mem_free(from);
    return ok;
}
