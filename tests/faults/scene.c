#include "tests/faults/scene.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "convert/stage.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"

static void must(bool ok, const struct err *e)
{
    if (ok)
        return;
    fprintf(stderr, "faults: %s\n", e->text);
    exit(1);
}

void world_open(struct world *w, const char *quern, const char *shim, const char *sample)
{
    const char *tmp = getenv("TMPDIR");
    char *root;

    *w = (struct world){0};
    root = arena_printf(&w->arena, "%s/quern-faults-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root)) {
        perror(root);
        exit(1);
    }
    w->quern = realpath(quern, NULL);
    w->shim = realpath(shim, NULL);
    w->sample = realpath(sample, NULL);
    w->root = root;
    w->a = path_join(&w->arena, root, "a");
    w->b = path_join(&w->arena, root, "b");
    w->source = path_join(&w->arena, root, "source");
    w->said = path_join(&w->arena, root, "said");
    w->gate = path_join(&w->arena, root, "gate");
}

void world_close(struct world *w)
{
    struct err e = {0};

    must(dir_remove_tree(w->root, &e), &e);
    arena_release(&w->arena);
}

/* ---- preparing ---- */

static void copy_sample(struct world *w)
{
    struct arena a = {0};
    struct err e = {0};
    char **names = NULL;
    size_t count = 0;

    must(dir_remove_tree(w->source, &e) && dir_make(w->source, &e) && dir_list(w->sample, &a, &names, &count, &e), &e);
    for (size_t i = 0; i < count; i++)
        must(file_copy(path_join(&a, w->sample, names[i]), path_join(&a, w->source, names[i]), &e), &e);
    arena_release(&a);
}

static const struct command_line old_bundle = {.name = "the old bundle",
                                               .args = {"convert", "--to", "f16", "--shard-size", "4M", "$S", "$A"}};

void scene_prepare(struct world *w, const struct command_line *c)
{
    struct err e = {0};

    must(dir_remove_tree(w->a, &e) && dir_remove_tree(w->b, &e), &e);
    if (!w->source_whole)
        copy_sample(w);
    w->source_whole = !c->deletes;
    if (c->one_file)
        must(dir_make(w->a, &e), &e);
    if (c->over_old)
        must(scene_run(w, &old_bundle, 1, NULL, NULL) == 0, &e);
}

/* ---- running ---- */

static const char *expand(struct world *w, const char *arg)
{
    const char *sign = strchr(arg, '$');

    if (!sign)
        return arg;
    const char *what = sign[1] == 'A' ? w->a : sign[1] == 'B' ? w->b : w->source;
    return arena_printf(&w->arena, "%.*s%s%s", (int)(sign - arg), arg, what, sign + 2);
}

static void redirect(const char *path, int flags, int to)
{
    int fd = open(path, flags | O_CLOEXEC, 0666);

    if (fd < 0 || dup2(fd, to) < 0)
        _exit(126);
}

static void answer(const char *text)
{
    int ends[2];

    if (pipe(ends) != 0 || write(ends[1], text, strlen(text)) < 0 || dup2(ends[0], STDIN_FILENO) < 0)
        _exit(126);
    close(ends[1]);
}

pid_t scene_start(struct world *w, const struct command_line *c, unsigned threads, const char *fault, const char *more,
                  const char *said)
{
    const char *argv[SCENE_ARGS_MAX + 6] = {w->quern, c->args[0]};
    size_t n = 2;

    if (threads > 0) {
        argv[n++] = "--threads";
        argv[n++] = arena_printf(&w->arena, "%u", threads);
    }
    if (more)
        argv[n++] = more;
    for (size_t i = 1; i < SCENE_ARGS_MAX && c->args[i]; i++)
        argv[n++] = expand(w, c->args[i]);
    const char *prefix = arena_printf(&w->arena, "%s:%s:%s", w->a, w->b, w->source);
    const char *count = path_join(&w->arena, w->root, "count");

    pid_t pid = fork();
    if (pid != 0)
        return pid;
    redirect("/dev/null", O_WRONLY, STDOUT_FILENO);
    redirect(said, O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
    if (c->deletes)
        answer("delete\n");
    else
        redirect("/dev/null", O_RDONLY, STDIN_FILENO);
    setenv("LD_PRELOAD", w->shim, 1);
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 0);
    setenv("QUERN_FAULT_PREFIX", prefix, 1);
    setenv("QUERN_FAULT_COUNT", count, 1);
    setenv("QUERN_FAULT_HOLD", w->gate, 1);
    if (fault)
        setenv("QUERN_FAULT", fault, 1);
    else
        unsetenv("QUERN_FAULT");
    execv(w->quern, (char *const *)argv);
    _exit(127);
}

