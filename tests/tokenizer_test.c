/* Goldens: tests/fixtures/tokenizer, whose README says which programs gave them. */
#include "formats/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/pool.h"
#include "formats/base/utf8.h"
#include "formats/json.h"
#include "tests/ct.h"

#define FIXTURES "tests/fixtures/tokenizer/"
#define SAMPLE   "samples/tiny-v3"

static const struct tokenizer_encode plain = {0};

/* ---- goldens ---- */

static int hex_digit(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* A case has "text", or "hex" where JSON cannot hold it. */
static void case_text(const struct json *c, struct buf *text)
{
    const struct json *hex = json_get(c, "hex");

    text->bytes = 0;
    if (!hex) {
        buf_puts(text, json_string(json_get(c, "text")));
        return;
    }
    for (const char *h = json_string(hex); *h; h += 2) {
        char byte = (char)(hex_digit(h[0]) << 4 | hex_digit(h[1]));
        buf_add(text, &byte, 1);
    }
}

static void expect_ids(const struct json_doc *d, const struct json *want, const struct id_list *got)
{
    size_t i = 0;

    EXPECT_EQ_U64(json_count(want), got->count);
    for (const struct json *m = json_first(want); m && i < got->count; m = json_next(m), i++) {
        uint64_t id = 0;
        ASSERT_TRUE(json_u64(d, m, &id));
        ASSERT_EQ_U64(id, got->ids[i]);
    }
}

static void decode(const struct tokenizer *t, const struct id_list *ids, struct buf *out)
{
    out->bytes = 0;
    for (size_t i = 0; i < ids->count; i++) {
        size_t bytes = 0;
        const char *text = tokenizer_bytes(t, ids->ids[i], &bytes);
        ASSERT_TRUE(text != NULL);
        buf_add(out, text, bytes);
    }
}

static void check_cases(const struct tokenizer *t, const char *cases_path, bool strips)
{
    struct json_doc d = {0};
    struct buf text = {0}, back = {0};
    struct id_list ids = {0};
    struct err e = {0};

    ASSERT_OK(json_load(&d, cases_path, 1u << 20, JSON_STRICT, &e), e);
    ASSERT_TRUE(json_count(d.root) > 25);
    for (const struct json *c = json_first(d.root); c; c = json_next(c)) {
        case_text(c, &text);
        ct_case("%s: '%s'", cases_path, text.data ? text.data : "");
        ids.count = 0;
        EXPECT_OK(tokenizer_encode(t, text.data ? text.data : "", text.bytes, &plain, &ids, &e), e);
        expect_ids(&d, json_get(c, "ids"), &ids);
        if (strips)
            continue;
        decode(t, &ids, &back);
        EXPECT_EQ_U64(text.bytes, back.bytes);
        if (text.bytes == back.bytes && text.bytes)
            EXPECT_MEM_EQ(text.data, back.data, text.bytes);
    }
    id_list_release(&ids);
    buf_release(&text);
    buf_release(&back);
    json_release(&d);
}

TEST(tokenizer, ids_are_those_of_other_programs_and_decode_to_the_text)
{
    static const struct {
        const char *dir, *cases;
        bool strips; /* its tokens swallow white space */
    } rows[] = {
        {SAMPLE, FIXTURES "sample/cases.json", false},
        {FIXTURES "pairs", FIXTURES "pairs/cases.json", false},
        {FIXTURES "flags", FIXTURES "flags/cases.json", true},
        {FIXTURES "gpt2", FIXTURES "gpt2/cases.json", false},
        {FIXTURES "digits", FIXTURES "digits/cases.json", false},
        {FIXTURES "kimi", FIXTURES "kimi/cases.json", false},
    };

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct tokenizer t = {0};
        struct err e = {0};

        ct_case("%s", rows[r].dir);
        ASSERT_OK(tokenizer_open(&t, rows[r].dir, &e), e);
        check_cases(&t, rows[r].cases, rows[r].strips);
        tokenizer_release(&t);
        tokenizer_release(&t);
    }
}

/* ---- encoding ---- */

static void open_sample(struct tokenizer *t)
{
    struct err e = {0};

    ASSERT_OK(tokenizer_open(t, SAMPLE, &e), e);
}

