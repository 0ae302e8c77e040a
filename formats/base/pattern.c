#include "formats/base/pattern.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <oniguruma.h>

/* Patterns come from files. A name is short and a fair pattern backtracks a few
 * times over it; what takes longer than this is an attack or a mistake. */
#define RETRY_MAX 1000000
#define STACK_MAX 100000

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

bool pattern_compile(struct pattern *p, const char *regex, struct err *e)
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
    int result = onig_new(&re, text, text_end, ONIG_OPTION_NONE, ONIG_ENCODING_UTF8, ONIG_SYNTAX_PYTHON, &info);
    if (result != ONIG_NORMAL) {
        onig_error_code_to_str(why, result, &info);
        return err_set(e, ERR_FORMAT, "pattern '%s': %s", regex, (const char *)why);
    }
    p->re = re;
    return true;
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

void pattern_release(struct pattern *p)
{
    if (p->re)
        onig_free(p->re);
    p->re = NULL;
}
