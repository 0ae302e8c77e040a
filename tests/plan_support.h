/* Small models on disk, and what must hold of any plan. */
#ifndef TESTS_PLAN_SUPPORT_H
#define TESTS_PLAN_SUPPORT_H

#include "tests/ckpt_support.h"
#include "tests/convert_support.h"
#include "tests/ct.h"

extern const struct scheme support_fp8, support_fp8_tensor, support_kimi_int4, support_bf16;

/* Starts the tiny V3-like model: config and every tensor, in one shard; add more, then ckpt_write. int4 packs the
 * routed experts alone, as Kimi-K2-Thinking does. false: the test has failed. */
bool support_model(struct ckpt_maker *m, const struct scheme *linear);
/* The same of another model, whose config.json says of quantization what it says there. */
bool support_model_of(struct ckpt_maker *m, const struct model *of, const struct scheme *linear);
/* Adds tensors of unknown role with every alignment and odd sizes; needs --keep-unknown. */
void support_odd_tensors(struct ckpt_maker *m);
/* A static activation scale for a module that is there. */
void support_input_scale(struct ckpt_maker *m, const char *module);

/* One row a tensor; tensors tile every shard and are aligned in it; the sums are right. */
void support_check_layout(const struct plan *p);
/* Jobs read and write every byte of every tensor once, forward. */
void support_check_jobs(const struct plan *p);

#endif