TEST(tokenizer, bos_is_added_once)
{
    struct tokenizer t = {0};
    struct tokenizer_encode how = {.bos = true};
    struct id_list ids = {0};
    struct err e = {0};
    const char *const marked = "<｜begin▁of▁sentence｜>Hi";

    open_sample(&t);
    EXPECT_TRUE(t.add_bos);
    EXPECT_EQ_U64(0, t.bos_id);
    EXPECT_EQ_U64(1, t.eos_id);
    id_list_add(&ids, 99); /* what is there already is left alone */
    ASSERT_OK(tokenizer_encode(&t, "Hi", 2, &how, &ids, &e), e);
    ASSERT_OK(tokenizer_encode(&t, marked, strlen(marked), &how, &ids, &e), e);
    ASSERT_OK(tokenizer_encode(&t, "", 0, &how, &ids, &e), e);
    const uint32_t want[] = {99, 0, 75, 108, 0, 75, 108, 0};
    ASSERT_EQ_U64(sizeof want / sizeof want[0], ids.count);
    EXPECT_MEM_EQ(want, ids.ids, sizeof want);
    id_list_release(&ids);
    tokenizer_release(&t);
}

TEST(tokenizer, as_many_ids_as_are_wanted_are_those_the_text_begins_with)
{
    const char *const text = "It is a truth universally acknowledged, <｜end▁of▁sentence｜> 12345 that";
    struct tokenizer t = {0};
    struct id_list all = {0}, some = {0};
    struct err e = {0};

    open_sample(&t);
    ASSERT_OK(tokenizer_encode(&t, text, strlen(text), &plain, &all, &e), e);
    for (size_t wanted = 1; wanted <= all.count + 1; wanted++) {
        struct tokenizer_encode how = {.ids_wanted = wanted};
        some.count = 0;
        ct_case("%zu ids", wanted);
        ASSERT_OK(tokenizer_encode(&t, text, strlen(text), &how, &some, &e), e);
        ASSERT_EQ_U64(wanted < all.count ? wanted : all.count, some.count);
        EXPECT_MEM_EQ(all.ids, some.ids, some.count * sizeof *some.ids);
    }
    struct tokenizer_encode with_bos = {.ids_wanted = 3, .bos = true};
    some.count = 0;
    ASSERT_OK(tokenizer_encode(&t, text, strlen(text), &with_bos, &some, &e), e);
    ASSERT_EQ_U64(3, some.count);
    EXPECT_EQ_U64(0, some.ids[0]);
    EXPECT_EQ_U64(all.ids[0], some.ids[1]);
    id_list_release(&all);
    id_list_release(&some);
    tokenizer_release(&t);
}

TEST(tokenizer, text_that_is_not_utf8_is_refused_with_its_offset)
{
    static const struct {
        const char *text;
        size_t bytes;
        const char *message;
    } rows[] = {
        {"abc\xff", 4, "byte 0xff at offset 3 is not UTF-8"},
        {"\xc0\x80", 2, "byte 0xc0 at offset 0 is not UTF-8"},
        {"ab\xe6\xbc", 4, "byte 0xe6 at offset 2 is not UTF-8"},
        {"\xed\xa0\x80", 3, "byte 0xed at offset 0 is not UTF-8"},
        {"\xf4\x90\x80\x80", 4, "byte 0xf4 at offset 0 is not UTF-8"},
    };
    struct tokenizer t = {0};

    open_sample(&t);
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct id_list ids = {0};
        struct err e = {0};
        ct_case("%s", rows[r].message);
        EXPECT_FALSE(tokenizer_encode(&t, rows[r].text, rows[r].bytes, &plain, &ids, &e));
        EXPECT_ERR(e, ERR_FORMAT, rows[r].message);
        id_list_release(&ids);
    }
    tokenizer_release(&t);
}

static void expect_run(const struct tokenizer *t, const char *what, const char *unit, size_t count)
{
    struct buf text = {0}, back = {0};
    struct id_list ids = {0};
    struct err e = {0};

    ct_case("%zu times %s", count, what);
    for (size_t i = 0; i < count; i++)
        buf_puts(&text, unit);
    ASSERT_OK(tokenizer_encode(t, text.data, text.bytes, &plain, &ids, &e), e);
    decode(t, &ids, &back);
    ASSERT_EQ_U64(text.bytes, back.bytes);
    EXPECT_MEM_EQ(text.data, back.data, text.bytes);
    id_list_release(&ids);
    buf_release(&text);
    buf_release(&back);
}

