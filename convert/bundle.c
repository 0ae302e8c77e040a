#include "convert/bundle.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/coverage.h"
#include "convert/quant_config.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/log.h"
#include "formats/base/utf8.h"
#include "formats/json.h"
#include "formats/manifest.h"
#include "quant/kernel.h"

/* Not copied: ours, or the source's description of other weights. */
static const char *const replaced_files[] = {
    "config.json",
    "model.safetensors.index.json",
    "README.md",
    MANIFEST_NAME,
    "model.sig",
    "experts.json",
    "quantize_config.json",
    "hf_quant_config.json",
    "recipe.yaml",
    "placement-sglang.json",
    "placement-vllm.json",
    "placement.json",
};
/* Weights in other containers: they would be larger than the bundle and say something else. */
static const char *const weight_suffixes[] = {
    ".safetensors", CHECKPOINT_REMOVED_SUFFIX, ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"};

static bool ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);

    return n >= k && strcmp(s + n - k, suffix) == 0;
}

static bool is_replaced(const char *name)
{
    for (size_t i = 0; i < sizeof replaced_files / sizeof replaced_files[0]; i++)
        if (strcmp(name, replaced_files[i]) == 0)
            return true;
    return false;
}

static bool is_weight_file(const char *name)
{
    for (size_t i = 0; i < sizeof weight_suffixes / sizeof weight_suffixes[0]; i++)
        if (ends_with(name, weight_suffixes[i]))
            return true;
    return ends_with(name, ".safetensors.index.json") || ends_with(name, ".bin.index.json");
}

static bool is_left_behind(const char *name)
{
    return name[0] == '.' || is_replaced(name) || is_weight_file(name);
}

/* quern.json lists the files by name, and JSON has no other text. */
static bool is_utf8(const char *name)
{
    return utf8_end(name, strlen(name)) == strlen(name);
}

static bool travels(const char *name, const struct stat *st)
{
    return S_ISREG(st->st_mode) && is_utf8(name);
}

bool bundle_check_side_files(const struct plan *p, struct err *e)
{
    const char *dir = p->source->checkpoint.dir;
    struct arena a = {0};
    char **names = NULL;
    size_t count = 0;
    bool ok = dir_list(dir, &a, &names, &count, e);

    for (size_t i = 0; i < count && ok; i++) {
        const char *path = path_join(&a, dir, names[i]);
        struct stat st;
        if (is_left_behind(names[i]))
            continue;
        if (stat(path, &st) != 0)
            ok = err_sys(e, "side file '%s'", path);
        else if (!travels(names[i], &st))
            log_note("'%s' is not %s and stays behind", names[i],
                     S_ISREG(st.st_mode) ? "named in UTF-8" : "a regular file");
        else if (access(path, R_OK) != 0)
            ok = err_sys(e, "side file '%s'", path);
    }
    arena_release(&a);
    return ok;
}

bool bundle_side_files(const struct plan *p, struct arena *a, char ***names, size_t *count, struct err *e)
{
    const char *dir = p->source->checkpoint.dir;
    char **all = NULL;
    size_t all_count = 0, kept = 0;

    if (!dir_list(dir, a, &all, &all_count, e))
        return false;
    for (size_t i = 0; i < all_count; i++) {
        struct stat st;
        if (is_left_behind(all[i]))
            continue;
        if (stat(path_join(a, dir, all[i]), &st) != 0)
            return err_sys(e, "side file '%s/%s'", dir, all[i]);
        if (travels(all[i], &st))
            all[kept++] = all[i];
    }
    *names = all;
    *count = kept;
    return true;
}

bool bundle_config(const struct plan *p, const struct plan_output *o, struct buf *config, struct err *e)
{
    const struct checkpoint *c = &p->source->checkpoint;
    struct engine_weight *list = NULL;
    size_t count = 0;

    if (p->same_config) {
        buf_add(config, c->config, c->config_bytes);
        return true;
    }
    list = mem_alloc((p->weight_count + 1) * sizeof *list);
    for (size_t i = 0; i < p->weight_count; i++)
        if (p->weights[i]->id.part != NAME_INPUT_SCALE)
            list[count++] = (struct engine_weight){.weight = p->weights[i], .scheme = &o->rows[i].scheme};
    bool ok = quant_config_write(config, &p->source->arch, c->config, c->config_bytes, list, count, e);
    mem_free(list);
    return ok;
}

