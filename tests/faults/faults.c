/* usage: faults QUERN SHIM SAMPLE      (by `make faults`; SEED=N for other moments, QUICK=1 for a few of each)
 * The promise held against a hostile disk: whatever happens, either the old state or the whole new one stands under
 * the final names, the exit status and the message say what happened, and the same command ends with the bytes of an
 * undisturbed run. */
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
#include "tests/faults/scene.h"

static struct world world;
static uint64_t seed = 1;
static bool quick;
static unsigned passed, failed, class_passed, class_failed;

static uint64_t draw(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return below > 0 ? seed % below : 0;
}

/* ---- commands ---- */

enum { BF16, INT4, ALSO, KEEP, OVER, DELETES, CALIBRATED, RARELY, STATIC, REPACK, STATISTICS, COMMAND_COUNT };

static const struct command_line commands[COMMAND_COUNT] = {
    [BF16] = {.name = "convert", .args = {"convert", "--to", "bf16", "--shard-size", "1M", "$S", "$A"}},
    [INT4] = {.name = "quantize", .args = {"quantize", "--recipe", "int4-fast", "--shard-size", "600000", "$S", "$A"}},
    [ALSO] = {.name = "two outputs",
              .args = {"convert", "--to", "fp8", "--also", "int4:g64:$B", "--shard-size", "2M", "$S", "$A"}},
    [KEEP] = {.name = "--keep-shards",
              .args = {"quantize", "--recipe", "int4-fp8", "--keep-shards", "--hash-source", "$S", "$A"}},
    [OVER] = {.name = "--force",
              .args = {"convert", "--to", "fp8", "--force", "--shard-size", "3M", "$S", "$A"},
              .over_old = true},
    [DELETES] = {.name = "--delete-source",
                 .args = {"quantize", "--recipe", "int4-fast", "--delete-source", "--hash-source", "--shard-size", "1M",
                          "$S", "$A"},
                 .deletes = true},
    [CALIBRATED] = {.name = "calibrated",
                    .args = {"quantize", "--recipe", "int4", "--tokens", "512", "--context", "128", "--save-every", "0",
                             "--shard-size", "600000", "$S", "$A"}},
    [RARELY] = {.name = "calibrated, saved at the end",
                .args = {"quantize", "--recipe", "int4", "--tokens", "512", "--context", "128", "--shard-size",
                         "600000", "$S", "$A"}},
    [STATIC] = {.name = "calibrated, static FP8",
                .args = {"quantize", "--recipe", "fp8-static", "--tokens", "256", "--context", "64", "--save-every",
                         "0", "--shard-size", "600000", "$S", "$A"}},
    [REPACK] = {.name = "repack",
                .args = {"repack", "--layout", "expert-aligned", "--experts-json", "--shard-size", "1M", "$S", "$A"}},
    [STATISTICS] = {.name = "calibrate",
                    .args = {"calibrate", "--losses", "--tokens", "256", "--context", "64", "--save-every", "0", "$S",
                             "-o", "$A/stats"},
                    .one_file = true},
};
static const unsigned thread_counts[] = {1, 2, 7};

struct undisturbed {
    const char *look;
    long any, pread, pwrite, rename, fsync, fdatasync, fallocate, ftruncate, open, mkdir, close;
};
static struct undisturbed whole[COMMAND_COUNT];

