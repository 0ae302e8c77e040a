#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/log.h"
#include "formats/base/units.h"
#include "verify/commands.h"
#include "verify/corpus.h"
#include "verify/forward_options.h"
#include "verify/logits_file.h"
#include "verify/output_files.h"

static struct {
    struct corpus_options corpus;
    struct forward_choices forward;
    const char *output, *trace;
    bool hidden, routing, mtp, force, quiet;
    uint64_t start_pos;
} opts;

static const struct opt rows[] = {
    CORPUS_OPTIONS(opts.corpus, "all", "512"),
    {.name = "output",
     .letter = 'o',
     .kind = OPT_STRING,
     .value = &opts.output,
     .arg = "FILE",
     .help = "the safetensors file to write"},
    {.name = "hidden", .kind = OPT_FLAG, .value = &opts.hidden, .help = "write the hidden state after each layer too"},
    {.name = "routing",
     .kind = OPT_FLAG,
     .value = &opts.routing,
     .help = "write the experts chosen and their weights too"},
    {.name = "mtp", .kind = OPT_FLAG, .value = &opts.mtp, .help = "run the MTP layer and write its logits too"},
    FORWARD_START_POS(opts.start_pos),
    {.name = "trace",
     .kind = OPT_STRING,
     .value = &opts.trace,
     .arg = "FILE",
     .help = "write routing statistics and the trace of choices"},
    FORWARD_OPTIONS(opts.forward),
    {.name = "force", .letter = 'f', .kind = OPT_FLAG, .value = &opts.force, .help = "replace files that are there"},
    {.name = "quiet", .letter = 'q', .kind = OPT_FLAG, .value = &opts.quiet, .help = "no progress and no notes"},
    {.name = NULL},
};

static const struct opt_command spec = {
    .name = "logits",
    .operands = "CKPT",
    .summary = "what the reference forward pass gives, to hold against another program",
    .operand_min = 1,
    .operand_max = 1,
    .opts = rows,
};

static bool check_outputs(struct output_files *o, struct err *e)
{
    if (!opts.output)
        return err_set(e, ERR_USAGE, "logits needs --output FILE");
    output_files_add(o, "output", opts.output);
    output_files_add(o, "trace", opts.trace);
    for (size_t i = 0; i < o->count && !opts.force; i++)
        if (path_exists(o->items[i].path))
            return err_set(e, ERR_USAGE, "'%s' is there already; --force replaces it", o->items[i].path);
    return output_files_check(o, e) && output_files_spare_file(o, opts.corpus.text, e) &&
           output_files_spare_file(o, opts.corpus.ids, e);
}

/* Texts need the checkpoint's tokenizer, ids do not. */
static bool open_corpus(struct corpus *c, struct tokenizer *t, const struct source *s, struct err *e)
{
    if (!opts.corpus.ids && !tokenizer_open(t, s->checkpoint.path, e))
        return false;
    if (!corpus_open(c, t, &s->arch, &opts.corpus, e))
        return false;
    for (size_t i = 0; i < c->batch.sequence_count; i++)
        c->sequences[i].start_pos = opts.start_pos;
    return true;
}

static void say(const struct source *source, const struct corpus *c, const struct logits_summary *s)
{
    struct arena a = {0};
    struct buf text = {0};
    const char *caveat = forward_caveat(&a, source);

    corpus_describe(c, &text);
    log_note("%s", text.data);
    if (caveat)
        log_note("%s", caveat);
    if (opts.mtp && s->drafts > 0)
        log_note("%zu of %zu MTP drafts %s what the main head chooses (%.1f%%)", s->accepted, s->drafts,
                 is_are(s->accepted), 100.0 * (double)s->accepted / (double)s->drafts);
    buf_release(&text);
    arena_release(&a);
}

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    struct source source = {0};
    struct tokenizer tokenizer = {0};
    struct corpus corpus = {0};
    struct forward *forward = NULL;
    struct forward_options options;
    struct routing_stats trace = {0};
    struct logits_summary summary;
    struct output_files outputs = {0};
    struct logits_request request = {.path = opts.output,
                                     .hidden = opts.hidden,
                                     .routing = opts.routing,
                                     .mtp = opts.mtp,
                                     .quiet = opts.quiet,
                                     .trace = opts.trace ? &trace : NULL};

    (void)operand_count;
    if (opts.quiet)
        log_set_level(LOG_QUIET);
    if (!check_outputs(&outputs, e) || !forward_choose(&options, &opts.forward, e) ||
        !source_open(&source, operands[0], true, e) || !output_files_spare(&outputs, &source.checkpoint, e))
        goto done;
    request.logits_bytes = options.caller_bytes = logits_file_bytes(options.memory_bytes);
    if (!open_corpus(&corpus, &tokenizer, &source, e) || !forward_open(&forward, &source, &options, e))
        goto done;
    if (opts.trace && !routing_stats_open(&trace, &source, true, e))
        goto done;
    if (!logits_file_write(&source, forward, &corpus.batch, &request, &summary, e))
        goto done;
    if (opts.trace && !routing_stats_write(&trace, opts.trace, e))
        goto done;
    say(&source, &corpus, &summary);
done:
    routing_stats_release(&trace);
    forward_close(forward);
    corpus_release(&corpus);
    tokenizer_release(&tokenizer);
    source_close(&source);
    return 0;
}

const struct command command_logits = {.spec = &spec, .run = run};
