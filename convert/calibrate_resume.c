/* A killed calibration goes on behind the last layer that it made durable. A layer's statistics are final when the next
 * one begins: they are written to the places that the finished file has for them, synced, and then the record says so;
 * the hidden state behind the layer is a file beside it. */
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "convert/calibrate_private.h"
#include "convert/calibration.h"
#include "convert/stream_file.h"
#include "formats/base/log.h"
#include "formats/base/progress.h"
#include "formats/base/units.h"

#define MAGIC   "quern-calibrate 1\n"
#define RECORDS "layers"

static double now_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const char *state_path(struct calibrate_saved *s, uint64_t layer)
{
    return arena_printf(&s->arena, "%s/hidden-%" PRIu64, s->dir, layer);
}

/* Sums are not the same on another class of CPU, so that a file has those of one. */
static void write_facts(struct buf *out, struct calibrate *c)
{
    buf_puts(out, MAGIC);
    record_fact(out, "version", QUERN_VERSION);
    record_fact(out, "text", calibration_batch_text(c->options->batch, &c->saved.arena));
    record_fact(out, "losses", c->options->losses ? "measured" : "none");
    record_fact(out, "kernels", c->kernel->kernel_class);
    record_source_facts(out, &c->source->checkpoint);
    buf_puts(out, "end\n");
}

/* Lines "layer N", in order. */
static bool read_records(struct calibrate_saved *s, const char *text, struct err *e)
{
    for (const char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        const char *want = arena_printf(&s->arena, "layer %" PRIu64, s->layers_done);
        if ((size_t)(end - line) != strlen(want) || memcmp(line, want, strlen(want)) != 0)
            return err_set(e, ERR_FORMAT, "'%s' has a line that no run wrote: '%.*s'; --restart discards it",
                           s->records.path, (int)record_line_bytes(line), line);
        s->layers_done++;
    }
    return true;
}

static bool open_records(struct calibrate *c, const struct buf *facts, struct err *e)
{
    struct calibrate_saved *s = &c->saved;
    char *records = NULL;
    bool ok = dir_make(s->dir, e) &&
              record_open(&s->records, path_join(&s->arena, s->dir, RECORDS), facts, &records, e) &&
              (!records || read_records(s, records, e));

    mem_free(records);
    return ok;
}

/* The writer holds the lock of the partial file, so that what is removed is no other run's. A record without the file
 * it speaks of is left when a run is killed between its last two steps. */
static bool open_both(struct calibrate *c, const char *path, const struct buf *facts, struct err *e)
{
    struct calibrate_saved *s = &c->saved;
    bool there = path_exists(arena_printf(&s->arena, "%s%s", path, FILE_PARTIAL_SUFFIX));

    if (!c->options->restart && there && !record_check(path_join(&s->arena, s->dir, RECORDS), facts, e))
        return false;
    if (!calib_writer_reopen(&c->writer, c->stats, path, e))
        return false;
    c->writer.out.keep = true; /* until it is known better: calibrate_saved_close */
    return ((!c->options->restart && there) || dir_remove_tree(s->dir, e)) && open_records(c, facts, e);
}

static void note_progress(struct calibrate *c)
{
    for (uint64_t layer = 0; layer < c->saved.layers_done; layer++)
        progress_add(c->progress, calibrate_layer_bytes(c->source, (int64_t)layer));
    progress_resumed(c->progress);
}

bool calibrate_saved_open(struct calibrate *c, const char *path, struct err *e)
{
    struct calibrate_saved *s = &c->saved;
    struct buf facts = {0};

    s->dir = arena_printf(&s->arena, "%s%s", path, CALIBRATE_UNFINISHED_SUFFIX);
    write_facts(&facts, c);
    bool ok = open_both(c, path, &facts, e) && calib_writer_load(&c->writer, c->stats, s->layers_done, e);
    buf_release(&facts);
    if (!ok)
        return false;
    s->saved_at = now_seconds();
    if (s->layers_done == 0)
        return true;
    log_note("going on with an unfinished run: %" PRIu64 " layer%s %s done", s->layers_done, plural(s->layers_done),
             is_are(s->layers_done));
    note_progress(c);
    return true;
}

static bool append_layers(struct calibrate_saved *s, uint64_t end, struct err *e)
{
    struct buf lines = {0};

    for (uint64_t layer = s->layers_done; layer < end; layer++)
        buf_printf(&lines, "layer %" PRIu64 "\n", layer);
    bool ok = record_append(&s->records, &lines, e);
    buf_release(&lines);
    return ok;
}

/* Layers up to `end`, and the state behind them. */
static bool save(struct calibrate *c, uint64_t end, const struct stream *after, struct err *e)
{
    struct calibrate_saved *s = &c->saved;
    uint64_t before = s->layers_done;

    if (!calib_writer_save(&c->writer, before, end, e) || !stream_save(state_path(s, end - 1), after, e) ||
        !append_layers(s, end, e))
        return false;
    if (before > 0)
        (void)unlink(state_path(s, before - 1)); /* a leftover goes with the folder */
    s->layers_done = end;
    s->saved_at = now_seconds();
    return true;
}

bool calibrate_saved_layer(struct calibrate *c, const struct stream *after, struct err *e)
{
    if (c->layer >= c->source->arch.layers) /* nothing comes behind an MTP layer but the commit */
        return true;
    return now_seconds() - c->saved.saved_at < (double)c->options->save_seconds || save(c, c->layer + 1, after, e);
}

void calibrate_saved_stopped(struct calibrate *c, uint64_t layer, const struct stream *in)
{
    struct err ignored = {0};

    if (layer > c->saved.layers_done && !save(c, layer, in, &ignored))
        log_verbose("what was done could not be made durable: %s", ignored.text);
}

bool calibrate_saved_enter(struct calibrate *c, struct stream *in, struct err *e)
{
    return stream_load(state_path(&c->saved, c->saved.layers_done - 1), in, e);
}

void calibrate_remove_leftover(const char *path)
{
    struct arena a = {0};
    struct output lock = {0}; /* of the partial file, as a run has it */
    struct err ignored = {0};
    const char *dir = arena_printf(&a, "%s%s", path, CALIBRATE_UNFINISHED_SUFFIX);
    bool done = path_exists(path) && !path_exists(arena_printf(&a, "%s%s", path, FILE_PARTIAL_SUFFIX));

    if (done && path_is_dir(dir) && output_open(&lock, path, 0, true, &ignored))
        (void)!dir_remove_tree(dir, &ignored);
    output_release(&lock);
    arena_release(&a);
}

/* Another run's, which was refused, is not ours to remove; nor is what the input stopped worth keeping. */
void calibrate_saved_close(struct calibrate *c, bool committed, const struct err *e)
{
    struct calibrate_saved *s = &c->saved;
    bool mine = s->records.fd_plus_1 > 0;
    bool not_the_input = e->code != ERR_FORMAT && e->code != ERR_UNSUPPORTED && e->code != ERR_LIMIT;
    bool keep = !committed && s->dir && (mine ? s->layers_done > 0 && not_the_input : path_exists(s->dir));
    struct err ignored = {0};

    if (keep && mine)
        log_note("%" PRIu64 " layer%s %s safe; the same command goes on from there", s->layers_done,
                 plural(s->layers_done), is_are(s->layers_done));
    if (!keep && s->dir)
        (void)!dir_remove_tree(s->dir, &ignored);
    c->writer.out.keep = keep;
    record_close(&s->records);
    arena_release(&s->arena);
}
