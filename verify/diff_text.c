/* `quern diff` for a terminal. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "verify/diff_report.h"
#include "verify/diff_words.h"
#include "verify/layer_metrics.h"
#include "verify/report_text.h"

static void print_head(const struct diff_report *r, struct buf *out)
{
    char longest[WORD_TEXT];

    buf_printf(out, "%s %s\n", r->golden ? "GOLDEN" : "REF   ", r->ref);
    for (size_t i = 0; i < r->candidate_count; i++)
        buf_printf(out, "%-6s %s\n", i == 0 ? "CAND" : "CAND2", r->candidates[i].path);
    buf_printf(out, "model  %s\n", r->model);
    buf_printf(out, "text   %s: ", r->text);
    words_size(r, out);
    buf_printf(out, " of up to %s\n", word_count(r->context_tokens, longest));
    if (strcmp(r->emulate, "none") != 0)
        buf_printf(out, "both sides emulate %s\n", r->emulate);
    for (size_t i = 0; i < r->note_count; i++)
        buf_printf(out, "note   %s\n", r->notes[i]);
}

static void print_rows(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    struct words_row rows[WORDS_ROWS_MAX];
    size_t count = words_rows(r, c, "+-", rows), width = 0;

    for (size_t i = 0; i < count; i++)
        width = rows[i].value.bytes > width ? rows[i].value.bytes : width;
    for (size_t i = 0; i < count; i++)
        if (rows[i].more.bytes)
            buf_printf(out, "  %-18s %-*s  %s\n", rows[i].name, (int)width, rows[i].value.data, rows[i].more.data);
        else
            buf_printf(out, "  %-18s %s\n", rows[i].name, rows[i].value.data);
    words_rows_release(rows, count);
}

static void print_floors(const struct diff_report *r, struct buf *out)
{
    const struct diff_floor *floors[] = {&r->bf16, &r->order};

    for (size_t i = 0; i < 2; i++) {
        if (!floors[i]->known)
            continue;
        struct buf words = {0};
        words_floor(floors[i], &words);
        buf_printf(out, "  floor, %-18s %s\n", floors[i]->what, words.data);
        buf_release(&words);
    }
}

static void print_units(const struct diff_report *r, struct buf *out)
{
    struct buf words = {0};

    words_units(r, "+-", &words);
    buf_printf(out, "  %s\n", words.data);
    buf_release(&words);
}

static void print_layer(const struct diff_report *r, const struct diff_layer *l, struct buf *out)
{
    char error[WORD_TEXT], floor[WORD_TEXT], cumulative[WORD_TEXT], overlap[WORD_TEXT], jaccard[WORD_TEXT];
    char changed[WORD_TEXT], local[WORD_TEXT];

    buf_printf(out, "  %5" PRIu64 "  %-5s  %11s", l->layer, l->moe ? "MoE" : "dense",
               word_number(r->golden ? l->added_error : l->local_error, error));
    if (!r->golden)
        buf_printf(out, "  %10s", word_number(l->local_floor, floor));
    buf_printf(out, "  %10s", word_number(l->cumulative_error, cumulative));
    if (!r->golden)
        buf_printf(out, "  %8.6f", l->cosine);
    if (!r->golden && !isnan(l->overlap))
        buf_printf(out, "  %8s  %7s  %12s  %12s", word_percent(l->overlap, overlap), word_number(l->jaccard, jaccard),
                   word_percent(l->sets_changed, changed), word_percent(l->sets_changed_local, local));
    buf_puts(out, l->stands_out ? "  <-- stands out\n" : "\n");
}

static void print_layers(const struct diff_report *r, const struct diff_candidate *c, struct buf *out)
{
    struct buf words = {0};

    if (r->golden)
        buf_puts(out, "  layer  kind   added error  cumulative\n");
    else
        buf_puts(out, "  layer  kind   local error  BF16 floor  cumulative    cosine  overlap   Jaccard  sets changed  "
                      "by the layer\n");
    for (size_t i = 0; i < r->layer_count; i++)
        print_layer(r, &c->layers[i], out);
    buf_puts(out,
             r->golden
                 ? "  added: growth of the cumulative error, estimated from 32 projections of each layer's output\n"
                 : "  local error: REF's state through CAND's layer, relative to what the layer adds\n");
    words_outlier(r, c, &words);
    buf_printf(out, "\n%s\n", words.data);
    buf_release(&words);
}

static void print_weights(const struct diff_candidate *c, struct buf *out)
{
    struct buf words = {0};

    if (!c->weights_known)
        return;
    words_weights(c, &words);
    buf_printf(out, "%s\n", words.data);
    for (size_t i = 0; i < c->unexpected_count; i++)
        buf_printf(out, "  %s\n", c->unexpected[i]);
    if (c->unexpected_count < c->weights_unexpected)
        buf_printf(out, "  ... and %" PRIu64 " more (diff --weights --all lists them)\n",
                   c->weights_unexpected - c->unexpected_count);
    buf_release(&words);
}

static void print_checks(const struct diff_report *r, struct buf *out)
{
    for (size_t i = 0; i < r->check_count; i++) {
        const struct diff_check *c = &r->checks[i];
        struct buf words = {0};
        words_check(c, &words);
        buf_printf(out, "  %-6s  %s", c->ok ? "ok" : "FAILED", words.data);
        if (r->candidate_count > 1)
            buf_printf(out, ": %s", c->candidate);
        buf_puts(out, "\n");
        buf_release(&words);
    }
}

void diff_print_text(const struct diff_report *r, struct buf *out)
{
    size_t from = out->bytes;
    struct buf words = {0};

    print_head(r, out);
    for (size_t i = 0; i < r->candidate_count; i++) {
        const struct diff_candidate *c = &r->candidates[i];
        if (r->candidate_count > 1)
            buf_printf(out, "\n%s\n", c->path);
        else
            buf_puts(out, "\n");
        print_rows(r, c, out);
        if (i == 0) {
            print_floors(r, out);
            print_units(r, out);
        }
        buf_puts(out, "\n");
        print_layers(r, c, out);
        print_weights(c, out);
    }
    if (r->has_paired) {
        words_paired(r, &words);
        buf_printf(out, "\npaired: %s\n", words.data);
        words.bytes = 0;
    }
    if (r->check_count)
        buf_puts(out, "\n");
    print_checks(r, out);
    words_verdict(r, &words);
    buf_printf(out, "\nverdict: %s\n", words.data);
    buf_release(&words);
    report_disarm(out, from);
}
