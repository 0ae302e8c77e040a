#include "convert/journal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/units.h"
#include "formats/json.h"
#include "quant/kernel.h"

#define MAGIC "quern-journal 1\n"

/* ---- facts ---- */

/* Headers hold every name, dtype, shape and offset of an output: their hash is the layout's. */
static void add_layout_fact(struct buf *out, const char *name, const struct plan_output *o)
{
    struct hash h = {0};
    char hex[HASH_HEX_BYTES], value[160];

    hash_init(&h);
    for (size_t i = 0; i < o->shard_count; i++) {
        hash_update(&h, o->shards[i].name, strlen(o->shards[i].name) + 1);
        hash_update(&h, o->shards[i].prefix.data, o->shards[i].prefix.bytes);
    }
    hash_final_hex(&h, hex);
    snprintf(value, sizeof value, "%zu shard%s, %" PRIu64 " bytes, headers %s", o->shard_count, plural(o->shard_count),
             o->file_bytes, hex);
    record_fact(out, name, value);
}

/* The journal is in the first output's folder, wherever that is moved; the others are found again by their path. */
static void add_folder_fact(struct buf *out, const char *name, const char *dir)
{
    char *real = realpath(dir, NULL);

    record_fact(out, name, real ? real : dir);
    free(real);
}

static void write_facts(struct buf *out, const struct plan *p)
{
    char number[64], name[32];

    buf_puts(out, MAGIC);
    record_fact(out, "version", QUERN_VERSION);
    snprintf(number, sizeof number, "%zu", p->output_count);
    record_fact(out, "outputs", number);
    snprintf(number, sizeof number, "%zu, of up to %u weights", p->job_count, PLAN_JOB_WEIGHTS);
    record_fact(out, "jobs", number);
    for (size_t i = 0; i < p->output_count; i++) {
        snprintf(name, sizeof name, "recipe-%zu", i);
        record_fact(out, name, p->outputs[i].recipe->text);
        snprintf(name, sizeof name, "layout-%zu", i);
        add_layout_fact(out, name, &p->outputs[i]);
        snprintf(name, sizeof name, "folder-%zu", i);
        if (i > 0)
            add_folder_fact(out, name, p->outputs[i].dir);
    }
    if (p->calibration)
        record_fact(out, "calibration", p->calibration);
    if (plan_calibrated_output(p) < p->output_count) /* which runs the model */
        record_fact(out, "kernels", kernel_get()->kernel_class);
    record_source_facts(out, &p->source->checkpoint);
    buf_puts(out, "end\n");
}

/* "fact source-0 \"NAME: 123 bytes, modified 456\"": the name. */
static char *source_name(struct arena *a, const char *line)
{
    const char *begin = strchr(line, '"'), *end = strchr(line, '\n');
    struct json_doc d = {0};
    struct err ignored = {0};
    char *name = NULL;

    if (begin && end && begin < end && json_parse(&d, begin, (size_t)(end - begin), JSON_STRICT, &ignored)) {
        const char *value = json_string(d.root);
        const char *behind = value ? strrchr(value, ':') : NULL;
        name = behind ? arena_strndup(a, value, (size_t)(behind - value)) : NULL;
    }
    json_release(&d);
    return name;
}

bool journal_peek(const char *path, const char *recipe_text, struct arena *a, char ***names, size_t *count)
{
    struct buf recipe = {0};
    struct err ignored = {0};
    char *text = NULL;
    size_t bytes = 0;

    *count = 0;
    record_fact(&recipe, "recipe-0", recipe_text);
    bool same = path_exists(path) && file_slurp(path, RECORD_BYTES_MAX, &text, &bytes, &ignored) &&
                strncmp(text, MAGIC, strlen(MAGIC)) == 0 && record_facts_complete(text) && strstr(text, recipe.data);
    *names = arena_array(a, bytes / 16 + 1, sizeof **names); /* a fact is longer */
    for (const char *line = same ? text : NULL; line && *line; line = strchr(line, '\n') + 1) {
        char *name = strncmp(line, "fact source-", 12) == 0 ? source_name(a, line) : NULL;
        if (name)
            (*names)[(*count)++] = name;
        if (!strchr(line, '\n'))
            break;
    }
    mem_free(text);
    buf_release(&recipe);
    return same;
}

