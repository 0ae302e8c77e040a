/* The family's tokenizers: text <-> ids, as the checkpoint's own files say.
 *
 * tokenizer.json (Hugging Face; DeepSeek): byte-level BPE. Added tokens are cut out first; what is left goes through
 * the pre-tokenizers in turn (Split with behavior Isolated, Digits, ByteLevel), and each piece through bpe.h. A
 * normalizer, pre-tokenizer, model or decoder that is not known is refused by its name: other ids than the model was
 * trained on would look like a worse model. truncation and padding are about batches and are ignored.
 *
 * tiktoken.model (Kimi): lines of "base64(bytes) rank"; the pattern is the family's, 256 special tokens follow the
 * ranks, and tokenizer_config.json names them. */
#ifndef FORMATS_TOKENIZER_H
#define FORMATS_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/added_tokens.h"
#include "formats/base/err.h"
#include "formats/base/mem.h"
#include "formats/base/pattern.h"
#include "formats/bpe.h"

#define TOKENIZER_FILE_BYTES_MAX   ((uint64_t)256 << 20)
#define TOKENIZER_CONFIG_BYTES_MAX ((uint64_t)16 << 20)
#define TOKENIZER_TEXT_BYTES_MAX   ((size_t)1 << 30)
#define TOKENIZER_SPLITS_MAX       32u

/* A step of the pre-tokenizer: matches and what lies between them become pieces. */
struct tokenizer_split {
    struct pattern pattern;
    const char *regex;
};

/* Zero holds nothing. Encoding and decoding are thread-safe. */
struct tokenizer {
    struct arena arena;
    struct bpe bpe; /* every token by id, added ones too */
    struct added_tokens added;
    struct tokenizer_split splits[TOKENIZER_SPLITS_MAX];
    size_t split_count;
    bool in_chunks;          /* tiktoken's authors cut long text before all else */
    bool template_bos;       /* tokenizer.json's post-processor puts bos_id first */
    bool add_bos;            /* the files ask for bos_id in front of a text */
    uint32_t bos_id, eos_id; /* BPE_NONE: the files name none */
};

/* From the folder of a checkpoint, named by itself or by a file in it: tokenizer.json, or else tiktoken.model; and
 * tokenizer_config.json, which may be absent. BOS: add_bos_token where the config has it; else the Llama classes add
 * it, as transformers does; else what the post-processor says. */
bool tokenizer_open(struct tokenizer *t, const char *path, struct err *e) CHECKED;
void tokenizer_release(struct tokenizer *t);

/* The same from bytes. *t is zero before the first; the config comes second. */
bool tokenizer_parse_json(struct tokenizer *t, const char *text, size_t bytes, struct err *e) CHECKED;
bool tokenizer_parse_config(struct tokenizer *t, const char *text, size_t bytes, struct err *e) CHECKED;
/* config: tokenizer_config.json's bytes, for the names of the special tokens; NULL: they get reserved names. */
bool tokenizer_parse_tiktoken(struct tokenizer *t, const char *text, size_t bytes, const char *config,
                              size_t config_bytes, struct err *e) CHECKED;

struct tokenizer_encode {
    bool bos;          /* bos_id first, unless the text begins with it; an error when there is none */
    size_t ids_wanted; /* stop there, with the ids the whole text would begin with; 0: all */
};
/* Appends to out. Text that is not UTF-8 is ERR_FORMAT with the offset. */
bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t bytes, const struct tokenizer_encode *how,
                      struct id_list *out, struct err *e) CHECKED;

/* The bytes of an id, for decoding: put one behind the other they are the text. A character may lie across ids
 * (utf8_unfinished). NULL: no token has this id. */
const char *tokenizer_bytes(const struct tokenizer *t, uint32_t id, size_t *bytes);
/* The id of a token by its text, added or not; BPE_NONE: there is none. */
uint32_t tokenizer_find(const struct tokenizer *t, const char *text);

#endif
