/* What the readers of tokenizer files share. Private to tokenizer*.c. */
#ifndef FORMATS_TOKENIZER_PRIVATE_H
#define FORMATS_TOKENIZER_PRIVATE_H

#include "formats/json.h"
#include "formats/tokenizer.h"

/* Appends a step of the pre-tokenizer. */
bool tokenizer_add_split(struct tokenizer *t, const char *regex, struct err *e) CHECKED;
/* An added token; its id is entered in the vocabulary when it is not there. */
bool tokenizer_add_token(struct tokenizer *t, const struct added_token *token, struct err *e) CHECKED;
/* "content" and the flags of an added token; `special` when absent. The text is the document's. */
bool tokenizer_read_added(struct added_token *token, const struct json *o, struct err *e) CHECKED;
/* Members of an object that may be absent or null. A wrong type is an error that names the key. */
bool tokenizer_get_bool(const struct json *o, const char *key, bool *value, struct err *e) CHECKED;
bool tokenizer_get_string(const struct json *o, const char *key, const char **value, struct err *e) CHECKED;

/* How much of text is encoded on its own, as Kimi's authors cut long text: every 400,000 characters, and within those
 * where a run with or without white space passes 25,000. *characters (0 at first) counts towards the next 400,000. */
size_t tokenizer_chunk_bytes(const char *text, size_t bytes, size_t *characters);

#endif
