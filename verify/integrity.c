#include "verify/integrity.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/map.h"
#include "formats/base/pool.h"
#include "formats/base/progress.h"

/* ---- files ---- */

#define BLOCK_BYTES (4u << 20)

struct checked {
    bool there, named_badly;
    uint64_t bytes;
    char sha256[HASH_HEX_BYTES]; /* "": not hashed */
};

struct checking {
    const struct integrity_job *job;
    struct checked *files;
    uint8_t **blocks; /* one a worker */
    struct progress *progress;
};

/* Only a file of the folder itself: a manifest may come from a stranger. */
static bool is_plain_name(const char *name)
{
    return *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strchr(name, '/');
}

static bool hash_file(struct checking *k, const struct file *f, unsigned worker, char hex[HASH_HEX_BYTES],
                      struct err *e)
{
    struct hash h = {0};
    bool ok = true;

    hash_init(&h);
    for (uint64_t at = 0; ok && at < f->bytes; at += BLOCK_BYTES) {
        size_t bytes = f->bytes - at < BLOCK_BYTES ? (size_t)(f->bytes - at) : BLOCK_BYTES;
        if (signal_cancelled())
            ok = err_set(e, ERR_CANCELLED, "interrupted");
        else
            ok = file_read(f, at, k->blocks[worker], bytes, e);
        if (ok)
            hash_update(&h, k->blocks[worker], bytes);
        progress_add(k->progress, bytes);
    }
    if (ok)
        hash_final_hex(&h, hex);
    hash_release(&h);
    return ok;
}

static bool check_file(void *ctx, size_t i, unsigned worker, struct err *e)
{
    struct checking *k = ctx;
    const struct manifest_file *want = &k->job->files[i];
    struct checked *c = &k->files[i];
    struct arena a = {0};
    struct file f = {0};
    struct err refused = {0};
    bool ok = true;

    c->named_badly = !is_plain_name(want->name);
    if (c->named_badly)
        return true;
    if (file_open(&f, path_join(&a, k->job->dir, want->name), &refused)) {
        c->there = true;
        c->bytes = f.bytes;
        if (k->job->hash && f.bytes == want->bytes)
            ok = hash_file(k, &f, worker, c->sha256, e);
    } else if (refused.sys != ENOENT && refused.code == ERR_IO) {
        *e = refused;
        ok = false;
    }
    file_close(&f);
    arena_release(&a);
    return ok;
}

/* Says whether all is well with it. */
static bool judge_file(const struct integrity_job *job, const struct manifest_file *want, const struct checked *got,
                       struct findings *findings)
{
    if (got->named_badly)
        findings_add(findings, RULE_MANIFEST_MALFORMED, MANIFEST_NAME ": '%s' is no file of this folder", want->name);
    else if (!got->there)
        findings_add(findings, job->missing, "'%s' is missing: " MANIFEST_NAME " lists it with %" PRIu64 " bytes",
                     want->name, want->bytes);
    else if (got->bytes != want->bytes)
        findings_add(findings, job->size, "'%s' has %" PRIu64 " bytes, not the %" PRIu64 " of " MANIFEST_NAME,
                     want->name, got->bytes, want->bytes);
    else if (got->sha256[0] != '\0' && strcmp(got->sha256, want->sha256) != 0)
        findings_add(findings, job->differs, "'%s' has SHA-256 %s, not the %s of " MANIFEST_NAME, want->name,
                     got->sha256, want->sha256);
    else
        return true;
    return false;
}

static uint64_t bytes_listed(const struct integrity_job *job)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < job->file_count && job->hash; i++)
        bytes += job->files[i].bytes;
    return bytes;
}

bool integrity_files(const struct integrity_job *job, struct integrity_sum *sum, struct findings *findings,
                     struct err *e)
{
    unsigned threads = job->threads ? job->threads : pool_cpu_count();
    struct checking k = {.job = job, .files = mem_alloc((job->file_count + 1) * sizeof *k.files)};

    k.blocks = mem_alloc(threads * sizeof *k.blocks);
    for (unsigned i = 0; i < threads; i++)
        k.blocks[i] = mem_aligned(BLOCK_BYTES);
    k.progress = progress_new(job->what, bytes_listed(job), job->quiet || !job->hash || job->file_count == 0);
    bool ok = pool_run(threads, job->file_count, check_file, &k, e);
    progress_end(k.progress, ok);
    *sum = (struct integrity_sum){0};
    for (size_t i = 0; i < job->file_count && ok; i++) {
        sum->good += judge_file(job, &job->files[i], &k.files[i], findings);
        sum->bytes += k.files[i].bytes;
    }
    for (unsigned i = 0; i < threads; i++)
        mem_free(k.blocks[i]);
    mem_free(k.blocks);
    mem_free(k.files);
    return ok;
}

/* ---- files that are not listed ---- */

static bool ends_with(const char *s, const char *ending)
{
    size_t bytes = strlen(s), tail = strlen(ending);

    return bytes > tail && strcmp(s + bytes - tail, ending) == 0;
}

/* What comes after the manifest: itself, and the signature over everything. */
static bool is_beside(const char *name)
{
    return name[0] == '.' || strcmp(name, MANIFEST_NAME) == 0 || strcmp(name, "model.sig") == 0;
}