int scene_wait(pid_t pid)
{
    int status = -1;

    while (waitpid(pid, &status, 0) < 0) {
    }
    return status;
}

int scene_run(struct world *w, const struct command_line *c, unsigned threads, const char *fault, const char *more)
{
    return scene_wait(scene_start(w, c, threads, fault, more, w->said));
}

/* ---- looking ---- */

static char *slurp(struct world *w, const char *path)
{
    struct err e = {0};
    char *data = NULL;
    size_t bytes = 0;

    if (!file_slurp(path, 1 << 20, &data, &bytes, &e))
        return arena_strdup(&w->arena, "");
    char *copy = arena_strdup(&w->arena, data);
    mem_free(data);
    return copy;
}

const char *scene_said(struct world *w)
{
    return slurp(w, w->said);
}

long scene_count(struct world *w, const struct command_line *c, const char *call)
{
    char line[32];

    (void)c;
    snprintf(line, sizeof line, "%s ", call);
    const char *at = strstr(slurp(w, path_join(&w->arena, w->root, "count")), line);
    return at ? atol(at + strlen(line)) : 0;
}

static void look_at(struct arena *a, const char *dir, const char *shown, struct buf *out)
{
    struct err e = {0};
    char **names = NULL, *data = NULL;
    size_t count = 0, bytes = 0;

    if (!path_exists(dir))
        return;
    must(dir_list(dir, a, &names, &count, &e), &e);
    for (size_t i = 0; i < count; i++) {
        const char *path = path_join(a, dir, names[i]), *name = path_join(a, shown, names[i]);
        char hex[HASH_HEX_BYTES];
        if (path_is_dir(path)) {
            buf_printf(out, "%s/\n", name);
            look_at(a, path, name, out);
            continue;
        }
        must(file_slurp(path, 1u << 30, &data, &bytes, &e), &e);
        hash_hex(data, bytes, hex);
        mem_free(data);
        buf_printf(out, "%s %.16s\n", name, hex);
    }
}

const char *scene_look(struct world *w)
{
    struct arena a = {0};
    struct buf out = {0};

    look_at(&a, w->a, "a", &out);
    look_at(&a, w->b, "b", &out);
    const char *text = arena_strdup(&w->arena, out.data ? out.data : "");
    buf_release(&out);
    arena_release(&a);
    return text;
}

static const char *dir_untouched(struct world *w, const char *dir)
{
    struct err e = {0};
    char **names = NULL;
    size_t count = 0;

    if (!path_exists(dir) || stage_is_publishing(dir))
        return NULL;
    must(dir_list(dir, &w->arena, &names, &count, &e), &e);
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], STAGE_PUBLISHED) == 0)
            return NULL;
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], STAGE_FOLDER) != 0)
            return arena_printf(&w->arena, "'%s' is in a destination that is not whole", names[i]);
    return NULL;
}

const char *scene_untouched(struct world *w, const struct command_line *c)
{
    if (c->one_file)
        return NULL; /* a file is under its final name by one rename: what it holds is looked at in the end */
    const char *wrong = c->over_old ? NULL : dir_untouched(w, w->a);

    /* The second is in place before the first begins, and until the first's stage is gone. */
    bool in_place = stage_is_publishing(w->a) || path_exists(path_join(&w->arena, w->a, STAGE_PUBLISHED));
    return wrong || in_place ? wrong : dir_untouched(w, w->b);
}
