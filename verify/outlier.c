/* Which layers stand out; the rule is in layer_metrics.h. */
#include <math.h>

#include "formats/base/mem.h"
#include "verify/layer_metrics.h"
#include "verify/metrics.h"

#define PEERS_LEAST 4u
/* The spread of fewer says nothing. */
#define SPREAD_LEAST 5u
#define MEDIANS      3.0
#define DEVIATIONS   6.0
#define MAD_SIGMA    1.4826 /* a normal distribution's standard deviation over its MAD */
#define FLOORS       3.0

static size_t peers_of(double *peers, const double *errors, const bool *moe, size_t layers, size_t layer)
{
    size_t alike = 0, count = 0;

    for (size_t i = 0; i < layers; i++)
        alike += i != layer && moe[i] == moe[layer];
    for (size_t i = 0; i < layers; i++)
        if (i != layer && !isnan(errors[i]) && (alike < PEERS_LEAST || moe[i] == moe[layer]))
            peers[count++] = errors[i];
    return count;
}

static bool is_outlier(double error, double floor, double *peers, size_t count)
{
    if (isnan(error))
        return true;
    if (count == 0)
        return false;
    double median = median_of(peers, count);
    if (median == 0)
        return error > 0;
    for (size_t i = 0; i < count; i++)
        peers[i] = fabs(peers[i] - median);
    double sigma = count < SPREAD_LEAST ? 0 : MAD_SIGMA * median_of(peers, count);
    return error > MEDIANS * median && error > median + DEVIATIONS * sigma && (isnan(floor) || error > FLOORS * floor);
}

size_t outliers_find(bool *stands_out, const double *errors, const double *floors, const bool *moe, size_t layers)
{
    double *peers = mem_alloc((layers + 1) * sizeof *peers);
    size_t first = NO_LAYER;

    for (size_t i = 0; i < layers; i++) {
        size_t count = peers_of(peers, errors, moe, layers, i);
        stands_out[i] = is_outlier(errors[i], floors ? floors[i] : NAN, peers, count);
        if (stands_out[i] && first == NO_LAYER)
            first = i;
    }
    mem_free(peers);
    return first;
}

double outlier_peer_median(const double *errors, const bool *moe, size_t layers, size_t layer)
{
    double *peers = mem_alloc((layers + 1) * sizeof *peers);
    double median = median_of(peers, peers_of(peers, errors, moe, layers, layer));

    mem_free(peers);
    return median;
}