/* ---- records ---- */

/* line_end: the numbers must end there, and strtod would read on in the next line. */
static bool read_job(struct journal *j, const struct plan *p, struct run_result *results, const char *line,
                     const char *line_end)
{
    char *end = NULL;
    unsigned long long number = strtoull(line, &end, 10);

    if (end == line || number != j->jobs_done || number >= p->job_count)
        return false;
    for (size_t o = 0; o < p->output_count; o++) {
        struct weight_error one = {0};
        if (end >= line_end)
            return false;
        one.error2 = strtod(end, &end);
        one.energy2 = strtod(end, &end);
        one.weights = strtoull(end, &end, 10);
        weight_error_add(&results[o].errors[p->jobs[number].weight], &one);
    }
    if (end != line_end)
        return false;
    j->jobs_done++;
    return true;
}

static bool read_shard(const struct plan *p, struct run_result *results, const char *line)
{
    size_t output = 0, shard = 0;
    char hex[HASH_HEX_BYTES];

    if (sscanf(line, "%zu %zu %64s", &output, &shard, hex) != 3 || strlen(hex) != HASH_HEX_BYTES - 1)
        return false;
    if (output >= p->output_count || shard >= p->outputs[output].shard_count)
        return false;
    memcpy(results[output].sha256[shard], hex, sizeof hex);
    return true;
}

static bool read_source(const struct plan *p, struct run_result *results, const char *line)
{
    size_t shard = 0;
    char hex[HASH_HEX_BYTES];

    if (sscanf(line, "%zu %64s", &shard, hex) != 2 || strlen(hex) != HASH_HEX_BYTES - 1 ||
        shard >= p->source->checkpoint.shard_count)
        return false;
    memcpy(results[0].source_sha256[shard], hex, sizeof hex);
    return true;
}

static bool read_most(const struct plan *p, struct run_result *results, const char *line, const char *line_end)
{
    char *end = NULL;
    unsigned long long row = strtoull(line, &end, 10);

    if (end == line || *end != ' ' || row >= p->weight_count)
        return false;
    float most = strtof(end, &end);
    if (end != line_end || !(most >= 0))
        return false;
    results[0].most[row] = most;
    return true;
}

/* hexfloats, so that what is read is what was written */
static bool read_calibrated(const struct plan *p, struct run_result *results, const char *line, const char *line_end)
{
    struct calibrated_result c = {.done = true};
    struct weight_error w = {0};
    unsigned ending = 0, reason = 0;
    size_t row = 0;
    int read = 0;

    if (sscanf(line, "%zu %u %u %la %la %la %la %" SCNu64 " %la %a %a %la %la %" SCNu64 "%n", &row, &ending, &reason,
               &c.loss_error, &c.loss_energy, &c.to_prior, &c.to_diagonal, &c.tokens, &c.routed_weight, &c.input_most,
               &c.output_most, &w.error2, &w.energy2, &w.weights, &read) != 14 ||
        line + read != line_end)
        return false;
    size_t output = plan_calibrated_output(p);
    if (output >= p->output_count || row >= p->weight_count || !p->outputs[output].rows[row].calibrated ||
        ending >= ENDING_COUNT || reason >= REASON_COUNT)
        return false;
    c.ending = (enum ending)ending;
    c.reason = (enum reason)reason;
    results[output].calibrated[row] = c;
    results[output].errors[row] = w;
    return true;
}

static bool read_layer(struct journal *j, const char *line)
{
    char *end = NULL;
    unsigned long long layer = strtoull(line, &end, 10);

    if (end == line || *end != '\n' || layer != j->layers_done)
        return false;
    j->layers_done++;
    return true;
}

