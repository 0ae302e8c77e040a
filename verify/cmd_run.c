#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/log.h"
#include "formats/base/units.h"
#include "formats/weight.h"
#include "verify/chat.h"
#include "verify/commands.h"
#include "verify/forward_options.h"
#include "verify/generate.h"
#include "verify/text_input.h"
#include "verify/text_stream.h"

static struct {
    const char *prompt, *text;
    uint64_t tokens, top_k, seed, start_pos;
    struct forward_choices forward;
    double temperature, top_p;
    bool chat, no_echo, ignore_eos, quiet;
} opts = {.tokens = 128, .top_p = 1};

static const struct opt rows[] = {
    {.name = "prompt", .letter = 'p', .kind = OPT_STRING, .value = &opts.prompt, .arg = "TEXT", .help = "the prompt"},
    {.name = "text", .kind = OPT_STRING, .value = &opts.text, .arg = "FILE", .help = "the prompt, from a file"},
    {.name = "tokens",
     .letter = 'n',
     .kind = OPT_U64,
     .value = &opts.tokens,
     .arg = "N",
     .help = "write at most N tokens (128)",
     .min = 1,
     .max = 1u << 30},
    {.name = "chat", .kind = OPT_FLAG, .value = &opts.chat, .help = "the prompt is a user's message: print the answer"},
    {.name = "no-echo", .kind = OPT_FLAG, .value = &opts.no_echo, .help = "do not print the prompt first"},
    {.name = "temperature",
     .kind = OPT_F64,
     .value = &opts.temperature,
     .arg = "T",
     .help = "draw tokens, likelier ones the more the lower T (0: take the likeliest)"},
    {.name = "top-k",
     .kind = OPT_U64,
     .value = &opts.top_k,
     .arg = "K",
     .help = "draw from the K likeliest (0: all)",
     .max = 1u << 30},
    {.name = "top-p",
     .kind = OPT_F64,
     .value = &opts.top_p,
     .arg = "P",
     .help = "draw from the likeliest that have P of the probability together (1)"},
    {.name = "seed", .kind = OPT_U64, .value = &opts.seed, .arg = "N", .help = "which draw (0)"},
    {.name = "ignore-eos", .kind = OPT_FLAG, .value = &opts.ignore_eos, .help = "go on behind the end of the text"},
    FORWARD_START_POS(opts.start_pos),
    FORWARD_OPTIONS(opts.forward),
    {.name = "quiet", .letter = 'q', .kind = OPT_FLAG, .value = &opts.quiet, .help = "no figures at the end"},
    {.name = NULL},
};

static const struct opt_command spec = {
    .name = "run",
    .operands = "CKPT",
    .summary = "text from the reference forward pass, to look at",
    .operand_min = 1,
    .operand_max = 1,
    .opts = rows,
};

/* ---- the prompt ---- */

static bool check_options(struct err *e)
{
    if (!opts.prompt == !opts.text)
        return err_set(e, ERR_USAGE, "give the prompt as -p TEXT or --text FILE");
    if (!isfinite(opts.temperature) || opts.temperature < 0)
        return err_set(e, ERR_USAGE, "--temperature %g is not 0 or more", opts.temperature);
    if (!(opts.top_p > 0 && opts.top_p <= 1))
        return err_set(e, ERR_USAGE, "--top-p %g is not above 0 and at most 1", opts.top_p);
    if (opts.temperature == 0 && (opts.top_p < 1 || opts.top_k || opts.seed))
        return err_set(e, ERR_USAGE, "--top-k, --top-p and --seed are about drawing: give --temperature too");
    return true;
}

static bool read_prompt(struct buf *text, struct err *e)
{
    if (opts.text)
        return text_input_read(opts.text, text, e);
    buf_puts(text, opts.prompt);
    return true;
}

static bool encode_prompt(const struct tokenizer *t, const struct buf *text, struct id_list *ids, struct err *e)
{
    struct tokenizer_encode how = {.bos = t->add_bos || (opts.chat && t->bos_id != BPE_NONE)};
    struct buf asked = {0};
    bool ok = true;

    if (opts.chat && !chat_is_known(t))
        ok = err_set(e, ERR_UNSUPPORTED, "--chat: the tokenizer has no markers for users and assistants");
    else if (opts.chat)
        chat_ask(t, text->data ? text->data : "", &asked);
    const struct buf *all = opts.chat ? &asked : text;
    ok = ok && tokenizer_encode(t, all->data ? all->data : "", all->bytes, &how, ids, e);
    buf_release(&asked);
    if (!ok && opts.text && !opts.chat)
        err_in(e, "'%s'", opts.text);
    if (ok && !ids->count)
        return err_set(e, ERR_USAGE, "the prompt is empty, and the tokenizer begins no text with a token of its own");
    return ok;
}

/* What the model is made for bounds prompt and text together. */
static bool check_room(const struct arch *arch, const struct id_list *ids, struct err *e)
{
    for (size_t i = 0; i < ids->count; i++)
        if (ids->ids[i] >= arch->vocab_size)
            return err_set(e, ERR_FORMAT, "the prompt has id %u, past the model's vocabulary of %llu", ids->ids[i],
                           (unsigned long long)arch->vocab_size);
    uint64_t room = arch->max_positions > opts.start_pos ? arch->max_positions - opts.start_pos : 0;
    if (ids->count >= room)
        return err_set(e, ERR_USAGE, "the prompt has %zu token%s, and the model %llu position%s%s", ids->count,
                       plural(ids->count), (unsigned long long)room, plural(room), opts.start_pos ? " from there" : "");
    if (opts.tokens > room - ids->count) {
        opts.tokens = room - ids->count;
        log_note("the model has positions for %llu token%s behind this prompt", (unsigned long long)opts.tokens,
                 plural(opts.tokens));
    }
    return true;
}

