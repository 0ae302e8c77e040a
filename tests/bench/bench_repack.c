/* What repacking gains, and what it costs. Windows and loads are counted on made-up traces; the rest is done on a disk,
 * with experts of DeepSeek-V3's size, and cleaned up behind.
 *
 *   LAYERS    of 64 experts, 2.9 GB each (3)
 *   DISK_DIR  a folder on a disk (build)
 *   SECONDS   for each method and depth, each of three rounds, before and after (1)
 *   ONLY      of windows, ranks, copy, io: the one part to run */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "convert/coactive.h"
#include "convert/eplb.h"
#include "convert/expert_order.h"
#include "formats/base/file.h"
#include "formats/routing_stats.h"
#include "formats/weight.h"
#include "samples/generate/synthetic_trace.h"
#include "verify/bench_io.h"

#define EXPERTS  256u
#define PEAK_BAR 300e6
#define COPY_BAR 0.9
#define ROUNDS   3

static const char config[HASH_HEX_BYTES] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

static const char *setting(const char *name, const char *usual)
{
    const char *value = getenv(name);

    return value && *value ? value : usual;
}

static bool wanted(const char *part)
{
    const char *only = getenv("ONLY");

    return !only || !*only || strcmp(only, part) == 0;
}

/* ---- windows ---- */

static double held_windows(const struct routing_stats *s, size_t half, const uint32_t *order,
                           const struct coactive_geometry *g)
{
    uint32_t place[EXPERTS];

    for (uint32_t i = 0; i < EXPERTS; i++)
        place[order[i]] = i;
    return coactive_windows(s->items[0].trace, 8, half, (size_t)s->items[0].tokens - half, place, g, NULL);
}

/* Orders are learnt on the first half of a trace, and counted on the second. */
static bool windows_of(const char *name, const struct synthetic_trace *t, const struct coactive_geometry *g, double bar)
{
    struct routing_stats all = {0}, learn = {0};
    uint32_t index[EXPERTS], coactive[EXPERTS];
    struct arch arch = {.layers = 1, .experts = EXPERTS, .experts_per_token = 8, .moe_layer_freq = 1};
    struct expert_order_options options = {.kind = ORDER_HOT, .stats = &learn};
    struct expert_orders hot;
    struct coactive_gain gain;
    struct arena a = {0};
    struct err e = {0};
    size_t half = (size_t)t->tokens / 2;

    routing_stats_init(&all, EXPERTS, 8, 1, config, true);
    routing_stats_init(&learn, EXPERTS, 8, 1, config, true);
    synthetic_trace_add(&all, 0, t);
    routing_stats_add(&learn, 0, (const uint32_t *)all.items[0].trace, all.items[0].trace_weights, half);
    for (uint32_t i = 0; i < EXPERTS; i++)
        index[i] = i;
    coactive_order(&learn.items[0], EXPERTS, 8, 1, g, coactive, &gain);
    bool ok = expert_orders_make(&hot, &a, &arch, &options, &e);
    double by_index = held_windows(&all, half, index, g), own = held_windows(&all, half, coactive, g);
    double by_heat = ok ? held_windows(&all, half, hot.items[0].experts, g) : 0;
    ok = ok && own <= by_index && own <= by_index * (1 - bar);
    printf("%-34s %7.2f %7.2f (%+5.1f%%) %7.2f (%+5.1f%%)%s  %s\n", name, by_index, by_heat,
           100 * (by_heat / by_index - 1), own, 100 * (own / by_index - 1), gain.kept_index ? " by index" : "",
           ok ? "ok" : "MISSED");
    routing_stats_release(&all);
    routing_stats_release(&learn);
    arena_release(&a);
    return ok;
}

static bool windows(void)
{
    static const struct coactive_geometry fp8 = {44050944, 64000000}, int4 = {22708224, 64000000};
    static const struct synthetic_trace planted = {4000, 32, 0.8, 0, 1, 1}, unlike = {4000, 32, 0.8, 0.8, 1, 2},
                                        noise = {4000, 1, 0, 0, 1, 3}, zipf = {4000, 1, 0, 1, 1, 4};

    printf("windows of 64 MB for a token and layer, 256 experts of V3's size, 8 chosen; held-out half of 4000 tokens\n"
           "%-34s %7s %7s %18s\n",
           "", "index", "hot", "coactive");
    bool ok = windows_of("32 planted communities, FP8", &planted, &fp8, 0.25);
    ok &= windows_of("32 planted communities, int4", &planted, &int4, 0.25);
    ok &= windows_of("the same of unlike loads, int4", &unlike, &int4, 0);
    ok &= windows_of("no structure, int4", &noise, &int4, 0);
    ok &= windows_of("no structure, loads by Zipf, int4", &zipf, &int4, 0);
    return ok;
}

/* ---- ranks ---- */

