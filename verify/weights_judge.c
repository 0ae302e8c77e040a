#include "verify/weights_judge.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/map.h"
#include "formats/manifest.h"

bool weights_same_shape(const struct weight *a, const struct weight *b)
{
    const struct tensor *s = a->parts[PART_CODES], *t = b->parts[PART_CODES]; /* always there */
    bool plain = (a->stored.kind == SCHEME_PLAIN || a->stored.kind == SCHEME_RAW) &&
                 (b->stored.kind == SCHEME_PLAIN || b->stored.kind == SCHEME_RAW);

    if (plain && (s->rank != t->rank || memcmp(s->dims, t->dims, s->rank * sizeof s->dims[0]) != 0))
        return false;
    return a->rows == b->rows && a->cols == b->cols;
}

bool weight_is_raw(const struct weight *w)
{
    return w->stored.kind == SCHEME_RAW;
}

/* ---- what CAND's quern.json says ---- */

/* Recorded errors have six digits. */
#define RECORDED_ERROR_SLACK 1e-4

struct records {
    struct arena arena;
    struct manifest manifest;
    struct map by_name; /* of the manifest's rows */
};

static void records_release(struct records *k)
{
    map_release(&k->by_name);
    arena_release(&k->arena);
}

/* No quern.json, no records. */
static bool records_read(struct records *k, const struct source *cand, struct err *e)
{
    const char *path = path_join(&k->arena, cand->checkpoint.dir, MANIFEST_NAME);

    if (!path_exists(path))
        return true;
    if (!manifest_load(&k->manifest, &k->arena, path, e))
        return false;
    for (size_t i = 0; i < k->manifest.row_count; i++)
        map_put(&k->by_name, k->manifest.rows[i].name, i);
    return true;
}

/* Calibration serves a layer's output, and takes a weight further from its source than rounding would: as far as is
 * recorded of it. 0: nothing is. */
static double recorded_error(const struct records *k, const struct weight *cand)
{
    size_t i = map_get(&k->by_name, cand->name);
    const struct manifest_row *row = i == MAP_NONE ? NULL : &k->manifest.rows[i];

    return row && row->calibration && isfinite(row->error) ? row->error * (1 + RECORDED_ERROR_SLACK) : 0;
}

/* ---- judging ---- */

/* The error that storing values of one scheme in another explains; negative: none may be there at all. */
static double error_limit(const struct weight *ref, const struct weight *cand)
{
    const struct scheme *to = &cand->stored;

    if (role_get(ref->id.role)->exact || scheme_same_storage(&ref->stored, to))
        return -1;
    switch (to->kind) {
    case SCHEME_PLAIN:
        return to->dtype == DTYPE_F32 ? -1 : DIFF_FLOAT_ERROR_MAX;
    case SCHEME_FP8_BLOCK:
    case SCHEME_FP8_CHANNEL:
    case SCHEME_FP8_TENSOR:
        return DIFF_FP8_ERROR_MAX;
    case SCHEME_INT4:
        return to->group_cols > 0 && to->group_cols <= 128 ? DIFF_INT4_ERROR_MAX : DIFF_INT4_WIDE_ERROR_MAX;
    case SCHEME_RAW:
    case SCHEME_KIND_COUNT:
        break;
    }
    return -1;
}

static const char *judge_shapes(struct weights_diff *d, const struct weight_diff *w)
{
    if (!weights_same_shape(w->ref, w->cand)) {
        const struct weight *a = w->ref, *b = w->cand;
        return arena_printf(&d->arena,
                            "shape is [%" PRIu64 ", %" PRIu64 "] in REF and [%" PRIu64 ", %" PRIu64 "] in CAND",
                            a->rows, a->cols, b->rows, b->cols);
    }
    char ref[SCHEME_TEXT], cand[SCHEME_TEXT];
    return arena_printf(&d->arena, "%s cannot be held against %s", scheme_text(&w->ref->stored, ref),
                        scheme_text(&w->cand->stored, cand));
}