static uint64_t listed_bytes(const struct plan *p, const struct plan_output *o)
{
    uint64_t bytes = o->tensor_bytes;

    for (size_t i = 0; i < p->weight_count; i++)
        for (enum part part = 0; part < PART_COUNT && o->rows[i].unlisted; part++)
            bytes -= o->rows[i].parts[part].bytes;
    return bytes;
}

static void write_index(struct buf *out, const struct plan *p, const struct plan_output *o)
{
    struct json_writer w = {.out = out};

    json_begin_object(&w, NULL);
    json_begin_object(&w, "metadata");
    json_put_u64(&w, "total_size", listed_bytes(p, o));
    json_end(&w, '}');
    json_begin_object(&w, "weight_map");
    for (size_t i = 0; i < p->weight_count; i++)
        for (enum part part = 0; part < PART_COUNT; part++) {
            const struct tensor *t = &o->rows[i].parts[part];
            if (t->dtype != DTYPE_NONE && !o->rows[i].unlisted)
                json_put_string(&w, t->name, o->shards[t->shard].name);
        }
    json_end(&w, '}');
    json_end(&w, '}');
    buf_puts(out, "\n");
}

/* ---- files, with what the manifest says of them ---- */

struct file_list {
    struct arena *arena;
    struct manifest_file *items;
    size_t count;
};

static void list_file(struct file_list *l, const char *name, uint64_t bytes, const char *sha256)
{
    l->items[l->count++] = (struct manifest_file){
        .name = arena_strdup(l->arena, name),
        .bytes = bytes,
        .sha256 = arena_strdup(l->arena, sha256),
    };
}

static bool write_bytes(struct stage *s, const char *name, const char *text, size_t bytes, struct file_list *l,
                        struct err *e)
{
    char hex[HASH_HEX_BYTES];

    if (!file_write_whole(stage_path(s, name), text, bytes, e))
        return false;
    hash_hex(text, bytes, hex);
    if (l)
        list_file(l, name, bytes, hex);
    return true;
}

static bool write_text(struct stage *s, const char *name, const struct buf *text, struct file_list *l, struct err *e)
{
    return write_bytes(s, name, text->data, text->bytes, l, e);
}

static bool write_plan_texts(const struct plan *p, struct stage *s, struct file_list *l, struct err *e)
{
    for (size_t i = 0; i < p->text_count; i++)
        if (!write_bytes(s, p->texts[i].name, p->texts[i].text, strlen(p->texts[i].text), l, e))
            return false;
    return true;
}

static bool copy_side_file(const struct plan *p, struct stage *s, const char *name, struct file_list *l, struct err *e)
{
    const char *from = path_join(l->arena, p->source->checkpoint.dir, name);
    struct hash h = {0};
    struct file f = {0};
    uint8_t block[16384];
    char hex[HASH_HEX_BYTES];
    bool ok = false;

    if (!file_copy(from, stage_path(s, name), e) || !file_open(&f, stage_path(s, name), e))
        return false;
    hash_init(&h);
    for (uint64_t at = 0; at < f.bytes; at += sizeof block) {
        size_t bytes = f.bytes - at < sizeof block ? (size_t)(f.bytes - at) : sizeof block;
        if (!file_read(&f, at, block, bytes, e))
            goto done;
        hash_update(&h, block, bytes);
    }
    hash_final_hex(&h, hex);
    list_file(l, name, f.bytes, hex);
    ok = true;
done:
    hash_release(&h);
    file_close(&f);
    return ok;
}

static bool copy_side_files(const struct plan *p, size_t shard_count, struct stage *s, struct file_list *l,
                            struct err *e)
{
    char **names = NULL;
    size_t count = 0;

