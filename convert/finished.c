#include "convert/finished.h"

#include <stdio.h>
#include <unistd.h>

#include "convert/journal.h"
#include "convert/stage.h"
#include "formats/base/file.h"
#include "formats/base/log.h"
#include "formats/checkpoint.h"

static const char *journal_path(struct arena *a, const char *dst)
{
    return path_join(a, path_join(a, dst, STAGE_PUBLISHED), JOURNAL_NAME);
}

bool finished_is_here(const char *dst)
{
    struct arena a = {0};
    bool is = path_exists(journal_path(&a, dst));

    arena_release(&a);
    return is;
}

bool finished_is_same(struct plan *p, struct run_result *results)
{
    struct journal j = {0};
    struct err ignored = {0};
    const char *path = journal_path(&p->arena, p->outputs[0].dir);
    bool same = path_exists(path) && journal_open(&j, path, p, results, &ignored) && j.jobs_done == p->job_count;

    journal_close(&j);
    return same;
}

bool finished_end(const struct plan *p, bool delete_source, struct err *e)
{
    if (delete_source && !checkpoint_remove_headers(&p->source->checkpoint, e))
        return false;
    for (size_t o = p->output_count; o > 0; o--)
        stage_tidy(p->outputs[o - 1].dir);
    return true;
}

/* Only what a run that removes its source leaves: never a whole shard. */
static void remove_headers(struct arena *a, const char *src, char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        (void)unlink(arena_printf(a, "%s%s", path_join(a, src, names[i]), CHECKPOINT_REMOVED_SUFFIX));
}

bool finished_end_without_source(const char *src, const struct plan_target *targets, size_t target_count)
{
    struct arena a = {0};
    char **names = NULL;
    size_t count = 0;
    bool gone = false;
    bool same = journal_peek(journal_path(&a, targets[0].dir), targets[0].recipe->text, &a, &names, &count);

    for (size_t i = 0; i < count; i++)
        gone |= !path_exists(path_join(&a, src, names[i]));
    if (same && gone) {
        remove_headers(&a, src, names, count);
        for (size_t t = target_count; t > 0; t--)
            stage_tidy(targets[t - 1].dir);
        log_note("'%s' is whole: the run before this one had ended but for its last steps", targets[0].dir);
    }
    arena_release(&a);
    return same && gone;
}
