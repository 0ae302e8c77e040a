/* `quern diff` for a comment on a pull request: what counts first, the rest folded. */
#include <inttypes.h>
#include <math.h>

#include "verify/diff_report.h"
#include "verify/diff_words.h"
#include "verify/layer_metrics.h"
#include "verify/markup.h"

static void put_cell(struct buf *out, const char *text)
{
    buf_puts(out, "| ");
    markdown_escape(out, text);
    buf_puts(out, " ");
}

static void put_head(const struct diff_report *r, struct buf *out)
{
    struct buf words = {0};

    words_verdict(r, &words);
    buf_puts(out, "## quern diff: ");
    if (r->check_count)
        buf_printf(out, "%s\n\n**", words_status(r));
    else
        buf_puts(out, "compared\n\n**");
    markdown_escape(out, words.data);
    buf_puts(out, "**\n\n");
    markdown_escape(out, r->ref);
    for (size_t i = 0; i < r->candidate_count; i++) {
        buf_puts(out, i == 0 ? " against " : " and ");
        markdown_escape(out, r->candidates[i].path);
    }
    buf_puts(out, "; ");
    markdown_escape(out, r->model);
    buf_puts(out, "; ");
    markdown_escape(out, r->text);
    buf_puts(out, ", ");
    words_size(r, out);
    buf_puts(out, "\n\n");
    for (size_t i = 0; i < r->note_count; i++) {
        buf_puts(out, "> ");
        markdown_escape(out, r->notes[i]);
        buf_puts(out, "\n\n");
    }
    buf_release(&words);
}

static void put_checks(const struct diff_report *r, struct buf *out)
{
    char value[WORD_TEXT], limit[WORD_TEXT];

    if (r->check_count == 0)
        return;
    buf_puts(out, "| | threshold | seen | must be |\n|---|---|---|---|\n");
    for (size_t i = 0; i < r->check_count; i++) {
        const struct diff_check *c = &r->checks[i];
        put_cell(out, c->ok ? "pass" : "FAIL");
        buf_printf(out, "| `%s %s`", c->option, c->asked);
        if (r->candidate_count > 1) {
            buf_puts(out, " ");
            markdown_escape(out, c->candidate);
        }
        buf_printf(out, " | %s %s | %s %s |\n", c->what, word_metric(c->metric, c->value, value),
                   c->at_most ? "at most" : "at least", word_metric(c->metric, c->limit, limit));
    }
    buf_puts(out, "\n");
}

static void put_rows(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    struct words_row rows[WORDS_ROWS_MAX];
    size_t count = words_rows(r, c, "\xC2\xB1", rows);

    buf_puts(out, "| metric | value | |\n|---|---|---|\n");
    for (size_t i = 0; i < count; i++) {
        put_cell(out, rows[i].name);
        put_cell(out, rows[i].value.data);
        put_cell(out, rows[i].more.data);
        buf_puts(out, "|\n");
    }
    words_rows_release(rows, count);
    const struct diff_floor *floors[] = {&r->bf16, &r->order};
    for (size_t i = 0; i < 2; i++) {
        if (!floors[i]->known)
            continue;
        struct buf words = {0};
        words_floor(floors[i], &words);
        buf_printf(out, "| floor: %s | | %s |\n", floors[i]->what, words.data);
        buf_release(&words);
    }
    buf_puts(out, "\n");
}

static void put_layer(const struct diff_report *r, const struct diff_layer *l, struct buf *out)
{
    char text[WORD_TEXT];

    buf_printf(out, "| %s%" PRIu64 "%s ", l->stands_out ? "**" : "", l->layer, l->stands_out ? "**" : "");
    put_cell(out, l->moe ? "MoE" : "dense");
    put_cell(out, word_number(r->golden ? l->added_error : l->local_error, text));
    if (!r->golden)
        put_cell(out, word_number(l->local_floor, text));
    put_cell(out, word_number(l->cumulative_error, text));
    if (!r->golden) {
        buf_printf(out, "| %.6f ", l->cosine);
        put_cell(out, isnan(l->overlap) ? "" : word_percent(l->overlap, text));
        put_cell(out, isnan(l->overlap) ? "" : word_percent(l->sets_changed, text));
    }
    buf_puts(out, "|\n");
}

static void put_layers(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    buf_puts(out, "<details><summary>by layer</summary>\n\n");
    if (r->golden)
        buf_puts(out, "| layer | kind | added error | cumulative |\n|---:|---|---:|---:|\n");
    else
        buf_puts(out, "| layer | kind | local error | BF16 floor | cumulative | cosine | routing | sets changed |\n"
                      "|---:|---|---:|---:|---:|---:|---:|---:|\n");
    for (size_t i = 0; i < r->layer_count; i++)
        put_layer(r, &c->layers[i], out);
    buf_puts(out, "\n</details>\n\n");
}

static void put_findings(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    struct buf words = {0};

    words_outlier(r, c, &words);
    buf_puts(out, "- ");
    markdown_escape(out, words.data);
    buf_puts(out, "\n");
    words.bytes = 0;
    if (c->weights_known) {
        words_weights(c, &words);
        buf_printf(out, "- %s\n", words.data);
    }
    for (size_t i = 0; i < c->unexpected_count; i++) {
        buf_puts(out, "  - ");
        markdown_escape(out, c->unexpected[i]);
        buf_puts(out, "\n");
    }
    buf_puts(out, "\n");
    buf_release(&words);
}

void diff_print_markdown(const struct diff_report *r, struct buf *out)
{
    put_head(r, out);
    put_checks(r, out);
    for (size_t i = 0; i < r->candidate_count; i++) {
        if (r->candidate_count > 1) {
            buf_puts(out, "### ");
            markdown_escape(out, r->candidates[i].path);
            buf_puts(out, "\n\n");
        }
        put_rows(r, &r->candidates[i], out);
        put_findings(r, &r->candidates[i], out);
        put_layers(r, &r->candidates[i], out);
    }
    if (r->has_paired) {
        struct buf words = {0};
        words_paired(r, &words);
        buf_puts(out, "Paired: ");
        markdown_escape(out, words.data);
        buf_puts(out, "\n\n");
        buf_release(&words);
    }
    buf_printf(out, "<sub>quern %s; ", r->version);
    words_units(r, "\xC2\xB1", out);
    buf_puts(out, "</sub>\n");
}