    if (!bundle_side_files(p, l->arena, &names, &count, e))
        return false;
    /* Room for these, the shards, what the plan has beside, and config, index and card. */
    l->items = arena_array(l->arena, count + shard_count + p->text_count + 3, sizeof *l->items);
    for (size_t i = 0; i < count; i++)
        if (!copy_side_file(p, s, names[i], l, e))
            return false;
    return true;
}

/* ---- the manifest ---- */

static bool is_quantized(const struct scheme *s)
{
    return s->kind != SCHEME_RAW && s->kind != SCHEME_PLAIN && s->method != METHOD_COPY;
}

/* The shape of the matrix, or of the tensor where it is stored as it is. */
static void fill_shape(struct manifest_row *r, struct arena *a, const struct plan_row *row)
{
    const struct tensor *codes = &row->parts[PART_CODES];
    bool plain = row->scheme.kind == SCHEME_RAW || row->scheme.kind == SCHEME_PLAIN;
    const uint64_t matrix[] = {row->weight->rows, row->weight->cols};

    r->rank = plain ? codes->rank : 2;
    r->shape = arena_array(a, r->rank, sizeof *r->shape);
    if (r->rank > 0)
        memcpy(r->shape, plain ? codes->dims : matrix, r->rank * sizeof *r->shape);
}

static void fill_parts(struct manifest_row *r, struct arena *a, const struct plan_row *row)
{
    r->tensors = arena_array(a, 2 * PART_COUNT, sizeof *r->tensors);
    r->sources = r->tensors + PART_COUNT;
    for (enum part part = 0; part < PART_COUNT; part++) {
        if (row->parts[part].dtype != DTYPE_NONE)
            r->tensors[r->tensor_count++] = row->parts[part].name;
        if (row->weight->parts[part])
            r->sources[r->source_count++] = row->weight->parts[part]->name;
    }
}

static struct manifest_calibration *calibration_of(struct arena *a, const struct plan_row *row,
                                                   const struct calibrated_result *c)
{
    struct manifest_calibration *m = arena_alloc(a, sizeof *m);

    *m = (struct manifest_calibration){
        .ending = ending_name(c->ending),
        .reason = reason_text(c->reason),
        .tokens = c->tokens,
        .routed_weight = row->weight->id.expert >= 0 ? c->routed_weight : -1,
        .to_prior = c->to_prior,
        .to_diagonal = c->to_diagonal,
        .input_most = (double)c->input_most,
        .output_most = row->weight->id.role == ROLE_EXPERT_DOWN ? (double)c->output_most : -1,
        .output_error = c->loss_energy > 0 ? c->loss_error / c->loss_energy : -1,
    };
    return m;
}

static void fill_rows(struct manifest *m, struct arena *a, const struct plan *p, const struct plan_output *o,
                      const struct run_result *result)
{
    for (size_t i = 0; i < p->weight_count; i++) {
        const struct plan_row *row = &o->rows[i];
        struct manifest_row *r = &m->rows[m->row_count];
        char scheme[SCHEME_TEXT];
        if (row->parts[PART_CODES].dtype == DTYPE_NONE || row->unlisted)
            continue;
        m->row_count++;
        *r = (struct manifest_row){
            .name = row->weight->name,
            .role = role_get(row->weight->id.role)->name,
            .scheme = arena_strdup(a, scheme_text(&row->scheme, scheme)),
            .method = scheme_method_name(row->scheme.method),
            .positive_scales = row->scheme.positive_scales &&
                               (row->scheme.method == METHOD_SEARCH || row->scheme.method == METHOD_LDLQ),
            .piece = p->pieces && p->pieces[i],
            .why = row->why,
            .error = is_quantized(&row->scheme) ? weight_error_relative(&result->errors[i]) : -1,
        };
        fill_shape(r, a, row);
        fill_parts(r, a, row);
        if (plan_row_is_fed(row))
            r->calibration = calibration_of(a, row, &result->calibrated[i]);
    }
}

