/* JSON, the one door to cJSON. A strict scanner of our own runs first, since
 * cJSON accepts what RFC 8259 does not (raw control characters, bad UTF-8,
 * duplicate keys, trailing bytes) and rounds integers above 2^53.
 *
 * The scanner refuses: anything outside RFC 8259, a byte order mark, invalid
 * UTF-8, lone surrogate escapes, nesting deeper than 127, duplicate keys in an
 * object (compared after unescaping), "\u0000" in a key or string, and, with
 * JSON_INTEGERS_ONLY, numbers with a fraction, exponent or minus sign, and
 * integers above 2^64-1. Messages carry line and column.
 *
 * Look-ups by key are linear: iterate over large objects. */
#ifndef FORMATS_JSON_H
#define FORMATS_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"

#define JSON_DEPTH_MAX 127u

enum json_flags {
    JSON_STRICT = 0,
    JSON_INTEGERS_ONLY = 1, /* safetensors headers */
    JSON_COMMENTS = 2,      /* our recipes: // to the end of line, and slash-star blocks; also a trailing comma */
    JSON_NO_LEADING_SPACE = 4, /* the first byte must be the root value's */
};

struct json; /* a value; owned by its document */

struct json_doc {
    const struct json *root;
    void *tree;               /* cJSON's */
    struct json_number *numbers; /* exact, in document order */
};

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* text need not end in NUL. */
bool json_parse(struct json_doc *d, const char *text, size_t bytes, unsigned flags, struct err *e) CHECKED;
/* A file, with a limit in bytes. Errors name the file. */
bool json_load(struct json_doc *d, const char *path, uint64_t limit_bytes, unsigned flags, struct err *e) CHECKED;
void json_release(struct json_doc *d);

enum json_type json_type(const struct json *v);
const char *json_type_name(enum json_type type); /* "a string" */
size_t json_count(const struct json *v);         /* members of an array or object, 0 otherwise; linear */

/* for (const struct json *m = json_first(v); m; m = json_next(m)) */
const struct json *json_first(const struct json *v); /* NULL: empty, or not a container */
const struct json *json_next(const struct json *m);
const char *json_key(const struct json *m);           /* unescaped UTF-8; NULL in an array */
const struct json *json_get(const struct json *v, const char *key); /* NULL: absent */

const char *json_string(const struct json *v); /* NULL: not a string */
bool json_bool(const struct json *v);          /* false also when not a boolean: test the type */
double json_double(const struct json_doc *d, const struct json *v); /* NAN: not a number */
bool json_u64(const struct json_doc *d, const struct json *v, uint64_t *out); /* exact; false: not an integer 0..2^64-1 (1.0 and 1e3 are not) */

/* Members of an object with their type checked; an error names the key and both types. */
bool json_need_u64(const struct json_doc *d, const struct json *o, const char *key, uint64_t *out, struct err *e) CHECKED;
bool json_need_double(const struct json_doc *d, const struct json *o, const char *key, double *out, struct err *e) CHECKED;
bool json_need_string(const struct json *o, const char *key, const char **out, struct err *e) CHECKED;

/* Where the value of a top-level member stands in valid JSON text, so that it can be
 * replaced and all other bytes stay: [*begin, *end) is the value alone. false: no such member. */
bool json_member_span(const char *text, size_t bytes, const char *key, size_t *begin, size_t *end);

/* ---- writing: into a buffer, in order, with commas and indentation done here ---- */
struct json_writer {
    struct buf *out; /* borrowed */
    unsigned depth;
    /* No space and no line break. May be switched: on behind the begin of a row, off behind its end,
     * gives one row on each line of a document that is indented (by two) otherwise. */
    bool compact;
    bool has_member[JSON_DEPTH_MAX + 1];
};
void json_begin_object(struct json_writer *w, const char *key); /* key NULL: in an array, or the root */
void json_begin_array(struct json_writer *w, const char *key);
void json_end(struct json_writer *w, char bracket);             /* '}' or ']' */
void json_put_string(struct json_writer *w, const char *key, const char *value); /* NULL: null; bytes that are no UTF-8: U+FFFD */
void json_put_u64(struct json_writer *w, const char *key, uint64_t value);
void json_put_i64(struct json_writer *w, const char *key, int64_t value);
void json_put_bool(struct json_writer *w, const char *key, bool value);
void json_put_double(struct json_writer *w, const char *key, double value); /* shortest that reads back; not finite: null */
void json_put_raw(struct json_writer *w, const char *key, const char *json_text);
void json_quote(struct buf *out, const char *s); /* "..." with JSON's escapes; UTF-8 passes through */

#endif
