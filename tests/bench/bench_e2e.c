/* End to end against the machine's own copying, one after the other for some rounds; the median of the rounds' ratios
 * counts.
 *
 * On tmpfs: cp of the input plus cp of the output. Pages are touched before, because what a fresh page costs (in a
 * virtual machine, ten times the copy) is neither's doing. Touching once is not enough: a guest tells its host of free
 * pages after two seconds, and they are fresh again. So a ballast file holds what a run will write, and gives way to it
 * page by page.
 *
 * On disk, cold: the same bytes, which are the input read and the output written; so cat of the input, cold, and cp of
 * the output, which is in memory, with a sync behind it. Quern's run ends with the output synced.
 *
 * The bars are about converting, so these run with --no-fingerprint; one row has it, with the forward pass that it
 * takes.
 *
 * Scaling: the same at three sizes. Beside each stands what the machine takes to read as much and to write as much, for
 * its pages do not cost the same at any size: where both slow down alike, it is the machine.
 *
 *   SIZE       of the checkpoint in bytes (2000000000)
 *   ROUNDS     (5)
 *   BENCH_DIR  a folder on tmpfs (/dev/shm)
 *   DISK_DIR   a folder on a disk (build)
 *   ONLY       of tmpfs, disk, scaling: the one part to run */
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "formats/base/mem.h"
#include "formats/weight.h"
#include "tests/bench/beside.h"

#define ROUNDS_MAX    99
#define TOUCH_BYTES   ((uint64_t)16 << 30)
#define THREADS       "2"
#define GIGA          1e9
#define PEAK_BAR      300e6
#define SCALE_EXPERTS "6"  /* a layer is then 0.5 GB */
#define SCALE_VOCAB   "64" /* embedding and head do not grow with the layers: next to none, and all sizes are alike */
#define SCALE_ROUNDS  3
#define BARE          "--no-fingerprint"

static struct arena arena;
static const char *quern, *generator; /* programs */
static unsigned rounds;

static struct outcome run(const char *const argv[])
{
    return run_beside(&arena, argv, &(struct ballast){0});
}

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "bench: %s\n", what);
    exit(1);
}

static double must(const struct outcome o, const char *what)
{
    if (o.status != 0)
        give_up(what);
    return o.seconds;
}