static void list_supers(struct manifest *m, struct arena *a, const struct plan *p, const struct plan_output *o,
                        const struct run_result *result)
{
    struct coverage c;

    if (!result->calibrated)
        return;
    coverage_make(&c, a, p, o, result);
    m->supers = arena_array(a, c.super_count, sizeof *m->supers);
    for (size_t i = 0; i < c.super_count; i++)
        m->supers[m->super_count++] =
            (struct manifest_super){c.supers[i].layer, c.supers[i].expert, (double)c.supers[i].output_most};
}

static void list_sources(struct manifest *m, struct arena *a, const struct plan *p, const struct run_result *result)
{
    const struct checkpoint *c = &p->source->checkpoint;

    m->sources = arena_array(a, c->shard_count, sizeof *m->sources);
    for (size_t i = 0; i < c->shard_count; i++)
        if (result->source_sha256[i][0] != '\0')
            m->sources[m->source_count++] = (struct manifest_file){
                .name = c->shards[i].name, .bytes = c->shards[i].bytes, .sha256 = result->source_sha256[i]};
}

static int compare_files(const void *a, const void *b)
{
    return strcmp(((const struct manifest_file *)a)->name, ((const struct manifest_file *)b)->name);
}

static bool write_manifest(const struct plan *p, const struct plan_output *o, const struct run_result *result,
                           const struct bundle_options *options, struct stage *s, struct file_list *l, struct err *e)
{
    char config_hash[HASH_HEX_BYTES];
    struct manifest m = {
        .tool_version = QUERN_VERSION,
        .kernel_class = plan_is_calibrated(o) ? kernel_get()->kernel_class : KERNEL_EXACT,
        .calibration = result->calibrated ? p->calibration : NULL,
        .recipe_text = o->recipe->text,
        .config_sha256 = config_hash,
    };
    struct buf text = {0};

    hash_hex(p->source->checkpoint.config, p->source->checkpoint.config_bytes, config_hash);
    for (size_t i = 0; i < o->shard_count; i++)
        list_file(l, o->shards[i].name, o->shards[i].bytes, result->sha256[i]);
    qsort(l->items, l->count, sizeof *l->items, compare_files);
    m.files = l->items;
    m.file_count = l->count;
    list_supers(&m, l->arena, p, o, result);
    list_sources(&m, l->arena, p, result);
    m.rows = arena_array(l->arena, p->weight_count, sizeof *m.rows);
    fill_rows(&m, l->arena, p, o, result);
    m.drops = arena_array(l->arena, o->drop_count, sizeof *m.drops);
    for (size_t i = 0; i < o->drop_count; i++)
        m.drops[m.drop_count++] = (struct manifest_drop){.tensor = o->drops[i].name, .why = o->drops[i].why};
    bool ok =
        !options->proofs || proof_make(&options->proofs[o - p->outputs], p, s, &options->fingerprint, l->arena, &m, e);
    manifest_write(&text, &m);
    ok = ok && write_text(s, MANIFEST_NAME, &text, NULL, e);
    buf_release(&text);
    return ok;
}

bool bundle_write(struct plan *p, size_t output, const struct run_result *result, const struct bundle_options *options,
                  struct stage *stage, struct err *e)
{
    const struct plan_output *o = &p->outputs[output];
    struct arena a = {0};
    struct file_list files = {.arena = &a};
    struct buf config = {0}, index = {0}, card = {0};
    bool ok = false;

    if (!copy_side_files(p, o->shard_count, stage, &files, e))
        goto done;
    if (!bundle_config(p, o, &config, e) || !write_text(stage, "config.json", &config, &files, e))
        goto done;
    if (!write_plan_texts(p, stage, &files, e))
        goto done;
    write_index(&index, p, o);
    bool one_file = o->shard_count == 1 && strcmp(o->shards[0].name, "model.safetensors") == 0;
    if (!one_file && !o->no_index && !write_text(stage, "model.safetensors.index.json", &index, &files, e))
        goto done;
    card_write(&card, p, output, result, options);
    if (!write_text(stage, "README.md", &card, &files, e))
        goto done;
    ok = write_manifest(p, o, result, options, stage, &files, e);
done:
    buf_release(&card);
    buf_release(&index);
    buf_release(&config);
    arena_release(&a);
    return ok || err_in(e, "bundle '%s'", o->dir);
}
