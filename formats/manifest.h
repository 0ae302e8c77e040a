/* quern.json: what a bundle is and where every tensor of it came from.
 * quern-bundle(5) documents the fields. No date, host, path or thread count. */
#ifndef FORMATS_MANIFEST_H
#define FORMATS_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/scheme.h"

#define MANIFEST_NAME      "quern.json"
#define MANIFEST_VERSION   1u
#define MANIFEST_BYTES_MAX (512u << 20) /* DeepSeek-V3's is about 20 MB */

struct manifest_file {
    const char *name;
    uint64_t bytes;
    const char *sha256;
};

/* What calibration did to a weight. */
struct manifest_calibration {
    const char *ending, *reason; /* "feedback", "as asked"; or what took its place, and why */
    uint64_t tokens;             /* that reached its input */
    double routed_weight;        /* sum of the router's weights over them; negative: not an expert's */
    double to_prior, to_diagonal; /* shrinkage of the input's moments */
    double input_most, output_most; /* largest magnitude that entered, and left an expert's down_proj; negative: absent */
    double output_error; /* expected square error of the output, relative to its size; negative: there are no moments */
};

/* One weight: the tensors it became, and from which. */
struct manifest_row {
    const char *name; /* logical: "model.layers.3.mlp.experts.0.gate_proj.weight" */
    const char *role;
    uint64_t *shape; /* of the matrix that is stored, whatever its parts */
    size_t rank;
    const char *scheme; /* as scheme_text says it: "int4 g128" */
    const char *method; /* as scheme_method_name does */
    bool positive_scales;
    bool piece; /* a window of its source, or its rows in another order */
    const char *why;
    const char **tensors; /* its parts, in the order of enum part; none is left out */
    size_t tensor_count;
    const char **sources;
    size_t source_count;
    double error; /* |W - W'| / |W|, against the source's numbers; negative: exact, or only rounded to a float type */
    struct manifest_calibration *calibration; /* NULL: it is not calibrated */
};

/* What leaves its down_proj is massive. */
struct manifest_super {
    uint64_t layer, expert;
    double output_most;
};

struct manifest_drop {
    const char *tensor, *why;
};

/* What the bundle's forward pass said when it was made. */
struct manifest_position {
    uint32_t *ids; /* the most probable next tokens, best first */
    size_t id_count;
    double *logprobs; /* natural, as many */
    size_t logprob_count;
};
struct manifest_choices {
    uint64_t layer;
    uint32_t *experts; /* of each position, ascending, one position behind the other */
    size_t expert_count;
};
struct manifest_fingerprint {
    const char *kernel_class; /* of the forward pass */
    uint32_t *prompt;         /* token ids: one sequence from position 0 */
    size_t prompt_count;
    struct manifest_position *positions; /* one for each token of the prompt */
    size_t position_count;
    struct manifest_position *mtp; /* of the first MTP layer, the token after next: one for each token but the last */
    size_t mtp_count;              /* 0: there is none, or it was not asked */
    struct manifest_choices *routing; /* one for each layer with a router */
    size_t routing_count;
};

struct manifest {
    uint64_t version; /* set by both manifest_write and manifest_parse */
    const char *tool_version;
    const char *kernel_class;      /* "exact": no byte depends on the CPU; else whose products calibrated it */
    const char *recipe_text;       /* canonical JSON */
    const char *config_sha256;     /* of the source's config.json */
    const char *calibration;       /* the text: tokens, contexts, their SHA-256; or NULL */
    struct manifest_super *supers; /* super experts, by layer, then expert */
    size_t super_count;
    struct manifest_file *sources; /* the source's shards; empty unless they were hashed */
    size_t source_count;
    struct manifest_file *files;
    size_t file_count;
    struct manifest_drop *drops;
    size_t drop_count;
    struct manifest_fingerprint *fingerprint; /* NULL: there is none */
    const char *no_fingerprint;               /* and why, or NULL in bundles from before there were any */
    struct manifest_row *rows;
    size_t row_count;
};

void manifest_write(struct buf *out, const struct manifest *m);
/* All in the arena. Strict: every field that manifest_write writes and no other, of the right type; hashes are 64
 * lower-case hex digits. A version of the future is ERR_UNSUPPORTED. */
bool manifest_parse(struct manifest *m, struct arena *a, const char *text, size_t bytes, struct err *e) CHECKED;
bool manifest_load(struct manifest *m, struct arena *a, const char *path, struct err *e) CHECKED;

#endif
