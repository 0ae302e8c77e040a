#include "verify/html_chart.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "quant/logits.h"
#include "verify/markup.h"

/* The drawing's own units; the page stretches them. */
#define WIDTH  1000.0
#define HEIGHT 400.0

static double log10_of(double x)
{
    return log64(x) / log64(10);
}

/* ---- axes ---- */

struct chart_axis chart_axis_log(const double *values, size_t count)
{
    double low = INFINITY, high = 0;

    for (size_t i = 0; i < count; i++) {
        if (!(values[i] > 0) || isinf(values[i]))
            continue;
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
    }
    if (high == 0)
        return (struct chart_axis){-6, 0, true};
    double from = floor(log10_of(low) + 1e-9), to = ceil(log10_of(high) - 1e-9);
    if (to <= from)
        to = from + 1;
    return (struct chart_axis){from, to, true};
}

double chart_axis_at(const struct chart_axis *a, double value)
{
    double at = ((a->log ? log10_of(value) : value) - a->low) / (a->high - a->low);

    return at < 0 ? 0 : at > 1 ? 1 : at; /* infinity is the top; NaN passes */
}

static void add_tick(struct chart_ticks *ticks, double at)
{
    if (ticks->count < CHART_TICKS_MAX)
        ticks->items[ticks->count++].at = at;
}

void chart_power_label(int power, char label[40])
{
    static const char *const plain[] = {"0.01", "0.1", "1", "10", "100"};

    if (power >= -2 && power <= 2)
        snprintf(label, 40, "%s", plain[power + 2]);
    else
        snprintf(label, 40, "10<sup>%d</sup>", power);
}

/* 1, 2 or 5 times a power of ten, so that a range has three to six of them. */
static double round_step(double range)
{
    double scale = 1;

    while (scale * 3 > range)
        scale /= 10;
    while (scale * 30 <= range)
        scale *= 10;
    return range >= 15 * scale ? 5 * scale : range >= 6 * scale ? 2 * scale : scale;
}

void chart_axis_ticks(const struct chart_axis *a, struct chart_ticks *ticks)
{
    double range = a->high - a->low;

    *ticks = (struct chart_ticks){0};
    if (a->log) {
        int decades = (int)range, step = decades > 6 ? (decades + 5) / 6 : 1;
        for (int d = 0; d <= decades; d += step) {
            add_tick(ticks, d / range);
            chart_power_label((int)a->low + d, ticks->items[ticks->count - 1].label);
        }
        return;
    }
    double step = round_step(range);
    for (double i = ceil(a->low / step - 1e-9) + 0.0; i * step <= a->high + 1e-9 * range; i++) {
        add_tick(ticks, (i * step - a->low) / range);
        struct chart_tick *t = &ticks->items[ticks->count - 1];
        snprintf(t->label, sizeof t->label, "%.4g%%", 100 * i * step);
    }
}

void chart_ticks_numbered(struct chart_ticks *ticks, uint64_t first, uint64_t count)
{
    static const uint64_t steps[] = {1, 2, 5};
    uint64_t step = 1;

    for (uint64_t scale = 1, i = 0; count / step > 7; i++) {
        step = steps[i % 3] * scale;
        scale *= i % 3 == 2 ? 10 : 1;
    }
    *ticks = (struct chart_ticks){0};
    for (uint64_t n = (first + step - 1) / step * step; n < first + count; n += step) {
        add_tick(ticks, ((double)(n - first) + 0.5) / (double)count);
        struct chart_tick *t = &ticks->items[ticks->count - 1];
        snprintf(t->label, sizeof t->label, "%" PRIu64, n);
    }
}

/* ---- frame ---- */

static void put_labels(struct buf *out, const char *class, const char *edge, const struct chart_ticks *ticks)
{
    buf_printf(out, "<div class=\"%s\" aria-hidden=\"true\">", class);
    for (size_t i = 0; i < ticks->count; i++)
        buf_printf(out, "<span style=\"%s:%.2f%%\">%s</span>", edge, 100 * ticks->items[i].at, ticks->items[i].label);
    buf_puts(out, "</div>");
}

static void begin_figure(struct buf *out, const char *caption)
{
    buf_puts(out, "<figure>\n<figcaption>");
    markup_escape(out, caption);
    buf_puts(out, "</figcaption>\n<div class=\"plot\">");
}

static void begin_svg(struct buf *out, const char *class, double width, double height, const char *summary)
{
    buf_printf(out,
               "<svg class=\"%s\" viewBox=\"0 0 %.6g %.6g\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"",
               class, width, height);
    markup_escape(out, summary);
    buf_puts(out, "\">\n");
}

