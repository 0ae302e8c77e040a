#include "verify/sampler.h"

#include <string.h>

#include "formats/base/file.h"
#include "formats/checkpoint.h"
#include "tests/ct.h"
#include "verify/stop_ids.h"
#include "verify/text_stream.h"

/* ---- picking ---- */

TEST(sampler, greedy_takes_the_highest_and_the_lower_id_of_equals)
{
    static const float logits[] = {-3.0f, 2.5f, 1.0f, 2.5f, -1.0f, 9.0f};
    struct sampler s;

    sampler_init(&s, &(struct sampler_options){.top_p = 1});
    EXPECT_EQ_U64(1, sampler_pick(&s, logits, 5)); /* the sixth is padding */
    EXPECT_EQ_U64(5, sampler_pick(&s, logits, 6));
    EXPECT_EQ_U64(0, sampler_pick(&s, logits, 1));
    sampler_release(&s);
}

/* Logits ln 1, ln 2, ln 3, ln 4 in another order; shares are the integers' at temperature 1, their squares' at 1/2. */
static const float quarter_logits[4] = {0.69314718f, 0.0f, 1.38629436f, 1.09861229f};

TEST(sampler, tokens_come_as_often_as_their_share_says)
{
    static const struct {
        struct sampler_options options;
        double shares[4];
    } rows[] = {
        {{.temperature = 1, .top_p = 1, .seed = 1}, {0.2, 0.1, 0.4, 0.3}},
        {{.temperature = 0.5, .top_p = 1, .seed = 2}, {4 / 30.0, 1 / 30.0, 16 / 30.0, 9 / 30.0}},
        {{.temperature = 1, .top_p = 1, .top_k = 2, .seed = 3}, {0, 0, 4 / 7.0, 3 / 7.0}},
        {{.temperature = 1, .top_p = 0.71, .seed = 4}, {2 / 9.0, 0, 4 / 9.0, 3 / 9.0}},
        {{.temperature = 1, .top_p = 0.69, .seed = 5}, {0, 0, 4 / 7.0, 3 / 7.0}},
        {{.temperature = 1, .top_p = 0.01, .seed = 6}, {0, 0, 1, 0}},
        {{.temperature = 1, .top_p = 0.5, .top_k = 1, .seed = 7}, {0, 0, 1, 0}},
        {{.temperature = 1, .top_p = 0.58, .top_k = 2, .seed = 8}, {0, 0, 4 / 7.0, 3 / 7.0}},
        {{.temperature = 1, .top_p = 0.56, .top_k = 2, .seed = 8}, {0, 0, 1, 0}},
    };
    enum { DRAWS = 40000 };

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        size_t seen[4] = {0};
        struct sampler s;
        ct_case("row %zu", r);
        sampler_init(&s, &rows[r].options);
        for (int i = 0; i < DRAWS; i++) {
            uint32_t id = sampler_pick(&s, quarter_logits, 4);
            ASSERT_TRUE(id < 4);
            seen[id]++;
        }
        for (int i = 0; i < 4; i++) {
            EXPECT_NEAR_F64(rows[r].shares[i], (double)seen[i] / DRAWS, 0.0125); /* five standard deviations */
            if (rows[r].shares[i] == 0)
                EXPECT_EQ_U64(0, seen[i]);
        }
        sampler_release(&s);
    }
}

TEST(sampler, the_seed_decides)
{
    uint32_t picks[3][64];

    for (int run = 0; run < 3; run++) {
        struct sampler s;
        sampler_init(&s, &(struct sampler_options){.temperature = 1, .top_p = 1, .seed = run == 2 ? 8 : 7});
        for (int i = 0; i < 64; i++)
            picks[run][i] = sampler_pick(&s, quarter_logits, 4);
        sampler_release(&s);
    }
    EXPECT_MEM_EQ(picks[0], picks[1], sizeof picks[0]);
    EXPECT_TRUE(memcmp(picks[0], picks[2], sizeof picks[0]) != 0);
}

/* ---- text as it comes ---- */

