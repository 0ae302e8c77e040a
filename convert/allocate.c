#include "convert/allocate.h"

#include <assert.h>
#include <math.h>

double allocate_bits(uint64_t bytes, uint64_t weights)
{
    return weights > 0 ? 8 * (double)bytes / (double)weights : 0;
}

/* ---- options and the steps between them ---- */

/* From one option of a unit to another: more bytes, less loss. */
struct step {
    size_t unit, to;
    uint64_t bytes;
    double loss; /* saved */
};

static bool may_take(const struct allocate_option *o)
{
    return o->loss < INFINITY;
}

/* Before another of the same unit: fewer bytes, then less loss, then the lower index. */
static bool is_narrower(const struct allocate_unit *u, size_t a, size_t b)
{
    const struct allocate_option *x = &u->options[a], *y = &u->options[b];

    if (x->bytes != y->bytes)
        return x->bytes < y->bytes;
    return x->loss != y->loss ? x->loss < y->loss : a < b;
}

/* option_count: none may be taken. */
static size_t narrowest(const struct allocate_unit *u)
{
    size_t best = u->option_count;

    for (size_t i = 0; i < u->option_count; i++)
        if (may_take(&u->options[i]) && (best == u->option_count || is_narrower(u, i, best)))
            best = i;
    return best;
}

/* The one that loses least. */
static size_t last_of(const struct allocate_unit *u)
{
    size_t at = narrowest(u);

    for (size_t i = 0; i < u->option_count; i++)
        if (u->options[i].loss < u->options[at].loss ||
            (u->options[i].loss == u->options[at].loss && is_narrower(u, i, at)))
            at = i;
    return at;
}

/* More loss per byte first; so is the one before that of a lower unit, or of fewer bytes. */
static bool is_better(const struct step *a, const struct step *b)
{
    double x = a->loss * (double)b->bytes, y = b->loss * (double)a->bytes;

    if (x != y)
        return x > y;
    return a->unit != b->unit ? a->unit < b->unit : a->bytes < b->bytes;
}

/* The best way on from an option, of those of at most `room` bytes; false: none saves anything. */
static bool find_step(const struct allocate_unit *u, size_t unit, size_t from, uint64_t room, struct step *best)
{
    const struct allocate_option *now = &u->options[from];
    bool found = false;

    for (size_t i = 0; i < u->option_count; i++) {
        const struct allocate_option *o = &u->options[i];
        if (!may_take(o) || o->bytes <= now->bytes || o->bytes - now->bytes > room || !(o->loss < now->loss))
            continue;
        struct step s = {.unit = unit, .to = i, .bytes = o->bytes - now->bytes, .loss = now->loss - o->loss};
        if (!found || is_better(&s, best))
            *best = s;
        found = true;
    }
    return found;
}

/* The best step of all units that takes at most `room` bytes. */
static bool find_best(const struct allocate_unit *units, size_t count, uint64_t room, struct step *best)
{
    struct step s;
    bool found = false;

    for (size_t u = 0; u < count; u++) {
        if (!find_step(&units[u], u, units[u].chosen, room, &s) || (found && !is_better(&s, best)))
            continue;
        *best = s;
        found = true;
    }
    return found;
}

/* ---- the choice ---- */

static bool begin_narrow(struct allocate_unit *units, size_t count, struct allocation *a, struct err *e)
{
    uint64_t most = 0;

    if (count == 0)
        return err_set(e, ERR_UNSUPPORTED, "there is nothing to choose a width for");
    for (size_t u = 0; u < count; u++) {
        struct allocate_unit *unit = &units[u];
        assert(unit->option_count <= ALLOCATE_OPTIONS_MAX && unit->weights > 0);
        unit->chosen = narrowest(unit);
        if (unit->chosen == unit->option_count)
            return err_set(e, ERR_UNSUPPORTED, "unit %zu has no option that could be taken", u);
        a->weights += unit->weights;
        a->bytes += unit->options[unit->chosen].bytes;
        most += unit->options[last_of(unit)].bytes;
    }
    a->bits_least = allocate_bits(a->bytes, a->weights);
    a->bits_most = allocate_bits(most, a->weights);
    return true;
}

static void take(struct allocate_unit *units, struct allocation *a, const struct step *s)
{
    units[s->unit].chosen = s->to;
    a->bytes += s->bytes;
}

static double loss_of(const struct allocate_unit *units, size_t count)
{
    double loss = 0;

    for (size_t u = 0; u < count; u++)
        loss += units[u].options[units[u].chosen].loss;
    return loss;
}

/* Along the hulls: with no limit on room, a unit's best way on is its next corner. Then what is left, by single moves;
 * each leaves less room, so it ends. */
static void choose(struct allocate_unit *units, size_t count, uint64_t budget, struct allocation *a)
{
    struct step s;
    bool more;

    while ((more = find_best(units, count, UINT64_MAX, &s)) && s.bytes <= budget - a->bytes)
        take(units, a, &s);
    a->bound = loss_of(units, count);
    if (more)
        a->bound -= s.loss * ((double)(budget - a->bytes) / (double)s.bytes);
    while (find_best(units, count, budget - a->bytes, &s))
        take(units, a, &s);
    a->loss = loss_of(units, count);
}

bool allocate(struct allocate_unit *units, size_t count, double target_bits, struct allocation *a, struct err *e)
{
    *a = (struct allocation){0};
    if (!begin_narrow(units, count, a, e))
        return false;
    double budget = target_bits * (double)a->weights / 8;
    if (!(budget >= (double)a->bytes))
        return err_set(e, ERR_UNSUPPORTED, "a target of %g bits per weight is below the least there is, %.4f",
                       target_bits, a->bits_least);
    /* Past 2^63 bytes it is as good as no limit. */
    choose(units, count, budget < 0x1p63 ? (uint64_t)budget : UINT64_MAX, a);
    return true;
}
