/* What the fuzzers are given to start from, and what they found, replayed: a file whose name begins with "bad-" is
 * refused with a message, the others are read. */
#include <string.h>

#include "formats/base/file.h"
#include "tests/ct.h"

#define LLVMFuzzerTestOneInput replay_json
#include "tests/fuzz/fuzz_json.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput replay_safetensors
#include "tests/fuzz/fuzz_safetensors.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput replay_golden
#include "tests/fuzz/fuzz_golden.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput replay_routing_stats
#include "tests/fuzz/fuzz_routing_stats.c"
#undef LLVMFuzzerTestOneInput

static bool read_json(const uint8_t *data, size_t bytes, struct err *e)
{
    struct json_doc d = {0};
    bool ok = json_parse(&d, (const char *)data + 1, bytes - 1, data[0] & 7, e);

    json_release(&d);
    return ok;
}

static bool read_safetensors(const uint8_t *data, size_t bytes, struct err *e)
{
    struct arena a = {0};
    struct safetensors s = {0};
    bool ok = safetensors_parse(&s, &a, data, bytes, bytes, e);

    arena_release(&a);
    return ok;
}

static bool read_golden(const uint8_t *data, size_t bytes, struct err *e)
{
    struct golden g = {0};
    bool ok = golden_parse(&g, data, bytes, e);

    if (ok)
        golden_release(&g);
    return ok;
}

static bool read_routing_stats(const uint8_t *data, size_t bytes, struct err *e)
{
    struct routing_stats s = {0};
    bool ok = routing_stats_parse(&s, data, bytes, e);

    if (ok)
        routing_stats_release(&s);
    return ok;
}

static const struct target {
    const char *name;
    int (*run)(const uint8_t *data, size_t bytes);
    bool (*read)(const uint8_t *data, size_t bytes, struct err *e);
} targets[] = {
    {"json", replay_json, read_json},
    {"safetensors", replay_safetensors, read_safetensors},
    {"golden", replay_golden, read_golden},
    {"routing_stats", replay_routing_stats, read_routing_stats},
};

static bool replay(const struct target *t, const char *path, bool bad)
{
    struct err e = {0};
    char *text = NULL;
    size_t bytes = 0;

    EXPECT_OK(file_slurp(path, 1u << 20, &text, &bytes, &e), e);
    uint8_t *data = mem_grow(NULL, bytes, 1); /* no NUL behind it that a parser could lean on */
    memcpy(data, text, bytes);
    t->run(data, bytes);
    bool ok = t->read(data, bytes, &e);
    EXPECT_TRUE(ok == !bad);
    EXPECT_TRUE(ok || e.text[0] != '\0');
    mem_free(data);
    mem_free(text);
    return ok;
}

TEST(fuzz_corpus, every_file_is_read_or_refused_as_its_name_says)
{
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        struct arena a = {0};
        struct err e = {0};
        char **names = NULL;
        size_t count = 0, good = 0;
        const char *dir = path_join(&a, "tests/fuzz/corpus", targets[i].name);
        ASSERT_OK(dir_list(dir, &a, &names, &count, &e), e);
        for (size_t n = 0; n < count; n++) {
            ct_case("%s: %s", targets[i].name, names[n]);
            good += replay(&targets[i], path_join(&a, dir, names[n]), strncmp(names[n], "bad-", 4) == 0);
        }
        EXPECT_TRUE(good > 0 && good < count);
        arena_release(&a);
    }
}
