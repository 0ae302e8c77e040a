#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/utf8.h"
#include "formats/tokenizer_private.h"

/* Kimi's pattern (its authors' tokenization_kimi.py): Han runs; words that begin, or end, with the lower-case half of
 * the letters; three digits; punctuation; line ends; white space. */
#define KIMI_UPPER  "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define KIMI_LOWER  "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define KIMI_ENDING "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
#define KIMI_PATTERN                                                                                                   \
    "[\\p{Han}]+"                                                                                                      \
    "|[^\\r\\n\\p{L}\\p{N}]?" KIMI_UPPER "*" KIMI_LOWER "+" KIMI_ENDING "|[^\\r\\n\\p{L}\\p{N}]?" KIMI_UPPER           \
    "+" KIMI_LOWER "*" KIMI_ENDING "|\\p{N}{1,3}"                                                                      \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"                                                                                  \
    "|\\s*[\\r\\n]+"                                                                                                   \
    "|\\s+(?!\\S)"                                                                                                     \
    "|\\s+"
#define SPECIAL_COUNT 256u

/* Characters: the authors cut text at the first, and runs of (or without) white space at the second. */
#define CHUNK_CHARACTERS_MAX 400000u
#define RUN_CHARACTERS_MAX   25000u

/* Python's str.isspace: White_Space, and the four separators of ASCII. */
static bool is_python_space(uint32_t code)
{
    return utf8_is_space(code) || (code >= 0x1c && code <= 0x1f);
}

size_t tokenizer_chunk_bytes(const char *text, size_t bytes, size_t *characters)
{
    size_t at = 0, run = 0;
    bool run_is_space = false;

    if (*characters == CHUNK_CHARACTERS_MAX)
        *characters = 0;
    while (at < bytes && *characters < CHUNK_CHARACTERS_MAX) {
        size_t step = utf8_step(text + at, bytes - at);
        bool is_space = is_python_space(utf8_code(text + at, step));
        if (run && is_space == run_is_space) {
            if (++run > RUN_CHARACTERS_MAX)
                return at;
        } else {
            run = 1;
            run_is_space = is_space;
        }
        at += step;
        ++*characters;
    }
    return at;
}

/* ---- lines ---- */

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes text into out, which has room for 3 bytes for each 4; false: it is not base64 with its padding. */
static bool base64_read(const char *text, size_t bytes, char *out, size_t *out_bytes)
{
    size_t padding = 0, count = 0;

    if (bytes == 0 || bytes % 4 != 0)
        return false;
    while (padding < 2 && text[bytes - 1 - padding] == '=')
        padding++;
    for (size_t at = 0; at < bytes; at += 4) {
        uint32_t word = 0;
        for (size_t i = 0; i < 4; i++) {
            bool is_padding = at + i >= bytes - padding;
            int digit = is_padding ? 0 : base64_digit(text[at + i]);
            if (digit < 0)
                return false;
            word = word << 6 | (uint32_t)digit;
        }
        for (int shift = 16; shift >= 0; shift -= 8)
            out[count++] = (char)(word >> shift & 0xff);
    }
    *out_bytes = count - padding;
    return true;
}

/* Digits alone, below BPE_IDS_MAX. */
static bool read_rank(const char *text, size_t bytes, uint32_t *rank)
{
    uint32_t value = 0;

    for (size_t i = 0; i < bytes; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (uint32_t)(text[i] - '0');
        if (value >= BPE_IDS_MAX)
            return false;
    }
    *rank = value;
    return bytes > 0;
}

#define BASE64_BYTES_MAX ((BPE_TOKEN_BYTES_MAX + 2) / 3 * 4)

