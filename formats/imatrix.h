/* llama.cpp's importance matrix, from calibration statistics: the mean of x^2
 * per channel of what enters each tensor, under GGUF's names for deepseek2. Two
 * forms, chosen by the file's ending:
 *
 *   .gguf  a GGUF of general.type "imatrix": per tensor NAME.in_sum2 F32 {cols, n}, sums of x^2, and NAME.counts F32
 *          {1, n}, tokens; n is the number of experts in a stacked tensor, else 1
 *   .dat   i32 entries; each: i32 bytes and name, i32 calls, i32 values, F32 means times calls, expert by expert; then
 *          i32 last call, i32 bytes and name of the text. calls: the text's contexts. No token: 1 times calls
 *
 * Entries stand sorted by name. kv_b_proj is attn_kv_b, as files have it whose kv_b is not split; attn_k_b and attn_v_b
 * are left out, because what enters them is not seen where kv_b_proj is whole. */
#ifndef FORMATS_IMATRIX_H
#define FORMATS_IMATRIX_H

#include <stdbool.h>

#include "formats/calib_stats.h"

enum imatrix_form { IMATRIX_GGUF, IMATRIX_DAT };

/* By the path's ending; ERR_USAGE for another. form may be NULL. */
bool imatrix_form(const char *path, enum imatrix_form *form, struct err *e) CHECKED;
/* s: opened from a file. Refused: a sum past float32's range. */
bool imatrix_write(const struct calib_stats *s, const char *path, struct err *e) CHECKED;

#endif