/* A scan for the lowest rank would take an hour here, and the pattern's loops would run out of room. */
TEST(tokenizer, long_runs_are_not_quadratic)
{
    static const struct {
        const char *what, *unit;
    } rows[] = {
        {"letters", "ab"},     {"spaces", " "}, {"line ends", "\n"},  {"punctuation", "!?"},
        {"digits", "1234567"}, {"kana", "か"},  {"marks", "a\u0301"}, {"controls", "\x01"},
    };
    static const char *const dirs[] = {SAMPLE, FIXTURES "kimi"};

    for (size_t d = 0; d < 2; d++) {
        struct tokenizer t = {0};
        struct err e = {0};
        ASSERT_OK(tokenizer_open(&t, dirs[d], &e), e);
        for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
            expect_run(&t, rows[r].what, rows[r].unit, 200000);
        tokenizer_release(&t);
    }
}

TEST(tokenizer, a_long_piece_merges_like_its_words)
{
    /* The same letters as one piece of 33 or more bytes (heap) and in a tokenizer's eyes one of 32 or fewer (scan):
     * both must find the lowest rank, leftmost first. A model of three merges that overlap says how. */
    struct bpe b = {0};
    struct bpe_scratch *s = bpe_scratch_new();
    struct id_list shorter = {0}, longer = {0};
    struct err e = {0};
    char text[64];

    for (unsigned i = 0; i < 256; i++) {
        char byte = (char)i;
        ASSERT_OK(bpe_add_token(&b, i, &byte, 1, false, &e), e);
    }
    ASSERT_OK(bpe_add_token(&b, 256, "aa", 2, false, &e), e);
    ASSERT_OK(bpe_add_token(&b, 257, "aab", 3, false, &e), e);
    ASSERT_OK(bpe_add_token(&b, 258, "ba", 2, false, &e), e);
    ASSERT_OK(bpe_add_merge(&b, 'a', 'a', &e), e);
    ASSERT_OK(bpe_add_merge(&b, 256, 'b', &e), e);
    ASSERT_OK(bpe_add_merge(&b, 'b', 'a', &e), e);
    ASSERT_OK(bpe_finish(&b, &e), e);
    memset(text, 'z', sizeof text);
    memcpy(text, "aaabaaaabbaabaaa", 16);
    ASSERT_OK(bpe_encode(&b, s, text, 32, &shorter, &e), e);
    ASSERT_OK(bpe_encode(&b, s, text, 64, &longer, &e), e);
    const uint32_t want[] = {256, 'a', 'b', 256, 257, 'b', 257, 256, 'a', 'z'};
    ASSERT_EQ_U64(9 + 16, shorter.count);
    ASSERT_EQ_U64(9 + 48, longer.count);
    EXPECT_MEM_EQ(want, shorter.ids, sizeof want);
    EXPECT_MEM_EQ(want, longer.ids, sizeof want);
    id_list_release(&shorter);
    id_list_release(&longer);
    bpe_scratch_free(s);
    bpe_release(&b);
}