TEST(text_stream, characters_are_never_cut)
{
    static const struct {
        const char *parts[5];
        const char *after[5]; /* all that has come out behind each part */
        const char *end;
    } rows[] = {
        {{"ab", "c"}, {"ab", "abc"}, "abc"},
        {{"\xe6", "\xbc", "\xa2!"}, {"", "", "漢!"}, "漢!"},
        {{"a\xf0\x9f", "\x98", "\x80"}, {"a", "a", "a😀"}, "a😀"},
        {{"a\xe6\xbc"}, {"a"}, "a\xef\xbf\xbd"},
        {{"a\xe6", "b"},
         {"a", "a\xef\xbf\xbd"
               "b"},
         "a\xef\xbf\xbd"
         "b"},
        {{"\xff\x80z"}, {"\xef\xbf\xbd\xef\xbf\xbdz"}, "\xef\xbf\xbd\xef\xbf\xbdz"},
        {{"", "x"}, {"", "x"}, "x"},
    };

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct text_stream s = {0};
        struct buf out = {0};
        ct_case("row %zu", r);
        for (size_t p = 0; p < 5 && rows[r].parts[p]; p++) {
            text_stream_put(&s, rows[r].parts[p], strlen(rows[r].parts[p]), &out);
            EXPECT_STR_EQ(rows[r].after[p], out.data ? out.data : "");
        }
        text_stream_end(&s, &out);
        EXPECT_STR_EQ(rows[r].end, out.data);
        text_stream_release(&s);
        buf_release(&out);
    }
}

/* ---- ends ---- */

TEST(stop_ids, come_from_the_first_file_that_names_them)
{
    static const struct {
        const char *generation, *config;
        uint32_t tokenizer_eos;
        size_t count;
        uint32_t ids[2];
        const char *message;
    } rows[] = {
        {"{\"eos_token_id\": 5}", "{\"eos_token_id\": 6}", 7, 1, {5}, NULL},
        {"{\"eos_token_id\": [5, 9]}", "{\"eos_token_id\": 6}", 7, 2, {5, 9}, NULL},
        {"{\"eos_token_id\": null}", "{\"eos_token_id\": 6}", 7, 1, {6}, NULL},
        {NULL, "{\"text_config\": {\"eos_token_id\": [6]}}", 7, 1, {6}, NULL},
        {NULL, "{}", 7, 1, {7}, NULL},
        {NULL, "{}", BPE_NONE, 0, {0}, NULL},
        {"{\"eos_token_id\": \"x\"}", "{}", 7, 0, {0}, "generation_config.json': eos_token_id is no token id"},
        {"{", "{}", 7, 0, {0}, "generation_config.json"},
        {NULL, "{\"eos_token_id\": [-1]}", 7, 0, {0}, "config.json: eos_token_id is no token id"},
    };

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct arena a = {0};
        struct stop_ids s = {0};
        struct tokenizer t = {.eos_id = rows[r].tokenizer_eos};
        char config[64];
        struct checkpoint c = {.dir = ct_temp_dir(), .config = config, .config_bytes = strlen(rows[r].config)};
        struct err e = {0};
        ct_case("row %zu", r);
        memcpy(config, rows[r].config, c.config_bytes + 1);
        if (rows[r].generation)
            ASSERT_OK(file_write_whole(path_join(&a, c.dir, "generation_config.json"), rows[r].generation,
                                       strlen(rows[r].generation), &e),
                      e);
        bool ok = stop_ids_read(&s, &c, &t, &e);
        EXPECT_TRUE(ok == !rows[r].message);
        if (!ok)
            EXPECT_ERR(e, ERR_FORMAT, rows[r].message);
        if (ok) {
            ASSERT_EQ_U64(rows[r].count, s.ids.count);
            for (size_t i = 0; i < s.ids.count; i++) {
                EXPECT_EQ_U64(rows[r].ids[i], s.ids.ids[i]);
                EXPECT_TRUE(stop_ids_has(&s, rows[r].ids[i]));
            }
            EXPECT_FALSE(stop_ids_has(&s, 1234));
        }
        stop_ids_release(&s);
        arena_release(&a);
    }
}
