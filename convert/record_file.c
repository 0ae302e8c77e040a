#include "convert/record_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/json.h"

/* ---- facts ---- */

void record_fact(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "fact %s ", name);
    json_quote(out, value);
    buf_puts(out, "\n");
}

/* A shard that was written anew in place has its size and another time. */
void record_source_facts(struct buf *out, const struct checkpoint *c)
{
    char name[32], value[512], hex[HASH_HEX_BYTES];

    hash_hex(c->config, c->config_bytes, hex);
    record_fact(out, "config.json", hex);
    for (size_t i = 0; i < c->shard_count; i++) {
        const struct shard *s = &c->shards[i];
        snprintf(name, sizeof name, "source-%zu", i);
        snprintf(value, sizeof value, "%s: %" PRIu64 " bytes, modified %" PRId64, s->name, s->bytes, s->mtime_ns);
        record_fact(out, name, value);
    }
}

bool record_facts_complete(const char *text)
{
    return strstr(text, "\nend\n") != NULL;
}

size_t record_line_bytes(const char *text)
{
    const char *end = strchr(text, '\n');

    return end ? (size_t)(end - text) : strlen(text);
}

/* Of a value; a shard's name with its size and time fits. */
#define SHOWN_BYTES  100u
#define SHOWN_BEFORE 20u /* of a longer one, before the first byte that differs */

static size_t size_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Recipes are long: what is shown is where they part. */
static bool refuse_facts(const char *found, size_t found_bytes, const char *wanted, size_t wanted_bytes, struct err *e)
{
    size_t same = 0, name = strlen("fact ");

    while (same < size_min(found_bytes, wanted_bytes) && found[same] == wanted[same])
        same++;
    size_t name_bytes = wanted_bytes > name ? strcspn(wanted + name, " \n") : 0;
    bool one_name = same > name + name_bytes;
    size_t from = one_name ? name + name_bytes + 1 : 0;
    if (same > from + SHOWN_BYTES - SHOWN_BEFORE)
        from = same - SHOWN_BEFORE;
    return err_set(
        e, ERR_USAGE,
        "an unfinished run of something else is here: its %.*s has '%.*s', this one's '%.*s'; --restart discards it",
        (int)(one_name ? name_bytes : strlen("journal")), one_name ? wanted + name : "journal",
        (int)size_min(found_bytes - from, SHOWN_BYTES), found + from, (int)size_min(wanted_bytes - from, SHOWN_BYTES),
        wanted + from);
}

/* Line by line; the first that differs is named. */
static bool compare_facts(const char *found, const char *wanted, struct err *e)
{
    while (*wanted) {
        size_t n = record_line_bytes(found), k = record_line_bytes(wanted);
        if (n != k || memcmp(found, wanted, n) != 0)
            return refuse_facts(found, n, wanted, k, e);
        found += n + (found[n] == '\n');
        wanted += k + (wanted[k] == '\n');
    }
    return true;
}

/* ---- the file ---- */

/* Behind the last whole line, and over what a failed attempt has left there: half a line must not stay. */
bool record_append(struct record_file *r, const struct buf *text, struct err *e)
{
    size_t done = 0;

    while (done < text->bytes) {
        ssize_t n = pwrite(r->fd_plus_1 - 1, text->data + done, text->bytes - done, (off_t)(r->bytes + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_sys(e, "cannot write '%s'", r->path);
        done += (size_t)n;
    }
    int result;
    do
        result = fdatasync(r->fd_plus_1 - 1);
    while (result != 0 && errno == EINTR);
    if (result != 0)
        return err_sys(e, "cannot sync '%s'", r->path);
    r->bytes += text->bytes;
    return true;
}

/* A kill can leave half a line: what follows must not be glued to it. */
static bool cut_half_line(struct record_file *r, const char *text, size_t bytes, struct err *e)
{
    r->bytes = bytes;
    while (r->bytes > 0 && text[r->bytes - 1] != '\n')
        r->bytes--;
    return r->bytes == bytes || ftruncate(r->fd_plus_1 - 1, (off_t)r->bytes) == 0 ||
           err_sys(e, "cannot cut '%s'", r->path);
}

static bool open_file(struct record_file *r, bool fresh, struct err *e)
{
    int fd = open(r->path, O_RDWR | O_CREAT | O_CLOEXEC | (fresh ? O_TRUNC : 0), 0666);

    if (fd < 0)
        return err_sys(e, "cannot open '%s'", r->path);
    r->fd_plus_1 = fd + 1;
    return true;
}

bool record_check(const char *path, const struct buf *facts, struct err *e)
{
    char *text = NULL;
    size_t bytes = 0;
    bool ok = !path_exists(path) || (file_slurp(path, RECORD_BYTES_MAX, &text, &bytes, e) &&
                                     (!record_facts_complete(text) || compare_facts(text, facts->data, e)));

    mem_free(text);
    return ok;
}

bool record_open(struct record_file *r, const char *path, const struct buf *facts, char **records, struct err *e)
{
    char *text = NULL;
    size_t bytes = 0;
    bool ok = false;

    *r = (struct record_file){.path = strdup(path)};
    *records = NULL;
    if (path_exists(path) && !file_slurp(path, RECORD_BYTES_MAX, &text, &bytes, e))
        goto done;
    bool fresh = !text || !record_facts_complete(text);
    if (!fresh && !compare_facts(text, facts->data, e))
        goto done;
    if (!open_file(r, fresh, e))
        goto done;
    ok = fresh ? record_append(r, facts, e) : cut_half_line(r, text, bytes, e);
    r->found = !fresh;
    if (ok && !fresh) {
        memmove(text, text + facts->bytes, bytes - facts->bytes + 1);
        *records = text;
        text = NULL;
    }
done:
    mem_free(text);
    if (!ok)
        record_close(r);
    return ok;
}

void record_close(struct record_file *r)
{
    if (r->fd_plus_1 > 0)
        close(r->fd_plus_1 - 1);
    free(r->path);
    *r = (struct record_file){0};
}
