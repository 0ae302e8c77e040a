/* How fast a text becomes ids: the evaluation text under the sample's tokenizer, best of several runs, one core. */
#include <stdio.h>
#include <time.h>

#include "formats/base/file.h"
#include "formats/tokenizer.h"

#define DIR  "samples/tiny-v3"
#define TEXT "samples/text/evaluation.txt"
#define RUNS 10

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int main(void)
{
    struct tokenizer t = {0};
    struct tokenizer_encode how = {0};
    struct id_list ids = {0};
    struct err e = {0};
    char *text = NULL;
    size_t bytes = 0;
    double open_seconds = -seconds(), best = 1e9;
    bool ok = tokenizer_open(&t, DIR, &e);

    open_seconds += seconds();
    ok = ok && file_slurp(TEXT, 1u << 30, &text, &bytes, &e);
    for (int run = 0; ok && run < RUNS; run++) {
        double start = seconds();
        ids.count = 0;
        ok = tokenizer_encode(&t, text, bytes, &how, &ids, &e);
        if (seconds() - start < best)
            best = seconds() - start;
    }
    if (ok)
        printf("tokenize %zu bytes: %zu ids, %.1f MB/s; the tokenizer opens in %.1f ms\n", bytes, ids.count,
               (double)bytes / best * 1e-6, open_seconds * 1e3);
    else
        fprintf(stderr, "bench_tokenizer: %s\n", e.text);
    mem_free(text);
    id_list_release(&ids);
    tokenizer_release(&t);
    return !ok;
}