static bool ranks(void)
{
    static const struct eplb_shape shapes[] = {
        {256, 256, 8, 1, 8}, {256, 256, 8, 4, 32}, {256, 288, 8, 4, 32}, {256, 320, 8, 8, 64}};
    static const double exponents[] = {0.5, 1.0};

    printf("\nmax/mean of a rank's load, 256 experts in 8 groups, loads i^-z in a drawn order, mean of 20 draws\n");
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (size_t z = 0; z < 2; z++) {
            const struct eplb_shape *s = &shapes[i];
            double before = 0, after = 0;
            for (uint64_t seed = 1; seed <= 20; seed++) {
                float loads[256];
                uint32_t slots[320], replicas[320], counts[256];
                synthetic_loads(loads, 256, exponents[z], seed);
                eplb_trivial(s, slots, replicas, counts);
                before += eplb_imbalance(s, loads, slots, counts) / 20;
                eplb_place(s, loads, slots, replicas, counts);
                after += eplb_imbalance(s, loads, slots, counts) / 20;
            }
            printf("z %.1f, %2" PRIu64 " ranks on %" PRIu64 " nodes, %2" PRIu64
                   " redundant: %6.3f before, %6.3f after\n",
                   exponents[z], s->ranks, s->nodes, s->replicas - s->experts, before, after);
        }
    return true;
}

/* ---- a disk ---- */

static struct arena arena;

static double now_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A program to its end; peak: its largest resident set. */
static bool run(const char *const argv[], double *seconds, double *peak)
{
    double begin = now_seconds();
    struct rusage usage;
    int status = 0;

    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    if (child < 0 || wait4(child, &status, 0, &usage) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        printf("%s %s failed\n", argv[0], argv[1]);
        return false;
    }
    if (seconds)
        *seconds = now_seconds() - begin;
    if (peak)
        *peak = (double)usage.ru_maxrss * 1024;
    return true;
}

struct scene {
    char *dir, *src, *out, *copy, *trace, *quern, *generate, *routing;
};

static bool remove_dir(const char *dir)
{
    struct err e = {0};

    return dir_remove_tree(dir, &e);
}

/* Both read a warm source and end with their bytes on the disk. The fingerprint is left out: it reads all again. */
static bool one_round(const struct scene *s, double *ratio, double *peak)
{
    double copying = 0, syncing = 0, packing = 0;

    if (!run((const char *[]){"cp", "-r", s->src, s->copy, NULL}, &copying, NULL) ||
        !run((const char *[]){"sync", "-f", s->copy, NULL}, &syncing, NULL) || !remove_dir(s->copy) ||
        !remove_dir(s->out))
        return false;
    if (!run((const char *[]){s->quern, "repack", "-q", "--order", "coactive", "--stats", s->trace, "--threads", "2",
                              "--no-fingerprint", s->src, s->out, NULL},
             &packing, peak))
        return false;
    *ratio = (copying + syncing) / packing;
    printf("cp and sync %.1f s, repack %.1f s: %.0f%%; peak %.0f MB\n", copying + syncing, packing, 100 * *ratio,
           *peak / 1e6);
    return true;
}

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return a < b ? -1 : a > b;
}

static bool against_copy(const struct scene *s)
{
    double ratios[ROUNDS], peak = 0, largest = 0;

    for (size_t i = 0; i < ROUNDS; i++) {
        if (!one_round(s, &ratios[i], &peak))
            return false;
        largest = peak > largest ? peak : largest;
    }
    qsort(ratios, ROUNDS, sizeof ratios[0], compare_doubles);
    bool ok = ratios[ROUNDS / 2] >= COPY_BAR && largest < PEAK_BAR;
    printf("median of %d rounds: %.0f%% of cp and sync; peak %.0f MB  %s\n", ROUNDS, 100 * ratios[ROUNDS / 2],
           largest / 1e6, ok ? "ok" : "MISSED");
    return ok;
}

/* ---- a token's experts, before and after ---- */

struct reading {
    double seconds, reads, bytes, major, minor; /* for a token */
};

static bool read_experts(const char *dir, const char *trace, const struct bench_io_options *o, struct reading *r,
                         const char **skipped)
{
    struct routing_stats stats = {0};
    struct source source = {0};
    struct bench_io bench = {0};
    struct err e = {0};
    bool ok = source_open(&source, dir, false, &e) && routing_stats_read(&stats, trace, &e) &&
              bench_io_run(&bench, &source, &stats, o, &e);

    if (ok) {
        const struct bench_io_row *row = &bench.rows[0];
        *skipped = row->skipped ? arena_strdup(&arena, row->skipped) : NULL;
        *r = (struct reading){row->seconds, row->reads, row->bytes, row->major_faults, row->minor_faults};
    } else {
        printf("%s\n", e.text);
    }
    bench_io_release(&bench);
    routing_stats_release(&stats);
    source_close(&source);
    return ok;
}

