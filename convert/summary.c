#include "convert/summary.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/units.h"

static struct summary_row *find_row(struct summary *s, const char *group, const char *from, const char *to)
{
    for (size_t i = 0; i < s->row_count; i++)
        if (s->rows[i].group == group && strcmp(s->rows[i].from, from) == 0 && strcmp(s->rows[i].to, to) == 0)
            return &s->rows[i];
    return NULL;
}

static uint64_t parts_bytes(const struct plan_row *row)
{
    uint64_t bytes = 0;

    for (enum part part = 0; part < PART_COUNT; part++)
        if (row->parts[part].dtype != DTYPE_NONE)
            bytes += row->parts[part].bytes;
    return bytes;
}

static uint64_t source_bytes(const struct weight *w)
{
    uint64_t bytes = 0;

    for (enum part part = 0; part < PART_COUNT; part++)
        if (w->parts[part])
            bytes += w->parts[part]->bytes;
    return bytes;
}

/* in_bytes: of the source, that are in this row. */
static void add_weight(struct summary *s, const struct plan_row *row, uint64_t in_bytes,
                       const struct weight_error *error)
{
    const struct weight *w = row->weight;
    const char *group = role_get(w->id.role)->group;
    char from[SCHEME_TEXT], to[SCHEME_TEXT];

    scheme_text(&w->stored, from);
    scheme_text(&row->scheme, to);
    struct summary_row *r = find_row(s, group, from, to);
    if (!r) {
        r = &s->rows[s->row_count++];
        *r = (struct summary_row){.group = group};
        memcpy(r->from, from, sizeof from);
        memcpy(r->to, to, sizeof to);
    }
    r->weight_count++;
    r->elems += w->rows * w->cols;
    r->in_bytes += in_bytes;
    r->out_bytes += parts_bytes(row);
    if (row->scheme.kind != SCHEME_RAW && row->scheme.kind != SCHEME_PLAIN && row->scheme.method != METHOD_COPY)
        r->quantized = true;
    if (error)
        weight_error_add(&r->error, error);
}

void summary_make(struct summary *s, struct arena *a, const struct plan *p, const struct plan_output *o,
                  const struct run_result *result)
{
    *s = (struct summary){.rows = arena_array(a, p->weight_count, sizeof *s->rows)};
    for (size_t i = 0; i < p->weight_count; i++) {
        if (o->rows[i].parts[PART_CODES].dtype == DTYPE_NONE)
            continue;
        bool whole = !p->pieces || !p->pieces[i]; /* a piece is copied as it is */
        add_weight(s, &o->rows[i], whole ? source_bytes(o->rows[i].weight) : parts_bytes(&o->rows[i]),
                   result ? &result->errors[i] : NULL);
        s->fell_back += o->rows[i].fell_back;
    }
}

void summary_print(const struct summary *s, bool with_error)
{
    printf("%-14s %-20s %-20s %7s %9s %9s%s\n", "role", "from", "to", "weights", "in", "out",
           with_error ? "  rel. error" : "");
    for (size_t i = 0; i < s->row_count; i++) {
        const struct summary_row *r = &s->rows[i];
        char in[BYTES_TEXT], out[BYTES_TEXT];
        printf("%-14s %-20s %-20s %7llu %9s %9s", r->group, r->from, r->to, (unsigned long long)r->weight_count,
               bytes_text((double)r->in_bytes, in), bytes_text((double)r->out_bytes, out));
        if (with_error && r->quantized)
            printf("  %.5f", weight_error_relative(&r->error));
        printf("\n");
    }
}
