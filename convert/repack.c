#include "convert/repack.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "convert/finished.h"
#include "convert/repack_plan.h"
#include "convert/repack_report.h"
#include "convert/stage.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/log.h"
#include "formats/json.h"
#include "verify/renumbering.h"
#include "verify/routing_walk.h"

struct job_facts {
    const struct repack_options *options;
    struct arena arena;
    struct source source;
    struct routing_stats stats, trace;
    struct expert_orders orders;
    struct placement placement;
    struct recipe recipe; /* names what is done; without rules */
    struct plan plan;
};

/* ---- the command line ---- */

static enum order_kind order_kind(const struct repack_options *o)
{
    if (!o->order || strcmp(o->order, "index") == 0)
        return ORDER_INDEX;
    return strcmp(o->order, "hot") == 0 ? ORDER_HOT : strcmp(o->order, "coactive") == 0 ? ORDER_COACTIVE : ORDER_FILE;
}

static bool runs_text(const struct repack_options *o)
{
    return o->text.text || o->text.ids;
}

static bool has_stats(const struct repack_options *o)
{
    return o->stats || runs_text(o);
}

static bool wants_stats(const struct repack_options *o)
{
    return order_kind(o) == ORDER_HOT || order_kind(o) == ORDER_COACTIVE || o->ep > 0;
}

static bool check_mp(const struct repack_options *o, struct err *e)
{
    bool formed = o->layout || o->align != REPACK_ALIGN_MIN || o->order || o->renumber || o->ep > 0 ||
                  o->experts_json || o->run.shard_bytes != CONVERSION_SHARD_BYTES;

    if (o->mp > 0 && (formed || has_stats(o) || o->trace))
        return err_set(
            e, ERR_USAGE,
            "--mp writes files of a fixed form: it goes without --layout, --align, --order, --stats, --text, "
            "--trace, --renumber, --ep, --experts-json and --shard-size");
    return true;
}

static bool check_text(const struct repack_options *o, struct err *e)
{
    if (!runs_text(o) && (o->text.tokens > 0 || o->text.context > 0))
        return err_set(e, ERR_USAGE, "%s wants --text FILE or --ids FILE",
                       o->text.tokens > 0 ? "--tokens" : "--context");
    if (o->stats && runs_text(o))
        return err_set(e, ERR_USAGE, "--stats and --text: one of them");
    if (runs_text(o) && !wants_stats(o) && !o->save_stats)
        return err_set(e, ERR_USAGE, "--text counts for --order hot or coactive, --ep or --save-stats");
    return true;
}

static bool check_options(const struct repack_options *o, struct err *e)
{
    if (o->layout && strcmp(o->layout, "expert") != 0 && strcmp(o->layout, "expert-aligned") != 0)
        return err_set(e, ERR_USAGE, "unknown layout '%s'; known are expert, expert-aligned", o->layout);
    if (order_kind(o) == ORDER_FILE && !path_exists(o->order))
        return err_set(e, ERR_USAGE, "--order '%s' is not index, hot or coactive, and no file", o->order);
    if (o->align & (o->align - 1))
        return err_set(e, ERR_USAGE, "--align %" PRIu64 " is no power of two", o->align);
    if (o->renumber && order_kind(o) == ORDER_INDEX)
        return err_set(e, ERR_USAGE, "--renumber wants an --order other than index");
    if (o->run.no_proof && !o->renumber)
        return err_set(e, ERR_USAGE, "--no-proof goes with --renumber");
    if (o->ep == 0 && (o->nodes > 0 || o->redundant > 0 || o->shard_by_rank))
        return err_set(e, ERR_USAGE, "%s wants --ep",
                       o->nodes > 0       ? "--nodes"
                       : o->redundant > 0 ? "--redundant"
                                          : "--shard-by-rank");
    if (wants_stats(o) && !o->stats && !runs_text(o))
        return err_set(e, ERR_USAGE, "%s wants --stats FILE or --text FILE",
                       o->ep > 0 ? "--ep" : "--order hot or coactive");
    if (!check_text(o, e))
        return false;
    if (o->stats && !wants_stats(o) && !o->save_stats && !o->run.dry_run)
        return err_set(e, ERR_USAGE, "--stats is for --order hot or coactive, --ep, --save-stats or --dry-run");
    if (o->save_stats && !o->stats && !runs_text(o))
        return err_set(e, ERR_USAGE, "--save-stats wants --stats FILE or --text FILE");
    if (o->trace && !o->run.dry_run)
        return err_set(e, ERR_USAGE, "--trace is replayed by --dry-run alone");
    return check_mp(o, e);
}