/* Turn about, because disks and neighbours drift; other tokens each round, the same ones before and after. */
static bool compare_method(const struct scene *s, enum read_method m, unsigned depth)
{
    const char *dirs[] = {s->src, s->out}, *skipped = NULL;
    struct reading rounds[2][ROUNDS];
    double ratios[ROUNDS], seconds[2][ROUNDS];

    for (size_t i = 0; i < ROUNDS; i++) {
        struct bench_io_options o = {
            .depths = {depth}, .depth_count = 1, .seconds = atof(setting("SECONDS", "1")), .seed = i};
        o.methods[m] = true;
        for (size_t side = 0; side < 2; side++) {
            size_t k = i % 2 ? 1 - side : side;
            if (!read_experts(dirs[k], s->trace, &o, &rounds[k][i], &skipped))
                return false;
            seconds[k][i] = rounds[k][i].seconds;
        }
        ratios[i] = seconds[1][i] / seconds[0][i];
    }
    printf("%-6s  %5u  ", read_method_name(m), depth);
    if (skipped) {
        printf("skipped: %s\n", skipped);
        return true;
    }
    for (size_t k = 0; k < 2; k++)
        qsort(seconds[k], ROUNDS, sizeof seconds[k][0], compare_doubles);
    qsort(ratios, ROUNDS, sizeof ratios[0], compare_doubles);
    const struct reading *before = &rounds[0][0], *after = &rounds[1][0];
    printf("%7.1f %7.1f  %.2f (%.2f to %.2f)  %6.1f %6.1f  %7.0f %7.0f  %8.0f %8.0f\n", 1e3 * seconds[0][ROUNDS / 2],
           1e3 * seconds[1][ROUNDS / 2], ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1], before->reads, after->reads,
           before->major, after->major, before->minor, after->minor);
    return true;
}

static bool compare_io(const struct scene *s, const char *what)
{
    static const unsigned depths[] = {1, 4, 16};

    printf("\n%s, cold: a token before and after; the ratio's median and range of %d rounds\n"
           "method  depth  ms/token          ratio                reads/token    major faults     minor faults\n",
           what, ROUNDS);
    for (enum read_method m = 0; m < READ_METHOD_COUNT; m++)
        for (size_t d = 0; d < sizeof depths / sizeof depths[0]; d++) {
            if (!compare_method(s, m, depths[d]))
                return false;
            fflush(stdout);
        }
    return true;
}

static bool make_trace(const struct scene *s)
{
    return run((const char *[]){s->routing, s->src, s->trace, "--communities", "8", "--tokens", "2000", NULL}, NULL,
               NULL);
}

static bool pack(const struct scene *s)
{
    return run((const char *[]){s->quern, "repack", "-q", "--order", "coactive", "--stats", s->trace,
                                "--no-fingerprint", s->src, s->out, NULL},
               NULL, NULL);
}

static bool plan_of(const struct scene *s, const char *layout)
{
    return run((const char *[]){s->quern, "repack", "-q", "-n", "--layout", layout, "--trace", s->trace, s->src,
                                s->copy, NULL},
               NULL, NULL);
}

static bool fp8_experts(const struct scene *s)
{
    printf("\non the disk of '%s', FP8 experts of 44 MB\n", setting("DISK_DIR", "build"));
    bool made = run((const char *[]){s->generate, "--layers", setting("LAYERS", "3"), "--dense", "0", "--experts", "64",
                                     s->src, NULL},
                    NULL, NULL) &&
                make_trace(s);
    bool ok = made && (wanted("copy") ? against_copy(s) : pack(s));
    /* A missed bar is no reason to leave the rest out. */
    if (!wanted("io"))
        return ok;
    ok &= made && plan_of(s, "expert") && plan_of(s, "expert-aligned") && compare_io(s, "FP8 experts of 44 MB");
    return ok;
}

/* Made of the FP8 ones, with the same trace, but under their own name. */
static bool int4_experts(struct scene *s)
{
    char *src = path_join(&arena, s->dir, "int4");
    bool ok = run((const char *[]){s->quern, "convert", "-q", "--no-fingerprint", "--to", "int4:g128:absmax", s->src,
                                   src, NULL},
                  NULL, NULL) &&
              remove_dir(s->src) && remove_dir(s->out);

    s->src = src;
    return ok && make_trace(s) && pack(s) && plan_of(s, "expert") && compare_io(s, "int4 experts of 22 MB");
}

static bool disk(const char *program)
{
    struct scene s = {.dir = arena_printf(&arena, "%s/bench-repack", setting("DISK_DIR", "build"))};
    char *bin = path_parent(&arena, path_parent(&arena, program));
    struct err e = {0};

    s.src = path_join(&arena, s.dir, "src");
    s.out = path_join(&arena, s.dir, "out");
    s.copy = path_join(&arena, s.dir, "copy");
    s.trace = path_join(&arena, s.dir, "trace.safetensors");
    s.quern = path_join(&arena, bin, "quern");
    s.generate = path_join(&arena, bin, "synthetic_checkpoint");
    s.routing = path_join(&arena, bin, "routing_trace");
    bool ok = remove_dir(s.dir) && dir_make(s.dir, &e) && fp8_experts(&s);
    if (wanted("io"))
        ok &= path_exists(s.src) && int4_experts(&s);
    return remove_dir(s.dir) && ok;
}

int main(int argc, char **argv)
{
    (void)argc;
    bool ok = !wanted("windows") || windows();

    ok &= !wanted("ranks") || ranks();
    if (wanted("copy") || wanted("io"))
        ok &= disk(argv[0]);
    arena_release(&arena);
    return ok ? 0 : 1;
}