static void run_undisturbed(int command)
{
    const struct command_line *c = &commands[command];

    scene_prepare(&world, c);
    int status = scene_run(&world, c, 2, NULL, NULL);
    if (status != 0) {
        fprintf(stderr, "faults: %s ended with status %d undisturbed:\n%s", c->name, status, scene_said(&world));
        exit(1);
    }
    whole[command] = (struct undisturbed){.look = scene_look(&world)};
    const struct {
        const char *call;
        long *count;
    } wanted[] = {
        {"any", &whole[command].any},
        {"pread", &whole[command].pread},
        {"pwrite", &whole[command].pwrite},
        {"rename", &whole[command].rename},
        {"fsync", &whole[command].fsync},
        {"fdatasync", &whole[command].fdatasync},
        {"fallocate", &whole[command].fallocate},
        {"ftruncate", &whole[command].ftruncate},
        {"open", &whole[command].open},
        {"mkdir", &whole[command].mkdir},
        {"close", &whole[command].close},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        *wanted[i].count = scene_count(&world, c, wanted[i].call);
}

static long calls(int command, const char *call)
{
    const struct undisturbed *u = &whole[command];
    const char *const names[] = {"any",       "pread",     "pwrite", "rename", "fsync", "fdatasync",
                                 "fallocate", "ftruncate", "open",   "mkdir",  "close"};
    const long counts[] = {u->any,       u->pread,     u->pwrite, u->rename, u->fsync, u->fdatasync,
                           u->fallocate, u->ftruncate, u->open,   u->mkdir,  u->close};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], call) == 0)
            return counts[i];
    return 0;
}

/* ---- keeping score ---- */

static void note(bool ok, int command, const char *fault, const char *wrong)
{
    ok ? class_passed++ : class_failed++;
    if (ok)
        return;
    printf("  %s, %s: %s\n    it said: %s", commands[command].name, fault, wrong, scene_said(&world));
}

static void end_class(const char *name)
{
    printf("%-14s %u of %u\n", name, class_passed, class_passed + class_failed);
    fflush(stdout);
    passed += class_passed;
    failed += class_failed;
    class_passed = class_failed = 0;
}

static const char *describe(int status)
{
    return WIFSIGNALED(status) ? arena_printf(&world.arena, "signal %d", WTERMSIG(status))
                               : arena_printf(&world.arena, "status %d", WEXITSTATUS(status));
}

static bool exited(int status, int with)
{
    return WIFEXITED(status) && WEXITSTATUS(status) == with;
}

/* The first line in which two looks differ. */
static const char *difference(const char *want, const char *have)
{
    size_t line = 0;

    for (size_t i = 0; want[i] == have[i]; i++) {
        if (want[i] == '\0')
            return NULL;
        if (want[i] == '\n')
            line = i + 1;
    }
    return arena_printf(&world.arena, "the undisturbed run has '%.*s', this one '%.*s'",
                        (int)strcspn(want + line, "\n"), want + line, (int)strcspn(have + line, "\n"), have + line);
}

/* The same command, once more and undisturbed: NULL, or what is wrong. Only a run that was killed when its journal was
 * gone, and nothing but the exit was left, is refused, as the destination is whole or the source removed. */
static const char *goes_on(int command, unsigned threads)
{
    const char *journal = path_join(&world.arena, world.a, ".quern-published/.journal");
    bool ended = path_exists(journal);
    int status = scene_run(&world, &commands[command], threads, NULL, NULL);
    const char *whole_said = commands[command].one_file ? "is there already" : "is not empty";
    bool was_whole = exited(status, 2) && strstr(scene_said(&world), whole_said) != NULL;
    bool source_gone = exited(status, 3) && commands[command].deletes;

    if (status != 0 && (ended || (!was_whole && !source_gone)))
        return arena_printf(&world.arena, "it does not go on: %s", describe(status));
    return difference(whole[command].look, scene_look(&world));
}

/* ---- classes ---- */

