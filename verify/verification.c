#include "verify/verification.h"

#include <string.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/map.h"
#include "formats/index.h"
#include "formats/json.h"
#include "verify/lint.h"

#define SIDE_FILE_BYTES_MAX (256u << 20)

/* What a run holds beside its results. */
struct verifying {
    struct verification *v;
    const struct verify_options *o;
    const char *dir; /* of the bundle; NULL: one file */
    struct source bundle, source;
    bool bundle_open, source_open;
    struct quant_claim claim;
};

/* ---- what is there ---- */

static bool ends_with(const char *s, const char *ending)
{
    size_t bytes = strlen(s), tail = strlen(ending);

    return bytes >= tail && strcmp(s + bytes - tail, ending) == 0;
}

/* A file or folder that could not be one is the caller's mistake and not a defect. */
static bool check_is_checkpoint(struct verifying *k, struct err *e)
{
    const char *path = k->v->path;
    char **names = NULL;
    size_t count = 0;

    if (!k->dir)
        return !path_exists(path) || ends_with(path, ".safetensors") ||
               err_set(e, ERR_FORMAT, "'%s' is no folder and no .safetensors file", path);
    if (!dir_list(k->dir, &k->v->arena, &names, &count, e))
        return false;
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], MANIFEST_NAME) == 0 || strcmp(names[i], INDEX_FILE_NAME) == 0 ||
            ends_with(names[i], ".safetensors"))
            return true;
    return err_set(e, ERR_FORMAT,
                   "'%s' holds no checkpoint: no " MANIFEST_NAME ", no " INDEX_FILE_NAME ", no .safetensors file",
                   k->dir);
}

static const char *recipe_name(struct verification *v)
{
    struct json_doc d = {0};
    struct err ignored = {0};
    const char *name = NULL;

    if (json_parse(&d, v->manifest.recipe_text, strlen(v->manifest.recipe_text), JSON_STRICT, &ignored)) {
        const struct json *member = json_get(d.root, "name");
        name = member && json_string(member) ? arena_strdup(&v->arena, json_string(member)) : NULL;
    }
    json_release(&d);
    return name ? name : "";
}

static bool open_manifest(struct verifying *k, struct err *e)
{
    struct verification *v = k->v;
    const char *path = path_join(&v->arena, k->dir, MANIFEST_NAME);
    struct err bad = {0};

    if (!path_exists(path)) {
        findings_add(&v->findings, RULE_MANIFEST_MISSING,
                     "there is no " MANIFEST_NAME ": files and tensors are held against nothing");
        return true;
    }
    v->has_manifest = manifest_load(&v->manifest, &v->arena, path, &bad);
    if (v->has_manifest)
        v->recipe = recipe_name(v);
    else if (bad.code == ERR_FORMAT || bad.code == ERR_LIMIT)
        findings_add(&v->findings, RULE_MANIFEST_MALFORMED, "%s", bad.text);
    else
        *e = bad;
    return e->code == ERR_NONE;
}

/* Everything that is wrong with it becomes a finding, also that it does not open. */
static bool open_bundle(struct verifying *k, const char *path, struct err *e)
{
    struct verification *v = k->v;
    struct err_sink sink = findings_sink(&v->findings);
    struct err bad = {0};

    k->bundle_open = source_open_all(&k->bundle, path, &sink, &bad);
    if (!k->bundle_open && !err_pass(&sink, &bad)) {
        *e = bad;
        return false;
    }
    v->weights = k->bundle.weights.count;
    v->tensors = k->bundle.checkpoint.tensor_count;
    return true;
}

/* ---- steps ---- */

static bool check_files(struct verifying *k, struct err *e)
{
    struct verification *v = k->v;
    struct integrity_job job = {
        .dir = k->dir,
        .files = v->manifest.files,
        .file_count = v->manifest.file_count,
        .hash = !k->o->lint_only,
        .missing = RULE_FILE_MISSING,
        .size = RULE_FILE_SIZE,
        .differs = RULE_FILE_HASH,
        .what = "hashes",
        .threads = k->o->threads,
        .quiet = k->o->quiet,
    };

    v->hashed = job.hash;
    return integrity_files(&job, &v->files, &v->findings, e) && integrity_extra(k->dir, &v->manifest, &v->findings, e);
}

