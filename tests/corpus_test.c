#include "verify/corpus.h"

#include <string.h>

#include "formats/base/file.h"
#include "formats/base/gzip.h"
#include "tests/ct.h"
#include "verify/builtin_text.h"
#include "verify/chat.h"

#define SAMPLE "samples/tiny-v3"
#define KIMI   "tests/fixtures/tokenizer/kimi"

/* The sample's tokenizer and what a corpus asks of a model, in a folder for files. */
struct scene {
    struct arena arena;
    struct tokenizer t;
    struct arch arch;
    const char *dir;
};

static void scene_open(struct scene *s, const char *tokenizer)
{
    struct err e = {0};

    *s = (struct scene){.arch = {.vocab_size = 4096, .max_positions = 4096}, .dir = ct_temp_dir()};
    ASSERT_OK(tokenizer_open(&s->t, tokenizer, &e), e);
}

static void scene_close(struct scene *s)
{
    tokenizer_release(&s->t);
    arena_release(&s->arena);
}

static const char *scene_file(struct scene *s, const char *name, const char *text)
{
    const char *path = path_join(&s->arena, s->dir, name);
    struct err e = {0};

    EXPECT_OK(file_write_whole(path, text, strlen(text), &e), e);
    return path;
}

/* Words of one token each, under the sample's tokenizer: " a" is 261. */
static const char *words(struct scene *s, size_t count)
{
    struct buf text = {0};

    for (size_t i = 0; i < count; i++)
        buf_puts(&text, " a");
    const char *copy = arena_strndup(&s->arena, text.data ? text.data : "", text.bytes);
    buf_release(&text);
    return copy;
}

/* ---- cutting ---- */

TEST(corpus, texts_are_cut_into_contexts_and_the_tail_is_dropped)
{
    static const struct {
        size_t words;
        uint64_t tokens, context;
        size_t contexts, longest, dropped;
        bool is_short;
    } rows[] = {
        {8192, 0, 256, 32, 256, 32, false},
        {9000, 8192, 256, 32, 256, 32, false},
        {8160, 8160, 256, 32, 256, 0, false},
        {8159, 0, 256, 31, 256, 254, false},
        {100, 0, 256, 1, 101, 0, false},
        {100, 200, 256, 1, 101, 0, true},
        {255, 0, 256, 1, 256, 0, false},
        {256, 0, 256, 1, 256, 1, false},
        {1, 0, 2, 1, 2, 0, false},
        {5, 0, 2, 5, 2, 0, false},
        {1100, 0, 0, 2, 512, 78, false},
        {300, 10, 4, 3, 4, 1, false},
        {4095, 0, 4096, 1, 4096, 0, false},
    };
    struct scene s;

    scene_open(&s, SAMPLE);
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct corpus_options o = {.text = scene_file(&s, "text", words(&s, rows[r].words)),
                                   .tokens = rows[r].tokens,
                                   .context = rows[r].context};
        struct corpus c;
        struct err e = {0};
        ct_case("%zu words, --tokens %d --context %d", rows[r].words, (int)rows[r].tokens, (int)rows[r].context);
        ASSERT_OK(corpus_open(&c, &s.t, &s.arch, &o, &e), e);
        EXPECT_EQ_U64(rows[r].contexts, c.batch.sequence_count);
        EXPECT_EQ_U64(rows[r].longest, batch_longest(&c.batch));
        EXPECT_EQ_U64(rows[r].dropped, c.dropped_tokens);
        EXPECT_TRUE(rows[r].is_short == c.is_short);
        EXPECT_EQ_U64(1, c.text_count);
        EXPECT_EQ_U64(c.text_tokens - c.dropped_tokens + rows[r].contexts, c.batch.tokens);
        for (size_t i = 0, first = 0; i < c.batch.sequence_count; i++) {
            const struct sequence *q = &c.batch.sequences[i];
            ASSERT_EQ_U64(first, q->first);
            ASSERT_EQ_U64(0, q->start_pos);
            ASSERT_EQ_U64(0, c.batch.ids[first]);
            ASSERT_EQ_U64(261, c.batch.ids[first + 1]);
            first += q->tokens;
        }
        corpus_release(&c);
    }
    scene_close(&s);
}