static void remove_tree(const char *path)
{
    struct err e = {0};

    if (!dir_remove_tree(path, &e))
        give_up(e.text);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(const double *values, size_t count)
{
    double sorted[ROUNDS_MAX];

    memcpy(sorted, values, count * sizeof *values);
    qsort(sorted, count, sizeof *sorted, compare_doubles);
    return count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

static double least(const double *values, size_t count)
{
    double found = values[0];

    for (size_t i = 1; i < count; i++)
        found = fmin(found, values[i]);
    return found;
}

/* ---- the two sides ---- */

struct place {
    const char *dir, *in, *out, *copy;
    bool disk; /* cold caches before, sync behind */
};

static struct place place_make(const char *dir, bool disk)
{
    return (struct place){.dir = dir,
                          .in = path_join(&arena, dir, "in"),
                          .out = path_join(&arena, dir, "out"),
                          .copy = path_join(&arena, dir, "copy"),
                          .disk = disk};
}

/* Without the right to drop caches the numbers are warm ones, and the caller says so. */
static bool make_cold(const struct place *p)
{
    if (!p->disk)
        return true;
    sync();
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
    bool ok = fd >= 0 && write(fd, "3", 1) == 1;
    if (fd >= 0)
        close(fd);
    return ok;
}

static uint64_t tree_bytes(const char *dir)
{
    struct err e = {0};
    char **names = NULL;
    size_t count = 0;
    uint64_t bytes = 0;

    if (!dir_list(dir, &arena, &names, &count, &e))
        give_up(e.text);
    for (size_t i = 0; i < count; i++) {
        struct file f = {0};
        if (file_open(&f, path_join(&arena, dir, names[i]), &e))
            bytes += f.bytes;
        file_close(&f);
    }
    return bytes;
}

static struct ballast place_ballast(const struct place *p, uint64_t bytes)
{
    return p->disk ? (struct ballast){0} : ballast_new(&arena, p->dir, bytes + AHEAD_BYTES);
}

static double copy_seconds(const struct place *p, const char *from)
{
    remove_tree(p->copy);
    struct ballast b = place_ballast(p, tree_bytes(from));
    double start = now();
    double seconds = must(run_beside(&arena, (const char *const[]){"cp", "-r", from, p->copy, NULL}, &b), "cp failed");
    if (p->disk) {
        sync();
        seconds = now() - start;
    }
    remove_tree(p->copy);
    return seconds;
}

static double read_seconds(const char *dir)
{
    return must(run((const char *const[]){"sh", "-c", "cat \"$0\"/* >/dev/null", dir, NULL}), "cat failed");
}

/* The machine's own time for the bytes that a run reads and writes. */
static double machine_seconds(const struct place *p)
{
    if (!p->disk)
        return copy_seconds(p, p->in) + copy_seconds(p, p->out);
    make_cold(p);
    double read = read_seconds(p->in);
    read_seconds(p->out); /* into memory */
    sync();
    return read + copy_seconds(p, p->out);
}

/* out_bytes: what it will write, 0: not known. */
static struct outcome quern_run(const struct place *p, const char *const argv[], uint64_t out_bytes)
{
    remove_tree(p->out);
    make_cold(p);
    struct ballast b = place_ballast(p, out_bytes);
    return run_beside(&arena, argv, &b);
}

struct task {
    const char *name, *command, *option, *value;
    const char *extra[2];
    double bar; /* 0: none */
};

static const char *verdict(double value, double bar)
{
    return bar == 0 ? "" : value <= bar ? "  ok" : "  MISSED";
}

static const char *bar_text(double bar)
{
    return bar == 0 ? "no bar" : arena_printf(&arena, "bar %.1f", bar);
}

/* A run that does not count says what will be written. */
static void compare(const struct place *p, const struct task *t, unsigned round_count)
{
    const char *argv[] = {quern,     t->command, t->option, t->value,    "--threads", THREADS,
                          "--quiet", p->in,      p->out,    t->extra[0], t->extra[1], NULL};
    double ours[ROUNDS_MAX] = {0}, cpu[ROUNDS_MAX] = {0}, theirs[ROUNDS_MAX] = {0}, ratio[ROUNDS_MAX] = {0};
    uint64_t peak = 0;

    must(quern_run(p, argv, 0), "quern failed");
    for (unsigned i = 0; i < round_count; i++) {
        struct outcome o = quern_run(p, argv, tree_bytes(p->out));
        ours[i] = must(o, "quern failed");
        cpu[i] = o.user_seconds + o.system_seconds;
        peak = o.peak_bytes > peak ? o.peak_bytes : peak;
        theirs[i] = machine_seconds(p);
        ratio[i] = ours[i] / theirs[i];
    }
    double middle = median(ratio, round_count);
    printf("%-26s quern %6.2f s (CPU %.2f)   %s %6.2f s   ratio %.2f (%s)%s   peak %.0f MB%s\n", t->name,
           median(ours, round_count), median(cpu, round_count), p->disk ? "read in + cp out + sync" : "cp in + cp out",
           median(theirs, round_count), middle, bar_text(t->bar), verdict(middle, t->bar), (double)peak / 1e6,
           verdict((double)peak, PEAK_BAR));
    fflush(stdout);
}

/* ---- parts ---- */

static void generate_layers(const char *dir, const char *layers)
{
    must(run((const char *const[]){generator, "--layers", layers, "--dense", "0", "--experts", SCALE_EXPERTS, "--vocab",
                                   SCALE_VOCAB, dir, NULL}),
         "the generator failed");
}

static void generate_bytes(const char *dir, uint64_t bytes)
{
    const char *size = arena_printf(&arena, "%" PRIu64, bytes);

    must(run((const char *const[]){generator, "--bytes", size, dir, NULL}), "the generator failed");
}

static uint64_t room(const char *dir)
{
    struct err e = {0};
    uint64_t bytes = 0, free_kib = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "re");

    if (!path_free_bytes(dir, &bytes, &e))
        give_up(e.text);
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %" SCNu64, &free_kib) == 1)
            break;
    if (f)
        fclose(f);
    return free_kib && free_kib * 1024 < bytes ? free_kib * 1024 : bytes;
}

static void touch_pages(const char *dir)
{
    uint64_t bytes = room(dir) / 5 * 4;
    const char *path = path_join(&arena, dir, "touched");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    bytes = bytes < TOUCH_BYTES ? bytes : TOUCH_BYTES;
    write_pages(fd, bytes);
    if (fd >= 0)
        close(fd);
    unlink(path);
    printf("tmpfs pages touched before: %.1f GB\n", (double)bytes / GIGA);
}

static void bench_tmpfs(const char *dir, uint64_t bytes)
{
    static const struct task tasks[] = {
        {"int4-absmax", "quantize", "--recipe", "int4-absmax", {BARE}, 1.3},
        {"bf16", "convert", "--to", "bf16", {BARE}, 1.3},
        {"int4-absmax --hash-source", "quantize", "--recipe", "int4-absmax", {BARE, "--hash-source"}, 1.7},
        {"int4-absmax, fingerprint", "quantize", "--recipe", "int4-absmax", {NULL}, 0},
        {"int4-fast (search)", "quantize", "--recipe", "int4-fast", {BARE}, 0},
    };
    struct place p = place_make(dir, false);

    generate_bytes(p.in, bytes);
    printf("tmpfs, %s threads, %.2f GB of FP8, median of %u rounds\n", THREADS, (double)tree_bytes(p.in) / GIGA,
           rounds);
    for (size_t i = 0; i < sizeof tasks / sizeof tasks[0]; i++)
        compare(&p, &tasks[i], tasks[i].bar == 0 ? (rounds + 1) / 2 : rounds);
}

static void bench_disk(const char *dir, uint64_t bytes)
{
    static const struct task tasks[] = {
        {"int4-absmax", "quantize", "--recipe", "int4-absmax", {BARE}, 1.2},
        {"bf16", "convert", "--to", "bf16", {BARE}, 1.2},
        {"int4-absmax, fingerprint", "quantize", "--recipe", "int4-absmax", {NULL}, 0},
    };
    struct place p = place_make(dir, true);

    generate_bytes(p.in, bytes);
    printf("disk, %s threads, %.2f GB of FP8, %s\n", THREADS, (double)tree_bytes(p.in) / GIGA,
           make_cold(&p) ? "cold" : "WARM: this user may not drop caches");
    for (size_t i = 0; i < sizeof tasks / sizeof tasks[0]; i++)
        compare(&p, &tasks[i], 3);
}

static uint64_t weight_count(const char *dir)
{
    struct err e = {0};
    struct source s = {0};
    uint64_t count = 0;

    if (!source_open(&s, dir, false, &e))
        give_up(e.text);
    for (size_t i = 0; i < s.weights.count; i++)
        count += s.weights.items[i].rows * s.weights.items[i].cols;
    source_close(&s);
    return count;
}

struct point {
    double rate;    /* weights a second */
    double machine; /* the same if reading and writing were all */
    double cpu;     /* ns a weight: of all threads, whoever else is at work */
    double peak;    /* bytes, with the fingerprint */
};

/* As the built-in int4-all, with absmax: nearly all that is written is int4, so that 8 GB and their output fit. */
static const char *write_recipe(const char *dir)
{
    static const char text[] =
        "{\"rules\": [{\"match\": \"kv_b_proj\", \"scheme\": \"bf16\"}, {\"match\": [\"routed_expert\", "
        "\"shared_expert\", \"attention\"], \"scheme\": \"int4\", \"group\": 128, \"method\": \"absmax\"}, "
        "{\"match\": \"*\", \"scheme\": \"bf16\"}]}\n";
    const char *path = path_join(&arena, dir, "recipe.json");
    FILE *f = fopen(path, "we");

    if (!f || fputs(text, f) < 0 || fclose(f) != 0)
        give_up("the recipe could not be written");
    return path;
}

static struct point measure(const struct place *p, const char *recipe, const char *layers)
{
    const char *argv[] = {quern,     "quantize", "--recipe", recipe, "--threads", THREADS,
                          "--quiet", p->in,      p->out,     NULL,   NULL};
    double seconds[SCALE_ROUNDS] = {0}, user[SCALE_ROUNDS] = {0}, system[SCALE_ROUNDS] = {0}, cpu[SCALE_ROUNDS] = {0};
    double machine[SCALE_ROUNDS] = {0};
    struct point point = {0};

    generate_layers(p->in, layers);
    double weights = (double)weight_count(p->in);
    struct outcome first = quern_run(p, argv, 0); /* with the fingerprint */
    must(first, "quern failed");
    point.peak = (double)first.peak_bytes;
    argv[9] = BARE;
    for (unsigned i = 0; i < SCALE_ROUNDS; i++) {
        struct outcome o = quern_run(p, argv, tree_bytes(p->out));
        seconds[i] = must(o, "quern failed");
        user[i] = o.user_seconds;
        system[i] = o.system_seconds;
        cpu[i] = user[i] + system[i];
        point.peak = fmax(point.peak, (double)o.peak_bytes);
        machine[i] = read_seconds(p->in) + copy_seconds(p, p->out);
    }
    point.rate = weights / least(seconds, SCALE_ROUNDS);
    point.machine = weights / least(machine, SCALE_ROUNDS);
    point.cpu = GIGA * least(cpu, SCALE_ROUNDS) / weights;
    printf("%-3s layers %5.2f B weights   %.2f G weights/s, cat in + cp out %.2f: ratio %.2f   CPU ns a weight: user "
           "%.2f, system %.2f   peak %.0f MB%s\n",
           layers, weights / GIGA, point.rate / GIGA, point.machine / GIGA, point.machine / point.rate,
           GIGA * least(user, SCALE_ROUNDS) / weights, GIGA * least(system, SCALE_ROUNDS) / weights, point.peak / 1e6,
           verdict(point.peak, PEAK_BAR));
    fflush(stdout);
    remove_tree(p->out);
    remove_tree(p->in);
    return point;
}

static double spread(const double *values, size_t count)
{
    double most = values[0];

    for (size_t i = 1; i < count; i++)
        most = fmax(most, values[i]);
    return most / least(values, count);
}

/* Most over least of each. */
static void print_spread(const struct point *points, size_t count)
{
    double rate[3], machine[3], ratio[3], cpu[3], peak[3];

    for (size_t i = 0; i < count; i++) {
        rate[i] = points[i].rate;
        machine[i] = points[i].machine;
        ratio[i] = points[i].machine / points[i].rate;
        cpu[i] = points[i].cpu;
        peak[i] = points[i].peak;
    }
    printf("most over least: weights/s %.2f (bar 1.1)%s; of cat and cp %.2f, of the ratio to them %.2f; CPU a weight "
           "%.2f; memory %.2f (bar 1.1)%s\n",
           spread(rate, count), verdict(spread(rate, count), 1.1), spread(machine, count), spread(ratio, count),
           spread(cpu, count), spread(peak, count), verdict(spread(peak, count), 1.1));
}

static void bench_scaling(const char *dir, uint64_t bytes)
{
    static const char *const layers[] = {"1", "4", "16"};
    struct place p = place_make(dir, false);
    struct point points[3] = {{0}};
    size_t done = 0;

    struct err e = {0};

    if (!dir_make(dir, &e))
        give_up(e.text);
    const char *recipe = write_recipe(dir);

    printf("scaling, tmpfs, all linear layers int4 absmax, %s threads, best of %d\n", THREADS, SCALE_ROUNDS);
    for (; done < 3; done++) {
        /* In, out, its copy and what is ahead: 0.5 and twice 0.3 GB a layer. */
        uint64_t need = (uint64_t)atoi(layers[done]) * 1100000000u;
        if (need > room(dir) || need > 9 * bytes) {
            printf("%-3s layers SKIPPED: %.1f GB needed\n", layers[done], (double)need / GIGA);
            break;
        }
        points[done] = measure(&p, recipe, layers[done]);
    }
    if (done > 1)
        print_spread(points, done);
}

/* ---- all ---- */

static const char *setting(const char *name, const char *otherwise)
{
    const char *value = getenv(name);

    return value && *value ? value : otherwise;
}

static const char *folder(const char *parent)
{
    struct err e = {0};
    const char *dir = path_join(&arena, parent, arena_printf(&arena, "quern-bench-%ld", (long)getpid()));

    if (!dir_make(dir, &e))
        give_up(e.text);
    return dir;
}

static bool wanted(const char *part)
{
    return strcmp(setting("ONLY", part), part) == 0;
}

int main(int argc, char **argv)
{
    const char *home = path_parent(&arena, path_parent(&arena, argc > 0 ? argv[0] : "build/bench/e2e"));
    uint64_t bytes = strtoull(setting("SIZE", "2000000000"), NULL, 10);
    const char *shm = folder(setting("BENCH_DIR", "/dev/shm")), *disk = folder(setting("DISK_DIR", home));

    rounds = (unsigned)strtoul(setting("ROUNDS", "5"), NULL, 10);
    rounds = rounds < 1 ? 1 : rounds > ROUNDS_MAX ? ROUNDS_MAX : rounds;
    quern = path_join(&arena, home, "quern");
    generator = path_join(&arena, home, "synthetic_checkpoint");
    touch_pages(shm);
    if (wanted("tmpfs"))
        bench_tmpfs(shm, bytes);
    remove_tree(shm);
    if (wanted("scaling"))
        bench_scaling(shm, bytes);
    remove_tree(shm);
    if (wanted("disk"))
        bench_disk(disk, bytes / 2);
    remove_tree(disk);
    arena_release(&arena);
    return 0;
}
