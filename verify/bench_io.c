#include "verify/bench_io.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "formats/base/file.h"
#include "formats/base/progress.h"
#include "formats/base/units.h"
#include "formats/json.h"
#include "verify/expert_map.h"

/* Where a method begins: the map, the trace, and room for one layer's reads. */
struct bench {
    const struct source *source;
    const struct routing_stats *trace;
    const struct bench_io_options *options;
    const struct routing_layer **layers; /* those that have a trace */
    size_t layer_count;
    struct expert_map map;
    struct expert_run *runs;
    struct read_task *tasks;
    uint8_t *room;
    uint64_t room_bytes;
    struct read_file *files; /* per shard */
};

static double now_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- files ---- */

static void close_files(struct bench *b)
{
    for (size_t i = 0; i < b->source->checkpoint.shard_count; i++)
        read_file_close(&b->files[i]);
}

static bool open_files(struct bench *b, enum read_method m, struct err *e)
{
    for (size_t i = 0; i < b->source->checkpoint.shard_count; i++)
        if (!read_file_open(&b->files[i], b->source->checkpoint.shards[i].file.path, m, e)) {
            close_files(b);
            return false;
        }
    return true;
}

static void forget_files(struct bench *b)
{
    for (size_t i = 0; i < b->source->checkpoint.shard_count; i++)
        read_file_forget(&b->files[i]);
}

/* ---- one layer of one token ---- */

/* Grown here, between the measurements: what a layer reads at once. */
static void make_room(struct bench *b, uint64_t bytes)
{
    if (bytes <= b->room_bytes)
        return;
    mem_free(b->room);
    b->room_bytes = bytes;
    b->room = mem_aligned((size_t)bytes + READ_PAGE_BYTES);
    memset(b->room, 0, (size_t)bytes + READ_PAGE_BYTES); /* its pages are there before the clock runs */
}

static uint64_t round_up_page(uint64_t bytes)
{
    return (bytes + READ_PAGE_BYTES - 1) / READ_PAGE_BYTES * READ_PAGE_BYTES;
}

static size_t make_tasks(struct bench *b, enum read_method m, const struct routing_layer *l, uint64_t token,
                         uint64_t *bytes)
{
    size_t k = (size_t)b->trace->experts_per_token;
    size_t count = expert_map_gather(&b->map, l->layer, l->trace + token * k, k, b->runs);
    uint64_t room = 0;

    *bytes = 0;
    for (size_t i = 0; i < count; i++)
        room += round_up_page(read_task_bytes(m, b->runs[i].offset, b->runs[i].bytes)) + READ_PAGE_BYTES;
    make_room(b, m == READ_MMAP ? 0 : room);
    uint8_t *to = (uint8_t *)(((uintptr_t)b->room + READ_PAGE_BYTES - 1) / READ_PAGE_BYTES * READ_PAGE_BYTES);
    for (size_t i = 0; i < count; i++) {
        const struct expert_run *r = &b->runs[i];
        b->tasks[i] = (struct read_task){.file = &b->files[r->file], .offset = r->offset, .bytes = r->bytes, .to = to};
        to += round_up_page(read_task_bytes(m, r->offset, r->bytes));
        *bytes += read_task_bytes(m, r->offset, r->bytes);
    }
    return count;
}

struct sums {
    uint64_t layers, reads, bytes;
    double seconds, slowest;
    long major, minor;
};

static bool read_layer(struct bench *b, struct read_team *team, enum read_method m, const struct routing_layer *l,
                       uint64_t token, struct sums *s, struct err *e)
{
    uint64_t bytes = 0;
    size_t count = make_tasks(b, m, l, token, &bytes);
    struct rusage before, after;

    getrusage(RUSAGE_SELF, &before);
    double begin = now_seconds();
    if (!read_team_run(team, b->tasks, count, e))
        return err_in(e, "layer %" PRIu64, l->layer);
    double spent = now_seconds() - begin;
    getrusage(RUSAGE_SELF, &after);
    s->layers++;
    s->reads += count;
    s->bytes += bytes;
    s->seconds += spent;
    s->slowest = spent > s->slowest ? spent : s->slowest;
    s->major += after.ru_majflt - before.ru_majflt;
    s->minor += after.ru_minflt - before.ru_minflt;
    return true;
}

/* ---- one method at one depth ---- */

/* splitmix64: tokens spread over the trace, the same for each method and each checkpoint. */
static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool read_for_a_while(struct bench *b, struct read_team *team, enum read_method m, struct sums *s, struct err *e)
{
    for (uint64_t step = 0; s->layers < b->layer_count || s->seconds < b->options->seconds; step++) {
        const struct routing_layer *l = b->layers[step % b->layer_count];
        if (signal_cancelled())
            return err_set(e, ERR_CANCELLED, "interrupted");
        if (step % b->layer_count == 0)
            forget_files(b);
        if (!read_layer(b, team, m, l, mix(b->options->seed * 1000003 + step) % l->tokens, s, e))
            return false;
    }
    return true;
}

static void fill_row(struct bench_io_row *row, const struct sums *s, size_t layers)
{
    double token = (double)layers / (double)s->layers;

    row->layers_read = s->layers;
    row->seconds = s->seconds * token;
    row->slowest_layer = s->slowest;
    row->reads = (double)s->reads * token;
    row->bytes = (double)s->bytes * token;
    row->bytes_per_second = s->seconds > 0 ? (double)s->bytes / s->seconds : 0;
    row->major_faults = (double)s->major * token;
    row->minor_faults = (double)s->minor * token;
}

