/* What a model is run on: texts, or ids, cut into contexts.
 *
 *   --text FILE   plain text, which is one text; or JSONL, a text a line: {"text": "..."} or {"messages": [...]}
 *                 (chat.h). JSONL by its name (.jsonl, .ndjson, with or without .gz), or by its first line. "-" is
 *                 standard input
 *   --ids FILE    a sequence a line (id_lines.h), used as it is
 *   neither       the texts of builtin_text.h
 *
 * Texts. Each is encoded once, without BOS. With T tokens a context, and BOS where the tokenizer adds one, a text is
 * cut into contexts of BOS and T-1 of its tokens (T without BOS), one behind the other; what is left at its end is
 * dropped. A text shorter than one context is used whole. --tokens N is about the texts' own tokens: the first N, over
 * all texts in their order, are cut. So N = 8192 and T = 256 give 32 contexts of 255 tokens behind a BOS, and drop 32
 * tokens. With --seed S, S > 0, contexts are cut from all of the text and a random choice of them is taken, in their
 * order, as long as they have no more than N tokens together.
 *
 * Ids. A sequence is one context; with --context, a longer one is cut and its end dropped, as above. No BOS is added.
 * --tokens N takes sequences, from the first on, as long as they have no more than N tokens together. */
#ifndef VERIFY_CORPUS_H
#define VERIFY_CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/arch.h"
#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/base/opt.h"
#include "formats/bpe.h"
#include "formats/tokenizer.h"
#include "verify/batch.h"

#define CORPUS_CONTEXT_DEFAULT 512u /* for texts, or the model's limit where that is lower */

struct corpus_options {
    const char *text, *ids; /* files; both NULL: the built-in texts */
    uint64_t tokens;        /* 0: all */
    uint64_t context;       /* 0: the default for texts, whole sequences for ids; else at least 2 */
    uint64_t seed;          /* 0: the first tokens, not a choice */
};
/* The options' rows, for a struct corpus_options o. What a command takes when nothing is said, as texts: "all" and
 * "512" for o of zeros. */
#define CORPUS_OPTIONS(o, tokens_default, context_default)                                                             \
    {.name = "text",                                                                                                   \
     .kind = OPT_STRING,                                                                                               \
     .value = &(o).text,                                                                                               \
     .arg = "FILE",                                                                                                    \
     .help = "text to run, plain or JSONL (built-in texts)"},                                                          \
        {.name = "ids",                                                                                                \
         .kind = OPT_STRING,                                                                                           \
         .value = &(o).ids,                                                                                            \
         .arg = "FILE",                                                                                                \
         .help = "token ids to run, a sequence a line"},                                                               \
        {.name = "tokens",                                                                                             \
         .kind = OPT_U64,                                                                                              \
         .value = &(o).tokens,                                                                                         \
         .arg = "N",                                                                                                   \
         .help = "take the first N tokens (" tokens_default ")",                                                       \
         .min = 1,                                                                                                     \
         .max = UINT32_MAX},                                                                                           \
        {.name = "context",                                                                                            \
         .kind = OPT_U64,                                                                                              \
         .value = &(o).context,                                                                                        \
         .arg = "T",                                                                                                   \
         .help = "tokens in a context (" context_default ")",                                                          \
         .min = 2,                                                                                                     \
         .max = UINT32_MAX},                                                                                           \
    {                                                                                                                  \
        .name = "seed", .kind = OPT_U64, .value = &(o).seed, .arg = "N",                                               \
        .help = "take a random choice of contexts, not the first (0: the first)"                                       \
    }

/* Zero holds nothing. */
struct corpus {
    struct batch batch; /* what to run, in the memory below */
    struct id_list ids;
    struct sequence *sequences;
    const char *source;      /* the file's name, or "built-in texts"; borrowed */
    bool is_builtin, is_ids; /* where it came from */
    bool has_bos;            /* every context begins with one that was added */
    uint64_t context;        /* the longest that a context may be */
    size_t text_count;       /* texts or lines that are used, in part at least */
    size_t text_tokens;      /* of the texts, before they were cut: N, when the texts have as many */
    size_t dropped_tokens;   /* of those, in no context */
    bool is_short;           /* the texts have fewer tokens than the N that were wanted */
};

/* t: the tokenizer of the checkpoint; may be NULL for ids. Refused: no text in it, ids past the model's vocabulary
 * (naming the token), contexts past the model's positions, both texts and ids. Errors name the file. */
bool corpus_open(struct corpus *c, const struct tokenizer *t, const struct arch *arch, const struct corpus_options *o,
                 struct err *e) CHECKED;
void corpus_release(struct corpus *c);
/* Appends "32 contexts of 256 tokens from 'evaluation.txt'", for reports. */
void corpus_describe(const struct corpus *c, struct buf *out);

#endif
