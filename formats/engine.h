/* What serving engines demand of a checkpoint: one table of modules that they
 * fuse, and the limits of their kernels. Plan, recipe and lint read it. */
#ifndef FORMATS_ENGINE_H
#define FORMATS_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/arch.h"
#include "formats/base/err.h"
#include "formats/scheme.h"
#include "formats/weight.h"

/* One weight with the scheme it is to get (or has). */
struct engine_weight {
    const struct weight *weight;
    const struct scheme *scheme;
};

/* Modules that vLLM and SGLang load as one (q_a + kv_a, gate + up of a dense or shared MLP, all experts of a
 * layer with their three matrices) must share one scheme. ERR_UNSUPPORTED with both module names, both
 * schemes and the engines' reason. */
bool engine_check_fused(const struct engine_weight *w, size_t count, struct err *e) CHECKED;

/* The first role of the set that a role's modules are loaded in, all of a layer's together; alone: the role itself. */
enum role engine_fused_leader(enum role role);

/* The matrix that engines load as one with this one and by one scale, the larger of both: gate and up, q_a_proj and
 * kv_a_proj_with_mqa. ROLE_UNKNOWN: none. */
enum role engine_scale_partner(enum role role);

/* Harmless-looking choices: reported, one line each, through `say`, with the rule's name: "engine-refuses" for what an
 * engine does not load, "engine-limit" for what it runs slowly or needs an option for, or one of its own. */
void engine_check_limits(const struct engine_weight *w, size_t count,
                         void (*say)(void *ctx, const char *rule, const char *line), void *ctx);

#endif
