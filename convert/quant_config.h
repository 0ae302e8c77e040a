/* config.json of an output: the source's bytes, with quantization_config and the
 * dtype in it made to say what the output's matrices are. */
#ifndef CONVERT_QUANT_CONFIG_H
#define CONVERT_QUANT_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "formats/arch.h"
#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/engine.h"

/* Adds the output's config.json to *out. rows: every weight of the output with the scheme it gets.
 *
 * Every byte of the source stays but for three members: quantization_config is kept as it is where no linear layer
 * changes its quantization, else replaced, added behind the last member, or taken out; torch_dtype and dtype follow
 * the float matrices when these change and agree. All three stand in text_config where there is one (Kimi-K2.5), but
 * for a quantization_config that the source has outside. The result is read back and held against the rows
 * (quant_config_check).
 *
 * ERR_UNSUPPORTED: DeepSeek's FP8 layout beside int4 or compressed-tensors FP8, FP8 blocks of two sizes, per-tensor FP8
 * beside a change, a change where quantization_config stands inside text_config and outside. */
bool quant_config_write(struct buf *out, const struct arch *arch, const char *source_config, size_t bytes,
                        const struct engine_weight *rows, size_t count, struct err *e) CHECKED;

/* Reads a config.json as engines do ("ignore", "targets", skip lists) and checks that every linear module is found
 * quantized as its row says, or not quantized. ERR_FORMAT names the first that is not. */
bool quant_config_check(const char *config, size_t bytes, const struct engine_weight *rows, size_t count,
                        struct err *e) CHECKED;

#endif