/* ---- what is known before the plan ---- */

static bool read_stats(struct job_facts *j, const char *path, struct routing_stats *s, struct err *e)
{
    if (!path)
        return true;
    return routing_stats_read(s, path, e) &&
           (routing_stats_check(s, &j->source, e) || err_in(e, "'%s' for '%s'", path, j->source.checkpoint.path));
}

/* Found out now, not when all is written. */
static bool check_save(const struct repack_options *o, const char *dst, struct err *e)
{
    struct arena a = {0};
    const char *path = o->save_stats;

    if (!path || o->run.dry_run)
        return true;
    if (path_is_dir(path) || strcmp(path, dst) == 0)
        return err_set(e, ERR_USAGE, "--save-stats '%s' is a folder, not a file to write", path);
    if (path_exists(path) && !o->run.force)
        return err_set(e, ERR_USAGE, "--save-stats: '%s' is there already; --force replaces it", path);
    bool ok = access(path_parent(&a, path), W_OK) == 0 || err_sys(e, "cannot create '%s'", path);
    arena_release(&a);
    return ok;
}

/* The model is run over the text now. */
static bool run_text(struct job_facts *j, struct err *e)
{
    const struct repack_options *o = j->options;
    struct forward_options forward = {.threads = (unsigned)o->run.threads, .memory_bytes = o->run.memory_bytes};
    struct tokenizer tokenizer = {0};
    struct corpus corpus = {0};
    struct buf what = {0};
    bool ok = (o->text.ids || tokenizer_open(&tokenizer, j->source.checkpoint.path, e)) &&
              corpus_open(&corpus, o->text.ids ? NULL : &tokenizer, &j->source.arch, &o->text, e);

    if (ok) {
        corpus_describe(&corpus, &what);
        log_note("running the model over %s", what.data);
        ok = routing_walk(&j->stats, &j->source, &corpus.batch, &forward, true, e);
    }
    buf_release(&what);
    corpus_release(&corpus);
    tokenizer_release(&tokenizer);
    return ok || err_in(e, "routing of '%s'", j->source.checkpoint.path);
}

/* A result with other numbers wants statistics in these. */
static bool save_stats(struct job_facts *j, struct err *e)
{
    const struct repack_options *o = j->options;
    struct source own = {0};
    struct routing_stats s = {0};

    if (!o->save_stats || o->run.dry_run)
        return true;
    bool ok = !o->renumber || source_open(&own, j->plan.outputs[0].dir, true, e);
    if (ok && o->renumber)
        ok = expert_orders_renumber(&j->orders, &j->stats, &own, &s, e);
    ok = ok && routing_stats_write(o->renumber ? &s : &j->stats, o->save_stats, e);
    routing_stats_release(&s);
    source_close(&own);
    return ok;
}

static uint64_t expert_bytes(const struct source *s)
{
    struct routing_stats none = {.experts_per_token = 1};
    struct expert_cost cost;
    struct expert_map m = {0};

    expert_map_open(&m, s);
    expert_map_cost(&m, &none, 1, &cost);
    expert_map_release(&m);
    return cost.bytes_per_expert >= 1 ? (uint64_t)cost.bytes_per_expert : 1;
}

static bool make_orders(struct job_facts *j, struct err *e)
{
    const struct repack_options *o = j->options;
    struct expert_order_options options = {
        .kind = order_kind(o),
        .keep_groups = o->renumber,
        .stats = has_stats(o) ? &j->stats : NULL,
        .geometry = {.expert_bytes = expert_bytes(&j->source), .window_bytes = o->window_bytes},
        .path = o->order,
    };

    if (options.kind == ORDER_COACTIVE && !j->stats.with_trace)
        log_note("'%s' has no trace: the coactive order is not held against tokens that it has not seen", o->stats);
    return expert_orders_make(&j->orders, &j->arena, &j->source.arch, &options, e);
}

static bool make_placement(struct job_facts *j, struct err *e)
{
    const struct repack_options *o = j->options;
    const struct arch *a = &j->source.arch;
    struct eplb_shape shape = {
        .experts = a->experts,
        .replicas = a->experts + o->redundant,
        .groups = a->groups > 0 ? a->groups : 1,
        .nodes = o->nodes > 0 ? o->nodes : 1,
        .ranks = o->ep,
    };

    return o->ep == 0 ||
           placement_make(&j->placement, &j->arena, a, &shape, &j->stats, o->renumber ? &j->orders : NULL, e);
}

