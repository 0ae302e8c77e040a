/* A forward pass's options on the command line, for the commands that run one. */
#ifndef VERIFY_FORWARD_OPTIONS_H
#define VERIFY_FORWARD_OPTIONS_H

#include "formats/base/opt.h"
#include "verify/forward.h"

struct forward_choices {
    const char *emulate;
    double mla_norm_eps;
    uint64_t threads, memory_bytes;
};
/* The options' rows, for a struct forward_choices o. */
#define FORWARD_OPTIONS(o)                                                                                             \
    {.name = "emulate",                                                                                                \
     .kind = OPT_STRING,                                                                                               \
     .value = &(o).emulate,                                                                                            \
     .arg = "NUMBERS",                                                                                                 \
     .help = "round as another program would: bf16 or fp8-activations"},                                               \
        {.name = "mla-norm-eps",                                                                                       \
         .kind = OPT_F64,                                                                                              \
         .value = &(o).mla_norm_eps,                                                                                   \
         .arg = "X",                                                                                                   \
         .help = "epsilon of q_a_layernorm and kv_a_layernorm (1e-6)"},                                                \
        {.name = "threads",                                                                                            \
         .letter = 't',                                                                                                \
         .kind = OPT_U64,                                                                                              \
         .value = &(o).threads,                                                                                        \
         .arg = "N",                                                                                                   \
         .help = "worker threads (one per CPU); the numbers do not depend on it",                                      \
         .min = 1,                                                                                                     \
         .max = 1024},                                                                                                 \
    {                                                                                                                  \
        .name = "memory", .letter = 'm', .kind = OPT_SIZE, .value = &(o).memory_bytes, .arg = "SIZE",                  \
        .help = "memory to use (half of the machine's)", .min = 1, .max = UINT64_MAX                                   \
    }
#define FORWARD_START_POS(position)                                                                                    \
    {                                                                                                                  \
        .name = "start-pos", .kind = OPT_U64, .value = &(position), .arg = "N",                                        \
        .help = "position of a context's first token (0)", .min = 0, .max = UINT32_MAX                                 \
    }

/* Refuses what the options' kinds let through: other numbers, an epsilon that is none. */
bool forward_choose(struct forward_options *o, const struct forward_choices *c, struct err *e) CHECKED;
/* What is to be known of a pass over this model, a line of text in the arena; NULL: nothing. */
const char *forward_caveat(struct arena *a, const struct source *s);
/* What is not as without options: "bf16, mla-norm-eps 1e-05"; "none". In the arena, or static. */
const char *forward_numbers(struct arena *a, const struct forward_options *o);

#endif
