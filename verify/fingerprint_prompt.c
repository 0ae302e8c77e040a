/* What a fingerprint asks, and what asking takes: known before a weight is read. */
#include <string.h>

#include "formats/tokenizer.h"
#include "verify/builtin_text.h"
#include "verify/fingerprint.h"
#include "verify/forward.h"
#include "verify/mtp.h"

/* ---- what is asked ---- */

/* Where there is no tokenizer, any ids will do that are always the same ones: a linear congruence, its upper bits. */
static void seeded_ids(uint32_t ids[FINGERPRINT_TOKENS], uint64_t vocabulary)
{
    uint64_t state = 1;

    for (size_t i = 0; i < FINGERPRINT_TOKENS; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (uint32_t)((state >> 33) % vocabulary);
    }
}

static bool builtin_ids(uint32_t ids[FINGERPRINT_TOKENS], const struct source *s, struct err *e)
{
    const char *text = builtin_texts[0].text;
    struct tokenizer t = {0};
    struct id_list list = {0};
    bool ok = tokenizer_open(&t, s->checkpoint.dir, e);
    struct tokenizer_encode how = {.bos = t.add_bos, .ids_wanted = FINGERPRINT_TOKENS};

    ok = ok && tokenizer_encode(&t, text, strlen(text), &how, &list, e) && list.count >= FINGERPRINT_TOKENS;
    for (size_t i = 0; ok && i < FINGERPRINT_TOKENS; i++) {
        ids[i] = list.ids[i];
        ok = ids[i] < s->arch.vocab_size;
    }
    id_list_release(&list);
    tokenizer_release(&t);
    return ok;
}

/* What the system refuses says nothing of the tokenizer, and must not choose the prompt. */
bool fingerprint_prompt(uint32_t ids[FINGERPRINT_TOKENS], const struct source *s, struct err *e)
{
    struct err bad = {0};

    if (builtin_ids(ids, s, &bad))
        return true;
    if (bad.code == ERR_IO || bad.code == ERR_CANCELLED) {
        *e = bad;
        return false;
    }
    seeded_ids(ids, s->arch.vocab_size);
    return true;
}

/* ---- what it takes ---- */

/* The share of a layer's experts that `tokens` tokens choose, were they to choose evenly. */
static double chosen_share(const struct arch *a, size_t tokens)
{
    double left_out = 1;

    for (size_t i = 0; i < tokens && a->experts > 0; i++)
        left_out *= 1 - (double)a->experts_per_token / (double)a->experts;
    return 1 - left_out;
}

static bool is_routed(enum role role)
{
    return role == ROLE_EXPERT_GATE || role == ROLE_EXPERT_UP || role == ROLE_EXPERT_DOWN;
}

uint64_t fingerprint_weight_bytes(const struct source *s, const struct weight *w, size_t tokens)
{
    uint64_t bytes = 0;

    for (enum part part = PART_CODES; part < PART_SHAPE; part++)
        bytes += w->parts[part] ? w->parts[part]->bytes : 0;
    if (is_routed(w->id.role))
        return (uint64_t)((double)bytes * chosen_share(&s->arch, tokens));
    bool rows_only = w->id.role == ROLE_MTP_EMBED || (w->id.role == ROLE_EMBED && !s->arch.tied_embeddings);
    if (rows_only && w->rows > 0)
        return bytes / w->rows * tokens;
    return bytes;
}

static size_t place_of(const struct source *s, const struct weight *w)
{
    return w->id.layer < 0                          ? s->arch.layers
           : (uint64_t)w->id.layer < s->arch.layers ? (size_t)w->id.layer
                                                    : s->arch.layers + 1;
}

uint64_t *fingerprint_read_bytes(const struct source *s, size_t tokens, bool mtp, uint64_t *total)
{
    uint64_t layers = s->arch.layers, *bytes = mem_alloc((layers + 2) * sizeof *bytes);

    *total = 0;
    for (size_t i = 0; i < s->weights.count; i++) {
        const struct weight *w = &s->weights.items[i];
        if (w->id.role == ROLE_UNKNOWN || (w->id.layer >= 0 && (uint64_t)w->id.layer >= layers + mtp))
            continue;
        uint64_t one = fingerprint_weight_bytes(s, w, tokens);
        bytes[place_of(s, w)] += one;
        *total += one;
    }
    return bytes;
}

bool fingerprint_cost(struct fingerprint_cost *cost, const struct source *s, unsigned threads, struct err *e)
{
    struct forward_options options = {.threads = threads, .by_slices = true};
    struct forward *f = NULL;
    uint32_t ids[FINGERPRINT_TOKENS];
    struct sequence sequence = {.tokens = FINGERPRINT_TOKENS};
    struct batch b = {.ids = ids, .tokens = FINGERPRINT_TOKENS, .sequences = &sequence, .sequence_count = 1};

    *cost = (struct fingerprint_cost){0};
    if (!forward_open(&f, s, &options, e))
        return false;
    cost->memory_bytes =
        forward_memory_bytes(f, &b) + (uint64_t)FINGERPRINT_TOKENS * s->arch.vocab_size * sizeof(float);
    mem_free(fingerprint_read_bytes(s, FINGERPRINT_TOKENS, forward_has_mtp(f), &cost->read_bytes));
    forward_close(f);
    return true;
}
