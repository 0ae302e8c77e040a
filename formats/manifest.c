#include "formats/manifest.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "formats/json.h"
#include "formats/manifest_fields.h"

/* ---- what there is ---- */

#define FIELD(struct_, member) .offset = offsetof(struct struct_, member)
#define FIELD_N(struct_, member, count_)                                                                               \
    .offset = offsetof(struct struct_, member), .count_offset = offsetof(struct struct_, count_)
#define TABLE(struct_, fields_, one_line_)                                                                             \
    {                                                                                                                  \
        fields_, sizeof fields_ / sizeof fields_[0], sizeof(struct struct_), one_line_                                 \
    }

/* clang-format off */
static const struct field file_fields[] = {
    {"name",   FIELD_TEXT,   false, FIELD(manifest_file, name)}, /* the key */
    {"bytes",  FIELD_U64,    false, FIELD(manifest_file, bytes)},
    {"sha256", FIELD_SHA256, false, FIELD(manifest_file, sha256)},
};
static_assert(offsetof(struct manifest_file, name) == 0, "the key of a map stands first");
static const struct table file_table = TABLE(manifest_file, file_fields, true);

static const struct field drop_fields[] = {
    {"tensor", FIELD_TEXT, false, FIELD(manifest_drop, tensor)},
    {"why",    FIELD_TEXT, false, FIELD(manifest_drop, why)},
};
static const struct table drop_table = TABLE(manifest_drop, drop_fields, true);

static const struct field calibration_fields[] = {
    {"ending",        FIELD_TEXT,  false, FIELD(manifest_calibration, ending)},
    {"reason",        FIELD_TEXT,  false, FIELD(manifest_calibration, reason)},
    {"tokens",        FIELD_U64,   false, FIELD(manifest_calibration, tokens)},
    {"routed_weight", FIELD_ERROR, true,  FIELD(manifest_calibration, routed_weight)},
    {"to_prior",      FIELD_ERROR, true,  FIELD(manifest_calibration, to_prior)},
    {"to_diagonal",   FIELD_ERROR, true,  FIELD(manifest_calibration, to_diagonal)},
    {"input_most",    FIELD_ERROR, true,  FIELD(manifest_calibration, input_most)},
    {"output_most",   FIELD_ERROR, true,  FIELD(manifest_calibration, output_most)},
    {"output_error",  FIELD_ERROR, true,  FIELD(manifest_calibration, output_error)},
};
static const struct table calibration_table = TABLE(manifest_calibration, calibration_fields, true);

static const struct field row_fields[] = {
    {"weight",          FIELD_TEXT,  false, FIELD(manifest_row, name)},
    {"role",            FIELD_TEXT,  false, FIELD(manifest_row, role)},
    {"shape",           FIELD_U64S,  false, FIELD_N(manifest_row, shape, rank)},
    {"scheme",          FIELD_TEXT,  false, FIELD(manifest_row, scheme)},
    {"method",          FIELD_TEXT,  false, FIELD(manifest_row, method)},
    {"positive_scales", FIELD_FLAG,  true,  FIELD(manifest_row, positive_scales)},
    {"piece",           FIELD_FLAG,  true,  FIELD(manifest_row, piece)},
    {"why",             FIELD_TEXT,  false, FIELD(manifest_row, why)},
    {"tensors",         FIELD_TEXTS, false, FIELD_N(manifest_row, tensors, tensor_count)},
    {"sources",         FIELD_TEXTS, false, FIELD_N(manifest_row, sources, source_count)},
    {"error",           FIELD_ERROR, true,  FIELD(manifest_row, error)},
    {"calibration",     FIELD_OBJECT, true, FIELD(manifest_row, calibration), .of = &calibration_table},
};
static const struct table row_table = TABLE(manifest_row, row_fields, true);

