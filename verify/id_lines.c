#include "verify/id_lines.h"

#include <string.h>

#define SHOWN_BYTES_MAX 40u

static bool is_between(char c)
{
    return c == ' ' || c == '\t' || c == ',' || c == '\r';
}

static bool read_id(const char *word, size_t bytes, uint64_t id_limit, uint32_t *id, struct err *e)
{
    uint64_t value = 0;
    bool is_number = bytes > 0 && bytes <= 19; /* what fits in 64 bits for sure */

    for (size_t i = 0; is_number && i < bytes; i++) {
        is_number = word[i] >= '0' && word[i] <= '9';
        value = value * 10 + (uint64_t)(word[i] - '0');
    }
    if (!is_number)
        return err_set(e, ERR_FORMAT, "'%.*s' is no token id", (int)(bytes < SHOWN_BYTES_MAX ? bytes : SHOWN_BYTES_MAX),
                       word);
    if (value >= id_limit)
        return err_set(e, ERR_FORMAT, "id %llu is past the vocabulary of %llu tokens", (unsigned long long)value,
                       (unsigned long long)id_limit);
    *id = (uint32_t)value;
    return true;
}

static bool read_line(struct id_lines *l, const char *text, size_t bytes, uint64_t id_limit, struct err *e)
{
    for (size_t at = 0; at < bytes;) {
        size_t begin = at;
        uint32_t id = 0;

        while (at < bytes && !is_between(text[at]))
            at++;
        if (at == begin) {
            at++;
            continue;
        }
        if (!read_id(text + begin, at - begin, id_limit, &id, e))
            return false;
        id_list_add(&l->ids, id);
    }
    return true;
}

static void add_line(struct id_lines *l, size_t first, size_t number)
{
    if (l->ids.count == first)
        return;
    if (l->line_count == l->line_room) {
        l->line_room = l->line_room ? l->line_room * 2 : 64;
        l->lines = mem_grow(l->lines, l->line_room, sizeof *l->lines);
    }
    l->lines[l->line_count++] = (struct id_line){.first = first, .count = l->ids.count - first, .number = number};
}

bool id_lines_parse(struct id_lines *l, const char *text, size_t bytes, uint64_t id_limit, struct err *e)
{
    size_t number = 0;

    *l = (struct id_lines){0};
    for (size_t at = 0; at < bytes;) {
        const char *end = memchr(text + at, '\n', bytes - at);
        size_t line_bytes = end ? (size_t)(end - text) - at : bytes - at, first = l->ids.count;

        number++;
        if (text[at] != '#' && !read_line(l, text + at, line_bytes, id_limit, e)) {
            id_lines_release(l);
            return err_in(e, "line %zu", number);
        }
        add_line(l, first, number);
        at += line_bytes + 1;
    }
    return true;
}

void id_lines_release(struct id_lines *l)
{
    id_list_release(&l->ids);
    mem_free(l->lines);
    *l = (struct id_lines){0};
}
