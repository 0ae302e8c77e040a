/* What a conversion says of its plan before the first weight is read: on the log. */
#ifndef CONVERT_CONVERSION_NOTES_H
#define CONVERT_CONVERSION_NOTES_H

#include <stdbool.h>

#include "convert/plan.h"
#include "convert/proof.h"

/* What the source lacks, what is left out, what stays wider, and where engines are slow or need an option. */
void conversion_note_plan(const struct plan *p);
/* Why an output has no fingerprint, or a renumbering no proof; nothing of what the user left out. proofs: one for each
 * output. */
void conversion_note_proofs(const struct plan *p, const struct proof *proofs, const struct proof_wishes *wishes);

#endif
