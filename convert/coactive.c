#include "convert/coactive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/mem.h"

#define REACH_MAX  64u /* places apart that can still share a window, at most */
#define SWEEPS_MAX 30u
#define PHASES     4u
/* Below this a held-out third says nothing. */
#define TOKENS_MIN 96u
/* Tokens of one text go on as they began: means over this many are nearer to independent. */
#define BLOCK_TOKENS 16u

/* ---- windows ---- */

static void sort_places(uint32_t *places, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        uint32_t x = places[i];
        size_t k = i;
        for (; k > 0 && places[k - 1] > x; k--)
            places[k] = places[k - 1];
        places[k] = x;
    }
}

/* places ascending: windows of an expert that the one before touched already count once. */
static uint64_t count_windows(const uint32_t *places, size_t count, const struct coactive_geometry *g, uint64_t phase)
{
    uint64_t sum = 0, next = 0; /* the first window not counted yet */

    for (size_t i = 0; i < count; i++) {
        uint64_t begin = places[i] * g->expert_bytes + phase, end = begin + g->expert_bytes;
        uint64_t first = begin / g->window_bytes, past = (end - 1) / g->window_bytes + 1;
        first = first < next ? next : first;
        if (past > first)
            sum += past - first;
        next = past > next ? past : next;
    }
    return sum;
}

double coactive_windows(const int32_t *trace, uint64_t experts_per_token, size_t first, size_t count,
                        const uint32_t *place, const struct coactive_geometry *g, double *per_token)
{
    size_t k = (size_t)experts_per_token;
    uint32_t *places = mem_alloc(k * sizeof *places);
    double all = 0;

    for (size_t t = 0; t < count; t++) {
        uint64_t sum = 0;
        for (size_t i = 0; i < k; i++)
            places[i] = place[trace[(first + t) * k + i]];
        sort_places(places, k);
        for (uint64_t phase = 0; phase < PHASES; phase++)
            sum += count_windows(places, k, g, phase * g->window_bytes / PHASES);
        if (per_token)
            per_token[t] = (double)sum / PHASES;
        all += (double)sum / PHASES;
    }
    mem_free(places);
    return count > 0 ? all / (double)count : 0;
}

/* ---- how much two experts gain by standing `apart` places apart ---- */

struct reach {
    size_t count; /* of places */
    double share[REACH_MAX + 1];
};

/* The mean number of windows that both touch, but for a constant: with a gap of g bytes between them, the span of both
 * is cut into 1 + (2 s + g) / w windows in the mean, and apart they have 2 (1 + s / w). */
static struct reach reach_of(const struct coactive_geometry *g)
{
    struct reach r = {0};

    for (size_t apart = 1; apart <= REACH_MAX; apart++) {
        double share = 1 - (double)(apart - 1) * (double)g->expert_bytes / (double)g->window_bytes;
        if (share <= 0)
            break;
        r.share[apart] = share;
        r.count = apart;
    }
    return r;
}

/* ---- clusters ---- */

struct linkage {
    size_t count; /* items at the start */
    double *sums; /* [count][count] pairs between clusters */
    size_t *sizes;
    size_t *near; /* the cluster with the highest average to each */
    bool *live;
    uint32_t **lists; /* the items of each, in order */
};

static double average(const struct linkage *l, size_t a, size_t b)
{
    return l->sums[a * l->count + b] / ((double)l->sizes[a] * (double)l->sizes[b]);
}

static void find_near(struct linkage *l, size_t a)
{
    size_t best = l->count;

    for (size_t b = 0; b < l->count; b++)
        if (b != a && l->live[b] && (best == l->count || average(l, a, b) > average(l, a, best)))
            best = b;
    l->near[a] = best;
}

static size_t find_closest(const struct linkage *l)
{
    size_t best = l->count;

    for (size_t a = 0; a < l->count; a++)
        if (l->live[a] && (best == l->count || average(l, a, l->near[a]) > average(l, best, l->near[best])))
            best = a;
    return best;
}

/* What is gained where one list ends and the other begins. */
static double joint(const double *pairs, size_t n, const uint32_t *a, size_t a_count, bool a_back, const uint32_t *b,
                    size_t b_count, bool b_back, const struct reach *r)
{
    double sum = 0;

    for (size_t i = 0; i < a_count && i < r->count; i++)
        for (size_t k = 0; k < b_count && i + k + 1 <= r->count; k++) {
            uint32_t x = a[a_back ? i : a_count - 1 - i], y = b[b_back ? b_count - 1 - k : k];
            sum += pairs[x * n + y] * r->share[i + k + 1];
        }
    return sum;
}

static void reverse(uint32_t *list, size_t count)
{
    for (size_t i = 0; i < count / 2; i++) {
        uint32_t x = list[i];
        list[i] = list[count - 1 - i];
        list[count - 1 - i] = x;
    }
}

