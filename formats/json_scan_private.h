/* Inside the scanner: for its own files. */
#ifndef FORMATS_JSON_SCAN_PRIVATE_H
#define FORMATS_JSON_SCAN_PRIVATE_H

#include "formats/json.h"
#include "formats/json_scan.h"

struct key {
    uint64_t hash;
    size_t at, bytes;
    bool escaped; /* at counts in the unescaped bytes, not in the text */
};

struct frame {
    bool is_object;
    size_t first_key, unescaped_bytes; /* what to go back to when it closes */
    size_t *slots;                     /* key index + 1; NULL while there are few */
    size_t slot_count;                 /* a power of two */
};

struct scan {
    char *text;
    size_t bytes, at;
    unsigned flags;
    struct err *e;
    struct frame stack[JSON_DEPTH_MAX];
    unsigned depth;
    struct key *keys;
    size_t key_count, key_room;
    struct buf unescaped;
    struct json_numbers *numbers;
    size_t comma_at; /* the last comma outside strings */
};

/* "what at line 1 column 7, in 'the root's member that holds it'" */
bool json_scan_refuse(const struct scan *s, size_t at, const char *what);
/* Long keys are cut: the message has 480 bytes for everything. */
int json_scan_shown_bytes(size_t bytes);

/* at stands on the opening quote; moves behind the closing one. The content is [*begin, at - 1). */
bool json_scan_string(struct scan *s, size_t *begin, bool *escaped);
/* A member's key: a string that the object does not have yet. */
bool json_scan_key(struct scan *s);
const char *json_scan_key_text(const struct scan *s, const struct key *k);

#endif