static void kill_once(int command, unsigned threads, const char *fault)
{
    const struct command_line *c = &commands[command];

    scene_prepare(&world, c);
    int status = scene_run(&world, c, threads, fault, NULL);
    const char *wrong = status == 0 ? NULL : scene_untouched(&world, c);
    if (wrong && !difference(whole[command].look, scene_look(&world)))
        wrong = NULL;
    if (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
        wrong = arena_printf(&world.arena, "killed, it ended with %s", describe(status));
    /* Now and then the run that goes on is killed as well. */
    for (int again = 0; !wrong && status != 0 && again < 3 && draw(3) == 0; again++) {
        const char *next =
            arena_printf(&world.arena, "any:kill:after=%ld", (long)draw((uint64_t)calls(command, "any") / 2));
        fault = arena_printf(&world.arena, "%s %s", fault, next);
        (void)scene_run(&world, c, threads, next, NULL);
    }
    if (!wrong)
        wrong = goes_on(command, threads);
    note(!wrong, command, fault, wrong);
}

static void kill_class(void)
{
    int rounds = quick ? COMMAND_COUNT : 99;

    for (int i = 0; i < rounds; i++) {
        int command = i % COMMAND_COUNT;
        long after = (long)draw((uint64_t)calls(command, "any"));
        kill_once(command, thread_counts[draw(3)], arena_printf(&world.arena, "any:kill:after=%ld", after));
    }
    end_class("kill");
}

/* The last renames move files up; a little before them the list is written, a little behind them the stage goes. */
static void publish_class(void)
{
    static const int which[] = {INT4, ALSO, OVER, DELETES};

    for (size_t i = 0; i < (quick ? 1 : 4); i++) {
        long renames = calls(which[i], "rename"), step = quick ? 7 : 1;
        for (long k = renames / 2 - 2; k < renames; k += step)
            kill_once(which[i], 2, arena_printf(&world.arena, "rename:kill:after=%ld", k));
        long any = calls(which[i], "any");
        for (long k = any - 100; k < any; k += quick ? 20 : 3)
            kill_once(which[i], 2, arena_printf(&world.arena, "any:kill:after=%ld", k));
    }
    end_class("publish");
}

/* error: what the message must say beside the path; NULL: the run may also end well. */
static void fail_once(int command, unsigned threads, const char *fault, const char *error, bool may_pass)
{
    const struct command_line *c = &commands[command];

    scene_prepare(&world, c);
    int status = scene_run(&world, c, threads, fault, NULL);
    const char *said = scene_said(&world), *wrong = NULL;
    if (status == 0) {
        wrong = may_pass ? difference(whole[command].look, scene_look(&world)) : "the run ended well";
        note(!wrong, command, fault, wrong);
        return;
    }
    if (!exited(status, 4))
        wrong = arena_printf(&world.arena, "it ended with %s", describe(status));
    else if (!strstr(said, error) || (!strstr(said, world.a) && !strstr(said, world.b) &&
                                      !strstr(said, ".safetensors") && !strstr(said, world.source)))
        wrong = "the message does not name the file and the reason";
    else
        wrong = scene_untouched(&world, c);
    if (wrong && !difference(whole[command].look, scene_look(&world)))
        wrong = NULL; /* failed behind its last step */
    if (!wrong)
        wrong = goes_on(command, threads);
    note(!wrong, command, fault, wrong);
}

static void no_space_class(void)
{
    static const char *const where[] = {"pwrite", "fallocate", "pwrite", "open", "mkdir"};
    int rounds = quick ? 5 : 40;

    for (int i = 0; i < rounds; i++) {
        int command = i % DELETES;
        const char *call = where[i % 5];
        long after = (long)draw((uint64_t)calls(command, call));
        if (strcmp(call, "open") == 0) { /* only those that create; the source is read undisturbed */
            fail_once(command, thread_counts[draw(3)],
                      arena_printf(&world.arena, "open:ENOSPC:path=.partial:after=%ld", (long)draw(15)),
                      "No space left", false);
            continue;
        }
        fail_once(command, thread_counts[draw(3)], arena_printf(&world.arena, "%s:ENOSPC:after=%ld", call, after),
                  "No space left", strcmp(call, "mkdir") == 0);
    }
    end_class("no space");
}

/* Once: a disk that fails one time and then says all is well is the meaner one. */
static void broken_class(void)
{
    static const struct {
        const char *call;
        bool may_pass; /* some of these calls do not matter: closing what was read, asking whether something is there */
    } where[] = {{"pwrite", false}, {"pread", true}, {"fsync", false}, {"fdatasync", false},
                 {"rename", false}, {"open", true},  {"close", true},  {"ftruncate", false}};
    int rounds = quick ? 8 : 80;

    for (int i = 0; i < rounds; i++) {
        int command = (int)draw(DELETES);
        long after = (long)draw((uint64_t)calls(command, where[i % 8].call));
        fail_once(command, thread_counts[draw(3)],
                  arena_printf(&world.arena, "%s:EIO:once:after=%ld", where[i % 8].call, after), "Input/output error",
                  where[i % 8].may_pass);
    }
    /* What may go is what the old bundle's index names: where that cannot be read, nothing does. */
    fail_once(OVER, 2, "pread:EIO:once:path=/a/model.safetensors.index", "Input/output error", false);
    end_class("broken disk");
}

/* What a sync could not write is lost, and the next one says all is well. */
static void lost_class(void)
{
    int rounds = quick ? 4 : 40;

    for (int i = 0; i < rounds; i++) {
        int command = (int)draw(DELETES);
        const char *call = i % 2 ? "fsync" : "fdatasync";
        long after = (long)draw((uint64_t)calls(command, call));
        fail_once(command, thread_counts[draw(3)], arena_printf(&world.arena, "%s:LOST:once:after=%ld", call, after),
                  "Input/output error", false);
    }
    end_class("lost pages");
}

static void pass_once(int command, const char *fault)
{
    scene_prepare(&world, &commands[command]);
    int status = scene_run(&world, &commands[command], thread_counts[draw(3)], fault, NULL);
    const char *wrong = status != 0 ? describe(status) : difference(whole[command].look, scene_look(&world));
    note(!wrong, command, fault, wrong);
}

static void short_class(void)
{
    static const char *const faults[] = {"pread:short",       "pwrite:short",     "pread:EINTR:once",
                                         "pwrite:EINTR:once", "fsync:EINTR:once", "fallocate:EINTR:once"};
    int rounds = quick ? 4 : 24;

    for (int i = 0; i < rounds; i++) {
        int command = i % DELETES;
        pass_once(command, arena_printf(&world.arena, "%s:after=%ld", faults[i % 6], (long)draw(20)));
    }
    end_class("short calls");
}

/* What calibrate writes is one file, with what is done kept beside it until it is whole. */
static void statistics_class(void)
{
    static const struct {
        const char *call, *fault, *error; /* error NULL: the run ends well all the same */
    } rows[] = {
        {"pwrite", "ENOSPC", "No space left"},
        {"open", "EROFS:path=.partial", "Read-only file system"},
        {"pwrite", "short", NULL},
        {"fallocate", "ENOSPC", "No space left"},
        {"fsync", "LOST:once", "Input/output error"},
        {"pread", "short", NULL},
        {"mkdir", "EROFS", "Read-only file system"},
        {"fsync", "EIO:once", "Input/output error"},
        {"pwrite", "EIO:once", "Input/output error"},
        {"rename", "EIO:once", "Input/output error"},
        {"fdatasync", "EIO:once", "Input/output error"},
        {"pwrite", "EINTR:once", NULL},
    };
    const size_t count = sizeof rows / sizeof rows[0];

    for (size_t i = 0; i < (quick ? 3 : 3 * count); i++) {
        const char *call = rows[i % count].call, *what = rows[i % count].fault, *error = rows[i % count].error;
        long after = strchr(what, '=') ? 0 : (long)draw((uint64_t)calls(STATISTICS, call));
        const char *fault = arena_printf(&world.arena, "%s:%s:after=%ld", call, what, after);
        if (error)
            fail_once(STATISTICS, thread_counts[draw(3)], fault, error, calls(STATISTICS, call) == 0);
        else
            pass_once(STATISTICS, fault);
    }
    /* The rename, and what is removed behind it. */
    long any = calls(STATISTICS, "any");
    for (long k = any - (quick ? 2 : 12); k < any; k++)
        kill_once(STATISTICS, 2, arena_printf(&world.arena, "any:kill:after=%ld", k));
    end_class("calibrate");
}

static void signal_class(void)
{
    static const struct {
        const char *name;
        int number;
    } signals[] = {{"int", SIGINT}, {"term", SIGTERM}};
    int rounds = quick ? 2 : 12;

    for (int i = 0; i < rounds; i++) {
        int command = i % COMMAND_COUNT;
        const char *fault = arena_printf(&world.arena, "any:%s:after=%ld", signals[i % 2].name,
                                         20 + (long)draw((uint64_t)calls(command, "any") / 4));
        scene_prepare(&world, &commands[command]);
        int status = scene_run(&world, &commands[command], thread_counts[draw(3)], fault, NULL);
        const char *wrong = NULL;
        if (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == signals[i % 2].number))
            wrong = arena_printf(&world.arena, "it ended with %s", describe(status));
        else if (status != 0)
            wrong = scene_untouched(&world, &commands[command]);
        if (!wrong)
            wrong = goes_on(command, 2);
        note(!wrong, command, fault, wrong);
    }
    end_class("signals");
}

