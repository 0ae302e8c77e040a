/* Going on where a killed run was. The journal says which jobs are durable; shards it calls whole are whole; of the
 * others the prefix is read again, job by job, in the order in which the run before hashed it, so that hash and
 * stash stand where they stood. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "convert/run_private.h"
#include "formats/base/log.h"
#include "formats/base/progress.h"
#include "formats/base/units.h"

static bool has_bytes(const char *path, uint64_t bytes)
{
    struct file f = {0};
    struct err ignored = {0};
    bool same = file_open(&f, path, &ignored) && f.bytes == bytes;

    file_close(&f);
    return same;
}

/* Whole, says the journal: in the stage, or already moved up by a run that was killed while publishing. */
static bool find_whole(struct line *l, size_t output, size_t shard, struct err *e)
{
    const struct plan_shard *s = &l->plan->outputs[output].shards[shard];
    struct stage *stage = &l->stages[output];

    if (has_bytes(stage_path(stage, s->name), s->bytes) ||
        (stage->publishing && has_bytes(path_join(&stage->arena, stage->dst, s->name), s->bytes))) {
        l->files[output][shard].done = true;
        return true;
    }
    return err_set(e, ERR_IO, "'%s' is whole by the journal, and not there with its %llu bytes; --restart begins anew",
                   stage_path(stage, s->name), (unsigned long long)s->bytes);
}

/* Named, but killed before the journal knew: back to the name it is continued under. */
static bool take_back_name(struct line *l, size_t output, size_t shard, struct err *e)
{
    struct stage *stage = &l->stages[output];
    const char *path = stage_path(stage, l->plan->outputs[output].shards[shard].name);
    const char *partial = arena_printf(&stage->arena, "%s%s", path, FILE_PARTIAL_SUFFIX);

    return rename(path, partial) == 0 || errno == ENOENT || err_sys(e, "renaming '%s'", path);
}

static bool settle_shards(struct line *l, struct err *e)
{
    for (size_t o = 0; o < l->plan->output_count; o++)
        for (size_t s = 0; s < l->plan->outputs[o].shard_count; s++) {
            bool whole = l->results[o].sha256[s][0] != '\0';
            if (!(whole ? find_whole(l, o, s, e) : take_back_name(l, o, s, e)))
                return false;
        }
    return true;
}

/* The slot buffers are not in use yet: the first one's output side is large enough for any slice but a copy's. */
static bool replay_slice(struct line *l, size_t output, const struct plan_slice *s, struct err *e)
{
    struct shard_file *f = &l->files[output][s->tensor->shard];
    struct file partial = {0};
    uint8_t *data = s->bytes <= l->plan->in_bytes_max ? l->slots[0].in : l->slots[0].out;

    if (f->done)
        return true;
    if (!run_open_shard(l, output, s->tensor->shard, true, e))
        return false;
    bool ok = file_open(&partial, f->file.partial_path, e) &&
              file_read(&partial, s->tensor->offset + s->offset, data, s->bytes, e);
    file_close(&partial);
    if (ok)
        shard_file_hash(f, s->tensor->offset + s->offset, data, s->bytes);
    return ok;
}

static bool replay_job(struct line *l, size_t number, struct err *e)
{
    const struct plan *p = l->plan;
    struct plan_slice s[PART_COUNT];

    plan_job_in(p, &p->jobs[number], s);
    for (enum part part = 0; part < PART_COUNT; part++)
        progress_add(l->progress, s[part].bytes);
    for (size_t o = 0; o < p->output_count; o++) {
        plan_job_out(p, &p->jobs[number], o, s);
        for (enum part part = 0; part < PART_COUNT; part++) {
            if (s[part].tensor && s[part].bytes > 0 && !replay_slice(l, o, &s[part], e))
                return false;
            progress_add(l->progress, s[part].bytes);
        }
    }
    return true;
}

bool run_resume(struct line *l, struct err *e)
{
    size_t done = l->journal->jobs_done;

    if (done == 0)
        return true;
    log_note("going on with an unfinished run: %zu of %zu jobs %s done", done, l->plan->job_count, is_are(done));
    if (!settle_shards(l, e))
        return false;
    for (size_t j = 0; j < done; j++) {
        if (signal_cancelled())
            return err_set(e, ERR_CANCELLED, "interrupted");
        if (!replay_job(l, j, e))
            return err_in(e, "going on with an unfinished run");
    }
    progress_resumed(l->progress);
    l->read = l->taken = l->written = l->hashed = l->sourced = done;
    return true;
}