/* A token's bytes were copied as a string once, and what stood behind a NUL was lost. */
TEST(tokenizer, a_token_may_hold_a_nul)
{
    struct bpe b = {0};
    struct bpe_scratch *s = bpe_scratch_new();
    struct id_list ids = {0};
    struct err e = {0};

    for (unsigned i = 0; i < 256; i++) {
        char byte = (char)i;
        ASSERT_OK(bpe_add_token(&b, i, &byte, 1, false, &e), e);
    }
    ASSERT_OK(bpe_add_token(&b, 256, "\0a", 2, false, &e), e);
    ASSERT_OK(bpe_add_token(&b, 257, "\0ab", 3, false, &e), e);
    ASSERT_OK(bpe_add_merge(&b, 0, 'a', &e), e);
    ASSERT_OK(bpe_add_merge(&b, 256, 'b', &e), e);
    ASSERT_OK(bpe_finish(&b, &e), e);
    ASSERT_OK(bpe_encode(&b, s, "\0ab\0a", 5, &ids, &e), e);
    const uint32_t want[] = {257, 256};
    ASSERT_EQ_U64(2, ids.count);
    EXPECT_MEM_EQ(want, ids.ids, sizeof want);
    EXPECT_MEM_EQ("\0ab", b.tokens[257].bytes, 3);
    id_list_release(&ids);
    bpe_scratch_free(s);
    bpe_release(&b);
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* Random text: what is encoded decodes, and a piece of any length is merged as the definition says. */
TEST(tokenizer, random_text_comes_back)
{
    static const char *const dirs[] = {SAMPLE, FIXTURES "kimi", FIXTURES "digits", FIXTURES "gpt2"};
    static const uint32_t firsts[] = {0x20,  0x20,  0x61,   0x61,   0x30,   0x80,
                                      0x300, 0x5d0, 0x3041, 0x4e00, 0xac00, 0x1f300};
    uint64_t state = 7;

    for (size_t d = 0; d < sizeof dirs / sizeof dirs[0]; d++) {
        struct tokenizer t = {0};
        struct buf text = {0}, back = {0};
        struct id_list ids = {0};
        struct err e = {0};
        ASSERT_OK(tokenizer_open(&t, dirs[d], &e), e);
        for (int i = 0; i < 3000; i++) {
            text.bytes = ids.count = 0;
            for (uint64_t n = next_random(&state) % 60 + 1; n; n--) {
                char character[UTF8_BYTES_MAX];
                uint32_t code = firsts[next_random(&state) % 12] + (uint32_t)(next_random(&state) % 24);
                buf_add(&text, character, utf8_put(code, character));
            }
            ct_case("%s: '%s'", dirs[d], text.data);
            ASSERT_OK(tokenizer_encode(&t, text.data, text.bytes, &plain, &ids, &e), e);
            decode(&t, &ids, &back);
            ASSERT_EQ_U64(text.bytes, back.bytes);
            ASSERT_MEM_EQ(text.data, back.data, text.bytes);
        }
        id_list_release(&ids);
        buf_release(&text);
        buf_release(&back);
        tokenizer_release(&t);
    }
}

struct shared_job {
    const struct tokenizer *t;
    const struct id_list *want;
    const char *text;
};

static bool encode_job(void *ctx, size_t job, unsigned worker, struct err *e)
{
    const struct shared_job *s = ctx;
    struct id_list ids = {0};
    bool ok = tokenizer_encode(s->t, s->text, strlen(s->text), &plain, &ids, e);

    (void)worker;
    if (ok && (ids.count != s->want->count || memcmp(ids.ids, s->want->ids, ids.count * sizeof *ids.ids) != 0))
        ok = err_set(e, ERR_FORMAT, "job %zu got other ids", job);
    id_list_release(&ids);
    return ok;
}

TEST(tokenizer, one_serves_many_threads)
{
    struct tokenizer t = {0};
    struct id_list want = {0};
    struct err e = {0};
    struct shared_job s = {.t = &t, .want = &want, .text = "word wörd  <l> 12345 漢字, and so on.\n\n"};

    ASSERT_OK(tokenizer_open(&t, FIXTURES "flags", &e), e);
    ASSERT_OK(tokenizer_encode(&t, s.text, strlen(s.text), &plain, &want, &e), e);
    EXPECT_OK(pool_run(8, 500, encode_job, &s, &e), e);
    id_list_release(&want);
    tokenizer_release(&t);
}

/* ---- tokenizer.json ---- */

/* The fixture's text with its first `from` replaced by `to`. */
static void patched(struct buf *out, const char *from, const char *to)
{
    char *text = NULL;
    size_t bytes = 0;
    struct err e = {0};

    out->bytes = 0;
    ASSERT_OK(file_slurp(FIXTURES "pairs/tokenizer.json", 1u << 20, &text, &bytes, &e), e);
    char *at = strstr(text, from);
    ASSERT_TRUE(at != NULL);
    buf_add(out, text, (size_t)(at - text));
    buf_puts(out, to);
    buf_puts(out, at + strlen(from));
    mem_free(text);
}

TEST(tokenizer, what_is_unknown_or_wrong_in_tokenizer_json_is_refused_by_name)
{
    static const struct {
        const char *from, *to, *message;
        enum err_code code;
    } rows[] = {
        {"{", "{", NULL, ERR_NONE},
        {"{", "[", " stands where ", ERR_FORMAT},
        {"\"normalizers\":[]", "\"normalizers\":[{\"type\":\"NFC\"}]", "normalizer 'NFC' is not supported",
         ERR_UNSUPPORTED},
        {"\"normalizers\":[]", "\"normalizers\":7", "normalizers is a number, not an array", ERR_FORMAT},
        {"\"type\":\"Split\"", "\"type\":\"Metaspace\"", "pre_tokenizer 'Metaspace' is not supported (Sequence, Split,",
         ERR_UNSUPPORTED},
        {"\"Isolated\"", "\"Removed\"", "Split behavior 'Removed' is not supported", ERR_UNSUPPORTED},
        {"\"Regex\":\"", "\"Regex\":\"(", "end pattern with unmatched parenthesis", ERR_FORMAT},
        {"\"Regex\"", "\"Wildcard\"", "neither Regex nor String", ERR_FORMAT},
        {"\"add_prefix_space\":false", "\"add_prefix_space\":true", "ByteLevel with add_prefix_space", ERR_UNSUPPORTED},
        {"{\"type\":\"ByteLevel\",\"add_prefix_space\":false", "{\"type\":\"Digits\",\"add_prefix_space\":false",
         "a pre_tokenizer without ByteLevel", ERR_UNSUPPORTED},
        {"\"post_processor\":{\"type\":\"ByteLevel\"", "\"post_processor\":{\"type\":\"BertProcessing\"",
         "post_processor 'BertProcessing' is not supported", ERR_UNSUPPORTED},
        {"\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"WordPiece\"",
         "decoder 'WordPiece' is not supported", ERR_UNSUPPORTED},
        {"\"type\":\"BPE\"", "\"type\":\"Unigram\"", "model 'Unigram' is not supported", ERR_UNSUPPORTED},
        {"\"dropout\":null", "\"dropout\":0.1", "BPE with dropout", ERR_UNSUPPORTED},
        {"\"unk_token\":null", "\"unk_token\":\"<unk>\"", "BPE with unk_token '<unk>'", ERR_UNSUPPORTED},
        {"\"byte_fallback\":false", "\"byte_fallback\":true", "BPE with byte_fallback", ERR_UNSUPPORTED},
        {"\"byte_fallback\":false", "\"byte_fallback\":1", "byte_fallback is a number, not a boolean", ERR_FORMAT},
        {"\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", "BPE with end_of_word_suffix",
         ERR_UNSUPPORTED},
        {"\"a\":100", "\"a\":101", "token id 101 is given twice", ERR_FORMAT},
        {"\"a\":100", "\"a\":-1", "the id of 'a' is no integer below 4194304", ERR_FORMAT},
        {"\"a\":100", "\"a\":99999999", "the id of 'a' is no integer below 4194304", ERR_FORMAT},
        {"\"a\":100,", "", "not in the vocabulary", ERR_FORMAT},
        {"\"Ā\":3,", "", "no token is byte 0x00", ERR_UNSUPPORTED},
        {"\"merges\":[[", "\"merges\":[[\"a\",\"A\"],[", "merge 0: what tokens 100 and 68 make together is no token",
         ERR_FORMAT},
        {"\"merges\":[[", "\"merges\":[[\"a\",\"b\",\"c\"],[", "merge 0: it is neither two tokens nor", ERR_FORMAT},
        {"\"merges\":[[", "\"merges\":[\"ab\",[", "merge 0: it is neither two tokens nor", ERR_FORMAT},
        {"\"merges\":[[", "\"merges\":[\"a 漢\",[", "merge 0: '漢' is not in the vocabulary", ERR_FORMAT},
        {"\"content\":\"<｜▁pad▁｜>\"", "\"content\":\"\"", "'content' is empty", ERR_FORMAT},
        {"\"content\":\"<｜▁pad▁｜>\"", "\"content\":\"<x>\"", "'<x>' has id 2, which is another token's", ERR_FORMAT},
        {"\"content\":\"<｜▁pad▁｜>\"", "\"content\":\"a\"", "'a' has id 2 here and 100 in the vocabulary", ERR_FORMAT},
        {"\"content\":\"<｜▁pad▁｜>\",\"single_word\":false", "\"content\":\"<｜▁pad▁｜>\",\"single_word\":1",
         "single_word is a number, not a boolean", ERR_FORMAT},
        {"{\"id\":2,", "{\"id\":9999999,", "id 9999999 is past the limit", ERR_LIMIT},
    };
    struct buf text = {0};

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct tokenizer t = {0};
        struct err e = {0};
        ct_case("%s -> %s", rows[r].from, rows[r].to);
        patched(&text, rows[r].from, rows[r].to);
        bool ok = tokenizer_parse_json(&t, text.data, text.bytes, &e);
        EXPECT_TRUE(ok == (rows[r].code == ERR_NONE));
        if (!ok)
            EXPECT_ERR(e, rows[r].code, rows[r].message);
        tokenizer_release(&t);
    }
    buf_release(&text);
}

