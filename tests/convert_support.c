#include "tests/convert_support.h"

#include <string.h>

#include "convert/bundle.h"
#include "convert/finished.h"
#include "convert/journal.h"
#include "convert/run.h"
#include "convert/stage.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/log.h"
#include "tests/ct.h"

bool support_recipe(struct recipe *r, const char *recipe, struct err *e)
{
    struct buf text = {0};

    if (recipe[0] != '[')
        return recipe_to(r, recipe, e);
    buf_printf(&text, "{\"name\": \"case\", \"rules\": %s}", recipe);
    bool ok = recipe_parse(r, "case", text.data, text.bytes, e);
    buf_release(&text);
    return ok;
}

bool planned_open(struct planned *p, const char *src, const char *dst, const struct conversion_case *c, struct err *e)
{
    struct plan_options options = c->options;

    *p = (struct planned){.target = {.dir = dst}};
    log_set_level(LOG_QUIET);
    if (options.shard_bytes == 0)
        options.shard_bytes = 5000000000u;
    options.allow_unfused = true;
    options.targets = &p->target;
    options.target_count = 1;
    p->target.recipe = &p->recipe;
    return support_recipe(&p->recipe, c->recipe, e) && source_open(&p->source, src, true, e) &&
           plan_open(&p->plan, &p->source, &options, e);
}

void planned_close(struct planned *p)
{
    plan_close(&p->plan);
    source_close(&p->source);
    recipe_release(&p->recipe);
}

static bool run_and_publish(struct plan *p, const struct run_options *options, bool fingerprint, struct stage *s,
                            struct journal *j, struct err *e)
{
    struct bundle_options bundle = {
        .proofs = fingerprint ? proofs_plan(p, options->threads, &(struct proof_wishes){0}) : NULL,
        .fingerprint = {.threads = options->threads, .memory_bytes = options->memory_bytes, .quiet = true},
    };
    struct run_result *results = run_results_new(p);

    return journal_open(j, stage_path(s, JOURNAL_NAME), p, results, e) &&
           run_plan(p, options, s, j, results, NULL, e) && bundle_write(p, 0, results, &bundle, s, e) &&
           stage_publish(s, e) && stage_finish(s, e) && finished_end(p, options->delete_source, e);
}

static bool run_to(struct plan *p, const char *dst, const struct run_options *options, bool force, bool fingerprint,
                   struct err *e)
{
    struct stage stage = {0};
    struct journal journal = {0};
    bool ok = stage_open(&stage, dst, p->source->checkpoint.dir, force, false, e) &&
              run_and_publish(p, options, fingerprint, &stage, &journal, e);

    journal_close(&journal);
    stage_release(&stage, false);
    return ok;
}

bool support_run(struct plan *p, const char *dst, unsigned threads, uint64_t memory_bytes, struct err *e)
{
    struct run_options options = {.threads = threads, .memory_bytes = memory_bytes};

    return run_to(p, dst, &options, false, false, e);
}

bool support_convert(const char *src, const char *dst, const struct conversion_case *c, struct err *e)
{
    struct run_options options = {.threads = c->threads, .memory_bytes = c->memory_bytes};
    struct planned p = {0};
    bool ok = planned_open(&p, src, dst, c, e) && run_to(&p.plan, dst, &options, c->force, c->fingerprint, e);

    planned_close(&p);
    return ok;
}

/* ---- hashes ---- */

static void add_file(struct hash *h, const char *path)
{
    struct file f = {0};
    struct err e = {0};
    uint8_t block[16384];

    EXPECT_OK(file_open(&f, path, &e), e);
    for (uint64_t at = 0; at < f.bytes; at += sizeof block) {
        size_t bytes = f.bytes - at < sizeof block ? (size_t)(f.bytes - at) : sizeof block;
        EXPECT_OK(file_read(&f, at, block, bytes, &e), e);
        hash_update(h, block, bytes);
    }
    file_close(&f);
}

void support_file_hash(const char *dir, const char *name, char hex[65])
{
    struct arena a = {0};
    struct hash h = {0};

    hash_init(&h);
    add_file(&h, path_join(&a, dir, name));
    hash_final_hex(&h, hex);
    arena_release(&a);
}

void support_tensor_hash(const struct checkpoint *c, const struct tensor *t, char hex[65])
{
    void *data = mem_alloc(t->bytes + 1);
    struct err e = {0};

    EXPECT_OK(checkpoint_read(c, t, 0, data, t->bytes, &e), e);
    hash_hex(data, t->bytes, hex);
    mem_free(data);
}

void support_dir_hash(const char *dir, char hex[65])
{
    struct arena a = {0};
    struct hash h = {0};
    struct err e = {0};
    char **names = NULL;
    size_t count = 0;

    EXPECT_OK(dir_list(dir, &a, &names, &count, &e), e);
    hash_init(&h);
    for (size_t i = 0; i < count; i++) {
        hash_update(&h, names[i], strlen(names[i]) + 1);
        add_file(&h, path_join(&a, dir, names[i]));
    }
    hash_final_hex(&h, hex);
    arena_release(&a);
}