/* The cache is there before the first token, beside what the forward pass plans; what it takes is known from the
 * options. */
static bool plan_cache(const struct arch *arch, const struct id_list *ids, struct forward_options *o, struct err *e)
{
    uint64_t width = arch->kv_lora_rank + arch->qk_rope_dim, room = ids->count + opts.tokens;
    uint64_t need =
        arch->layers * width * room * sizeof(float); /* each factor is below 2^31, and they are real sizes */
    uint64_t half = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 2;

    o->caller_bytes = need + arch->vocab_size * sizeof(float);
    if (o->memory_bytes > 0)
        return need <= o->memory_bytes ||
               err_memory(e, o->memory_bytes, need, "a cache for %llu tokens needs", (unsigned long long)room);
    return need <= half || err_set(e, ERR_MEMORY,
                                   "a cache for %llu tokens needs %llu bytes, more than the %llu of half the machine's "
                                   "memory; --memory allows more",
                                   (unsigned long long)room, (unsigned long long)need, (unsigned long long)half);
}

/* ---- the text ---- */

struct printing {
    const struct tokenizer *t;
    struct text_stream stream;
    struct buf out;
    char last; /* that was printed */
};

static bool print_out(struct printing *p, struct err *e)
{
    if (p->out.bytes) {
        p->last = p->out.data[p->out.bytes - 1];
        fwrite(p->out.data, 1, p->out.bytes, stdout);
        p->out.bytes = 0;
    }
    return (fflush(stdout) == 0 && !ferror(stdout)) || err_sys(e, "writing to standard output");
}

static bool print_token(void *ctx, uint32_t id, struct err *e)
{
    struct printing *p = ctx;
    size_t bytes = 0;
    const char *text = tokenizer_bytes(p->t, id, &bytes);

    if (text)
        text_stream_put(&p->stream, text, bytes, &p->out);
    return print_out(p, e);
}

static bool print_end(struct printing *p, struct err *e)
{
    text_stream_end(&p->stream, &p->out);
    if (p->out.bytes ? p->out.data[p->out.bytes - 1] != '\n' : p->last != '\n')
        buf_puts(&p->out, "\n");
    return print_out(p, e);
}

static double rate(size_t tokens, double seconds)
{
    return seconds > 0 ? (double)tokens / seconds : 0;
}

static void say_figures(const struct generation *g)
{
    char bytes[BYTES_TEXT];
    size_t cached = g->prompt_tokens + (g->tokens ? g->tokens - 1 : 0);

    log_line("prompt: %zu token%s in %.2f s, %.1f tokens/s", g->prompt_tokens, plural(g->prompt_tokens),
             g->prompt_seconds, rate(g->prompt_tokens, g->prompt_seconds));
    log_line("text: %zu token%s in %.2f s, %.1f tokens/s%s", g->tokens, plural(g->tokens), g->token_seconds,
             rate(g->tokens, g->token_seconds), g->stopped ? "; it ended there" : "");
    log_line("KV cache: %s, %zu token%s of %llu bytes (latents in float32)", bytes_text((double)g->cache_bytes, bytes),
             cached, plural(cached), (unsigned long long)(g->cache_bytes / cached));
}

static bool run_model(struct forward *f, const struct source *s, const struct tokenizer *t, const struct buf *text,
                      const struct id_list *ids, struct err *e)
{
    struct generate_options o = {
        .tokens = (size_t)opts.tokens,
        .start_pos = opts.start_pos,
        .sampling = {.temperature = opts.temperature, .top_p = opts.top_p, .top_k = opts.top_k, .seed = opts.seed}};
    struct printing p = {.t = t};
    struct arena a = {0};
    const char *caveat = forward_caveat(&a, s);
    struct stop_ids stops = {0};
    struct generation g = {0};
    bool ok = stop_ids_read(&stops, &s->checkpoint, t, e);

    if (caveat)
        log_note("%s", caveat);
    o.stops = opts.ignore_eos ? NULL : &stops;
    if (ok && !opts.no_echo && !opts.chat && text->bytes)
        buf_add(&p.out, text->data, text->bytes);
    ok = ok && print_out(&p, e) && generate(f, &s->arch, t, ids, &o, print_token, &p, &g, e) && print_end(&p, e);
    if (ok && !opts.quiet)
        say_figures(&g);
    arena_release(&a);
    stop_ids_release(&stops);
    text_stream_release(&p.stream);
    buf_release(&p.out);
    return ok;
}

static int run(const char *const *operands, size_t operand_count, struct err *e)
{
    struct forward_options options;
    struct source source = {0};
    struct tokenizer t = {0};
    struct forward *f = NULL;
    struct id_list ids = {0};
    struct buf text = {0};

    (void)operand_count;
    if (opts.quiet)
        log_set_level(LOG_QUIET);
    if (!check_options(e) || !forward_choose(&options, &opts.forward, e) ||
        !source_open(&source, operands[0], true, e) || !tokenizer_open(&t, source.checkpoint.dir, e) ||
        !read_prompt(&text, e) || !encode_prompt(&t, &text, &ids, e) || !check_room(&source.arch, &ids, e) ||
        !plan_cache(&source.arch, &ids, &options, e) || !forward_open(&f, &source, &options, e))
        goto done;
    if (!run_model(f, &source, &t, &text, &ids, e))
        goto done;
done:
    forward_close(f);
    buf_release(&text);
    id_list_release(&ids);
    tokenizer_release(&t);
    source_close(&source);
    return 0;
}

const struct command command_run = {.spec = &spec, .run = run};
