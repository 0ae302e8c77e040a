#include "convert/estimate.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"

#define MEASURE_SECONDS 0.25 /* each of: reading, converting, writing, hashing */
#define BLOCK_BYTES     (4u << 20)
#define WRITE_BYTES_MAX (128u << 20)
#define PAIRS_MAX       8u /* kinds of conversion that are measured; a plan has two or three */

static double now_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Reads blocks spread over the source, so that one cached shard does not speak for all. */
static bool measure_read(const struct plan *p, uint8_t *block, double *rate, struct err *e)
{
    const struct checkpoint *c = &p->source->checkpoint;
    double begin = now_seconds(), spent = 0;
    uint64_t bytes = 0;

    for (size_t i = 0; i < 4096 && spent < MEASURE_SECONDS; i++) {
        const struct shard *s = &c->shards[i * 7 % c->shard_count];
        uint64_t span = s->bytes < BLOCK_BYTES ? s->bytes : BLOCK_BYTES;
        uint64_t at = (i * 0x9E3779B97F4A7C15u) % (s->bytes - span + 1);
        if (!file_read(&s->file, at, block, (size_t)span, e))
            return err_in(e, "shard '%s'", s->name);
        bytes += span;
        spent = now_seconds() - begin;
    }
    *rate = spent > 0 ? (double)bytes / spent : 0;
    return true;
}

