/* What a text says about a model's linears: how strong each channel of their
 * inputs is, and what rounding each matrix would cost. Collected once by
 * `quern calibrate`; used by quantize, by repack, and as llama.cpp's imatrix.
 *
 * One safetensors file. It is a file of routing statistics (formats/routing_stats.h: metadata, counts, weight_sums,
 * coactivation, sequences) and holds besides, for each layer L that was run, MTP's as well:
 *
 *     __metadata__.calibration  "2": the version of what stands here
 *     __metadata__.losses       names of the schemes below, with ", " between them; only with losses
 *     sum2.L.INPUT    F64 [n, cols]     sum over tokens of x[j] x[j]
 *     hidden.L        F64 [1]           sum over tokens and channels of h h, the hidden state behind the layer
 *     loss.L.MATRIX   F64 [schemes, n]  tr(E H E^T), E = W - Q, all rows: square error of the output, of a mean token
 *     energy.L.MATRIX F64 [n]           tr(W H W^T): square of the output, of a mean token
 *     seen.L.INPUT    I64 [n]           tokens
 *     peak.L.INPUT    F32 [n]           largest |x[j]|
 *
 * INPUT and MATRIX are role names (formats/arch.h). n is the number of routed experts for theirs, else 1. x is what
 * enters the linear, rounded to BF16; its square is exact in float32, and sums are float64, tokens ascending. H is the
 * second moments' matrix that a calibrated rounding goes by (quant/shrink.h), of all tokens that reach the matrix.
 * Experts that no token reached have losses by what all tokens of the layer say.
 *
 * Linears that read the same share an input, which calib_input_of names: q_a_proj is that of q_proj and kv_a_proj too,
 * gate of up, router of the shared expert's gate and up; of all tokens, it is the routed experts' as well.
 * The MTP layer's mtp_proj (eh_proj) has an input and no losses.
 *
 * Merging adds sums, tokens and counts, takes the larger peak, and means losses, weighted by tokens. Integers and peaks
 * of two texts' statistics are then those of both texts together. Sums are as well, but for the order in which float64
 * adds: to the bit where no addition rounded, else within 2 x tokens x 2^-53. Losses are a mean, not what both texts
 * together would give. */
#ifndef FORMATS_CALIB_STATS_H
#define FORMATS_CALIB_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/file.h"
#include "formats/routing_stats.h"
#include "formats/weight.h"

#define CALIB_COLS_MAX (1u << 20) /* of an input; a model's widest is 18,432 */

/* Targets whose cost is measured, by the methods that a recipe would take for them. */
enum calib_scheme { CALIB_INT4_G128, CALIB_INT4_G32, CALIB_FP8, CALIB_SCHEME_COUNT };
struct scheme calib_scheme_get(enum calib_scheme s); /* with its method */
const char *calib_scheme_name(enum calib_scheme s);  /* "int4 g128 ldlq", "fp8 128x128 absmax" */

/* One input of a layer. */
struct calib_input {
    uint64_t layer;
    enum role role; /* names it */
    size_t n, cols;
    int64_t *seen;   /* [n] tokens */
    float *peak;     /* [n] */
    uint64_t offset; /* of its sums in the file that was read, or is written */
};

/* One matrix of a layer, or one of each routed expert. A scheme that does not fit it (groups that do not divide its
 * columns) has infinity. */
struct calib_loss {
    uint64_t layer;
    enum role role;
    size_t n;
    double *loss[CALIB_SCHEME_COUNT]; /* [n] each: of one mean token. Times the tokens that reach the matrix
                                         (routing's counts), it is the square error that the layer's text would see */
    double *energy;                   /* [n] */
};

struct calib_layer {
    uint64_t layer;
    double *hidden; /* [1]; over the tokens that went through: a mean token's squared length behind the layer */
};

/* Zero holds nothing. The sums stay in the file. */
struct calib_stats {
    struct routing_stats routing; /* counts of tokens per expert, and whose statistics these are */
    struct calib_input *inputs;   /* by layer, then role */
    size_t input_count;
    bool has_losses;
    struct calib_loss *losses; /* the same; none without has_losses */
    size_t loss_count;
    struct calib_layer *layers; /* ascending */
    size_t layer_count;
    struct arena arena; /* of all arrays above */
    struct file file;   /* that was read */
};