/* reference/kl.py's cut, [[0]+ids[i:i+T-1] for i in range(0,len(ids)-T,T-1)], on its own example. */
TEST(corpus, the_evaluation_text_is_cut_as_the_reference_does)
{
    struct scene s;
    struct corpus c;
    struct id_list ids = {0};
    struct tokenizer_encode how = {0};
    struct corpus_options o = {.text = "samples/text/evaluation.txt", .tokens = 8192, .context = 256};
    char *text = NULL;
    size_t bytes = 0, context = 0;
    struct err e = {0};

    scene_open(&s, SAMPLE);
    ASSERT_OK(corpus_open(&c, &s.t, &s.arch, &o, &e), e);
    ASSERT_OK(file_slurp(o.text, 1u << 20, &text, &bytes, &e), e);
    ASSERT_OK(tokenizer_encode(&s.t, text, bytes, &how, &ids, &e), e);
    for (size_t i = 0; i + 256 < 8192; i += 255, context++) {
        ASSERT_TRUE(context < c.batch.sequence_count);
        const uint32_t *got = c.batch.ids + c.batch.sequences[context].first;
        ASSERT_EQ_U64(256, c.batch.sequences[context].tokens);
        EXPECT_EQ_U64(0, got[0]);
        EXPECT_MEM_EQ(ids.ids + i, got + 1, 255 * sizeof *got);
    }
    EXPECT_EQ_U64(32, context);
    EXPECT_EQ_U64(context, c.batch.sequence_count);
    mem_free(text);
    id_list_release(&ids);
    corpus_release(&c);
    scene_close(&s);
}

TEST(corpus, without_bos_a_context_is_all_text)
{
    struct scene s;
    struct corpus c;
    struct err e = {0};

    scene_open(&s, KIMI); /* no add_bos_token */
    struct corpus_options o = {.text = scene_file(&s, "text", "~!~!~!~!~!"), .context = 4};
    ASSERT_OK(corpus_open(&c, &s.t, &s.arch, &o, &e), e);
    EXPECT_FALSE(c.has_bos);
    EXPECT_EQ_U64(2, c.batch.sequence_count);
    EXPECT_EQ_U64(8, c.batch.tokens);
    EXPECT_EQ_U64(2, c.dropped_tokens);
    corpus_release(&c);
    scene_close(&s);
}

TEST(corpus, a_bos_in_the_text_is_not_doubled)
{
    struct scene s;
    struct corpus c;
    struct err e = {0};

    scene_open(&s, SAMPLE);
    struct corpus_options o = {.text = scene_file(&s, "text", "<｜begin▁of▁sentence｜>Hi"), .tokens = 2};
    ASSERT_OK(corpus_open(&c, &s.t, &s.arch, &o, &e), e);
    const uint32_t want[] = {0, 75, 108};
    ASSERT_EQ_U64(3, c.batch.tokens);
    EXPECT_MEM_EQ(want, c.batch.ids, sizeof want);
    corpus_release(&c);
    scene_close(&s);
}