static bool measure(struct bench *b, struct bench_io *out, struct bench_io_row *row, struct err *e)
{
    struct read_team *team = NULL;
    struct err refused = {0};
    struct sums s = {0};

    if (!open_files(b, row->method, &refused)) {
        if (refused.code != ERR_UNSUPPORTED) {
            *e = refused;
            return false;
        }
        row->skipped = arena_strdup(&out->arena, refused.text);
        return true;
    }
    team = read_team_new(row->method, row->depth);
    bool ok = read_for_a_while(b, team, row->method, &s, e);
    read_team_free(team);
    close_files(b);
    if (ok)
        fill_row(row, &s, b->layer_count);
    return ok || err_in(e, "%s at depth %u", read_method_name(row->method), row->depth);
}

/* ---- all ---- */

static bool list_layers(struct bench *b, struct err *e)
{
    b->layers = mem_alloc((b->trace->count + 1) * sizeof(*b->layers));
    for (size_t i = 0; i < b->trace->count; i++)
        if (b->trace->items[i].trace && b->trace->items[i].tokens > 0)
            b->layers[b->layer_count++] = &b->trace->items[i];
    return b->layer_count > 0 || err_set(e, ERR_FORMAT, "the statistics have counts, but no trace");
}

static void bench_release(struct bench *b)
{
    expert_map_release(&b->map);
    mem_free(b->layers);
    mem_free(b->runs);
    mem_free(b->tasks);
    mem_free(b->room);
    mem_free(b->files);
}

static bool measure_all(struct bench *b, struct bench_io *out, struct err *e)
{
    const struct bench_io_options *o = b->options;

    for (enum read_method m = 0; m < READ_METHOD_COUNT; m++)
        for (size_t d = 0; d < o->depth_count && o->methods[m]; d++) {
            struct bench_io_row *row = &out->rows[out->row_count++];
            *row = (struct bench_io_row){.method = m, .depth = o->depths[d]};
            if (!measure(b, out, row, e))
                return false;
        }
    return true;
}

bool bench_io_run(struct bench_io *out, const struct source *s, const struct routing_stats *trace,
                  const struct bench_io_options *o, struct err *e)
{
    struct bench b = {.source = s, .trace = trace, .options = o};
    bool ok = false;

    *out = (struct bench_io){0};
    if (!routing_stats_check(trace, s, e) || !list_layers(&b, e))
        goto done;
    expert_map_open(&b.map, s);
    size_t runs_max = expert_map_runs_max(&b.map, (size_t)trace->experts_per_token);
    b.runs = mem_alloc((runs_max + 1) * sizeof *b.runs);
    b.tasks = mem_alloc((runs_max + 1) * sizeof *b.tasks);
    b.files = mem_alloc((s->checkpoint.shard_count + 1) * sizeof *b.files);
    out->layers = b.layer_count;
    out->experts = (double)(b.layer_count * trace->experts_per_token);
    out->rows = arena_array(&out->arena, READ_METHOD_COUNT * o->depth_count + 1, sizeof *out->rows);
    ok = measure_all(&b, out, e);
done:
    bench_release(&b);
    return ok;
}

void bench_io_release(struct bench_io *b)
{
    arena_release(&b->arena);
    *b = (struct bench_io){0};
}

/* ---- reports ---- */

void bench_io_print_text(const struct bench_io *b, struct buf *out)
{
    buf_printf(out, "%.0f experts a token, over %zu layer%s; the page cache holds nothing of them before\n\n",
               b->experts, b->layers, plural(b->layers));
    buf_puts(out,
             "method  depth  ms/token  worst layer  reads/token  bytes/token        rate  faults/token major, minor\n");
    for (size_t i = 0; i < b->row_count; i++) {
        const struct bench_io_row *r = &b->rows[i];
        char bytes[BYTES_TEXT], rate[BYTES_TEXT];
        if (r->skipped) {
            buf_printf(out, "%-6s  %5u  skipped: %s\n", read_method_name(r->method), r->depth, r->skipped);
            continue;
        }
        buf_printf(out, "%-6s  %5u  %8.2f  %11.2f  %11.1f  %11s  %8s/s  %13.1f, %.1f\n", read_method_name(r->method),
                   r->depth, 1e3 * r->seconds, 1e3 * r->slowest_layer, r->reads, bytes_text(r->bytes, bytes),
                   bytes_text(r->bytes_per_second, rate), r->major_faults, r->minor_faults);
    }
}

static void put_row(struct json_writer *w, const struct bench_io_row *r)
{
    json_begin_object(w, NULL);
    w->compact = true;
    json_put_string(w, "method", read_method_name(r->method));
    json_put_u64(w, "depth", r->depth);
    if (r->skipped) {
        json_put_string(w, "skipped", r->skipped);
    } else {
        json_put_u64(w, "layers_read", r->layers_read);
        json_put_double(w, "seconds_per_token", r->seconds);
        json_put_double(w, "slowest_layer_seconds", r->slowest_layer);
        json_put_double(w, "reads_per_token", r->reads);
        json_put_double(w, "bytes_per_token", r->bytes);
        json_put_double(w, "bytes_per_second", r->bytes_per_second);
        json_put_double(w, "major_faults_per_token", r->major_faults);
        json_put_double(w, "minor_faults_per_token", r->minor_faults);
    }
    json_end(w, '}');
    w->compact = false;
}

void bench_io_print_json(const struct bench_io *b, struct buf *out)
{
    struct json_writer w = {.out = out};

    json_begin_object(&w, NULL);
    json_put_u64(&w, "layers", b->layers);
    json_put_double(&w, "experts_per_token", b->experts);
    json_begin_array(&w, "rows");
    for (size_t i = 0; i < b->row_count; i++)
        put_row(&w, &b->rows[i]);
    json_end(&w, ']');
    json_end(&w, '}');
    buf_puts(out, "\n");
}