static bool read_line(struct tokenizer *t, const char *line, size_t bytes, struct err *e)
{
    const char *space = memchr(line, ' ', bytes);
    size_t word_bytes = space ? (size_t)(space - line) : bytes, token_bytes = 0;
    char token[BASE64_BYTES_MAX / 4 * 3];
    uint32_t rank = 0;

    if (!space || !read_rank(space + 1, bytes - word_bytes - 1, &rank))
        return err_set(e, ERR_FORMAT, "it is not \"base64 rank\" with a rank below %u", BPE_IDS_MAX);
    if (word_bytes > BASE64_BYTES_MAX)
        return err_set(e, ERR_LIMIT, "the token has more bytes than the limit of %u", BPE_TOKEN_BYTES_MAX);
    if (!base64_read(line, word_bytes, token, &token_bytes))
        return err_set(e, ERR_FORMAT, "the token is not base64");
    return bpe_add_token(&t->bpe, rank, token, token_bytes, false, e);
}

static bool read_lines(struct tokenizer *t, const char *text, size_t bytes, uint32_t *count, struct err *e)
{
    size_t line_number = 0;

    for (size_t at = 0; at < bytes;) {
        const char *end = memchr(text + at, '\n', bytes - at);
        size_t line_bytes = end ? (size_t)(end - text) - at : bytes - at;
        size_t next = at + line_bytes + 1;
        line_number++;
        if (line_bytes && text[at + line_bytes - 1] == '\r')
            line_bytes--;
        if (line_bytes && !read_line(t, text + at, line_bytes, e))
            return err_in(e, "line %zu", line_number);
        *count += line_bytes > 0;
        at = next;
    }
    return *count || err_set(e, ERR_FORMAT, "there is no token in it");
}

/* ---- special tokens ---- */

/* tokenizer_config.json's added_tokens_decoder["163584"].content; NULL: it does not name the id. */
static bool special_name(const struct json *names, uint32_t id, const char **name, struct err *e)
{
    char key[16];
    const struct json *entry = NULL;
    struct added_token token = {0};

    *name = NULL;
    snprintf(key, sizeof key, "%u", id);
    entry = names ? json_get(names, key) : NULL;
    if (!entry)
        return true;
    if (json_type(entry) != JSON_OBJECT || !tokenizer_read_added(&token, entry, e))
        return err_set(e, ERR_FORMAT, "added_tokens_decoder: '%s' is no object with content", key);
    *name = token.text;
    return true;
}

/* The SPECIAL_COUNT ids behind the ranks; who has no name gets the authors'. */
static bool add_specials(struct tokenizer *t, uint32_t first, const struct json *names, struct err *e)
{
    for (uint32_t id = first; id < first + SPECIAL_COUNT; id++) {
        struct added_token token = {.id = id, .special = true};
        char reserved[48];

        if (!special_name(names, id, &token.text, e))
            return false;
        snprintf(reserved, sizeof reserved, "<|reserved_token_%u|>", id);
        if (!token.text)
            token.text = reserved;
        if (id < t->bpe.id_limit && t->bpe.tokens[id].bytes)
            return err_set(e, ERR_FORMAT, "rank %u stands where the %u ranks should have ended", id, first);
        if (!tokenizer_add_token(t, &token, e))
            return false;
    }
    return true;
}

static bool parse(struct tokenizer *t, const char *text, size_t bytes, const struct json *config, struct err *e)
{
    const struct json *names = config ? json_get(config, "added_tokens_decoder") : NULL;
    uint32_t count = 0;

    if (!tokenizer_add_split(t, KIMI_PATTERN, e) || !read_lines(t, text, bytes, &count, e))
        return false;
    bpe_merge_by_id(&t->bpe);
    return add_specials(t, count, names, e) && bpe_finish(&t->bpe, e);
}

bool tokenizer_parse_tiktoken(struct tokenizer *t, const char *text, size_t bytes, const char *config,
                              size_t config_bytes, struct err *e)
{
    struct json_doc d = {0};
    bool ok = false;

    *t = (struct tokenizer){.bos_id = BPE_NONE, .eos_id = BPE_NONE, .in_chunks = true};
    t->bpe.whole_pieces = true;
    if (config && !json_parse(&d, config, config_bytes, JSON_STRICT, e)) {
        err_in(e, "tokenizer_config.json");
        goto done;
    }
    ok = parse(t, text, bytes, d.root, e);
done:
    if (!ok)
        tokenizer_release(t);
    json_release(&d);
    return ok;
}