/* A file without a name (O_TMPFILE) where the bundle would go; where there is none such, no rate. */
static double measure_write(const char *dir, const uint8_t *block)
{
    struct arena a = {0};
    int fd = open(path_nearest(&a, dir), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    double begin = now_seconds(), spent = 0;
    uint64_t bytes = 0;

    arena_release(&a);
    if (fd < 0)
        return 0;
    while (bytes < WRITE_BYTES_MAX && spent < MEASURE_SECONDS) {
        if (write(fd, block, BLOCK_BYTES) != (ssize_t)BLOCK_BYTES)
            break;
        bytes += BLOCK_BYTES;
        spent = now_seconds() - begin;
    }
    bool synced = fdatasync(fd) == 0;
    spent = now_seconds() - begin;
    close(fd);
    return synced && bytes > 0 ? (double)bytes / spent : 0;
}

static double measure_hash(const uint8_t *block)
{
    double begin = now_seconds(), spent = 0;
    struct hash h = {0};
    char hex[HASH_HEX_BYTES];
    uint64_t bytes = 0;

    hash_init(&h);
    while (spent < MEASURE_SECONDS / 2) {
        hash_update(&h, block, BLOCK_BYTES);
        bytes += BLOCK_BYTES;
        spent = now_seconds() - begin;
    }
    hash_final_hex(&h, hex);
    return (double)bytes / spent;
}

/* ---- conversion ---- */

struct pair {
    struct scheme from, to;
    const struct job *job; /* the largest of its kind */
    size_t output;
    uint64_t elems; /* over all jobs */
};

static struct pair *find_pair(struct pair *pairs, size_t *count, const struct plan_row *row, size_t output)
{
    for (size_t i = 0; i < *count; i++)
        if (scheme_same_storage(&pairs[i].from, &row->weight->stored) &&
            scheme_same_storage(&pairs[i].to, &row->scheme) && pairs[i].to.method == row->scheme.method)
            return &pairs[i];
    if (*count == PAIRS_MAX)
        return &pairs[PAIRS_MAX - 1];
    pairs[*count] = (struct pair){.from = row->weight->stored, .to = row->scheme, .output = output};
    return &pairs[(*count)++];
}

static size_t list_pairs(const struct plan *p, struct pair pairs[PAIRS_MAX])
{
    size_t count = 0;

    for (size_t j = 0; j < p->job_count; j++)
        for (size_t o = 0; o < p->output_count; o++) {
            const struct job *job = &p->jobs[j];
            const struct plan_row *row = &p->outputs[o].rows[job->weight];
            if (row->scheme.method == METHOD_COPY || row->parts[PART_CODES].dtype == DTYPE_NONE || row->calibrated)
                continue;
            struct pair *pair = find_pair(pairs, &count, row, o);
            uint64_t elems = job->count * row->weight->cols;
            pair->elems += elems;
            if (!pair->job || elems > pair->job->count * p->weights[pair->job->weight]->cols) {
                pair->job = job;
                pair->output = o;
            }
        }
    return count;
}

struct bench_room {
    uint8_t *in, *out;
    void *scratch;
};

/* Reads a real job and converts it over and over: real codes, since speed depends on them a little. */
static bool measure_pair(const struct plan *p, const struct pair *pair, struct bench_room *room, double *rate,
                         struct err *e)
{
    const struct weight *w = p->weights[pair->job->weight];
    const struct plan_row *row = &p->outputs[pair->output].rows[pair->job->weight];
    struct transform t = {
        .kernel = kernel_get(), .from = w->stored, .to = row->scheme, .cols = w->cols, .tensor_scale = 1};
    struct plan_slice in[PART_COUNT], out[PART_COUNT];
    struct slices from = {0}, to = {0};
    struct weight_error ignored = {0};
    size_t in_at = 0, out_at = 0;
    uint64_t elems = 0;

    plan_job_in(p, pair->job, in);
    plan_job_out(p, pair->job, pair->output, out);
    for (enum part part = 0; part < PART_COUNT; part++) {
        if (in[part].tensor) {
            from.part[part] = room->in + in_at;
            in_at += (in[part].bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
            if (!plan_read(p, &in[part], from.part[part], e))
                return false;
        }
        if (out[part].tensor) {
            to.part[part] = room->out + out_at;
            out_at += (out[part].bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
        }
    }
    double begin = now_seconds(), spent = 0;
    while (spent < MEASURE_SECONDS / 2) {
        struct err refused = {0}; /* bad numbers are the run's to report: a plan is about headers */
        if (!transform_run(&t, pair->job->row, pair->job->count, w->rows, &from, &to, room->scratch, &ignored,
                           &refused))
            return true;
        elems += pair->job->count * w->cols;
        spent = now_seconds() - begin;
    }
    *rate = (double)elems / spent;
    return true;
}

static bool measure_compute(const struct plan *p, struct bench_room *room, double *seconds, struct err *e)
{
    struct pair pairs[PAIRS_MAX] = {0};
    size_t count = list_pairs(p, pairs);

    *seconds = 0;
    for (size_t i = 0; i < count; i++) {
        double rate = 0;
        if (!measure_pair(p, &pairs[i], room, &rate, e))
            return false;
        *seconds += rate > 0 ? (double)pairs[i].elems / rate : 0;
    }
    return true;
}

static double time_of(uint64_t bytes, double rate)
{
    return rate > 0 ? (double)bytes / rate : 0;
}

static double max2(double a, double b)
{
    return a > b ? a : b;
}

bool estimate_plan(struct estimate *m, const struct plan *p, unsigned threads, struct err *e)
{
    struct bench_room room = {
        .in = mem_aligned(p->in_bytes_max + 1),
        .out = mem_aligned(p->out_bytes_max + 1),
        .scratch = mem_aligned(p->scratch_bytes_max + 1),
    };
    uint8_t *block = mem_aligned(BLOCK_BYTES);
    bool ok = false;

    *m = (struct estimate){0};
    memset(block, 0x5a, BLOCK_BYTES);
    if (!measure_read(p, block, &m->read_rate, e) || !measure_compute(p, &room, &m->compute_seconds, e))
        goto done;
    m->write_rate = measure_write(p->outputs[0].dir, block);
    m->hash_rate = measure_hash(block);

    /* Stages overlap; the slowest sets the pace, and together they cannot use more than the CPUs there are. */
    double read = time_of(p->read_bytes, m->read_rate), write = time_of(p->write_bytes, m->write_rate);
    double hash = time_of(p->write_bytes, m->hash_rate);
    double cpu = (m->compute_seconds + hash) / (threads > 0 ? threads : 1);
    m->seconds = max2(max2(read, write), max2(hash, cpu));
    ok = true;
done:
    mem_free(block);
    mem_free(room.scratch);
    mem_free(room.out);
    mem_free(room.in);
    return ok;
}

void estimate_add_read(struct estimate *m, uint64_t bytes)
{
    m->seconds += time_of(bytes, m->read_rate);
}

void estimate_add_calibration(struct estimate *m, const struct calibration_estimate *c)
{
    m->calibration = c;
    m->seconds += max2(c->seconds, time_of(c->read_bytes, m->read_rate));
}