static bool read_records(struct journal *j, const struct plan *p, struct run_result *results, const char *text,
                         struct err *e)
{
    for (const char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        bool ok = strncmp(line, "job ", 4) == 0      ? read_job(j, p, results, line + 4, end)
                  : strncmp(line, "shard ", 6) == 0  ? read_shard(p, results, line + 6)
                  : strncmp(line, "source ", 7) == 0 ? read_source(p, results, line + 7)
                  : strncmp(line, "most ", 5) == 0   ? read_most(p, results, line + 5, end)
                  : strncmp(line, "round ", 6) == 0  ? read_calibrated(p, results, line + 6, end)
                  : strncmp(line, "layer ", 6) == 0  ? read_layer(j, line + 6)
                                                     : false;
        if (!ok)
            return err_set(e, ERR_FORMAT, "journal '%s' has a line that no run wrote: '%.*s'; --restart discards it",
                           j->file.path, (int)(record_line_bytes(line) > 60 ? 60 : record_line_bytes(line)), line);
    }
    return true;
}

/* ---- the journal ---- */

bool journal_open(struct journal *j, const char *path, const struct plan *p, struct run_result *results, struct err *e)
{
    struct buf facts = {0};
    char *records = NULL;

    *j = (struct journal){0};
    write_facts(&facts, p);
    bool ok = record_open(&j->file, path, &facts, &records, e) && (!records || read_records(j, p, results, records, e));
    j->found = j->file.found;
    j->jobs_durable = j->jobs_handed = j->jobs_done;
    mem_free(records);
    buf_release(&facts);
    if (!ok)
        journal_close(j);
    return ok;
}

void journal_job(struct journal *j, const struct plan *p, size_t job, const struct weight_error *per_output)
{
    buf_printf(&j->jobs, "job %zu", job);
    for (size_t o = 0; o < p->output_count; o++)
        buf_printf(&j->jobs, " %a %a %" PRIu64, per_output[o].error2, per_output[o].energy2, per_output[o].weights);
    buf_puts(&j->jobs, "\n");
    j->jobs_done = job + 1;
}

void journal_hand_jobs(struct journal *j)
{
    buf_add(&j->pending, j->jobs.data, j->jobs.bytes);
    j->jobs.bytes = 0;
    j->jobs_handed = j->jobs_done;
}

void journal_shard(struct journal *j, size_t output, size_t shard, const char *sha256)
{
    buf_printf(&j->pending, "shard %zu %zu %s\n", output, shard, sha256);
}

void journal_source(struct journal *j, size_t shard, const char *sha256)
{
    buf_printf(&j->pending, "source %zu %s\n", shard, sha256);
}

void journal_most(struct journal *j, size_t row, float most)
{
    buf_printf(&j->pending, "most %zu %a\n", row, (double)most);
}

void journal_calibrated(struct journal *j, size_t row, const struct calibrated_result *c, const struct weight_error *w)
{
    buf_printf(&j->pending, "round %zu %u %u %a %a %a %a %" PRIu64 " %a %a %a %a %a %" PRIu64 "\n", row,
               (unsigned)c->ending, (unsigned)c->reason, c->loss_error, c->loss_energy, c->to_prior, c->to_diagonal,
               c->tokens, c->routed_weight, (double)c->input_most, (double)c->output_most, w->error2, w->energy2,
               w->weights);
}

void journal_layer(struct journal *j, uint64_t layer)
{
    buf_printf(&j->pending, "layer %" PRIu64 "\n", layer);
    j->layers_done = layer + 1;
}

bool journal_flush(struct journal *j, struct err *e)
{
    if (j->pending.bytes == 0)
        return true;
    if (!record_append(&j->file, &j->pending, e))
        return false;
    j->pending.bytes = 0;
    j->jobs_durable = j->jobs_handed;
    return true;
}

void journal_close(struct journal *j)
{
    record_close(&j->file);
    buf_release(&j->jobs);
    buf_release(&j->pending);
    *j = (struct journal){0};
}