TEST(tokenizer, bos_is_as_the_files_say)
{
    static const struct {
        const char *dir, *config, *message;
        bool add_bos;
        uint32_t bos_id;
    } rows[] = {
        {"pairs", NULL, NULL, false, BPE_NONE},
        {"pairs", "{\"add_bos_token\":true,\"bos_token\":\"<｜begin▁of▁sentence｜>\"}", NULL, true, 0},
        {"pairs", "{\"add_bos_token\":false,\"bos_token\":{\"content\":\"<｜begin▁of▁sentence｜>\"}}", NULL, false, 0},
        {"pairs", "{\"tokenizer_class\":\"LlamaTokenizerFast\",\"bos_token\":\"a\"}", NULL, true, 100},
        {"pairs", "{\"tokenizer_class\":\"LlamaTokenizerFast\",\"bos_token\":null}", NULL, false, BPE_NONE},
        {"pairs", "{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"bos_token\":\"a\"}", NULL, false, 100},
        {"pairs", "{\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":false,\"bos_token\":\"a\"}", NULL, false,
         100},
        {"digits", NULL, NULL, true, 0},
        {"digits", "{\"add_bos_token\":false}", NULL, false, 0},
        {"pairs", "{\"add_bos_token\":true}", "add_bos_token is true, and bos_token is missing", false, 0},
        {"pairs", "{\"add_bos_token\":1}", "add_bos_token is a number, not a boolean", false, 0},
        {"pairs", "{\"bos_token\":\"<bos>\"}", "bos_token '<bos>' is no token of the vocabulary", false, 0},
        {"pairs", "{\"eos_token\":[]}", "eos_token is neither a string nor an object", false, 0},
        {"pairs", "7", "the file is a number, not an object", false, 0},
    };

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct arena a = {0};
        struct tokenizer t = {0};
        struct err e = {0};
        const char *config = rows[r].config;
        ct_case("%s %s", rows[r].dir, config ? config : "");
        ASSERT_OK(tokenizer_open(&t, path_join(&a, FIXTURES, rows[r].dir), &e), e);
        bool ok = !config || tokenizer_parse_config(&t, config, strlen(config), &e);
        EXPECT_TRUE(ok == !rows[r].message);
        if (!ok)
            EXPECT_ERR(e, ERR_FORMAT, rows[r].message);
        if (ok) {
            EXPECT_TRUE(rows[r].add_bos == t.add_bos);
            EXPECT_EQ_U64(rows[r].bos_id, t.bos_id);
        }
        tokenizer_release(&t);
        arena_release(&a);
    }
}

