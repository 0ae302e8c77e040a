/* The tokens that end a generated text: eos_token_id, a number or a list, of generation_config.json; else of
 * config.json; else the tokenizer's. */
#ifndef VERIFY_STOP_IDS_H
#define VERIFY_STOP_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/checkpoint.h"
#include "formats/tokenizer.h"

/* Zero holds none. */
struct stop_ids {
    struct id_list ids;
};
/* A file that is not there names none; one that is malformed is an error. */
bool stop_ids_read(struct stop_ids *s, const struct checkpoint *c, const struct tokenizer *t, struct err *e) CHECKED;
bool stop_ids_has(const struct stop_ids *s, uint32_t id);
void stop_ids_release(struct stop_ids *s);

#endif
