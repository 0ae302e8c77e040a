#include "formats/base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#include "formats/base/mem.h"

static _Atomic int level_now = LOG_NORMAL;

/* Guards stderr as a whole: whether a status line stands there, and that lines do not mix. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool status_stands;

void log_set_level(enum log_level level)
{
    level_now = (int)level;
}

enum log_level log_level(void)
{
    return (enum log_level)level_now;
}

/* A name from a file must not move the cursor or retitle the window. */
static void make_harmless(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++)
        if ((*c < 0x20 && *c != '\n' && *c != '\t') || *c == 0x7f)
            *c = '?';
}

static void put(const char *head, const char *fmt, va_list args)
{
    char *text = NULL;

    if (vasprintf(&text, fmt, args) < 0)
        return;
    make_harmless(text);
    pthread_mutex_lock(&lock);
    fprintf(stderr, "%s%s%s\n", status_stands ? "\r\033[K" : "", head, text);
    status_stands = false;
    pthread_mutex_unlock(&lock);
    mem_free(text);
}

void log_note(const char *fmt, ...)
{
    va_list args;

    if (log_level() == LOG_QUIET)
        return;
    va_start(args, fmt);
    put("quern: note: ", fmt, args);
    va_end(args);
}

void log_warn(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    put("quern: warning: ", fmt, args);
    va_end(args);
}

void log_verbose(const char *fmt, ...)
{
    va_list args;

    if (log_level() != LOG_VERBOSE)
        return;
    va_start(args, fmt);
    put("quern: ", fmt, args);
    va_end(args);
}

void log_line(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    put("", fmt, args);
    va_end(args);
}

static void put_error(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void put_error(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    put("quern: ", fmt, args);
    va_end(args);
}

void log_error(const struct err *e)
{
    put_error("%s", e->text);
}

void log_status(const char *line)
{
    pthread_mutex_lock(&lock);
    if (line || status_stands)
        fprintf(stderr, "\r\033[K%s", line ? line : "");
    fflush(stderr);
    status_stands = line != NULL;
    pthread_mutex_unlock(&lock);
}