static void set_gate(void)
{
    struct err e = {0};

    if (!file_write_whole(world.gate, "", 0, &e))
        exit(1);
}

/* A run that waits at its 60th change of the disk. */
static pid_t start_held(int command, const char *said)
{
    scene_prepare(&world, &commands[command]);
    set_gate();
    pid_t pid = scene_start(&world, &commands[command], 2, "any:hold:after=60", NULL, said);
    usleep(400000);
    return pid;
}

static void report_class(void)
{
    pid_t pid = start_held(BF16, world.said);

    kill(pid, SIGUSR1);
    usleep(600000);
    const char *line = strstr(scene_said(&world), "converting: ");
    unlink(world.gate);
    int status = scene_wait(pid);
    const char *wrong = status != 0 ? describe(status)
                        : !line     ? "SIGUSR1 printed nothing"
                                    : difference(whole[BF16].look, scene_look(&world));
    note(!wrong, BF16, "SIGUSR1", wrong);
    end_class("SIGUSR1");
}

static size_t count_partial(void)
{
    const char *stage = path_join(&world.arena, world.a, STAGE_FOLDER);
    struct err e = {0};
    char **names = NULL;
    size_t count = 0, partial = 0;

    if (path_is_dir(stage) && !dir_list(stage, &world.arena, &names, &count, &e))
        count = 0;
    for (size_t i = 0; i < count; i++)
        partial += strstr(names[i], FILE_PARTIAL_SUFFIX) != NULL;
    return partial;
}

