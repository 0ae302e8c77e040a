/* quern diff of the sample and its int4 bundle, 4,096 tokens in contexts of 256, whole processes on two threads: with
 * all that it reports, and without the noise floors. Where /usr/bin/python3 has PyTorch, tests/bench/kl_torch.py
 * computes KL, top 1, perplexities and routing of the same pair, on its best of one and two threads; the two must agree
 * on the KL to 1%.
 *
 *     ROUNDS=5 build/bench/diff */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "formats/json.h"

#define SAMPLE    "samples/tiny-v3"
#define TEXT      "samples/text/evaluation.txt"
#define WORK      "build/bench-diff"
#define CANDIDATE WORK "/cand"
#define REPORT    WORK "/report.json"
#define TORCH     WORK "/torch.json"
#define SKIPPED   77

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "bench-diff: %s\n", what);
    exit(1);
}

/* Exit status of a shell command, and its seconds. */
static int run(const char *command, double *seconds)
{
    double start = now();
    int status = system(command);

    *seconds = now() - start;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static double best(const char *command, unsigned rounds)
{
    double least = INFINITY;

    for (unsigned i = 0; i < rounds; i++) {
        double seconds = 0;
        int status = run(command, &seconds);
        if (status == SKIPPED)
            return NAN;
        if (status != 0)
            give_up(command);
        least = seconds < least ? seconds : least;
    }
    return least;
}

static double number(const char *path, const char *const keys[], size_t count)
{
    struct json_doc d = {0};
    struct err e = {0};

    if (!json_load(&d, path, 1 << 24, JSON_STRICT, &e))
        give_up(e.text);
    const struct json *v = d.root;
    for (size_t i = 0; v && i < count; i++)
        v = json_type(v) == JSON_ARRAY ? json_first(v) : json_get(v, keys[i]);
    if (!v)
        give_up("a number is missing in the report");
    double x = json_double(&d, v);
    json_release(&d);
    return x;
}

static double quern_kl(void)
{
    static const char *const keys[] = {"candidates", "0", "kl", "mean"};

    return number(REPORT, keys, 4);
}

/* NaN: no PyTorch here. */
static double torch_seconds(unsigned rounds)
{
    double least = NAN;

    for (unsigned threads = 1; threads <= 2; threads++) {
        char command[400];
        snprintf(command, sizeof command,
                 "/usr/bin/python3 tests/bench/kl_torch.py " SAMPLE " " CANDIDATE " " TEXT " 4096 256 %u >" TORCH
                 " 2>&1",
                 threads);
        double seconds = access("/usr/bin/python3", X_OK) == 0 ? best(command, rounds) : NAN;
        if (isnan(seconds)) {
            printf("  PyTorch                 not here\n");
            return NAN;
        }
        printf("  PyTorch, %u thread%s     %6.2f s\n", threads, threads > 1 ? "s" : " ", seconds);
        least = isnan(least) || seconds < least ? seconds : least;
    }
    return least;
}

int main(void)
{
    static const char *const keys[] = {"kl"};
    static const char run_diff[] = "diff -q --threads 2 --text " TEXT " --tokens 4096 --context 256 --json=" REPORT
                                   " " SAMPLE " " CANDIDATE " >/dev/null";
    const char *quern = getenv("QUERN") ? getenv("QUERN") : "build/quern";
    unsigned rounds = getenv("ROUNDS") ? (unsigned)atoi(getenv("ROUNDS")) : 3;
    char command[600];
    double seconds = 0;
    struct err e = {0};

    rounds = rounds ? rounds : 1;
    if (!dir_make(WORK, &e))
        give_up(e.text);
    snprintf(command, sizeof command, "%s quantize -q --force --recipe int4-fast " SAMPLE " " CANDIDATE " >/dev/null",
             quern);
    if (run(command, &seconds) != 0)
        give_up(command);
    printf("diff of a pair, 4,096 tokens, contexts of 256; best of %u\n", rounds);
    snprintf(command, sizeof command, "%s %s --floor-tokens 0", quern, run_diff);
    printf("  quern diff, no floors   %6.2f s\n", best(command, rounds));
    snprintf(command, sizeof command, "%s %s", quern, run_diff);
    double full = best(command, rounds);
    printf("  quern diff, 2 threads   %6.2f s   (1 s is the aim)\n", full);
    double kl = quern_kl(), torch = torch_seconds(rounds);
    if (isnan(torch))
        return 0;
    double want = number(TORCH, keys, 1);
    printf("  PyTorch's best is %.1f times as long (3 is the aim)\n", torch / full);
    printf("  mean KL %.6e and %.6e: %.2g apart, relative\n", kl, want, fabs(kl - want) / want);
    return fabs(kl - want) > 0.01 * want;
}
