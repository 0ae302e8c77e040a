/* The strict scanner that runs before cJSON. Private to json.c. */
#ifndef FORMATS_JSON_SCAN_H
#define FORMATS_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"

struct json_number {
    uint64_t u64;
    double value; /* strtod of the token; for an integer the nearest double */
    bool is_u64;  /* written with digits alone, and at most 2^64-1 */
};

/* What a scan brings home. */
struct json_numbers {
    struct json_number *items; /* in document order; mem_free */
    size_t count, room;
};

/* Checks text against all that json.h promises. text[bytes] is NUL. What cJSON could not read although
 * it is allowed (comments, trailing commas, number tokens longer than its buffer) is overwritten in place,
 * newlines excepted, so that positions stay. On failure n holds nothing. */
bool json_scan(char *text, size_t bytes, unsigned flags, struct json_numbers *n, struct err *e) CHECKED;

/* Appends what stands between the quotes of a valid string token, unescaped. */
void json_unescape(struct buf *out, const char *content, size_t bytes);

#endif
