/* Charts of our own: inline SVG for the marks, HTML for the words, so that a chart may be as narrow as a phone and its
 * labels stay as large as text. No script, nothing from outside; colours are the page's (verify/html_style.c).
 *
 * Coordinates of marks are shares of the plot, x from the left, y from the bottom, 0 to 1. */
#ifndef VERIFY_HTML_CHART_H
#define VERIFY_HTML_CHART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/mem.h"

#define CHART_TICKS_MAX 16u
struct chart_tick {
    double at;
    char label[40]; /* HTML */
};
struct chart_ticks {
    struct chart_tick items[CHART_TICKS_MAX];
    size_t count;
};

/* A range of values and where they stand. */
struct chart_axis {
    double low, high;
    bool log;
};
/* Whole decades that hold all positive values; [1e-6, 1] when there are none. */
struct chart_axis chart_axis_log(const double *values, size_t count);
double chart_axis_at(const struct chart_axis *a, double value);
/* Decades, or round steps as percent. */
void chart_axis_ticks(const struct chart_axis *a, struct chart_ticks *ticks);
void chart_power_label(int power, char label[40]); /* of ten: "0.01", "10<sup>-3</sup>" */
void chart_ticks_numbered(struct chart_ticks *ticks, uint64_t first, uint64_t count);

/* figure, caption, and an SVG with its grid. summary: what is to be seen, in words, for who does not see it. */
void chart_begin(struct buf *out, const char *caption, const char *summary, const struct chart_ticks *y);
/* kind: a class of the style sheet; title: words on hovering, or NULL. */
void chart_bar(struct buf *out, const char *kind, double left, double right, double top, const char *title);
void chart_dot(struct buf *out, const char *kind, double x, double y, const char *title);
void chart_stem(struct buf *out, const char *kind, double x, double y);
void chart_upright(struct buf *out, const char *kind, double x); /* a line across the whole height */
/* One line through points; a NaN breaks it. */
void chart_line(struct buf *out, const char *kind, const double *x, const double *y, size_t count);
/* x_name: under the axis. legend: pairs of a class and words, ending in NULL; NULL for none. */
void chart_end(struct buf *out, const struct chart_ticks *x, const char *x_name, const char *const *legend);

/* rows x cols of levels 0 .. HEAT_LEVELS - 1, the first row on top. */
#define HEAT_LEVELS 9u
void chart_heat(struct buf *out, const char *caption, const char *summary, const uint8_t *levels, size_t rows,
                size_t cols, const struct chart_ticks *x, const struct chart_ticks *y, const char *x_name);

extern const char html_style[];

#endif