/* Orders and placements are long: their hash tells one run from another, and quern.json what was done. */
static void hash_numbers(const struct job_facts *j, char hex[HASH_HEX_BYTES])
{
    struct hash h = {0};

    hash_init(&h);
    for (size_t i = 0; i < j->orders.count; i++)
        hash_update(&h, j->orders.items[i].experts, (size_t)j->orders.experts * sizeof(uint32_t));
    for (size_t i = 0; i < j->placement.count; i++)
        hash_update(&h, j->placement.items[i].slot_expert, (size_t)j->placement.shape.replicas * sizeof(uint32_t));
    hash_final_hex(&h, hex);
}

static const char *order_word(const struct repack_options *o)
{
    static const char *const words[] = {
        [ORDER_INDEX] = "index", [ORDER_HOT] = "hot", [ORDER_COACTIVE] = "coactive", [ORDER_FILE] = "file"};

    return words[order_kind(o)];
}

static void put_ranks(struct json_writer *w, const struct repack_options *o)
{
    if (o->ep == 0)
        return;
    json_put_u64(w, "ep", o->ep);
    json_put_u64(w, "nodes", o->nodes > 0 ? o->nodes : 1);
    json_put_u64(w, "redundant", o->redundant);
    json_put_bool(w, "shard_by_rank", o->shard_by_rank);
}

static const char *describe(const struct repack_options *o)
{
    if (o->mp > 0)
        return "The source's tensors, split for the ranks of DeepSeek's inference code.";
    return o->renumber ? "The source's tensors with the routed experts renumbered, and laid out for reading them."
                       : "The source's tensors, laid out for reading routed experts.";
}

static void make_recipe(struct job_facts *j)
{
    const struct repack_options *o = j->options;
    struct buf text = {0};
    struct json_writer w = {.out = &text, .compact = true};
    char hex[HASH_HEX_BYTES];

    hash_numbers(j, hex);
    json_begin_object(&w, NULL);
    json_put_string(&w, "name", "repack");
    if (o->mp > 0) {
        json_put_u64(&w, "mp", o->mp);
    } else {
        json_put_string(&w, "layout", o->layout ? o->layout : "expert");
        json_put_u64(&w, "align", o->align);
        json_put_string(&w, "order", order_word(o));
        json_put_bool(&w, "renumber", o->renumber);
        put_ranks(&w, o);
        json_put_string(&w, "numbers_sha256", hex);
    }
    json_end(&w, '}');
    j->recipe.name = "repack";
    j->recipe.description = describe(o);
    j->recipe.text = arena_strdup(&j->recipe.arena, text.data);
    buf_release(&text);
}

/* ---- the plan and what stands beside it ---- */

static void add_text(struct job_facts *j, struct plan_text *texts, const char *name, struct buf *text)
{
    texts[j->plan.text_count++] = (struct plan_text){.name = name, .text = arena_strdup(&j->plan.arena, text->data)};
    buf_release(text);
}

static void add_texts(struct job_facts *j, const struct repack_facts *facts)
{
    struct plan_text *texts = arena_array(&j->plan.arena, 3, sizeof *texts);
    struct buf text = {0};

    j->plan.texts = texts;
    if (j->options->experts_json) {
        repack_experts_json(&text, facts);
        add_text(j, texts, "experts.json", &text);
    }
    if (j->options->ep > 0) {
        placement_write_sglang(&text, &j->placement);
        add_text(j, texts, "placement-sglang.json", &text);
        placement_write_vllm(&text, &j->placement);
        add_text(j, texts, "placement-vllm.json", &text);
    }
}

static void add_report(struct job_facts *j, const struct repack_facts *facts)
{
    struct buf text = {0}, json = {0};

    repack_report_text(&text, facts);
    repack_report_json(&json, facts);
    j->plan.report = arena_strdup(&j->plan.arena, text.data);
    j->plan.report_json = arena_strdup(&j->plan.arena, json.data);
    j->plan.report_name = "repack";
    buf_release(&text);
    buf_release(&json);
}