TEST(corpus, a_seed_takes_a_choice_of_all_contexts)
{
    struct scene s;
    struct corpus first, again, other, start;
    struct corpus_options o = {.text = "samples/text/evaluation.txt", .tokens = 2600, .context = 256, .seed = 1};
    struct err e = {0};

    scene_open(&s, SAMPLE);
    ASSERT_OK(corpus_open(&first, &s.t, &s.arch, &o, &e), e);
    ASSERT_OK(corpus_open(&again, &s.t, &s.arch, &o, &e), e);
    o.seed = 2;
    ASSERT_OK(corpus_open(&other, &s.t, &s.arch, &o, &e), e);
    o.seed = 0;
    ASSERT_OK(corpus_open(&start, &s.t, &s.arch, &o, &e), e);
    ASSERT_EQ_U64(10, first.batch.sequence_count);
    ASSERT_EQ_U64(10, start.batch.sequence_count);
    EXPECT_MEM_EQ(first.batch.ids, again.batch.ids, first.batch.tokens * sizeof *first.batch.ids);
    EXPECT_TRUE(memcmp(first.batch.ids, other.batch.ids, first.batch.tokens * sizeof *first.batch.ids) != 0);
    EXPECT_TRUE(memcmp(first.batch.ids, start.batch.ids, first.batch.tokens * sizeof *first.batch.ids) != 0);
    corpus_release(&first);
    corpus_release(&again);
    corpus_release(&other);
    corpus_release(&start);
    scene_close(&s);
}

/* ---- kinds of texts ---- */

static void expect_corpus(struct scene *s, const char *path, const uint32_t *want, size_t count, size_t contexts)
{
    struct corpus_options o = {.text = path};
    struct corpus c;
    struct err e = {0};

    ct_case("%s", path);
    ASSERT_OK(corpus_open(&c, &s->t, &s->arch, &o, &e), e);
    EXPECT_EQ_U64(contexts, c.batch.sequence_count);
    EXPECT_EQ_U64(contexts, c.text_count);
    ASSERT_EQ_U64(count, c.batch.tokens);
    EXPECT_MEM_EQ(want, c.batch.ids, count * sizeof *want);
    corpus_release(&c);
}

TEST(corpus, records_are_texts_of_their_own)
{
    const char *const lines = "{\"text\": \"Hi\"}\n\n{\"id\":7,\"text\":\"\"}\n{\"text\":\"Hello\"}";
    static const uint32_t want[] = {0, 75, 108, 0, 75, 501, 114};
    struct scene s;
    struct buf packed = {0};
    struct err e = {0};

    scene_open(&s, SAMPLE);
    expect_corpus(&s, scene_file(&s, "a.jsonl", lines), want, 7, 2);
    expect_corpus(&s, scene_file(&s, "by-its-first-line", lines), want, 7, 2);
    ASSERT_OK(gzip_pack(&packed, lines, strlen(lines), &e), e);
    ASSERT_OK(file_write_whole(path_join(&s.arena, s.dir, "b.jsonl.gz"), packed.data, packed.bytes, &e), e);
    expect_corpus(&s, path_join(&s.arena, s.dir, "b.jsonl.gz"), want, 7, 2);
    buf_release(&packed);
    scene_close(&s);
}

TEST(corpus, source_code_in_json_is_plain_text)
{
    struct scene s;
    struct corpus c;
    struct err e = {0};

    scene_open(&s, SAMPLE);
    struct corpus_options o = {.text = scene_file(&s, "data.json", "{\n \"text\": 1\n}\n")};
    ASSERT_OK(corpus_open(&c, &s.t, &s.arch, &o, &e), e);
    EXPECT_EQ_U64(1, c.batch.sequence_count);
    corpus_release(&c);
    scene_close(&s);
}