static void join(struct linkage *l, const double *pairs, size_t a, size_t b, const struct reach *r)
{
    unsigned best = 0;
    double gain = -1;

    for (unsigned way = 0; way < 4; way++) {
        double g = joint(pairs, l->count, l->lists[a], l->sizes[a], way & 1, l->lists[b], l->sizes[b], way >> 1 & 1, r);
        if (g > gain) {
            gain = g;
            best = way;
        }
    }
    if (best & 1)
        reverse(l->lists[a], l->sizes[a]);
    if (best & 2)
        reverse(l->lists[b], l->sizes[b]);
    l->lists[a] = mem_grow(l->lists[a], l->sizes[a] + l->sizes[b], sizeof **l->lists);
    memcpy(l->lists[a] + l->sizes[a], l->lists[b], l->sizes[b] * sizeof **l->lists);
    for (size_t x = 0; x < l->count; x++) {
        l->sums[a * l->count + x] += l->sums[b * l->count + x];
        l->sums[x * l->count + a] = l->sums[a * l->count + x];
    }
    l->sizes[a] += l->sizes[b];
    l->live[b] = false;
}

static void merge_closest(struct linkage *l, const double *pairs, const struct reach *r)
{
    size_t a = find_closest(l), b = l->near[a];

    if (b < a) {
        size_t x = a;
        a = b;
        b = x;
    }
    join(l, pairs, a, b, r);
    for (size_t x = 0; x < l->count; x++)
        if (l->live[x] && (x == a || l->near[x] == a || l->near[x] == b ||
                           (l->near[x] < l->count && average(l, x, a) > average(l, x, l->near[x]))))
            find_near(l, x);
}

static void cluster(const double *pairs, size_t n, const struct reach *r, uint32_t *order)
{
    struct linkage l = {
        .count = n,
        .sums = mem_alloc(n * n * sizeof(double)),
        .sizes = mem_alloc(n * sizeof(size_t)),
        .near = mem_alloc(n * sizeof(size_t)),
        .live = mem_alloc(n * sizeof(bool)),
        .lists = mem_alloc(n * sizeof(uint32_t *)),
    };

    memcpy(l.sums, pairs, n * n * sizeof *pairs);
    for (size_t i = 0; i < n; i++) {
        l.sizes[i] = 1;
        l.live[i] = true;
        l.lists[i] = mem_alloc(sizeof(uint32_t));
        l.lists[i][0] = (uint32_t)i;
    }
    for (size_t i = 0; i < n; i++)
        find_near(&l, i);
    for (size_t left = n; left > 1; left--)
        merge_closest(&l, pairs, r);
    memcpy(order, l.lists[0], n * sizeof *order); /* the lower one of two stays, so the last is the first */
    for (size_t i = 0; i < n; i++)
        mem_free(l.lists[i]);
    mem_free(l.sums);
    mem_free(l.sizes);
    mem_free(l.near);
    mem_free(l.live);
    mem_free(l.lists);
}

/* ---- swaps ---- */

/* What the item x gains at place p, but for its neighbour at place `but`. */
static double gain_at(const double *pairs, size_t n, const uint32_t *order, uint32_t x, size_t p, size_t but,
                      const struct reach *r)
{
    double sum = 0;
    size_t begin = p > r->count ? p - r->count : 0, end = p + r->count < n ? p + r->count + 1 : n;

    for (size_t q = begin; q < end; q++)
        if (q != p && q != but)
            sum += pairs[x * n + order[q]] * r->share[q > p ? q - p : p - q];
    return sum;
}

static bool try_swap(const double *pairs, size_t n, uint32_t *order, size_t p, size_t q, const struct reach *r)
{
    uint32_t x = order[p], y = order[q];
    double now = gain_at(pairs, n, order, x, p, q, r) + gain_at(pairs, n, order, y, q, p, r);
    double then = gain_at(pairs, n, order, y, p, q, r) + gain_at(pairs, n, order, x, q, p, r);

    if (then <= now * (1 + 1e-12))
        return false;
    order[p] = y;
    order[q] = x;
    return true;
}

static void improve(const double *pairs, size_t n, uint32_t *order, const struct reach *r)
{
    bool better = true;

    for (unsigned sweep = 0; sweep < SWEEPS_MAX && better; sweep++) {
        better = false;
        for (size_t p = 0; p < n; p++)
            for (size_t q = p + 1; q < n; q++)
                better |= try_swap(pairs, n, order, p, q, r);
    }
}

/* ---- groups ---- */

static void order_items(const double *pairs, size_t n, const struct coactive_geometry *g, uint32_t *order)
{
    struct reach r = reach_of(g);

    cluster(pairs, n, &r, order);
    improve(pairs, n, order, &r);
}

