/* Conversations as text: the markers that the family's chat templates put around messages. They are fixed (the
 * templates themselves are programs in Jinja, which we do not run):
 *
 *   DeepSeek  system text, <｜User｜>text, <｜Assistant｜>text<｜end▁of▁sentence｜>
 *   Kimi      <|im_ROLE|>ROLE<|im_middle|>text<|im_end|>, where the tokenizer has <|im_user|>
 *
 * BOS is not among them: whoever encodes the text adds it. */
#ifndef VERIFY_CHAT_H
#define VERIFY_CHAT_H

#include <stdbool.h>

#include "formats/base/mem.h"
#include "formats/json.h"
#include "formats/tokenizer.h"

/* Appends messages, [{"role": "system", "user" or "assistant", "content": "..."}, ...]. Other roles, and content that
 * is no string, are ERR_UNSUPPORTED. */
bool chat_render(const struct tokenizer *t, const struct json *messages, struct buf *out, struct err *e) CHECKED;
/* Whether the tokenizer has the markers as tokens; without them they are so many letters. */
bool chat_is_known(const struct tokenizer *t);
/* Appends what a user said, and the marker behind which the assistant speaks. */
void chat_ask(const struct tokenizer *t, const char *text, struct buf *out);

#endif