TEST(corpus, messages_get_the_markers_of_the_family)
{
    const char *const messages = "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"U\"},"
                                 "{\"role\":\"assistant\",\"content\":\"A\"},{\"role\":\"user\",\"content\":\"V\"}]";
    static const struct {
        const char *tokenizer, *want, *ask;
    } rows[] = {
        {SAMPLE, "S<｜User｜>U<｜Assistant｜>A<｜end▁of▁sentence｜><｜User｜>V", "<｜User｜>Q<｜Assistant｜>"},
        {KIMI,
         "<|im_system|>system<|im_middle|>S<|im_end|><|im_user|>user<|im_middle|>U<|im_end|>"
         "<|im_assistant|>assistant<|im_middle|>A<|im_end|><|im_user|>user<|im_middle|>V<|im_end|>",
         "<|im_user|>user<|im_middle|>Q<|im_end|><|im_assistant|>assistant<|im_middle|>"},
    };

    for (size_t r = 0; r < 2; r++) {
        struct tokenizer t = {0};
        struct json_doc d = {0};
        struct buf out = {0};
        struct err e = {0};
        ct_case("%s", rows[r].tokenizer);
        ASSERT_OK(tokenizer_open(&t, rows[r].tokenizer, &e), e);
        ASSERT_OK(json_parse(&d, messages, strlen(messages), JSON_STRICT, &e), e);
        ASSERT_OK(chat_render(&t, d.root, &out, &e), e);
        EXPECT_STR_EQ(rows[r].want, out.data);
        out.bytes = 0;
        chat_ask(&t, "Q", &out);
        EXPECT_STR_EQ(rows[r].ask, out.data);
        EXPECT_TRUE(chat_is_known(&t) == (r == 1));
        buf_release(&out);
        json_release(&d);
        tokenizer_release(&t);
    }
}

TEST(corpus, builtin_texts_are_there_without_a_file)
{
    struct scene s;
    struct corpus c;
    struct corpus_options o = {.context = 128};
    struct buf words_for_it = {0};
    struct err e = {0};
    size_t texts = 0, bytes = 0;

    for (const struct builtin_text *b = builtin_texts; b->name; b++, texts++)
        bytes += strlen(b->text);
    EXPECT_TRUE(texts >= 10 && bytes >= 12000 && bytes <= 24000);
    scene_open(&s, SAMPLE);
    ASSERT_OK(corpus_open(&c, &s.t, &s.arch, &o, &e), e);
    EXPECT_TRUE(c.is_builtin);
    EXPECT_EQ_U64(texts, c.text_count);
    EXPECT_TRUE(c.batch.tokens > 4096);
    corpus_describe(&c, &words_for_it);
    EXPECT_STR_HAS(words_for_it.data, "contexts of 128 tokens from built-in texts");
    buf_release(&words_for_it);
    corpus_release(&c);
    scene_close(&s);
}

/* ---- ids ---- */

TEST(corpus, ids_are_used_as_they_are)
{
    static const struct {
        uint64_t tokens, context;
        size_t contexts, all;
    } rows[] = {{0, 0, 3, 9}, {0, 2, 4, 7}, {6, 0, 2, 6}, {8, 0, 2, 6}, {5, 2, 3, 5}};
    struct scene s;

    scene_open(&s, SAMPLE);
    const char *path = scene_file(&s, "ids", "7 8 9 10 11\n12\n13 14 15\n");
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct corpus_options o = {.ids = path, .tokens = rows[r].tokens, .context = rows[r].context};
        struct corpus c;
        struct err e = {0};
        ct_case("--tokens %d --context %d", (int)rows[r].tokens, (int)rows[r].context);
        ASSERT_OK(corpus_open(&c, NULL, &s.arch, &o, &e), e);
        EXPECT_FALSE(c.has_bos);
        EXPECT_EQ_U64(rows[r].contexts, c.batch.sequence_count);
        EXPECT_EQ_U64(rows[r].all, c.batch.tokens);
        EXPECT_EQ_U64(7, c.batch.ids[0]);
        corpus_release(&c);
    }
    scene_close(&s);
}

/* ---- refusals ---- */