TEST(tokenizer, a_folder_without_one_is_refused)
{
    struct tokenizer t = {0};
    struct err e = {0};

    EXPECT_FALSE(tokenizer_open(&t, ct_temp_dir(), &e));
    EXPECT_ERR(e, ERR_FORMAT, "there is no tokenizer.json and no tiktoken.model in '");
}

TEST(tokenizer, asking_for_a_bos_that_is_not_there_is_refused)
{
    struct tokenizer t = {0};
    struct tokenizer_encode how = {.bos = true};
    struct id_list ids = {0};
    struct err e = {0};

    ASSERT_OK(tokenizer_open(&t, FIXTURES "pairs", &e), e);
    EXPECT_FALSE(tokenizer_encode(&t, "a", 1, &how, &ids, &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "no token for the beginning of a text");
    tokenizer_release(&t);
}

TEST(tokenizer, ids_that_are_no_token_have_no_bytes)
{
    struct tokenizer t = {0};
    size_t bytes = 7;

    open_sample(&t);
    EXPECT_TRUE(tokenizer_bytes(&t, t.bpe.id_limit, &bytes) == NULL);
    EXPECT_EQ_U64(0, bytes);
    EXPECT_TRUE(tokenizer_bytes(&t, UINT32_MAX, &bytes) == NULL);
    EXPECT_STR_EQ("<｜end▁of▁sentence｜>", tokenizer_bytes(&t, 1, &bytes));
    EXPECT_EQ_U64(4096, t.bpe.id_limit);
    tokenizer_release(&t);
}
