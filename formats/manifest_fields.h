/* The fields of quern.json, one table for writer and reader. Private to manifest.c and manifest_read.c. */
#ifndef FORMATS_MANIFEST_FIELDS_H
#define FORMATS_MANIFEST_FIELDS_H

#include <stdbool.h>
#include <stddef.h>

enum field_kind {
    FIELD_VERSION, /* uint64_t, MANIFEST_VERSION */
    FIELD_TEXT,    /* const char * */
    FIELD_SHA256,  /* const char *, 64 hex digits */
    FIELD_JSON,    /* const char *, any JSON; only at the top */
    FIELD_U64,     /* uint64_t */
    FIELD_FLAG,    /* bool; written when true */
    FIELD_ERROR,   /* double >= 0, written with six digits, null for infinity; negative: absent */
    FIELD_TEXTS,   /* const char ** and its count */
    FIELD_U64S,    /* uint64_t * and its count */
    FIELD_U32S,    /* uint32_t * and its count */
    FIELD_F64S,    /* double * and its count, five digits behind the point */
    FIELD_OBJECT,  /* a pointer to a struct of table `of`; NULL: absent */
    FIELD_LIST,    /* an array of structs of table `of`, and its count */
    FIELD_MAP,     /* the same as an object, its keys being the structs' first field, which is a FIELD_TEXT */
};

struct table;

struct field {
    const char *key;
    enum field_kind kind;
    bool optional; /* NULL, or an empty list or map, is not written */
    size_t offset, count_offset;
    const struct table *of;
};

struct table {
    const struct field *fields;
    size_t field_count;
    size_t struct_bytes;
    bool one_line; /* how a row of it is written */
};

extern const struct table manifest_table;

#endif