/* What the proof at the end holds the result's choices against. */
static void add_renumbering(struct job_facts *j)
{
    struct expert_numbers *r = arena_alloc(&j->plan.arena, sizeof *r);
    const uint32_t **was = arena_array(&j->plan.arena, (size_t)arch_layers_stored(&j->source.arch), sizeof *was);

    for (size_t i = 0; i < j->orders.count; i++)
        was[j->orders.items[i].layer] = j->orders.items[i].experts;
    *r = (struct expert_numbers){
        .layers = arch_layers_stored(&j->source.arch), .experts = j->source.arch.experts, .was = was};
    j->plan.renumbering = r;
}

static const struct routing_stats *replayed(const struct job_facts *j)
{
    if (!j->options->run.dry_run)
        return NULL;
    if (j->options->trace)
        return &j->trace;
    return has_stats(j->options) && j->stats.with_trace ? &j->stats : NULL;
}

static bool open_plan(struct job_facts *j, const char *dst, struct err *e)
{
    const struct repack_options *o = j->options;
    struct repack_target target = {
        .dir = dst,
        .recipe = &j->recipe,
        .zones = o->layout && strcmp(o->layout, "expert-aligned") == 0 ? ZONES_EXPERTS_ALIGNED : ZONES_EXPERTS,
        .align = o->align,
        .shard_bytes = o->run.shard_bytes,
        .orders = &j->orders,
        .renumber = o->renumber,
        .keep_unknown = o->run.keep_unknown,
        .by_rank = o->shard_by_rank ? &j->placement : NULL,
        .mp = o->mp,
    };
    struct repack_facts facts = {
        .plan = &j->plan,
        .orders = &j->orders,
        .renumbered = o->renumber,
        .placement = o->ep > 0 ? &j->placement : NULL,
        .trace = replayed(j),
        .window_bytes = o->window_bytes,
        .align = o->align,
    };

    if (!repack_plan_open(&j->plan, &j->source, &target, e))
        return err_in(e, "source '%s'", j->source.checkpoint.path);
    if (o->mp == 0) {
        add_texts(j, &facts);
        add_report(j, &facts);
    }
    if (o->renumber)
        add_renumbering(j);
    return true;
}

static bool has_moe_layer(const struct arch *a)
{
    for (uint64_t layer = 0; layer < arch_layers_stored(a); layer++)
        if (arch_is_moe_layer(a, layer))
            return true;
    return false;
}

static bool check_model(const struct repack_options *o, const struct source *s, struct err *e)
{
    if (!has_moe_layer(&s->arch) && o->mp == 0)
        return err_set(e, ERR_UNSUPPORTED, "'%s' has no routed experts to lay out", s->checkpoint.path);
    if (o->mp > 0 && s->arch.experts % o->mp != 0)
        return err_set(e, ERR_UNSUPPORTED, "%" PRIu64 " experts do not divide over %" PRIu64 " ranks", s->arch.experts,
                       o->mp);
    return true;
}

static bool open_source(struct job_facts *j, const char *src, const char *dst, struct err *e)
{
    const struct conversion *run = &j->options->run;

    if (!source_open(&j->source, src, true, e) || !conversion_check_whole(&j->source.checkpoint, e) ||
        !check_model(j->options, &j->source, e))
        return false;
    bool finished = !run->restart && finished_is_here(dst);
    if (!run->dry_run && !finished)
        stage_tidy(dst);
    return stage_check(dst, j->source.checkpoint.dir, run->force || run->dry_run || finished, e);
}

int repack(const struct repack_options *o, const char *src, const char *dst, struct err *e)
{
    struct job_facts j = {.options = o};

    log_set_level(o->run.quiet ? LOG_QUIET : o->run.verbose ? LOG_VERBOSE : LOG_NORMAL);
    bool ok = check_options(o, e) && check_save(o, dst, e) && open_source(&j, src, dst, e) &&
              read_stats(&j, o->stats, &j.stats, e) && read_stats(&j, o->trace, &j.trace, e);
    if (ok && o->trace && !j.trace.with_trace)
        ok = err_set(e, ERR_FORMAT, "'%s' has counts, but no trace", o->trace);
    ok = ok && (!runs_text(o) || run_text(&j, e)) && make_orders(&j, e) && make_placement(&j, e);
    if (ok)
        make_recipe(&j);
    ok = ok && open_plan(&j, dst, e) && conversion_go(&o->run, &j.plan, e) && save_stats(&j, e);
    plan_close(&j.plan);
    routing_stats_release(&j.stats);
    routing_stats_release(&j.trace);
    arena_release(&j.recipe.arena);
    arena_release(&j.arena);
    source_close(&j.source);
    return ok ? 0 : err_exit_status(e->code);
}
