#include "formats/base/pattern.h"

#include <assert.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <oniguruma.h>

#include "formats/base/utf8.h"

/* Patterns come from files. A name is short and a fair pattern backtracks a few
 * times over it; what takes longer than this is an attack or a mistake. */
#define RETRY_MAX 1000000
#define STACK_MAX 100000
/* Text that is split may be one long run: a loop leaves a way back at each character, and a fair pattern goes each of
 * them once for each of its alternatives. */
#define STACK_PER_BYTE   4u
#define RETRIES_PER_BYTE 64u

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int start_result;

static void end(void)
{
    onig_end();
}

static void start(void)
{
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};

    start_result = onig_initialize(encodings, 1);
    onig_set_retry_limit_in_match(RETRY_MAX);
    onig_set_retry_limit_in_search(RETRY_MAX);
    onig_set_match_stack_limit_size(STACK_MAX);
    atexit(end);
}

/* The engine would read past the end of text that ends inside a character. */
static bool is_valid(const OnigUChar *text, const OnigUChar *end_of_text)
{
    return ONIGENC_IS_VALID_MBC_STRING(ONIG_ENCODING_UTF8, text, end_of_text);
}

static bool compile(struct pattern *p, const char *regex, OnigSyntaxType *syntax, struct err *e)
{
    const OnigUChar *text = (const OnigUChar *)regex, *text_end = text + strlen(regex);
    OnigUChar why[ONIG_MAX_ERROR_MESSAGE_LEN];
    OnigErrorInfo info = {0};
    regex_t *re = NULL;

    p->re = NULL;
    pthread_once(&once, start);
    assert(start_result == ONIG_NORMAL);
    if (!is_valid(text, text_end))
        return err_set(e, ERR_FORMAT, "pattern '%s' is not UTF-8", regex);
    int result = onig_new(&re, text, text_end, ONIG_OPTION_NONE, ONIG_ENCODING_UTF8, syntax, &info);
    if (result != ONIG_NORMAL) {
        onig_error_code_to_str(why, result, &info);
        return err_set(e, ERR_FORMAT, "pattern '%s': %s", regex, (const char *)why);
    }
    p->re = re;
    return true;
}

bool pattern_compile(struct pattern *p, const char *regex, struct err *e)
{
    return compile(p, regex, ONIG_SYNTAX_PYTHON, e);
}

bool pattern_compile_ruby(struct pattern *p, const char *regex, struct err *e)
{
    return compile(p, regex, ONIG_SYNTAX_RUBY, e);
}

bool pattern_match(const struct pattern *p, const char *text)
{
    const OnigUChar *s = (const OnigUChar *)text, *s_end = s + strlen(text);

    return is_valid(s, s_end) && onig_match(p->re, s, s_end, s, NULL, ONIG_OPTION_NONE) >= 0;
}

bool pattern_search(const struct pattern *p, const char *text)
{
    const OnigUChar *s = (const OnigUChar *)text, *s_end = s + strlen(text);

    return is_valid(s, s_end) && onig_search(p->re, s, s_end, s, s_end, NULL, ONIG_OPTION_NONE) >= 0;
}

static OnigMatchParam *match_param_new(size_t bytes)
{
    OnigMatchParam *param = onig_new_match_param();
    unsigned long retries = RETRY_MAX + bytes * RETRIES_PER_BYTE;
    unsigned long stack = STACK_MAX + bytes * STACK_PER_BYTE;

    if (!param)
        abort(); /* as mem_alloc */
    onig_initialize_match_param(param);
    onig_set_match_stack_limit_size_of_match_param(param, stack < UINT_MAX ? (unsigned)stack : UINT_MAX);
    onig_set_retry_limit_in_match_of_match_param(param, retries);
    onig_set_retry_limit_in_search_of_match_param(param, retries);
    return param;
}

static bool refuse_search(int result, size_t at, struct err *e)
{
    OnigUChar why[ONIG_MAX_ERROR_MESSAGE_LEN];

    onig_error_code_to_str(why, result);
    return err_set(e, ERR_LIMIT, "%s, searching from byte %zu on", (const char *)why, at);
}

bool pattern_find_all(const struct pattern *p, const char *text, size_t bytes, pattern_visit *visit, void *ctx,
                      struct err *e)
{
    const OnigUChar *s = (const OnigUChar *)text, *s_end = s + bytes;
    OnigMatchParam *param = NULL;
    OnigRegion region = {0};
    size_t at = 0, last_end = SIZE_MAX;
    bool ok = true;

    assert(bytes <= PATTERN_TEXT_BYTES_MAX);
    param = match_param_new(bytes);
    while (ok && at <= bytes) {
        int result = onig_search_with_param(p->re, s, s_end, s + at, s_end, &region, ONIG_OPTION_NONE, param);
        if (result == ONIG_MISMATCH)
            break;
        if (result < 0) {
            ok = refuse_search(result, at, e);
            break;
        }
        size_t begin = (size_t)region.beg[0], end = (size_t)region.end[0];
        if (begin == end && end == last_end) {
            at += at < bytes ? utf8_step(text + at, bytes - at) : 1;
            continue;
        }
        at = last_end = end;
        ok = visit(ctx, begin, end, e);
    }
    onig_region_free(&region, 0);
    onig_free_match_param(param);
    return ok;
}

void pattern_release(struct pattern *p)
{
    if (p->re)
        onig_free(p->re);
    p->re = NULL;
}
