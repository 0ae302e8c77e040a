/* What lint finds. Every kind of finding is a row of one table: a stable name
 * that scripts may hold on to, a severity, and a line for the manual. */
#ifndef VERIFY_FINDING_H
#define VERIFY_FINDING_H

#include <stdbool.h>
#include <stddef.h>

#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/json.h"

/* Note: harmless, good to know. Warning: may load, may be wrong. Error: engines refuse it, or it is wrong. */
enum severity { SEVERITY_NOTE, SEVERITY_WARNING, SEVERITY_ERROR };

enum rule_id {
    RULE_MALFORMED, /* of an input that is refused for a reason without a name of its own */

    /* what formats/ refuses, by the name in struct err */
    RULE_BITS_UNKNOWN,
    RULE_CODES_DTYPE,
    RULE_COLUMNS_REORDERED,
    RULE_CONFIG_MALFORMED,
    RULE_CONFIG_MISSING,
    RULE_INDEX_LACKS_TENSOR,
    RULE_INDEX_MALFORMED,
    RULE_INDEX_MISSING,
    RULE_INDEX_NAMES_ABSENT_TENSOR,
    RULE_INDEX_WRONG_SHARD,
    RULE_PACKED_SHAPE,
    RULE_PART_ORPHAN,
    RULE_QUANT_CONFIG_MALFORMED,
    RULE_SCALE_DTYPE,
    RULE_SCALE_MISSING,
    RULE_SCALE_SHAPE,
    RULE_SCALE_TWICE,
    RULE_SHAPE_MISMATCH,
    RULE_SHARD_MALFORMED,
    RULE_SHARD_MISSING,
    RULE_SHARD_TRUNCATED,
    RULE_TENSOR_TWICE,
    RULE_WEIGHT_TWICE,
    RULE_ZERO_POINT_SHAPE,
    /* what it only notes */
    RULE_HEADER_FIELDS,
    RULE_INDEX_TOTAL_SIZE,
    RULE_SHARD_REMOVED,
    RULE_SHARD_UNREAD,

    /* headers against config.json */
    RULE_WEIGHT_MISSING,
    RULE_MTP_MISSING,
    RULE_MTP_UNDECLARED,
    RULE_NAME_UNKNOWN,
    RULE_ROPE_CACHE,
    RULE_HEAD_TIED,
    RULE_QUANT_CONFIG_MISSING,
    RULE_QUANT_CONFIG_MISMATCH,
    RULE_QUANT_FORMAT,
    RULE_QUANT_IGNORE,
    RULE_QUANT_IGNORE_UNMATCHED,
    RULE_INPUT_SCALE_MISSING,
    RULE_INPUT_SCALE_UNUSED,

    /* what must stay wide */
    RULE_ROUTER_QUANTIZED,
    RULE_ROUTER_BIAS_NARROWED,
    RULE_NORM_QUANTIZED,
    RULE_NORM_DTYPE,
    RULE_NORMS_MIXED,

    /* engines */
    RULE_FUSED_SPLIT,
    RULE_ENGINE_REFUSES,
    RULE_ENGINE_LIMIT,
    RULE_KV_B_PACKED,
    RULE_QUANTIZED_OUTSIDE,
    RULE_HEADER_LONG,
    RULE_MISALIGNED,

    /* side files */
    RULE_TOKENIZER_MISSING,
    RULE_TOKENIZER_MALFORMED,
    RULE_TOKENIZER_UNSUPPORTED,
    RULE_SIDE_FILE_MALFORMED,
    RULE_TOKEN_ID_RANGE,
    RULE_GENERATION_CONFIG_MISSING,

    /* scales, and values with --deep */
    RULE_SCALE_ZERO,
    RULE_SCALE_NAN,
    RULE_SCALE_INF,
    RULE_SCALE_NEGATIVE,
    RULE_SCALE_DENORMAL,
    RULE_SCALE_NOT_POW2,
    RULE_SCALE_ABSURD,
    RULE_SCALE_SPLIT,
    RULE_VALUE_NAN,
    RULE_VALUE_INF,
    RULE_WEIGHT_EMPTY,
    RULE_GROUP_EMPTY,

    /* quern.json */
    RULE_MANIFEST_MISSING,
    RULE_MANIFEST_MALFORMED,
    RULE_FILE_MISSING,
    RULE_FILE_SIZE,
    RULE_FILE_HASH,
    RULE_FILE_EXTRA,
    RULE_SHARD_EXTRA,
    RULE_ROW_MISSING,
    RULE_ROW_TENSOR_MISSING,
    RULE_ROW_TWICE,
    RULE_ROW_SCHEME,
    RULE_ROW_SHAPE,

    /* --source */
    RULE_SOURCE_CONFIG,
    RULE_SOURCE_FILE_MISSING,
    RULE_SOURCE_FILE_SIZE,
    RULE_SOURCE_FILE_HASH,
    RULE_SOURCE_TENSOR_MISSING,
    RULE_SOURCE_UNUSED,
    RULE_SOURCE_MISMATCH,
    RULE_SOURCE_ERROR,
    RULE_METHOD_UNKNOWN,
    RULE_SIDE_FILE_LOST,
    RULE_SIDE_FILE_CHANGED,

    /* the forward pass */
    RULE_FINGERPRINT_MISSING,
    RULE_FINGERPRINT_FAILED,
    RULE_FINGERPRINT_OFF,
    RULE_ROUTER_FLIPS,

    RULE_COUNT
};

struct rule {
    const char *id; /* "scale-zero" */
    enum severity severity;
    const char *about; /* one line, no full stop */
};
const struct rule *rule_get(enum rule_id id);
/* By name; RULE_MALFORMED for one that is not here, and for NULL. */
enum rule_id rule_find(const char *id);
const char *severity_name(enum severity severity);

struct finding {
    enum rule_id rule;
    const char *text;
};

/* Zero holds nothing. Not for two threads at once. */
struct findings {
    struct arena arena;
    struct finding *items;
    size_t count, room;
};
void findings_add(struct findings *f, enum rule_id rule, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* An input that was refused, by the rule it names. */
void findings_add_err(struct findings *f, const struct err *e);
/* For formats' openers: what they refuse becomes findings. */
struct err_sink findings_sink(struct findings *f);
size_t findings_count(const struct findings *f, enum severity severity);
bool findings_has(const struct findings *f, enum rule_id rule);
/* Errors first, then warnings; in the order they were found. */
void findings_sort(struct findings *f);
void findings_release(struct findings *f);

/* "findings": [{"rule":, "severity":, "text":}, ...] */
void findings_put_json(const struct findings *f, struct json_writer *w);

#endif