/* While the first shard waits for the disk, the second is made, and the third begun; and none is called durable. */
static void slow_class(void)
{
    const char *journal = path_join(&world.arena, world.a, STAGE_FOLDER "/.journal"), *wrong = NULL;
    struct err e = {0};
    char *text = NULL;
    size_t bytes = 0;

    scene_prepare(&world, &commands[BF16]);
    set_gate();
    pid_t pid = scene_start(&world, &commands[BF16], 2, "fsync:hold:path=-00001-of-", NULL, world.said);
    for (int i = 0; i < 300 && count_partial() < 3; i++)
        usleep(50000);
    if (count_partial() < 3)
        wrong = arena_printf(&world.arena, "%zu shards are begun while the first is synced, not 3", count_partial());
    if (!file_slurp(journal, 1 << 20, &text, &bytes, &e) || strstr(text, "\njob ") || strstr(text, "\nshard "))
        wrong = "the journal speaks of what is not durable";
    mem_free(text);
    unlink(world.gate);
    int status = scene_wait(pid);
    if (!wrong)
        wrong = status != 0 ? describe(status) : difference(whole[BF16].look, scene_look(&world));
    note(!wrong, BF16, "a slow sync", wrong);
    end_class("slow disk");
}

static void two_runs_class(void)
{
    static const struct command_line swapped = {
        .name = "the same folders, the other way round",
        .args = {"convert", "--to", "fp8", "--also", "int4:g64:$A", "--shard-size", "2M", "$S", "$B"}};
    const char *first_said = path_join(&world.arena, world.root, "first-said");
    const struct command_line *seconds[] = {&commands[ALSO], &commands[BF16], &swapped};

    for (size_t i = 0; i < 3; i++) {
        pid_t pid = start_held(ALSO, first_said);
        int second = scene_run(&world, seconds[i], 2, NULL, NULL);
        bool refused = exited(second, 4) && strstr(scene_said(&world), "is being written by another run");
        unlink(world.gate);
        int first = scene_wait(pid);
        const char *wrong = !refused     ? arena_printf(&world.arena, "the second run ended with %s", describe(second))
                            : first != 0 ? arena_printf(&world.arena, "the first run ended with %s", describe(first))
                                         : difference(whole[ALSO].look, scene_look(&world));
        note(!wrong, ALSO, seconds[i]->name, wrong);
    }
    end_class("two runs");
}

