/* Errors: a plain value owned by the caller, carrying the path that led to it.
 *
 * A function that can fail returns bool, true for success, and takes struct
 * err *e last. err_set and its kin return false, so that `return err_set(...)`
 * reads as one thought. Messages: lower case, what is wrong first, the subject
 * in 'quotes', both numbers. A NULL e is allowed and swallows the message. */
#ifndef FORMATS_BASE_ERR_H
#define FORMATS_BASE_ERR_H

#include <stdbool.h>
#include <stdint.h>

#define CHECKED                __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

enum err_code {
    ERR_NONE = 0,
    ERR_DIFFERS,     /* held together, two things do not agree  exit 1 */
    ERR_USAGE,       /* the command line is wrong               exit 2 */
    ERR_FORMAT,      /* the input is malformed                  exit 3 */
    ERR_UNSUPPORTED, /* well-formed, but nothing we can do      exit 3 */
    ERR_LIMIT,       /* a size from a file passes a named limit exit 3 */
    ERR_MEMORY,      /* --memory is less than the work needs    exit 4 */
    ERR_IO,          /* the system refused                      exit 4 */
    ERR_CANCELLED,   /* a signal; the caller re-raises it              */
};

struct err {
    enum err_code code; /* for deciding: exit status, retry, skip */
    int sys;            /* errno, when the system refused */
    const char *rule; /* stable name of what was broken ("shard-missing"), for lint; NULL: nothing more than the code */
    char text[480];   /* for reading: outermost context first; always ends in NUL */
};

/* Sets code and text; always returns false. A text that does not fit is cut
 * at the end with "...". */
bool err_set(struct err *e, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* The same with ERR_IO and ": strerror(errno)" behind the text. */
bool err_sys(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ERR_MEMORY: "--memory GIVEN is less than the NEED bytes that " and who needs them, in all: "one job needs". */
bool err_memory(struct err *e, uint64_t given, uint64_t need, const char *fmt, ...) PRINTF_LIKE(4, 5);

/* Puts "context: " in front of what is there; always returns false. */
bool err_in(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* err_set with the rule's name. */
bool err_broken(struct err *e, enum err_code code, const char *rule, const char *fmt, ...) PRINTF_LIKE(4, 5);

/* Names the rule that was broken, unless something deeper did; always returns false. `rule` is a literal. */
bool err_rule(struct err *e, const char *rule);

/* Who wants to hear of everything that is wrong with an input, not of the first thing only. */
struct err_sink {
    void (*take)(void *ctx, const struct err *e); /* copies what it keeps */
    void *ctx;
};
/* After a failure: true when the sink took it, e is clean again, and work goes on without what was refused. Without a
 * sink (NULL), and for what is not the input's fault, false: the caller fails as ever. */
bool err_pass(const struct err_sink *sink, struct err *e);

/* The exit status that belongs to a code: 0, 1, 2, 3 or 4. */
int err_exit_status(enum err_code code);

#endif
