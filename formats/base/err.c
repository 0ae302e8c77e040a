#include "formats/base/err.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Context may take half of a text, so that it never drowns the cause. */
#define CONTEXT_BYTES_MAX (sizeof((struct err *)0)->text / 2)

/* Copies what fits; what does not is cut with "...", and never inside a UTF-8 character. */
static void copy_cut(char *to, size_t room, const char *from)
{
    size_t bytes = strlen(from);

    if (bytes < room) {
        memcpy(to, from, bytes + 1);
        return;
    }
    bytes = room - sizeof "...";
    while (bytes > 0 && ((unsigned char)from[bytes] & 0xc0) == 0x80)
        bytes--;
    memcpy(to, from, bytes);
    memcpy(to + bytes, "...", sizeof "...");
}

/* Formats apart from the text, so that the arguments may point into it; larger
 * than a text, so that copy_cut sees what does not fit. */
struct draft {
    char text[2 * sizeof((struct err *)0)->text];
};

static void draft_format(struct draft *d, const char *fmt, va_list args)
{
    if (vsnprintf(d->text, sizeof d->text, fmt, args) < 0)
        copy_cut(d->text, sizeof d->text, fmt);
}

static bool set_all(struct err *e, enum err_code code, const char *rule, const char *fmt, va_list args)
{
    struct draft d;

    if (!e)
        return false;
    draft_format(&d, fmt, args);
    e->code = code;
    e->sys = 0;
    e->rule = rule;
    copy_cut(e->text, sizeof e->text, d.text);
    return false;
}

bool err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    set_all(e, code, NULL, fmt, args);
    va_end(args);
    return false;
}

bool err_broken(struct err *e, enum err_code code, const char *rule, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    set_all(e, code, rule, fmt, args);
    va_end(args);
    return false;
}

bool err_sys(struct err *e, const char *fmt, ...)
{
    int sys = errno;
    struct draft d;
    char reason_room[128];
    va_list args;

    if (!e)
        return false;
    va_start(args, fmt);
    draft_format(&d, fmt, args);
    va_end(args);
    const char *reason = strerror_r(sys, reason_room, sizeof reason_room); /* the GNU one */
    size_t tail_bytes = strlen(": ") + strlen(reason);

    e->code = ERR_IO;
    e->sys = sys;
    e->rule = NULL;
    copy_cut(e->text, sizeof e->text - tail_bytes, d.text);
    strcat(strcat(e->text, ": "), reason);
    return false;
}

bool err_memory(struct err *e, uint64_t given, uint64_t need, const char *fmt, ...)
{
    struct draft d;
    va_list args;

    va_start(args, fmt);
    draft_format(&d, fmt, args);
    va_end(args);
    return err_set(e, ERR_MEMORY, "--memory %" PRIu64 " is less than the %" PRIu64 " bytes that %s", given, need,
                   d.text);
}

bool err_in(struct err *e, const char *fmt, ...)
{
    struct draft d;
    char context[CONTEXT_BYTES_MAX];
    char both[sizeof context + sizeof ": " + sizeof e->text];
    va_list args;

    if (!e)
        return false;
    va_start(args, fmt);
    draft_format(&d, fmt, args);
    va_end(args);
    copy_cut(context, sizeof context, d.text);
    snprintf(both, sizeof both, "%s%s%s", context, e->text[0] ? ": " : "", e->text);
    copy_cut(e->text, sizeof e->text, both);
    return false;
}

bool err_rule(struct err *e, const char *rule)
{
    if (e && !e->rule)
        e->rule = rule;
    return false;
}

bool err_pass(const struct err_sink *sink, struct err *e)
{
    bool of_input = e && (e->code == ERR_FORMAT || e->code == ERR_UNSUPPORTED || e->code == ERR_LIMIT);

    if (!sink || !of_input)
        return false;
    sink->take(sink->ctx, e);
    *e = (struct err){0};
    return true;
}

int err_exit_status(enum err_code code)
{
    switch (code) {
    case ERR_NONE:
        return 0;
    case ERR_DIFFERS:
        return 1;
    case ERR_USAGE:
        return 2;
    case ERR_FORMAT:
    case ERR_UNSUPPORTED:
    case ERR_LIMIT:
        return 3;
    case ERR_MEMORY:
    case ERR_IO:
    case ERR_CANCELLED:
        return 4;
    }
    return 4;
}
