#include "formats/base/hash.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/mem.h"
#include "tests/ct.h"

/* FIPS 180-2 appendix B, and NIST's SHA-2 additional vectors. */
static const struct row {
    const char *text, *hex;
} rows[] = {
    {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
     "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
};

TEST(hash, sha256_gives_the_published_digests)
{
    char hex[HASH_HEX_BYTES];

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        ct_case("'%s'", rows[r].text);
        hash_hex(rows[r].text, strlen(rows[r].text), hex);
        EXPECT_STR_EQ(rows[r].hex, hex);
    }
}

TEST(hash, a_million_letters_in_uneven_pieces)
{
    struct hash h;
    char hex[HASH_HEX_BYTES], piece[1009];
    size_t left = 1000000;

    memset(piece, 'a', sizeof piece);
    hash_init(&h);
    while (left) {
        size_t bytes = left < sizeof piece ? left : sizeof piece;

        hash_update(&h, piece, bytes);
        left -= bytes;
    }
    hash_update(&h, NULL, 0);
    hash_final_hex(&h, hex);
    EXPECT_STR_EQ("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", hex);
    EXPECT_TRUE(h.ctx == NULL);
}

TEST(hash, release_is_idempotent)
{
    struct hash h = {0};

    hash_release(&h);
    hash_init(&h);
    hash_release(&h);
    hash_release(&h);
    EXPECT_TRUE(h.ctx == NULL);
}

TEST(hash, keys_that_differ_in_one_letter_spread_over_the_low_bits)
{
    unsigned used[256] = {0}, most = 0;
    char key[32];

    for (int i = 0; i < 25600; i++) {
        int bytes = snprintf(key, sizeof key, "layers.%d.w", i);
        unsigned *slot = &used[hash_key(key, (size_t)bytes) & 255];
        if (++*slot > most)
            most = *slot;
    }
    /* 100 on average, 10 as the standard deviation. */
    EXPECT_TRUE(most < 160);
    EXPECT_TRUE(hash_key("ab", 2) != hash_key("ab", 1));
}