/* Groups by what fires together over all their experts; inside each, its experts. */
static void order_groups(const int64_t *pairs, size_t experts, size_t groups, const struct coactive_geometry *g,
                         uint32_t *order)
{
    size_t width = experts / groups;
    double *between = mem_alloc(groups * groups * sizeof *between), *inside = mem_alloc(width * width * sizeof *inside);
    uint32_t *group_order = mem_alloc(groups * sizeof *group_order), *own = mem_alloc(width * sizeof *own);
    struct coactive_geometry wide = {.expert_bytes = g->expert_bytes * width, .window_bytes = g->window_bytes};

    for (size_t x = 0; x < experts; x++)
        for (size_t y = 0; y < experts; y++)
            between[x / width * groups + y / width] += (double)pairs[x * experts + y];
    order_items(between, groups, &wide, group_order);
    for (size_t i = 0; i < groups; i++) {
        size_t first = group_order[i] * width;
        for (size_t x = 0; x < width; x++)
            for (size_t y = 0; y < width; y++)
                inside[x * width + y] = (double)pairs[(first + x) * experts + first + y];
        order_items(inside, width, g, own);
        for (size_t x = 0; x < width; x++)
            order[i * width + x] = (uint32_t)first + own[x];
    }
    mem_free(between);
    mem_free(inside);
    mem_free(group_order);
    mem_free(own);
}

void coactive_cluster(const int64_t *pairs, uint64_t experts, uint64_t groups, const struct coactive_geometry *g,
                      uint32_t *order)
{
    size_t n = (size_t)experts;
    double *numbers = NULL;

    if (groups > 1) {
        order_groups(pairs, n, (size_t)groups, g, order);
        return;
    }
    numbers = mem_alloc(n * n * sizeof *numbers);
    for (size_t i = 0; i < n * n; i++)
        numbers[i] = (double)pairs[i];
    order_items(numbers, n, g, order);
    mem_free(numbers);
}

/* ---- held out ---- */

static void invert(const uint32_t *order, size_t n, uint32_t *place)
{
    for (size_t i = 0; i < n; i++)
        place[order[i]] = (uint32_t)i;
}

static void count_pairs(const int32_t *trace, size_t k, size_t count, size_t experts, int64_t *pairs)
{
    memset(pairs, 0, experts * experts * sizeof *pairs);
    for (size_t t = 0; t < count; t++)
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < k; j++)
                pairs[(size_t)trace[t * k + i] * experts + (size_t)trace[t * k + j]]++;
}

/* Whether a mean gain over blocks of tokens is more than twice its standard error above nothing. */
static bool is_clear_gain(const double *index, const double *own, size_t count)
{
    size_t blocks = count / BLOCK_TOKENS;
    double sum = 0, squares = 0;

    for (size_t b = 0; b < blocks; b++) {
        double gain = 0;
        for (size_t i = b * BLOCK_TOKENS; i < (b + 1) * BLOCK_TOKENS; i++)
            gain += index[i] - own[i];
        gain /= BLOCK_TOKENS;
        sum += gain;
        squares += gain * gain;
    }
    if (blocks < 2)
        return false;
    double mean = sum / (double)blocks;
    double variance = (squares - sum * mean) / (double)(blocks - 1);
    return mean > 0 && mean * mean * (double)blocks > 4 * variance;
}

/* Learns on the first two thirds, looks at the last. */
static void hold_out(const struct routing_layer *layer, size_t experts, size_t k, uint64_t groups,
                     const struct coactive_geometry *g, uint32_t *order, struct coactive_gain *gain)
{
    size_t tokens = (size_t)layer->tokens, learn = tokens / 3 * 2, held = tokens - learn;
    int64_t *pairs = mem_alloc(experts * experts * sizeof *pairs);
    uint32_t *place = mem_alloc(experts * sizeof *place);
    double *index = mem_alloc(held * sizeof *index), *own = mem_alloc(held * sizeof *own);

    for (size_t i = 0; i < experts; i++)
        place[i] = (uint32_t)i;
    gain->index = coactive_windows(layer->trace, k, learn, held, place, g, index);
    count_pairs(layer->trace, k, learn, experts, pairs);
    coactive_cluster(pairs, experts, groups, g, order);
    invert(order, experts, place);
    gain->own = coactive_windows(layer->trace, k, learn, held, place, g, own);
    gain->checked = true;
    gain->kept_index = !is_clear_gain(index, own, held);
    mem_free(pairs);
    mem_free(place);
    mem_free(index);
    mem_free(own);
}

void coactive_order(const struct routing_layer *layer, uint64_t experts, uint64_t experts_per_token, uint64_t groups,
                    const struct coactive_geometry *g, uint32_t *order, struct coactive_gain *gain)
{
    *gain = (struct coactive_gain){0};
    if (layer->trace && layer->tokens >= TOKENS_MIN)
        hold_out(layer, (size_t)experts, (size_t)experts_per_token, groups, g, order, gain);
    else if (layer->trace || layer->tokens < TOKENS_MIN)
        gain->kept_index = true;
    if (!gain->kept_index) {
        coactive_cluster(layer->coactivation, experts, groups, g, order);
        return;
    }
    for (size_t i = 0; i < experts; i++)
        order[i] = (uint32_t)i;
}
