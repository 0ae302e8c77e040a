/* Token ids as text: one sequence a line, decimal ids with spaces, tabs or commas between them. Empty lines, and lines
 * that begin with #, are passed over. What `quern tokenize` prints. */
#ifndef VERIFY_ID_LINES_H
#define VERIFY_ID_LINES_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"
#include "formats/bpe.h"

struct id_line {
    size_t first, count; /* in ids */
    size_t number;       /* of the line, from 1 */
};

/* Zero holds nothing. */
struct id_lines {
    struct id_list ids;
    struct id_line *lines; /* mem_free */
    size_t line_count, line_room;
};

/* Every id is below id_limit, or it is ERR_FORMAT with the line. */
bool id_lines_parse(struct id_lines *l, const char *text, size_t bytes, uint64_t id_limit, struct err *e) CHECKED;
void id_lines_release(struct id_lines *l);

#endif