/* No weight of theirs is whole, so that nothing decodes, makes again or runs them. */
static bool check_ranks(struct verifying *k, struct err *e)
{
    struct verification *v = k->v;

    if (k->o->deep)
        return err_set(
            e, ERR_UNSUPPORTED,
            "'%s' holds files for the ranks of DeepSeek's own code: --deep decodes whole weights, which they "
            "do not have",
            v->path);
    return rank_files_check(&v->ranks, k->dir, &v->findings, e);
}

static bool lint_bundle(struct verifying *k, struct err *e)
{
    struct verification *v = k->v;
    const struct checkpoint *c = &k->bundle.checkpoint;
    struct lint lint = {.source = &k->bundle, .claim = &k->claim, .findings = &v->findings};
    struct values_job job = {.threads = k->o->threads, .quiet = k->o->quiet};
    struct err bad = {0};

    if (!quant_claim_open(&k->claim, &k->bundle.arch, c->config, c->config_bytes, &bad)) {
        findings_add(&v->findings, RULE_QUANT_CONFIG_MALFORMED, "config.json: %s", bad.text);
        lint.claim = NULL;
    }
    lint_headers(&lint);
    if (v->has_manifest)
        integrity_rows(&v->manifest, &k->bundle, &v->findings);
    if (k->dir && !lint_side_files(&lint, e))
        return false;
    if (!k->o->lint_only && (!lint_scales(&lint, &job, &v->scales, e) || !lint_static_scales(&lint, &v->scales, e)))
        return false;
    v->deep = k->o->deep;
    return !k->o->deep || lint_all_values(&lint, &job, &v->values, e);
}

/* Last, as it takes longest, and only where there is a whole checkpoint to ask. */
static bool check_fingerprint(struct verifying *k, struct err *e)
{
    struct verification *v = k->v;
    const struct manifest *m = &v->manifest;
    struct fingerprint_options o = {.threads = k->o->threads, .memory_bytes = k->o->memory_bytes, .quiet = k->o->quiet};

    if (!v->has_manifest || !k->bundle_open || k->o->lint_only || k->o->no_fingerprint)
        return true;
    if (m->fingerprint)
        return fingerprint_check(m->fingerprint, &k->bundle, &o, &v->fingerprint, &v->findings, e);
    findings_add(&v->findings, RULE_FINGERPRINT_MISSING, MANIFEST_NAME " holds no fingerprint: %s",
                 m->no_fingerprint ? m->no_fingerprint : "it does not say why");
    return true;
}

/* ---- against the source ---- */

static void check_source_config(struct verifying *k)
{
    const struct checkpoint *c = &k->source.checkpoint;
    char hex[HASH_HEX_BYTES];

    hash_hex(c->config, c->config_bytes, hex);
    if (strcmp(hex, k->v->manifest.config_sha256) != 0)
        findings_add(&k->v->findings, RULE_SOURCE_CONFIG,
                     "config.json of '%s' has SHA-256 %s, not the %s of " MANIFEST_NAME, c->path, hex,
                     k->v->manifest.config_sha256);
}

static bool check_source_files(struct verifying *k, struct err *e)
{
    struct integrity_job job = {
        .dir = k->source.checkpoint.dir,
        .files = k->v->manifest.sources,
        .file_count = k->v->manifest.source_count,
        .hash = k->o->deep,
        .missing = RULE_SOURCE_FILE_MISSING,
        .size = RULE_SOURCE_FILE_SIZE,
        .differs = RULE_SOURCE_FILE_HASH,
        .what = "source",
        .threads = k->o->threads,
        .quiet = k->o->quiet,
    };

    return integrity_files(&job, &k->v->source_files, &k->v->findings, e);
}

/* Nothing of the source was lost without a word. */
static void check_source_tensors(struct verifying *k)
{
    const struct manifest *m = &k->v->manifest;
    const struct checkpoint *c = &k->source.checkpoint;
    struct map used = {0};

    for (size_t i = 0; i < m->row_count; i++)
        for (size_t s = 0; s < m->rows[i].source_count; s++)
            map_put(&used, m->rows[i].sources[s], i);
    for (size_t i = 0; i < m->drop_count; i++)
        map_put(&used, m->drops[i].tensor, i);
    for (size_t i = 0; i < c->tensor_count; i++)
        if (map_get(&used, c->tensors[i].name) == MAP_NONE)
            findings_add(&k->v->findings, RULE_SOURCE_UNUSED,
                         "tensor '%s' of the source is in no row of " MANIFEST_NAME ", nor among what was dropped",
                         c->tensors[i].name);
    map_release(&used);
}

