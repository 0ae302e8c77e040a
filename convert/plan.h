/* The plan: everything that can be known without touching a weight. Rows say
 * which tensors come out, of what type and shape, in which shard, at which
 * offset, and from what; jobs say in which order and pieces. Built from headers
 * only, printed on request, then run.
 *
 * What decides a byte is here and nowhere else: not the number of threads, not
 * the memory budget. Jobs are cut by the source matrix alone (PLAN_JOB_WEIGHTS),
 * so that sums over a weight fold alike for any outputs made in the same run. */
#ifndef CONVERT_PLAN_H
#define CONVERT_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "convert/recipe.h"
#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/safetensors.h"
#include "formats/weight.h"
#include "quant/transform.h"

/* A job holds at most this many weights (but at least PLAN_JOB_ROWS rows): 2 MiB of FP8, large enough for a disk,
 * small enough that a handful of jobs in flight stays in a CPU's last cache, and that touching their memory for the
 * first time is nothing beside half a gigabyte of work. */
#define PLAN_JOB_WEIGHTS (2u << 20)
/* Jobs begin at multiples of this, which every scheme's row multiple divides. */
#define PLAN_JOB_ROWS 128u

/* Where a weight of the plan stands in a weight of the source, when it is not simply that weight: a window of its
 * rows and columns, or its rows in another order. plan->weights[i] then has the piece's own rows and cols, and the
 * source's parts. */
struct plan_piece {
    uint64_t row, col;         /* of the window's first number */
    uint64_t rows, cols;       /* of the whole source weight */
    const uint32_t *row_order; /* the source's row for each row, of a plain weight; NULL: as they stand */
};

struct statistics;
struct measured;

/* One weight in one output. */
struct plan_row {
    const struct weight *weight;
    struct scheme scheme;
    const char *why;                 /* rule and reason, for the plan and quern.json */
    bool fell_back;                  /* the group did not fit the width */
    bool calibrated;                 /* made while the model runs (convert/calibrated.h): no job writes it */
    const struct measured *measured; /* what statistics say of its input (convert/measured.h); NULL: they have no say */
    bool unlisted;                   /* a copy beside the one that the index names */
    struct tensor parts[PART_COUNT]; /* as they will stand; dtype NONE: no such part */
};

struct plan_shard {
    const char *name;
    struct buf prefix; /* the file's first bytes: length, header, and the constant tensors behind it */
    struct buf suffix; /* its last bytes: constant tensors that would spoil the alignment of those behind them */
    uint64_t bytes;    /* of the whole file */
    bool calibrated;   /* holds weights that no job writes: calibrated_run completes it */
};

/* In which order tensors stand in a shard. (plan_layout.c) */
enum plan_zones {
    ZONES_CONVERT,         /* constants, weights with their parts side by side, odd sizes */
    ZONES_EXPERTS,         /* routed experts with their scales, the other weights, odd sizes, constants */
    ZONES_EXPERTS_ALIGNED, /* the same, but the experts' scales of odd sizes behind the other weights */
};

struct plan_drop {
    const char *name; /* of a source tensor */
    const char *why;
};

/* One bundle to be written. Several share one reading of the source. */
struct plan_output {
    const char *dir;
    const struct recipe *recipe;
    struct plan_row *rows; /* one per plan->weights */
    struct plan_drop *drops;
    size_t drop_count;
    struct plan_shard *shards;
    size_t shard_count;
    enum plan_zones zones;
    uint64_t data_align;   /* of the first tensor in a file; 0: SAFETENSORS_DATA_ALIGN */
    bool no_index;         /* files that are not a checkpoint together */
    uint64_t tensor_bytes; /* sum over tensors, for the index */
    uint64_t file_bytes;   /* sum over shards */
};

/* Rows [row, row + count) of one weight, into every output. */
struct job {
    uint32_t weight; /* index into plan->weights, and into every output's rows */
    uint64_t row, count;
};

/* A file that is written beside the shards. */
struct plan_text {
    const char *name, *text;
};

