#include "convert/conversion_results.h"

#include <stdio.h>

#include "convert/coverage.h"
#include "convert/plan_print.h"
#include "convert/summary.h"
#include "formats/base/units.h"

static void print_output(const struct plan *p, size_t output, const struct run_result *result,
                         const struct proof *proof)
{
    struct arena a = {0};
    struct summary s;
    char in[BYTES_TEXT], out[BYTES_TEXT];
    const struct plan_output *o = &p->outputs[output];
    const struct checkpoint *c = &p->source->checkpoint;

    summary_make(&s, &a, p, o, result);
    summary_print(&s, true);
    printf("%s in %zu shard%s -> '%s': %s in %zu shard%s\n", bytes_text((double)c->tensor_bytes, in), c->shard_count,
           plural(c->shard_count), o->dir, bytes_text((double)o->file_bytes, out), o->shard_count,
           plural(o->shard_count));
    if (p->report && output == 0)
        printf("%s", p->report);
    if (proof)
        plan_print_proved(proof);
    arena_release(&a);
}

static void print_coverage(const struct plan *p, const struct plan_output *o, const struct run_result *result)
{
    struct arena a = {0};
    struct buf out = {0};
    struct coverage coverage;

    coverage_make(&coverage, &a, p, o, result);
    coverage_print(&coverage, &out);
    printf("\n%s\n", out.data);
    buf_release(&out);
    arena_release(&a);
}

void conversion_print_results(const struct conversion *c, const struct plan *p, const struct run_result *results,
                              const struct proof *proofs)
{
    for (size_t o = 0; o < p->output_count; o++) {
        const struct proof *proof = proofs ? &proofs[o] : NULL;
        if (c->json)
            plan_print_json(p, o, &results[o], proof, NULL, NULL, 0);
        else {
            if (results[o].calibrated)
                print_coverage(p, &p->outputs[o], &results[o]);
            print_output(p, o, &results[o], proof);
        }
    }
}