static const struct field position_fields[] = {
    {"ids",      FIELD_U32S, false, FIELD_N(manifest_position, ids, id_count)},
    {"logprobs", FIELD_F64S, false, FIELD_N(manifest_position, logprobs, logprob_count)},
};
static const struct table position_table = TABLE(manifest_position, position_fields, true);

static const struct field choices_fields[] = {
    {"layer",   FIELD_U64,  false, FIELD(manifest_choices, layer)},
    {"experts", FIELD_U32S, false, FIELD_N(manifest_choices, experts, expert_count)},
};
static const struct table choices_table = TABLE(manifest_choices, choices_fields, true);

static const struct field fingerprint_fields[] = {
    {"kernel_class", FIELD_TEXT, false, FIELD(manifest_fingerprint, kernel_class)},
    {"prompt",       FIELD_U32S, false, FIELD_N(manifest_fingerprint, prompt, prompt_count)},
    {"positions",    FIELD_LIST, false, FIELD_N(manifest_fingerprint, positions, position_count), .of = &position_table},
    {"mtp",          FIELD_LIST, true,  FIELD_N(manifest_fingerprint, mtp, mtp_count), .of = &position_table},
    {"routing",      FIELD_LIST, true,  FIELD_N(manifest_fingerprint, routing, routing_count), .of = &choices_table},
};
static const struct table fingerprint_table = TABLE(manifest_fingerprint, fingerprint_fields, false);

static const struct field super_fields[] = {
    {"layer",       FIELD_U64,   false, FIELD(manifest_super, layer)},
    {"expert",      FIELD_U64,   false, FIELD(manifest_super, expert)},
    {"output_most", FIELD_ERROR, false, FIELD(manifest_super, output_most)},
};
static const struct table super_table = TABLE(manifest_super, super_fields, true);

static const struct field manifest_fields[] = {
    {"manifest",             FIELD_VERSION, false, FIELD(manifest, version)},
    {"quern",                FIELD_TEXT,    false, FIELD(manifest, tool_version)},
    {"kernel_class",         FIELD_TEXT,    false, FIELD(manifest, kernel_class)},
    {"recipe",               FIELD_JSON,    false, FIELD(manifest, recipe_text)},
    {"source_config_sha256", FIELD_SHA256,  false, FIELD(manifest, config_sha256)},
    {"calibration",          FIELD_TEXT,    true,  FIELD(manifest, calibration)},
    {"super_experts",        FIELD_LIST,    true,  FIELD_N(manifest, supers, super_count), .of = &super_table},
    {"source_files",         FIELD_MAP,     true,  FIELD_N(manifest, sources, source_count), .of = &file_table},
    {"files",                FIELD_MAP,     false, FIELD_N(manifest, files, file_count), .of = &file_table},
    {"dropped",              FIELD_LIST,    false, FIELD_N(manifest, drops, drop_count), .of = &drop_table},
    {"fingerprint",          FIELD_OBJECT,  true,  FIELD(manifest, fingerprint), .of = &fingerprint_table},
    {"no_fingerprint",       FIELD_TEXT,    true,  FIELD(manifest, no_fingerprint)},
    {"weights",              FIELD_LIST,    false, FIELD_N(manifest, rows, row_count), .of = &row_table},
};
/* clang-format on */
const struct table manifest_table = TABLE(manifest, manifest_fields, false);

/* ---- writing ---- */

/* What is measured deserves no more digits, and a reader compares them by eye. */
static double rounded(double x, const char *format)
{
    char text[400];

    snprintf(text, sizeof text, format, x);
    return strtod(text, NULL);
}

static void write_numbers(struct json_writer *w, const struct field *f, const void *items, size_t count)
{
    bool compact = w->compact;

    json_begin_array(w, f->key);
    w->compact = true; /* on one line */
    for (size_t i = 0; i < count; i++) {
        if (f->kind == FIELD_U64S)
            json_put_u64(w, NULL, ((const uint64_t *)items)[i]);
        else if (f->kind == FIELD_U32S)
            json_put_u64(w, NULL, ((const uint32_t *)items)[i]);
        else
            json_put_double(w, NULL, rounded(((const double *)items)[i], "%.5f"));
    }
    json_end(w, ']');
    w->compact = compact;
}

