/* `quern diff` as one page without anything from outside: what was decided first, then the numbers, then charts, then
 * the table by layer. The charts themselves: verify/diff_charts.c. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "verify/diff_charts.h"
#include "verify/diff_report.h"
#include "verify/diff_words.h"
#include "verify/html_chart.h"
#include "verify/layer_metrics.h"
#include "verify/markup.h"

/* More layers than this fold their table away. */
#define LAYERS_OPEN 12u

static void put_head(const struct diff_report *r, struct buf *out)
{
    buf_puts(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                  "<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
    buf_printf(out, "%s: quern diff of ", words_status(r));
    markup_escape(out, r->candidates[0].path);
    buf_puts(out, "</title>\n<style>\n");
    buf_puts(out, html_style);
    buf_puts(out, "</style>\n</head>\n<body>\n<main>\n");
}

static void put_fact(struct buf *out, const char *name, const char *value, bool is_path)
{
    buf_printf(out, "<dt>%s</dt><dd%s>", name, is_path ? " class=\"path\"" : "");
    markup_escape(out, value);
    buf_puts(out, "</dd>\n");
}

static void put_verdict(const struct diff_report *r, struct buf *out)
{
    char longest[WORD_TEXT];
    struct buf words = {0};

    words_verdict(r, &words);
    buf_puts(out, "<header>\n<h1>quern diff</h1>\n<div class=\"verdict\">");
    if (r->check_count)
        buf_printf(out, "<span class=\"badge %s\">%s</span>", r->agree ? "good" : "bad", words_status(r));
    buf_puts(out, "<p>");
    if (words.data[0] >= 'a' && words.data[0] <= 'z')
        words.data[0] = (char)(words.data[0] - 'a' + 'A');
    markup_escape(out, words.data);
    buf_puts(out, "</p></div>\n<dl class=\"facts\">\n");
    put_fact(out, r->golden ? "golden file" : "reference", r->ref, true);
    for (size_t i = 0; i < r->candidate_count; i++)
        put_fact(out, i == 0 ? "candidate" : "second", r->candidates[i].path, true);
    put_fact(out, "model", r->model, false);
    words.bytes = 0;
    buf_printf(&words, "%s: ", r->text);
    words_size(r, &words);
    buf_printf(&words, " of up to %s", word_count(r->context_tokens, longest));
    put_fact(out, "text", words.data, false);
    if (strcmp(r->emulate, "none") != 0)
        put_fact(out, "emulated", r->emulate, false);
    buf_puts(out, "</dl>\n</header>\n");
    for (size_t i = 0; i < r->note_count; i++) {
        buf_puts(out, "<p class=\"finding\">Note: ");
        markup_escape(out, r->notes[i]);
        buf_puts(out, "</p>\n");
    }
    buf_release(&words);
}

static void put_checks(const struct diff_report *r, struct buf *out)
{
    if (r->check_count == 0)
        return;
    buf_puts(out, "<section>\n<h2>Thresholds</h2>\n<ul class=\"checks\">\n");
    for (size_t i = 0; i < r->check_count; i++) {
        const struct diff_check *c = &r->checks[i];
        char value[WORD_TEXT], limit[WORD_TEXT];
        buf_printf(out, "<li><b class=\"%s\">%s</b><span>", c->ok ? "good" : "bad", c->ok ? "pass" : "FAIL");
        buf_printf(out, "%s <b>%s</b>, %s %s</span><small><code>%s %s</code>", c->what,
                   word_metric(c->metric, c->value, value), c->at_most ? "at most" : "at least",
                   word_metric(c->metric, c->limit, limit), c->option, c->asked);
        if (r->candidate_count > 1) {
            buf_puts(out, " ");
            markup_escape(out, c->candidate);
        }
        buf_puts(out, "</small></li>\n");
    }
    buf_puts(out, "</ul>\n</section>\n");
}

static void put_cards(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    struct words_row rows[WORDS_ROWS_MAX];
    size_t count = words_rows(r, c, "\xC2\xB1", rows);

    buf_puts(out, "<dl class=\"cards\">\n");
    for (size_t i = 0; i < count; i++) {
        char *error = strstr(rows[i].value.data, " \xC2\xB1");
        buf_puts(out, "<div><dt>");
        markup_escape(out, rows[i].name);
        buf_puts(out, "</dt><dd>");
        if (error)
            *error = 0;
        markup_escape(out, rows[i].value.data);
        if (error)
            buf_printf(out, " <small>%s</small>", error + 1);
        buf_puts(out, "</dd><dd>");
        markup_escape(out, rows[i].more.data);
        buf_puts(out, "</dd></div>\n");
    }
    buf_puts(out, "</dl>\n");
    words_rows_release(rows, count);
}

static void put_findings(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    struct buf words = {0};

    words_outlier(r, c, &words);
    words.data[0] = (char)(words.data[0] - 'a' + 'A');
    buf_printf(out, "<p class=\"finding%s\">", c->first_outlier == NO_LAYER ? "" : " bad");
    markup_escape(out, words.data);
    buf_puts(out, ".</p>\n");
    if (c->weights_known) {
        words.bytes = 0;
        words_weights(c, &words);
        buf_printf(out, "<div class=\"finding%s\">Weights: %s.", c->weights_unexpected ? " bad" : "", words.data);
        if (c->unexpected_count) {
            buf_puts(out, "<ul>\n");
            for (size_t i = 0; i < c->unexpected_count; i++) {
                buf_puts(out, "<li>");
                markup_escape(out, c->unexpected[i]);
                buf_puts(out, "</li>\n");
            }
            buf_puts(out, "</ul>");
        }
        buf_puts(out, "</div>\n");
    }
    buf_release(&words);
}

static void put_cell(struct buf *out, const char *text)
{
    buf_printf(out, "<td>%s</td>", text);
}

static void put_layer(const struct diff_report *r, const struct diff_layer *l, struct buf *out)
{
    char text[WORD_TEXT];

    buf_printf(out, "<tr%s><td>%" PRIu64 "</td><td>%s</td>", l->stands_out ? " class=\"out\"" : "", l->layer,
               l->moe ? "MoE" : "dense");
    put_cell(out, word_number(r->golden ? l->added_error : l->local_error, text));
    if (!r->golden)
        put_cell(out, word_number(l->local_floor, text));
    put_cell(out, word_number(l->cumulative_error, text));
    if (!r->golden) {
        bool routed = !isnan(l->overlap);
        buf_printf(out, "<td>%.6f</td>", l->cosine);
        put_cell(out, routed ? word_percent(l->overlap, text) : "");
        put_cell(out, routed ? word_number(l->jaccard, text) : "");
        put_cell(out, routed ? word_percent(l->sets_changed, text) : "");
        put_cell(out, routed ? word_percent(l->sets_changed_local, text) : "");
    }
    buf_puts(out, "</tr>\n");
}

static void put_table(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    buf_printf(out,
               "<details%s><summary>By layer</summary>\n<div class=\"scroll\"><table>\n<thead><tr><th>layer</th>"
               "<th>kind</th>",
               r->layer_count <= LAYERS_OPEN ? " open" : "");
    if (r->golden)
        buf_puts(out, "<th>added<br>error</th><th>cumulative<br>error</th></tr></thead>\n<tbody>\n");
    else
        buf_puts(out, "<th>local<br>error</th><th>BF16<br>floor</th><th>cumulative<br>error</th><th>cosine</th>"
                      "<th>routing<br>agreement</th><th>Jaccard</th><th>sets<br>changed</th>"
                      "<th>by the<br>layer</th></tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < r->layer_count; i++)
        put_layer(r, &c->layers[i], out);
    buf_puts(out, "</tbody></table></div>\n</details>\n");
}

static void put_floors(const struct diff_report *r, struct buf *out)
{
    const struct diff_floor *floors[] = {&r->bf16, &r->order};

    if (!r->bf16.known && !r->order.known)
        return;
    buf_puts(out, "<h2>Noise floors</h2>\n<p>The reference against itself, computed otherwise: no candidate can be "
                  "nearer and mean anything by it.</p>\n<dl class=\"facts\">\n");
    for (size_t i = 0; i < 2; i++) {
        struct buf words = {0};
        if (!floors[i]->known)
            continue;
        words_floor(floors[i], &words);
        put_fact(out, floors[i]->what, words.data, false);
        buf_release(&words);
    }
    buf_puts(out, "</dl>\n");
}

static void put_candidate(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    buf_puts(out, "<section>\n<h2>");
    if (r->candidate_count > 1)
        markup_escape(out, c->path);
    else
        buf_puts(out, "Outputs");
    buf_puts(out, "</h2>\n");
    put_cards(r, c, out);
    put_findings(r, c, out);
    buf_puts(out, "<div class=\"charts\">\n");
    diff_chart_histogram(r, c, out);
    diff_chart_errors(r, c, out);
    diff_chart_routing(r, c, out);
    buf_puts(out, "</div>\n<div class=\"charts\">\n");
    diff_chart_loads(r, c, out);
    buf_puts(out, "</div>\n");
    put_table(r, c, out);
    buf_puts(out, "</section>\n");
}

void diff_print_html(const struct diff_report *r, struct buf *out)
{
    put_head(r, out);
    put_verdict(r, out);
    put_checks(r, out);
    if (r->has_paired) {
        struct buf words = {0};
        words_paired(r, &words);
        buf_puts(out, "<section>\n<h2>Which of the two is nearer</h2>\n<p>");
        markup_escape(out, words.data);
        buf_puts(out, "</p>\n</section>\n");
        buf_release(&words);
    }
    for (size_t i = 0; i < r->candidate_count; i++)
        put_candidate(r, &r->candidates[i], out);
    put_floors(r, out);
    buf_printf(out, "<footer>quern %s. ", r->version);
    words_units(r, "\xC2\xB1", out);
    buf_puts(out, ".");
    buf_puts(out, r->golden ? " From a golden file: KL is a lower bound, and errors by layer are estimates from 32 "
                              "projections.</footer>\n</main>\n</body>\n</html>\n"
                            : "</footer>\n</main>\n</body>\n</html>\n");
}