bool integrity_extra(const char *dir, const struct manifest *m, struct findings *findings, struct err *e)
{
    struct map listed = {0};
    struct arena a = {0};
    char **names = NULL;
    size_t count = 0;
    bool ok = dir_list(dir, &a, &names, &count, e);

    for (size_t i = 0; i < m->file_count && ok; i++)
        map_put(&listed, m->files[i].name, i);
    for (size_t i = 0; i < count && ok; i++) {
        if (is_beside(names[i]) || map_get(&listed, names[i]) != MAP_NONE)
            continue;
        if (ends_with(names[i], ".safetensors"))
            findings_add(findings, RULE_SHARD_EXTRA,
                         "'%s' is not in " MANIFEST_NAME
                         ": engines that load every .safetensors file take it for a shard",
                         names[i]);
        else
            findings_add(findings, RULE_FILE_EXTRA, "'%s' is not in " MANIFEST_NAME, names[i]);
    }
    map_release(&listed);
    arena_release(&a);
    return ok;
}

/* ---- rows ---- */

struct rows {
    const struct manifest *m;
    const struct source *s;
    struct findings *findings;
    struct map row_of; /* tensor -> row */
};

/* Whether F32 scales are powers of two is config.json's word for all of them, and a row's for its own. */
static bool same_scheme_text(const char *a, const char *b)
{
    static const char pow2[] = " pow2";
    size_t a_bytes = strlen(a), b_bytes = strlen(b);

    a_bytes -= ends_with(a, pow2) ? strlen(pow2) : 0;
    b_bytes -= ends_with(b, pow2) ? strlen(pow2) : 0;
    return a_bytes == b_bytes && memcmp(a, b, a_bytes) == 0;
}

static void check_shape(const struct rows *k, const struct manifest_row *r, size_t rank, const uint64_t *dims)
{
    char want[TENSOR_SHAPE_TEXT], got[TENSOR_SHAPE_TEXT];

    if (r->rank == rank && (rank == 0 || memcmp(r->shape, dims, rank * sizeof *dims) == 0))
        return;
    findings_add(k->findings, RULE_ROW_SHAPE, "'%s' is %s, not the %s of " MANIFEST_NAME, r->name,
                 tensor_shape_text((uint32_t)rank, dims, got),
                 r->rank <= TENSOR_RANK_MAX ? tensor_shape_text((uint32_t)r->rank, r->shape, want) : "?");
}

/* One group in a row is a channel as well, and which of the two it is called is config.json's word again. */
static bool is_scheme(const char *row, const struct scheme *stored, uint64_t cols)
{
    struct scheme other = *stored;
    char text[SCHEME_TEXT];

    if (same_scheme_text(row, scheme_text(stored, text)))
        return true;
    if (stored->kind != SCHEME_INT4 || (stored->group_cols != 0 && stored->group_cols != cols) || cols > UINT32_MAX)
        return false;
    other.group_cols = stored->group_cols == 0 ? (uint32_t)cols : 0;
    return same_scheme_text(row, scheme_text(&other, text));
}

static void check_stored(const struct rows *k, const struct manifest_row *r, const struct scheme *stored, uint64_t cols)
{
    char text[SCHEME_TEXT];

    if (!is_scheme(r->scheme, stored, cols))
        findings_add(k->findings, RULE_ROW_SCHEME, "'%s' is stored as %s, not as the %s of " MANIFEST_NAME, r->name,
                     text, r->scheme);
}

/* What a row says of how its weight is stored. What is broken or absent is said elsewhere. */
static void check_row(const struct rows *k, const struct manifest_row *r)
{
    const struct weight *w = weights_find(&k->s->weights, r->name);
    const struct tensor *t = checkpoint_find(&k->s->checkpoint, r->name);

    if (w && !w->broken) {
        bool plain = w->stored.kind == SCHEME_RAW || w->stored.kind == SCHEME_PLAIN;
        const uint64_t matrix[] = {w->rows, w->cols};
        check_stored(k, r, &w->stored, w->cols);
        check_shape(k, r, plain ? w->parts[PART_CODES]->rank : 2, plain ? w->parts[PART_CODES]->dims : matrix);
    } else if (!w && t) { /* a static activation scale */
        check_stored(k, r, &(struct scheme){.kind = SCHEME_RAW, .dtype = t->dtype}, 1);
        check_shape(k, r, t->rank, t->dims);
    }
}

static void take_tensors(struct rows *k, size_t row)
{
    const struct manifest_row *r = &k->m->rows[row];

    for (size_t i = 0; i < r->tensor_count; i++) {
        const char *name = r->tensors[i];
        if (!map_put(&k->row_of, name, row))
            findings_add(k->findings, RULE_ROW_TWICE, "tensor '%s' is in two rows of " MANIFEST_NAME, name);
        else if (!checkpoint_find(&k->s->checkpoint, name))
            findings_add(k->findings, RULE_ROW_TENSOR_MISSING, "tensor '%s' of " MANIFEST_NAME " is not there", name);
    }
}

void integrity_rows(const struct manifest *m, const struct source *s, struct findings *findings)
{
    struct rows k = {.m = m, .s = s, .findings = findings};

    for (size_t i = 0; i < m->row_count; i++) {
        take_tensors(&k, i);
        check_row(&k, &m->rows[i]);
    }
    for (size_t i = 0; i < s->checkpoint.tensor_count; i++)
        if (map_get(&k.row_of, s->checkpoint.tensors[i].name) == MAP_NONE)
            findings_add(findings, RULE_ROW_MISSING, "tensor '%s' is in no row of " MANIFEST_NAME,
                         s->checkpoint.tensors[i].name);
    map_release(&k.row_of);
}
