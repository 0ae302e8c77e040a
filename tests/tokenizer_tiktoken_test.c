/* Kimi's files. Goldens of what they encode: tests/tokenizer_test.c. */
#include <string.h>

#include "formats/tokenizer.h"
#include "tests/ct.h"

#define KIMI "tests/fixtures/tokenizer/kimi"

static const struct tokenizer_encode plain = {0};

static void encode_run(const struct tokenizer *t, const char *unit, size_t count, const char *last, struct id_list *ids)
{
    struct buf text = {0};
    struct err e = {0};

    for (size_t i = 0; i < count; i++)
        buf_puts(&text, unit);
    buf_puts(&text, last);
    ASSERT_OK(tokenizer_encode(t, text.data ? text.data : "", text.bytes, &plain, ids, &e), e);
    buf_release(&text);
}

/* Its authors cut a run at 25,000 characters, so what would have been one piece is two. */
TEST(tokenizer_tiktoken, cuts_long_runs_as_its_authors_do)
{
    static const struct {
        const char *name, *unit;
        size_t count, cut; /* where the second part begins, in units */
    } rows[] = {
        {"run", "h", 25000, 25000},      {"longer run", "h", 25005, 25000}, {"two cuts", "h", 50001, 25000},
        {"wide run", "И", 25001, 25000}, {"spaces", " ", 25001, 25000},     {"words", "hh ", 133334, 133333},
    };
    struct tokenizer t = {0};
    struct err e = {0};

    ASSERT_OK(tokenizer_open(&t, KIMI, &e), e);
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct id_list all = {0}, parts = {0};
        size_t cut = rows[r].cut;
        ct_case("%s", rows[r].name);
        encode_run(&t, rows[r].unit, rows[r].count, "th", &all);
        if (strcmp(rows[r].name, "two cuts") == 0)
            encode_run(&t, rows[r].unit, cut, "", &parts);
        if (strcmp(rows[r].name, "words") == 0) { /* 400,000 characters end inside the word before the last */
            encode_run(&t, rows[r].unit, cut, "h", &parts);
            encode_run(&t, "h", 1, " th", &parts);
        } else {
            encode_run(&t, rows[r].unit, cut, "", &parts);
            encode_run(&t, rows[r].unit, rows[r].count - (strcmp(rows[r].name, "two cuts") == 0 ? 2 * cut : cut), "th",
                       &parts);
        }
        ASSERT_EQ_U64(parts.count, all.count);
        EXPECT_MEM_EQ(parts.ids, all.ids, all.count * sizeof *all.ids);
        id_list_release(&all);
        id_list_release(&parts);
    }
    tokenizer_release(&t);
}

TEST(tokenizer_tiktoken, takes_its_special_tokens_from_the_config)
{
    struct tokenizer t = {0};
    struct err e = {0};

    ASSERT_OK(tokenizer_open(&t, KIMI, &e), e);
    EXPECT_FALSE(t.add_bos);
    EXPECT_EQ_U64(t.bpe.id_limit - 256, t.bos_id);
    EXPECT_EQ_U64(t.bpe.id_limit - 255, t.eos_id);
    EXPECT_EQ_U64(t.bpe.id_limit - 1, tokenizer_find(&t, "[PAD]"));
    EXPECT_EQ_U64(256, t.added.count);
    tokenizer_release(&t);
}

static const char *all_bytes_model(struct buf *text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    text->bytes = 0;
    for (unsigned b = 0; b < 256; b++)
        buf_printf(text, "%c%c== %u\n", digits[b >> 2], digits[(b & 3) << 4], b);
    return text->data;
}

TEST(tokenizer_tiktoken, files_that_are_wrong_are_refused)
{
    static const struct {
        const char *more, *config, *message;
        enum err_code code;
    } rows[] = {
        {"QUI= 256\n", NULL, NULL, ERR_NONE},
        {"QUI= 256\r\n\n", "{\"added_tokens_decoder\":{}}", NULL, ERR_NONE},
        {"QUI=\n", NULL, "line 257: it is not \"base64 rank\"", ERR_FORMAT},
        {"QUI= x\n", NULL, "line 257: it is not \"base64 rank\"", ERR_FORMAT},
        {"QUI= 99999999999\n", NULL, "with a rank below 4194304", ERR_FORMAT},
        {"QUI 256\n", NULL, "line 257: the token is not base64", ERR_FORMAT},
        {"Q=I= 256\n", NULL, "line 257: the token is not base64", ERR_FORMAT},
        {" 256\n", NULL, "line 257: the token is not base64", ERR_FORMAT},
        {"QUI= 7\n", NULL, "line 257: token id 7 is given twice", ERR_FORMAT},
        {"QQ== 256\n", NULL, "line 257: tokens 65 and 256 are the same bytes", ERR_FORMAT},
        {"QUI= 300\n", NULL, "rank 300 stands where the 257 ranks should have ended", ERR_FORMAT},
        {"", "[", "tokenizer_config.json: ", ERR_FORMAT},
        {"", "{\"added_tokens_decoder\":{\"256\":7}}", "'256' is no object with content", ERR_FORMAT},
        {"", "{\"added_tokens_decoder\":{\"256\":{\"content\":\"a\"},\"257\":{\"content\":\"a\"}}}",
         "added token 'a' is given twice", ERR_FORMAT},
    };
    struct buf text = {0};
    struct tokenizer t = {0};
    struct err e = {0};

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        const char *config = rows[r].config;
        e = (struct err){0};
        all_bytes_model(&text);
        buf_puts(&text, rows[r].more);
        ct_case("'%s' '%s'", rows[r].more, config ? config : "");
        bool ok = tokenizer_parse_tiktoken(&t, text.data, text.bytes, config, config ? strlen(config) : 0, &e);
        EXPECT_TRUE(ok == (rows[r].code == ERR_NONE));
        if (!ok)
            EXPECT_ERR(e, rows[r].code, rows[r].message);
        tokenizer_release(&t);
    }
    e = (struct err){0};
    EXPECT_FALSE(tokenizer_parse_tiktoken(&t, "QQ== 0\n", 7, NULL, 0, &e));
    EXPECT_ERR(e, ERR_UNSUPPORTED, "no token is byte 0x00");
    e = (struct err){0};
    EXPECT_FALSE(tokenizer_parse_tiktoken(&t, "\n", 1, NULL, 0, &e));
    EXPECT_ERR(e, ERR_FORMAT, "there is no token in it");
    buf_release(&text);
}