struct plan {
    struct arena arena;
    const struct source *source;
    const struct weight **weights; /* what is converted, in the source's file order; repack has an order of its own */
    size_t weight_count;
    const struct plan_piece **pieces; /* per weight, NULL for a whole one; NULL: all are whole */
    const struct plan_text *texts;
    size_t text_count;
    bool same_config;        /* config.json is the source's, byte for byte */
    bool copies_unseen;      /* what is copied may be not finite: its bytes are all that counts */
    const char *report;      /* lines that are printed behind the plan and the result, or NULL */
    const char *report_json; /* the same, a value for their JSON */
    const char *report_name; /* its member there */
    const struct statistics *statistics; /* in place of a text; NULL: none */
    const char *calibration; /* what the calibrated rows depend on beside recipe and source, in words; NULL: none are */
    uint64_t calibration_bytes; /* the least memory that the calibrated run needs */
    uint64_t min_tokens;        /* of calibrated ones: an expert that fewer reached is starved */
    struct plan_output *outputs;
    size_t output_count;
    struct job *jobs;
    size_t job_count;
    uint64_t read_bytes, write_bytes;                      /* over all jobs: tensor data */
    uint64_t most_bytes;                                   /* read once more before, for the scales of whole matrices */
    size_t in_bytes_max, out_bytes_max, scratch_bytes_max; /* of one job; buffers and scratch are sized by these */

    const struct expert_numbers *renumbering; /* of routed experts; NULL: they keep their numbers */
};

struct plan_target {
    const char *dir;
    const struct recipe *recipe;
};

struct plan_options {
    const struct plan_target *targets;
    size_t target_count;
    const struct statistics *statistics; /* what calibrated recipes go by in place of a text; stays open; or NULL */
    uint64_t shard_bytes; /* a new shard begins when the next weight would pass this */
    bool keep_shards;     /* the source's shard layout and names */
    bool allow_unfused;
    bool keep_unknown; /* tensors of unknown role are copied instead of refused */
};

/* The source must stay open as long as the plan. Refused: tensors of unknown role (listed), schemes that split
 * fused modules, pairs that cannot be converted, expert widths that no group fits. */
bool plan_open(struct plan *p, const struct source *s, const struct plan_options *o, struct err *e) CHECKED;
void plan_close(struct plan *p);

/* A static activation scale as a weight of its own, copied where the FP8 codes stay. */
const struct weight *plan_input_scale(struct arena *a, const struct weight *w);

/* The slices a job reads of its weight's parts and writes of an output's parts: byte ranges inside the tensor. What is
 * read of a piece is many ranges: bytes / line_bytes of them, one behind the other in memory. */
struct plan_slice {
    const struct tensor *tensor; /* NULL: no such part */
    uint64_t offset, bytes;      /* inside the tensor; bytes: of all lines */
    uint64_t line_bytes;         /* 0: one range */
    uint64_t stride_bytes;       /* from a line to the next */
    const uint32_t *line_order;  /* offset + line_order[i] * stride_bytes is where line i begins; NULL: i for it */
};
void plan_job_in(const struct plan *p, const struct job *j, struct plan_slice in[PART_COUNT]);
/* What a job writes; nothing of a calibrated row, whose slices plan_row_slices gives. */
void plan_job_out(const struct plan *p, const struct job *j, size_t output, struct plan_slice out[PART_COUNT]);

void plan_row_slices(const struct plan_row *row, uint64_t first, uint64_t count, struct plan_slice out[PART_COUNT]);
bool plan_is_calibrated(const struct plan_output *o);
bool plan_row_is_fed(const struct plan_row *row); /* calibrated, by a text or by statistics */
bool plan_is_fed(const struct plan *p, const struct plan_output *o);
bool plan_row_has_most(const struct plan_row *row); /* its jobs want the matrix's largest magnitude (run_most.c) */
size_t plan_calibrated_output(const struct plan *p); /* the first that is; output_count: none */
/* Reads a slice of a job's input; to has its bytes. Thread-safe. (plan_read.c) */
bool plan_read(const struct plan *p, const struct plan_slice *s, void *to, struct err *e) CHECKED;

/* Cuts the weights into jobs and measures them: once weights, pieces and rows are final. */
void plan_cut_jobs(struct plan *p);

/* For each source shard, the number of the last job that reads it, plus one; 0: none does. mem_free it. */
size_t *plan_last_jobs(const struct plan *p);

/* Lays the rows of one output out in shards: fills parts' shard and offset, shards, sums. (plan_layout.c) */
bool plan_layout(struct plan *p, struct plan_output *o, const struct plan_options *options, struct err *e) CHECKED;
/* The second half of it: every part's shard is set, shards have their names. */
bool plan_lay_out(struct plan *p, struct plan_output *o, struct err *e) CHECKED;
/* What a row takes in a shard, and of that in its header; an upper bound. A shard takes PLAN_SHARD_BYTES_EMPTY beside
 * its rows, and its header stays below PLAN_HEADER_BYTES. */
void plan_row_size(const struct plan_row *row, uint64_t *bytes, size_t *header_bytes);
#define PLAN_SHARD_BYTES_EMPTY (SAFETENSORS_DATA_ALIGN + 64u)
#define PLAN_HEADER_BYTES      (SAFETENSORS_HEADER_BYTES_HUB / 2)

#endif