TEST(corpus, what_cannot_be_run_is_refused)
{
    static const struct {
        const char *name, *text; /* "ids": given as --ids */
        uint64_t tokens, context;
        enum err_code code;
        const char *message;
    } rows[] = {
        {"empty", "", 0, 0, ERR_FORMAT, "there is no text in '"},
        {"empty.jsonl", "{\"text\":\"\"}\n", 0, 0, ERR_FORMAT, "there is no text in '"},
        {"ids", "# nothing\n", 0, 0, ERR_FORMAT, "there are no ids in '"},
        {"text", "a b", 0, 5000, ERR_USAGE, "--context 5000 is past the model's 4096 positions"},
        {"text", "a b", 0, 1, ERR_USAGE, "--context 1 is no context"},
        {"text", "a\xff", 0, 0, ERR_FORMAT, "byte 0xff at offset 1 is not UTF-8"},
        {"ids", "1 2\n3 5000\n", 0, 0, ERR_FORMAT, "line 2: id 5000 is past the vocabulary of 4096 tokens"},
        {"ids", "1 2 3\n", 2, 0, ERR_USAGE, "--tokens 2 is less than one context"},
        {"x.jsonl", "{\"text\":\"a\"}\n{\"text\":1}\n", 0, 0, ERR_FORMAT, "line 2: text is a number, not a string"},
        {"x.jsonl", "{\"text\":\"a\"}\n\n{\"prompt\":1}\n", 0, 0, ERR_FORMAT,
         "line 3: there is neither text nor messages"},
        {"x.jsonl", "7\n", 0, 0, ERR_FORMAT, "line 1: there is neither text nor messages"},
        {"x.jsonl", "{\"text\":\"a\"\n", 0, 0, ERR_FORMAT, "line 1: the text ends where"},
        {"x.jsonl", "{\"messages\":[{\"role\":\"tool\",\"content\":\"\"}]}", 0, 0, ERR_UNSUPPORTED,
         "line 1: message 0: role 'tool' is not supported"},
        {"x.jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", 0, 0, ERR_UNSUPPORTED,
         "message 0: content is an array, not a string"},
        {"x.jsonl", "{\"messages\":{}}", 0, 0, ERR_FORMAT, "messages is an object, not an array"},
    };
    struct scene s;

    scene_open(&s, SAMPLE);
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        const char *path = scene_file(&s, rows[r].name, rows[r].text);
        bool ids = strcmp(rows[r].name, "ids") == 0;
        struct corpus_options o = {
            .text = ids ? NULL : path, .ids = ids ? path : NULL, .tokens = rows[r].tokens, .context = rows[r].context};
        struct corpus c;
        struct err e = {0};
        ct_case("%s: %s", rows[r].name, rows[r].message);
        EXPECT_FALSE(corpus_open(&c, &s.t, &s.arch, &o, &e));
        EXPECT_ERR(e, rows[r].code, rows[r].message);
        EXPECT_TRUE(c.sequences == NULL && c.ids.ids == NULL);
    }
    scene_close(&s);
}

TEST(corpus, a_model_smaller_than_its_tokenizer_or_its_sequences_is_refused)
{
    struct scene s;
    struct corpus c;
    struct err e = {0};

    scene_open(&s, SAMPLE);
    s.arch.vocab_size = 500;
    struct corpus_options o = {.text = scene_file(&s, "text", "Hello")};
    EXPECT_FALSE(corpus_open(&c, &s.t, &s.arch, &o, &e));
    EXPECT_ERR(e, ERR_FORMAT, "token 'ell' has id 501, past the model's vocabulary of 500");
    e = (struct err){0};
    s.arch.max_positions = 2;
    o = (struct corpus_options){.ids = scene_file(&s, "ids", "1\n2 3 4\n")};
    EXPECT_FALSE(corpus_open(&c, NULL, &s.arch, &o, &e));
    EXPECT_ERR(e, ERR_FORMAT, "sequence 2 has 3 tokens, past the model's 2 positions");
    e = (struct err){0};
    o.text = o.ids;
    EXPECT_FALSE(corpus_open(&c, &s.t, &s.arch, &o, &e));
    EXPECT_ERR(e, ERR_USAGE, "give --text or --ids, not both");
    scene_close(&s);
}