enum role calib_input_of(enum role matrix);
size_t calib_places(enum role role, uint64_t experts); /* n */
/* NULL: not there. */
const struct calib_input *calib_input_find(const struct calib_stats *s, uint64_t layer, enum role input);
const struct calib_loss *calib_loss_find(const struct calib_stats *s, uint64_t layer, enum role matrix);

/* Empty statistics of a model, with room for all that it has: every quantizable linear of its layers and of the first
 * MTP layer. Reads its routers. What refuses is routing_stats_open. */
bool calib_stats_plan(struct calib_stats *s, const struct source *source, bool with_losses, struct err *e) CHECKED;
void calib_stats_release(struct calib_stats *s); /* idempotent; closes the file */

/* Opens a file and reads all but the sums. Refused besides what routing_stats_read refuses: routing statistics alone,
 * another version, tensors that are missing or of another shape, negative or infinite numbers. */
bool calib_stats_open(struct calib_stats *s, const char *path, struct err *e) CHECKED;
/* The sums of one of an input's n, [cols]. Refuses what is negative or not finite. Thread-safe. */
bool calib_stats_sum2(const struct calib_stats *s, const struct calib_input *in, size_t index, double *sum2,
                      struct err *e) CHECKED;
/* SHA-256 of the file that was opened. */
bool calib_stats_sha256(const struct calib_stats *s, char hex[HASH_HEX_BYTES], struct err *e) CHECKED;
/* Whether they are of this model, or of the one that a bundle was made from (routing_stats_check), input by input. */
bool calib_stats_check(const struct calib_stats *s, const struct source *source, struct err *e) CHECKED;

/* ---- writing: the file's size and places follow from the plan; sums are written as they come ---- */

struct calib_writer {
    const struct calib_stats *stats; /* borrowed */
    struct arena arena;
    struct tensor_item *items; /* the file's */
    size_t count;
    struct output out;
};
/* calib_stats_file_bytes: how large it will be. s: planned, its sequences added (the text is known before the run); its
 * inputs' offsets are filled in. Its arrays are read by calib_writer_commit, so they may change until then, and
 * routing_stats_add to it. */
bool calib_stats_file_bytes(const struct calib_stats *s, uint64_t *bytes, struct err *e) CHECKED;
bool calib_writer_open(struct calib_writer *w, struct calib_stats *s, const char *path, struct err *e) CHECKED;
/* The same, and what an earlier run left at path's partial file stays. w->out.keep is the caller's: whether it stays
 * once more. */
bool calib_writer_reopen(struct calib_writer *w, struct calib_stats *s, const char *path, struct err *e) CHECKED;
/* Makes layers [first, end) durable in the partial file, whose sums were written; and takes layers [0, end) back from
 * it into the arrays. */
bool calib_writer_save(struct calib_writer *w, uint64_t first, uint64_t end, struct err *e) CHECKED;
bool calib_writer_load(const struct calib_writer *w, struct calib_stats *s, uint64_t end, struct err *e) CHECKED;
/* Of one of the input's n. Each is written once, those of no token too. Thread-safe. */
bool calib_writer_sum2(struct calib_writer *w, const struct calib_input *in, size_t index, const double *sum2,
                       struct err *e) CHECKED;
bool calib_writer_commit(struct calib_writer *w, struct err *e) CHECKED;
void calib_writer_release(struct calib_writer *w); /* idempotent; not committed: nothing is left */

/* Adds what stands in `from` to s, sums aside. Refused: another model, other layers or inputs, naming both values.
 * Losses survive where both have them; *lost says that one had. */
bool calib_stats_merge(struct calib_stats *s, const struct calib_stats *from, bool *lost, struct err *e) CHECKED;
/* The files' statistics together, into one, in the order given. */
bool calib_stats_merge_files(const char *const *paths, size_t count, const char *out, bool *lost,
                             struct err *e) CHECKED;

#endif