void chart_begin(struct buf *out, const char *caption, const char *summary, const struct chart_ticks *y)
{
    begin_figure(out, caption);
    put_labels(out, "y", "bottom", y);
    begin_svg(out, "marks", WIDTH, HEIGHT, summary);
    buf_puts(out, "<path class=\"grid\" d=\"");
    for (size_t i = 0; i < y->count; i++)
        buf_printf(out, "M0 %.1fh%g", HEIGHT * (1 - y->items[i].at), WIDTH);
    buf_puts(out, "\"/>\n");
}

static void put_legend(struct buf *out, const char *const *legend)
{
    buf_puts(out, "<ul class=\"legend\">");
    for (; *legend; legend += 2)
        buf_printf(out, "<li><i class=\"%s\"></i>%s</li>", legend[0], legend[1]);
    buf_puts(out, "</ul>\n");
}

void chart_end(struct buf *out, const struct chart_ticks *x, const char *x_name, const char *const *legend)
{
    buf_puts(out, "</svg>\n");
    put_labels(out, "x", "left", x);
    buf_puts(out, "</div>\n");
    if (x_name)
        buf_printf(out, "<p class=\"axis\">%s</p>\n", x_name);
    if (legend)
        put_legend(out, legend);
    buf_puts(out, "</figure>\n");
}

/* ---- marks ---- */

static void put_title(struct buf *out, const char *element, const char *title)
{
    if (!title) {
        buf_puts(out, "/>\n");
        return;
    }
    buf_puts(out, "><title>");
    markup_escape(out, title);
    buf_printf(out, "</title></%s>\n", element);
}

void chart_bar(struct buf *out, const char *kind, double left, double right, double top, const char *title)
{
    buf_printf(out, "<rect class=\"%s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"", kind, WIDTH * left,
               HEIGHT * (1 - top), WIDTH * (right - left), HEIGHT * top);
    put_title(out, "rect", title);
}

/* A line without length and with round ends stays round, however the drawing is stretched. */
void chart_dot(struct buf *out, const char *kind, double x, double y, const char *title)
{
    if (isnan(y))
        return;
    buf_printf(out, "<path class=\"dot %s\" d=\"M%.2f %.2fh0\"", kind, WIDTH * x, HEIGHT * (1 - y));
    put_title(out, "path", title);
}

void chart_stem(struct buf *out, const char *kind, double x, double y)
{
    if (!isnan(y))
        buf_printf(out, "<path class=\"stem %s\" d=\"M%.2f %gV%.2f\"/>\n", kind, WIDTH * x, HEIGHT, HEIGHT * (1 - y));
}

void chart_upright(struct buf *out, const char *kind, double x)
{
    if (!isnan(x))
        buf_printf(out, "<path class=\"line %s\" d=\"M%.2f 0v%g\"/>\n", kind, WIDTH * x, HEIGHT);
}

void chart_line(struct buf *out, const char *kind, const double *x, const double *y, size_t count)
{
    bool pen_down = false;

    buf_printf(out, "<path class=\"line %s\" d=\"", kind);
    for (size_t i = 0; i < count; i++) {
        if (!isnan(y[i]))
            buf_printf(out, "%c%.2f %.2f", pen_down ? 'L' : 'M', WIDTH * x[i], HEIGHT * (1 - y[i]));
        pen_down = !isnan(y[i]);
    }
    buf_puts(out, "\"/>\n");
}

/* One path for each level, runs of a row in one piece: a map of 58 x 256 stays at some tens of kilobytes. */
static void put_level(struct buf *out, unsigned level, const uint8_t *levels, size_t rows, size_t cols)
{
    bool any = false;

    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols;) {
            size_t run = 0;
            while (c + run < cols && levels[r * cols + c + run] == level)
                run++;
            if (run && !any)
                buf_printf(out, "<path class=\"h%u\" d=\"", level);
            if (run)
                buf_printf(out, "M%zu %zuh%zuv1h-%zuz", c, r, run, run);
            any |= run > 0;
            c += run ? run : 1;
        }
    if (any)
        buf_puts(out, "\"/>\n");
}

void chart_heat(struct buf *out, const char *caption, const char *summary, const uint8_t *levels, size_t rows,
                size_t cols, const struct chart_ticks *x, const struct chart_ticks *y, const char *x_name)
{
    begin_figure(out, caption);
    put_labels(out, "y", "top", y);
    begin_svg(out, "heat", (double)cols, (double)rows, summary);
    for (unsigned level = 1; level < HEAT_LEVELS; level++) /* level 0 is the ground */
        put_level(out, level, levels, rows, cols);
    buf_puts(out, "</svg>\n");
    put_labels(out, "x", "left", x);
    buf_printf(out, "</div>\n<p class=\"axis\">%s</p>\n</figure>\n", x_name);
}
