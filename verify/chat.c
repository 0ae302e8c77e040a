#include "verify/chat.h"

#include <string.h>

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_ROLE_COUNT };

static const char *const role_names[CHAT_ROLE_COUNT] = {"system", "user", "assistant"};

/* What stands before and behind a message. */
struct chat_markers {
    const char *before, *behind;
};

/* V3 and R1's chat_template. V2 and V2.5 before it have no markers of their own, but "User: " and "Assistant: ". */
static const struct chat_markers deepseek[CHAT_ROLE_COUNT] = {
    [CHAT_SYSTEM] = {"", ""},
    [CHAT_USER] = {"<｜User｜>", ""},
    [CHAT_ASSISTANT] = {"<｜Assistant｜>", "<｜end▁of▁sentence｜>"},
};
/* Kimi-K2's and Kimi-VL's chat_template.jinja, as llama.cpp, FastChat and llama-cpp-python have them too. These begin
 * with a system message of their own where the messages have none, which is not added here. */
static const struct chat_markers kimi[CHAT_ROLE_COUNT] = {
    [CHAT_SYSTEM] = {"<|im_system|>system<|im_middle|>", "<|im_end|>"},
    [CHAT_USER] = {"<|im_user|>user<|im_middle|>", "<|im_end|>"},
    [CHAT_ASSISTANT] = {"<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"},
};

static const struct chat_markers *markers_of(const struct tokenizer *t)
{
    return tokenizer_find(t, "<|im_user|>") != BPE_NONE ? kimi : deepseek;
}

static bool read_role(const struct json *message, enum chat_role *role, struct err *e)
{
    const char *name = NULL;

    if (!json_need_string(message, "role", &name, e))
        return false;
    for (*role = 0; *role < CHAT_ROLE_COUNT; ++*role)
        if (strcmp(role_names[*role], name) == 0)
            return true;
    return err_set(e, ERR_UNSUPPORTED, "role '%s' is not supported (system, user and assistant are)", name);
}

static bool render_message(const struct chat_markers *markers, const struct json *message, struct buf *out,
                           struct err *e)
{
    enum chat_role role = CHAT_SYSTEM;
    const struct json *content = NULL;

    if (!read_role(message, &role, e))
        return false;
    content = json_get(message, "content");
    if (!content || !json_string(content))
        return err_set(e, ERR_UNSUPPORTED, "content is %s, not a string",
                       content ? json_type_name(json_type(content)) : "missing");
    buf_puts(out, markers[role].before);
    buf_puts(out, json_string(content));
    buf_puts(out, markers[role].behind);
    return true;
}

bool chat_render(const struct tokenizer *t, const struct json *messages, struct buf *out, struct err *e)
{
    size_t index = 0;

    if (json_type(messages) != JSON_ARRAY)
        return err_set(e, ERR_FORMAT, "messages is %s, not an array", json_type_name(json_type(messages)));
    for (const struct json *m = json_first(messages); m; m = json_next(m), index++)
        if (!render_message(markers_of(t), m, out, e))
            return err_in(e, "message %zu", index);
    return true;
}

bool chat_is_known(const struct tokenizer *t)
{
    return tokenizer_find(t, "<|im_user|>") != BPE_NONE || tokenizer_find(t, "<｜User｜>") != BPE_NONE;
}

void chat_ask(const struct tokenizer *t, const char *text, struct buf *out)
{
    const struct chat_markers *markers = markers_of(t);

    buf_puts(out, markers[CHAT_USER].before);
    buf_puts(out, text);
    buf_puts(out, markers[CHAT_USER].behind);
    buf_puts(out, markers[CHAT_ASSISTANT].before);
}