/* ---- another command than the one that was killed ---- */

static const struct command_line other_recipe = {.name = "another recipe",
                                                 .args = {"convert", "--to", "f16", "--shard-size", "1M", "$S", "$A"}};
static const struct command_line other_size = {.name = "another shard size",
                                               .args = {"convert", "--to", "bf16", "--shard-size", "2M", "$S", "$A"}};

static void touch_source(void)
{
    const char *shard = path_join(&world.arena, world.source, "model-00003-of-000007.safetensors");
    const struct timespec times[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};

    world.source_whole = false;
    if (utimensat(AT_FDCWD, shard, times, 0) != 0)
        perror(shard);
}

static const char *look_of(const struct command_line *c)
{
    scene_prepare(&world, c);
    (void)scene_run(&world, c, 2, NULL, NULL);
    return scene_look(&world);
}

/* Killed at `fault`, then another command: refused, with `named` in the message; the stage stays for the first
 * command; --restart makes it the other's. */
static void other_command(const struct command_line *other, const char *fault, const char *named)
{
    const char *wanted = look_of(other), *wrong = NULL;

    scene_prepare(&world, &commands[BF16]);
    (void)scene_run(&world, &commands[BF16], 2, fault, NULL);
    int status = scene_run(&world, other, 2, NULL, NULL);
    const char *said = scene_said(&world);
    if (!exited(status, 2) || !strstr(said, "an unfinished run of something else") || !strstr(said, named))
        wrong = arena_printf(&world.arena, "not refused with '%s': %s", named, describe(status));
    if (!wrong)
        wrong = goes_on(BF16, 2);
    note(!wrong, BF16, other->name, wrong);

    scene_prepare(&world, &commands[BF16]);
    (void)scene_run(&world, &commands[BF16], 2, fault, NULL);
    status = scene_run(&world, other, 2, NULL, "--restart");
    wrong = status != 0 ? describe(status) : difference(wanted, scene_look(&world));
    note(!wrong, BF16, "--restart", wrong);
}

static void changed_class(void)
{
    const char *early = "any:kill:after=150";
    const char *moving = arena_printf(&world.arena, "rename:kill:after=%ld", whole[BF16].rename - 8);

    other_command(&other_recipe, early, "recipe-0");
    other_command(&other_size, early, "layout-0");
    if (!quick) {
        other_command(&other_recipe, moving, "recipe-0");
        other_command(&other_size, moving, "layout-0");
    }
    scene_prepare(&world, &commands[BF16]);
    (void)scene_run(&world, &commands[BF16], 2, early, NULL);
    touch_source();
    int status = scene_run(&world, &commands[BF16], 2, NULL, NULL);
    bool refused = exited(status, 2) && strstr(scene_said(&world), "model-00003-of-000007");
    note(refused, BF16, "a source shard with another time", describe(status));
    status = scene_run(&world, &commands[BF16], 2, NULL, "--restart");
    const char *wrong = status != 0 ? describe(status) : difference(whole[BF16].look, scene_look(&world));
    note(!wrong, BF16, "--restart after that", wrong);
    end_class("changed runs");
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: faults QUERN SHIM SAMPLE\n");
        return 2;
    }
    quick = getenv("QUICK") != NULL;
    seed = 88172645463325252u + (getenv("SEED") ? strtoull(getenv("SEED"), NULL, 10) : 0) * 7919u;
    world_open(&world, argv[1], argv[2], argv[3]);
    for (int i = 0; i < COMMAND_COUNT; i++)
        run_undisturbed(i);
    kill_class();
    publish_class();
    no_space_class();
    broken_class();
    lost_class();
    short_class();
    statistics_class();
    signal_class();
    report_class();
    slow_class();
    two_runs_class();
    changed_class();
    world_close(&world);
    printf("%u passed, %u failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
