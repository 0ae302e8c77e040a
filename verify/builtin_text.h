/* Texts of our own writing, for when the user gives none: prose in six languages, code, data, a derivation, a dialogue.
 * Enough to tell two checkpoints apart; calibration wants more, and text like that the model will see. */
#ifndef VERIFY_BUILTIN_TEXT_H
#define VERIFY_BUILTIN_TEXT_H

#include <stdbool.h>

struct builtin_text {
    const char *name; /* "english-prose"; NULL ends the table */
    const char *text; /* UTF-8 */
    bool is_record;   /* a line of JSONL, with messages, to be rendered as chat.h does */
};
extern const struct builtin_text builtin_texts[];

#endif