static const char *judge_values(struct weights_diff *d, const struct weight_diff *w, const struct records *records)
{
    double limit = error_limit(w->ref, w->cand), recorded = recorded_error(records, w->cand);
    double relative = weight_diff_relative(w);
    const struct role_info *role = role_get(w->ref->id.role);
    bool alike = scheme_same_storage(&w->ref->stored, &w->cand->stored);

    if (w->identical)
        return NULL;
    if (weight_is_raw(w->ref))
        return arena_printf(&d->arena, "%" PRIu64 " byte%s, but it is stored alike", w->differing,
                            w->differing == 1 ? " differs" : "s differ");
    if (limit < 0) {
        const char *why = role->exact ? "must never change" : alike ? "is stored alike" : "needs no rounding";
        return arena_printf(&d->arena, "%" PRIu64 " value%s (relative error %.3g), but it %s", w->differing,
                            w->differing == 1 ? " differs" : "s differ", relative, why);
    }
    if (relative <= limit || relative <= recorded)
        return NULL;
    char stored[SCHEME_TEXT];
    if (recorded > limit)
        return arena_printf(&d->arena, "relative error %.6g is past the %.6g that " MANIFEST_NAME " records of it",
                            relative, recorded / (1 + RECORDED_ERROR_SLACK));
    return arena_printf(&d->arena, "relative error %.3g is past the %.3g that %s explains", relative, limit,
                        scheme_text(&w->cand->stored, stored));
}

static const char *judge_presence(const struct weight_diff *w)
{
    if ((w->ref ? w->ref : w->cand)->id.role == ROLE_ROPE_CACHE)
        return NULL; /* dropped on purpose */
    return w->ref ? "missing in CAND" : "not in REF";
}

/* Static activation scales are a few bytes, and belong to a way of storing: another way, other scales or none. */
static bool judge_input_scale(const struct source *const side[2], const struct weight_diff *w, const char **unexpected,
                              struct err *e)
{
    uint8_t data[2][4096];
    const struct tensor *s = w->ref->input_scale, *t = w->cand->input_scale;

    if ((!s && !t) || !scheme_same_storage(&w->ref->stored, &w->cand->stored))
        return true;
    if (!s || !t || s->dtype != t->dtype || s->bytes != t->bytes || s->bytes > sizeof data[0]) {
        *unexpected = !t   ? "its input_scale is missing in CAND"
                      : !s ? "its input_scale is not in REF"
                           : "its input_scale has another form";
        return true;
    }
    if (!checkpoint_read(&side[0]->checkpoint, s, 0, data[0], s->bytes, e) ||
        !checkpoint_read(&side[1]->checkpoint, t, 0, data[1], t->bytes, e))
        return false;
    if (memcmp(data[0], data[1], s->bytes) != 0)
        *unexpected = "its input_scale differs";
    return true;
}

static bool judge(struct weights_diff *d, struct weight_diff *w, const struct records *records,
                  const struct source *const side[2], struct err *e)
{
    if (!w->ref || !w->cand)
        w->unexpected = judge_presence(w);
    else if (w->compared)
        w->unexpected = judge_values(d, w, records);
    else if (!w->unexpected && !w->skipped)
        w->unexpected = judge_shapes(d, w);
    if (w->ref && w->cand && !w->unexpected && !judge_input_scale(side, w, &w->unexpected, e))
        return false;
    d->unexpected_count += w->unexpected != NULL;
    return true;
}

bool weights_judge(struct weights_diff *d, const struct source *const side[2], bool exact_only, struct err *e)
{
    struct records records = {0};
    bool ok = exact_only || records_read(&records, side[1], e);

    for (size_t i = 0; ok && i < d->count; i++)
        ok = judge(d, &d->items[i], &records, side, e);
    records_release(&records);
    return ok;
}