static void write_struct(struct json_writer *w, const char *key, const struct table *t, const void *s, size_t from);

static void write_structs(struct json_writer *w, const struct field *f, const char *items, size_t count)
{
    bool map = f->kind == FIELD_MAP;

    if (map)
        json_begin_object(w, f->key);
    else
        json_begin_array(w, f->key);
    for (size_t i = 0; i < count; i++) {
        const void *s = items + i * f->of->struct_bytes;
        write_struct(w, map ? *(const char *const *)s : NULL, f->of, s, map ? 1 : 0);
    }
    json_end(w, map ? '}' : ']');
}

static bool is_written(const struct field *f, const char *at, size_t count)
{
    switch (f->kind) {
    case FIELD_FLAG:
        return *(const bool *)at;
    case FIELD_ERROR:
        return *(const double *)(const void *)at >= 0;
    case FIELD_TEXT:
    case FIELD_OBJECT:
        return !f->optional || *(const void *const *)(const void *)at;
    case FIELD_LIST:
    case FIELD_MAP:
        return !f->optional || count > 0;
    case FIELD_VERSION:
    case FIELD_SHA256:
    case FIELD_JSON:
    case FIELD_U64:
    case FIELD_TEXTS:
    case FIELD_U64S:
    case FIELD_U32S:
    case FIELD_F64S:
        break;
    }
    return true;
}

static void write_texts(struct json_writer *w, const struct field *f, const char *const *texts, size_t count)
{
    json_begin_array(w, f->key);
    for (size_t i = 0; i < count; i++)
        json_put_string(w, NULL, texts[i]);
    json_end(w, ']');
}

static void write_field(struct json_writer *w, const struct field *f, const char *s)
{
    const void *at = s + f->offset;
    const void *const *pointer = at;
    size_t count = f->count_offset ? *(const size_t *)(const void *)(s + f->count_offset) : 0;

    if (!is_written(f, at, count))
        return;
    switch (f->kind) {
    case FIELD_VERSION:
        json_put_u64(w, f->key, MANIFEST_VERSION);
        break;
    case FIELD_TEXT:
    case FIELD_SHA256:
        json_put_string(w, f->key, *pointer);
        break;
    case FIELD_JSON:
        json_put_raw(w, f->key, *pointer);
        break;
    case FIELD_U64:
        json_put_u64(w, f->key, *(const uint64_t *)at);
        break;
    case FIELD_FLAG:
        json_put_bool(w, f->key, true);
        break;
    case FIELD_ERROR:
        json_put_double(w, f->key, rounded(*(const double *)at, "%.6g"));
        break;
    case FIELD_TEXTS:
        write_texts(w, f, *pointer, count);
        break;
    case FIELD_U64S:
    case FIELD_U32S:
    case FIELD_F64S:
        write_numbers(w, f, *pointer, count);
        break;
    case FIELD_OBJECT:
        write_struct(w, f->key, f->of, *pointer, 0);
        break;
    case FIELD_LIST:
    case FIELD_MAP:
        write_structs(w, f, *pointer, count);
        break;
    }
}

/* from: fields before it are said elsewhere. */
static void write_struct(struct json_writer *w, const char *key, const struct table *t, const void *s, size_t from)
{
    json_begin_object(w, key);
    w->compact = t->one_line;
    for (size_t i = from; i < t->field_count; i++)
        write_field(w, &t->fields[i], s);
    json_end(w, '}');
    w->compact = false;
}

void manifest_write(struct buf *out, const struct manifest *m)
{
    struct json_writer w = {.out = out};

    write_struct(&w, NULL, &manifest_table, m, 0);
    buf_puts(out, "\n");
}
