/* SHA-256, the one door to OpenSSL's digests. */
#ifndef FORMATS_BASE_HASH_H
#define FORMATS_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define HASH_HEX_BYTES 65 /* 64 lower-case hex digits and NUL */

struct hash {
    void *ctx; /* NULL: holds nothing */
};
void hash_init(struct hash *h);
void hash_update(struct hash *h, const void *data, size_t bytes);
void hash_final_hex(struct hash *h, char hex[HASH_HEX_BYTES]); /* releases h */
void hash_release(struct hash *h);

void hash_hex(const void *data, size_t bytes, char hex[HASH_HEX_BYTES]);
uint64_t hash_key(const char *s, size_t bytes); /* FNV-1a with a final mix: for tables, not for trust */

#endif
