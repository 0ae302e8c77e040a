#include "convert/conversion.h"

#include <stdio.h>
#include <string.h>

#include "convert/bundle.h"
#include "convert/plan.h"
#include "convert/plan_print.h"
#include "convert/run.h"
#include "convert/stage.h"
#include "convert/summary.h"
#include "formats/base/file.h"
#include "formats/base/log.h"
#include "formats/base/progress.h"
#include "formats/engine.h"

/* File systems keep some blocks for themselves, and the index and quern.json grow with the number of tensors. */
#define SPARE_BYTES (16u << 20)
#define SPARE_BYTES_PER_WEIGHT 1024u

static uint64_t needed_bytes(const struct plan *p)
{
    uint64_t bytes = 0;

    for (size_t o = 0; o < p->output_count; o++)
        bytes += p->outputs[o].file_bytes + SPARE_BYTES + p->weight_count * SPARE_BYTES_PER_WEIGHT;
    return bytes;
}

static bool check_space(const struct plan *p, struct err *e)
{
    uint64_t free_bytes = 0, need = needed_bytes(p);

    if (!path_free_bytes(p->outputs[0].dir, &free_bytes, e))
        return false;
    if (free_bytes < need)
        return err_set(e, ERR_IO, "not enough room for '%s': %llu bytes needed, %llu free", p->outputs[0].dir,
                       (unsigned long long)need, (unsigned long long)free_bytes);
    return true;
}

static void say_line(void *ctx, const char *line)
{
    (void)ctx;
    log_note("%s", line);
}

static void note_limits(const struct plan *p, const struct plan_output *o)
{
    struct engine_weight *list = mem_alloc((p->weight_count + 1) * sizeof *list);
    size_t count = 0;

    for (size_t i = 0; i < p->weight_count; i++)
        if (p->weights[i]->id.part != NAME_INPUT_SCALE)
            list[count++] = (struct engine_weight){.weight = p->weights[i], .scheme = &o->rows[i].scheme};
    engine_check_limits(list, count, say_line, NULL);
    mem_free(list);
}

static void note_plan(const struct plan *p)
{
    const struct plan_output *o = &p->outputs[0];
    size_t fell_back = 0;

    for (size_t i = 0; i < p->source->checkpoint.note_count; i++)
        log_note("%s", p->source->checkpoint.notes[i]);
    for (size_t i = 0; i < p->weight_count; i++)
        if (o->rows[i].fell_back && fell_back++ < 8)
            log_note("'%s' stays wider: %s", p->weights[i]->name, o->rows[i].why);
    if (fell_back > 8)
        log_note("%zu more weights stay wider; --dry-run --verbose lists them", fell_back - 8);
    if (p->drop_count > 0)
        log_note("%zu source tensors are left out, '%s' first: %s", p->drop_count, p->drops[0].name, p->drops[0].why);
    note_limits(p, o);
}

/* config.json is made before the first weight is read: what cannot be said there fails now. */
static bool check_config(const struct plan *p, struct err *e)
{
    struct buf config = {0};
    bool ok = bundle_config(p, &p->outputs[0], &config, e);

    buf_release(&config);
    return ok;
}

static bool run_and_write(const struct conversion *c, struct plan *p, struct stage *stage, struct run_result *result,
                          struct err *e)
{
    struct run_options options = {.threads = (unsigned)c->threads, .memory_bytes = c->memory_bytes};
    struct bundle_options bundle = {.base_model = c->base_model};
    struct progress *progress = progress_new("converting", p->read_bytes + p->write_bytes, c->quiet);
    bool ok = run_plan(p, &options, stage, result, progress, e);

    progress_end(progress, ok);
    return ok && bundle_write(p, 0, result, &bundle, stage, e) && stage_publish(stage, e);
}

static void print_result(const struct conversion *c, const struct plan *p, const struct run_result *result)
{
    if (c->json) {
        plan_print_json(p, 0, result, NULL, NULL);
        return;
    }
    struct arena a = {0};
    struct summary s;
    char in[BYTES_TEXT], out[BYTES_TEXT];
    const struct plan_output *o = &p->outputs[0];

    summary_make(&s, &a, p, o, result);
    summary_print(&s, true);
    printf("%s in %zu shard%s -> '%s': %s in %zu shard%s\n", bytes_text(p->source->checkpoint.tensor_bytes, in),
           p->source->checkpoint.shard_count, p->source->checkpoint.shard_count == 1 ? "" : "s", o->dir,
           bytes_text(o->file_bytes, out), o->shard_count, o->shard_count == 1 ? "" : "s");
    arena_release(&a);
}

static bool convert(const struct conversion *c, struct plan *p, struct err *e)
{
    struct stage stage = {0};
    struct run_result result = {0};
    const struct checkpoint *source = &p->source->checkpoint;
    bool ok = false;

    if (!check_space(p, e) || !stage_open(&stage, p->outputs[0].dir, source->dir, c->force, false, e))
        return false;
    if (!run_and_write(c, p, &stage, &result, e))
        goto done;
    print_result(c, p, &result);
    ok = true;
done:
    stage_release(&stage, false);
    return ok;
}

static bool dry_run(const struct conversion *c, const struct plan *p, struct err *e)
{
    struct run_options options = {.threads = (unsigned)c->threads, .memory_bytes = c->memory_bytes};
    struct run_size size = {0};
    struct estimate estimate = {0};

    if (!run_size(p, &options, &size, e) || !estimate_plan(&estimate, p, size.threads, e))
        return false;
    if (c->json)
        plan_print_json(p, 0, NULL, &size, &estimate);
    else
        plan_print(p, 0, &size, &estimate, c->verbose);
    return check_space(p, e);
}

static bool plan_and_go(const struct conversion *c, struct source *source, const char *dst,
                        const struct recipe *recipe, struct err *e)
{
    struct plan_target target = {.dir = dst, .recipe = recipe};
    struct plan_options options = {
        .targets = &target,
        .target_count = 1,
        .shard_bytes = c->shard_bytes,
        .allow_unfused = c->allow_unfused,
        .keep_unknown = c->keep_unknown,
    };
    struct plan p = {0};
    bool ok = false;

    if (!plan_open(&p, source, &options, e))
        return err_in(e, "source '%s'", source->checkpoint.path);
    struct run_options run = {.threads = (unsigned)c->threads, .memory_bytes = c->memory_bytes};
    struct run_size size = {0};
    if (!check_config(&p, e) || !run_size(&p, &run, &size, e))
        goto done;
    note_plan(&p);
    ok = c->dry_run ? dry_run(c, &p, e) : convert(c, &p, e);
done:
    plan_close(&p);
    return ok;
}

int conversion_run(const struct conversion *c, const char *src, const char *dst, const struct recipe *recipe,
                   struct err *e)
{
    struct source source = {0};
    bool ok = false;

    log_set_level(c->quiet ? LOG_QUIET : c->verbose ? LOG_VERBOSE : LOG_NORMAL);
    if (!source_open(&source, src, true, e))
        goto done;
    if (!stage_check(dst, source.checkpoint.dir, c->force || c->dry_run, e))
        goto done;
    ok = plan_and_go(c, &source, dst, recipe, e);
done:
    source_close(&source);
    return ok ? 0 : err_exit_status(e->code);
}
