#include "formats/base/random.h"

#include <assert.h>

uint64_t random_u64(struct random_state *r)
{
    uint64_t z = r->counter += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t random_below(struct random_state *r, uint64_t below)
{
    assert(below > 0);
    uint64_t uneven = (UINT64_MAX % below + 1) % below; /* how many values at the top would favour the small ones */
    uint64_t value = random_u64(r);

    while (value > UINT64_MAX - uneven)
        value = random_u64(r);
    return value % below;
}

double random_unit(struct random_state *r)
{
    return (double)(random_u64(r) >> 11) * 0x1p-53;
}