/* The bundle's copy of a file that engines read beside the weights. */
static bool check_side_file(struct verifying *k, const char *name, struct err *e)
{
    struct arena a = {0};
    const char *theirs = path_join(&a, k->source.checkpoint.dir, name), *ours = path_join(&a, k->dir, name);
    char *x = NULL, *y = NULL;
    size_t x_bytes = 0, y_bytes = 0;
    bool ok = true;

    if (path_exists(theirs) && !path_exists(ours)) {
        findings_add(&k->v->findings, RULE_SIDE_FILE_LOST, "'%s' of the source is not in the bundle", name);
    } else if (path_exists(theirs)) {
        ok = file_slurp(theirs, SIDE_FILE_BYTES_MAX, &x, &x_bytes, e) &&
             file_slurp(ours, SIDE_FILE_BYTES_MAX, &y, &y_bytes, e);
        if (ok && (x_bytes != y_bytes || memcmp(x, y, x_bytes) != 0))
            findings_add(&k->v->findings, RULE_SIDE_FILE_CHANGED, "'%s' is not as the source has it", name);
    }
    mem_free(x);
    mem_free(y);
    arena_release(&a);
    return ok;
}

static bool check_side_files(struct verifying *k, struct err *e)
{
    static const char *const names[] = {"tokenizer.json",      "tokenizer_config.json",  "tiktoken.model",
                                        "tokenizer.model",     "generation_config.json", "special_tokens_map.json",
                                        "chat_template.jinja", "added_tokens.json",      "configuration_deepseek.py",
                                        "modeling_deepseek.py"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!check_side_file(k, names[i], e))
            return false;
    return true;
}

static bool check_source(struct verifying *k, struct err *e)
{
    struct verification *v = k->v;
    struct rederive_job job = {
        .manifest = &v->manifest,
        .bundle = &k->bundle,
        .source = &k->source,
        .percent = k->o->sample_percent,
        .seed = k->o->seed,
        .threads = k->o->threads,
        .quiet = k->o->quiet,
    };

    if (!k->o->source)
        return true;
    if (!v->has_manifest)
        return err_set(e, ERR_USAGE,
                       "--source wants a readable " MANIFEST_NAME " in '%s': it says what was made from what", v->path);
    if (!source_open(&k->source, k->o->source, true, e))
        return err_in(e, "--source");
    k->source_open = true;
    check_source_config(k);
    check_source_tensors(k);
    if (!check_source_files(k, e) || !check_side_files(k, e))
        return false;
    v->rederived = k->bundle_open;
    return !k->bundle_open || rederive(&job, &v->derived, &v->findings, e);
}

/* ---- all of it ---- */

static bool verify_all(struct verifying *k, const char *path, struct err *e)
{
    struct verification *v = k->v;

    k->dir = path_is_dir(path) ? v->path : NULL;
    if (!check_is_checkpoint(k, e) || (k->dir && !open_manifest(k, e)))
        return false;
    if (k->dir && !rank_files_find(&v->ranks, k->dir, e))
        return false;
    if (v->ranks.ranks > 0 ? !check_ranks(k, e) : !open_bundle(k, path, e) || (k->bundle_open && !lint_bundle(k, e)))
        return false;
    return (!v->has_manifest || check_files(k, e)) && check_source(k, e) && check_fingerprint(k, e);
}

bool verify_run(struct verification *v, const char *path, const struct verify_options *o, struct err *e)
{
    struct verifying k = {.v = v, .o = o};

    *v = (struct verification){.recipe = ""};
    v->path = arena_strdup(&v->arena, path);
    bool ok = verify_all(&k, path, e);
    findings_sort(&v->findings);
    quant_claim_close(&k.claim);
    if (k.source_open)
        source_close(&k.source);
    if (k.bundle_open)
        source_close(&k.bundle);
    if (!ok)
        verify_release(v);
    return ok;
}

void verify_release(struct verification *v)
{
    findings_release(&v->findings);
    arena_release(&v->arena);
    *v = (struct verification){0};
}
