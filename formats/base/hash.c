#include "formats/base/hash.h"

#include <stdio.h>
#include <stdlib.h>

#include <openssl/evp.h>

/* SHA-256 cannot fail unless the library is broken or memory is gone. */
static void must(int openssl_result)
{
    if (openssl_result == 1)
        return;
    fprintf(stderr, "quern: OpenSSL refused to compute SHA-256\n");
    abort();
}

void hash_init(struct hash *h)
{
    h->ctx = EVP_MD_CTX_new();
    must(h->ctx != NULL);
    must(EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL));
}

void hash_update(struct hash *h, const void *data, size_t bytes)
{
    must(EVP_DigestUpdate(h->ctx, data, bytes));
}

void hash_final_hex(struct hash *h, char hex[HASH_HEX_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int digest_bytes = 0;

    must(EVP_DigestFinal_ex(h->ctx, digest, &digest_bytes));
    must(digest_bytes == (HASH_HEX_BYTES - 1) / 2);
    for (size_t i = 0; i < digest_bytes; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[HASH_HEX_BYTES - 1] = '\0';
    hash_release(h);
}

void hash_release(struct hash *h)
{
    EVP_MD_CTX_free(h->ctx);
    h->ctx = NULL;
}

void hash_hex(const void *data, size_t bytes, char hex[HASH_HEX_BYTES])
{
    struct hash h;

    hash_init(&h);
    hash_update(&h, data, bytes);
    hash_final_hex(&h, hex);
}

/* FNV-1a's low bits are weak for short keys, and a table looks at the low bits
 * only; the mix is MurmurHash3's fmix64. */
uint64_t hash_key(const char *s, size_t bytes)
{
    uint64_t k = 0xcbf29ce484222325u;

    for (size_t i = 0; i < bytes; i++)
        k = (k ^ (unsigned char)s[i]) * 0x100000001b3u;
    k = (k ^ (k >> 33)) * 0xff51afd7ed558ccdu;
    k = (k ^ (k >> 33)) * 0xc4ceb9fe1a85ec53u;
    return k ^ (k >> 33);
}
