#include "verify/diff_inputs.h"

#include <inttypes.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/units.h"
#include "verify/builtin_text.h"
#include "verify/model_match.h"

/* ---- tokenizers ---- */

static bool has_tokenizer(const struct source *s)
{
    struct arena a = {0};
    bool there = path_exists(path_join(&a, s->checkpoint.dir, "tokenizer.json")) ||
                 path_exists(path_join(&a, s->checkpoint.dir, "tiktoken.model"));

    arena_release(&a);
    return there;
}

/* What a tokenizer does, not how its file is written: the ids of the built-in texts. */
static bool tokenizer_digest(const struct tokenizer *t, char sha256[HASH_HEX_BYTES], struct err *e)
{
    struct tokenizer_encode how = {0};
    struct id_list ids = {0};
    bool ok = true;

    for (const struct builtin_text *b = builtin_texts; ok && b->name; b++)
        ok = tokenizer_encode(t, b->text, strlen(b->text), &how, &ids, e);
    if (ok)
        hash_hex(ids.ids, ids.count * sizeof *ids.ids, sha256);
    id_list_release(&ids);
    return ok;
}

static bool same_tokenizer(const struct diff_inputs *in, const struct source *s, const char *whose, struct err *e)
{
    struct tokenizer t = {0};
    char sha256[HASH_HEX_BYTES];
    bool ok = tokenizer_open(&t, s->checkpoint.dir, e) && tokenizer_digest(&t, sha256, e);

    tokenizer_release(&t);
    if (!ok)
        return err_in(e, "'%s'", s->checkpoint.path);
    return strcmp(sha256, in->tokenizer_sha256) == 0 ||
           err_set(
               e, ERR_UNSUPPORTED,
               "the tokenizer of '%s' is not %s's: the built-in texts are other ids under it (%.8s..., not %.8s...)",
               s->checkpoint.path, whose, sha256, in->tokenizer_sha256);
}

/* One tokenizer serves; all that are there must be the same. */
static bool open_tokenizers(struct diff_inputs *in, size_t candidate_count, const char *whose, struct diff_report *r,
                            struct err *e)
{
    const struct source *sides[1 + DIFF_CANDIDATES_MAX];
    bool opened = in->has_golden && in->golden.tokenizer_sha256[0];
    size_t count = 0;

    if (opened)
        memcpy(in->tokenizer_sha256, in->golden.tokenizer_sha256, strlen(in->golden.tokenizer_sha256) + 1);
    if (in->ref)
        sides[count++] = in->ref;
    for (size_t i = 0; i < candidate_count; i++)
        sides[count++] = in->candidates[i];
    for (size_t i = 0; i < count; i++) {
        if (!has_tokenizer(sides[i])) {
            diff_report_note(r, "'%s' has no tokenizer to compare", sides[i]->checkpoint.path);
        } else if (opened) {
            if (!same_tokenizer(in, sides[i], whose, e))
                return false;
        } else if (!in->has_golden) {
            if (!tokenizer_open(&in->tokenizer, sides[i]->checkpoint.dir, e) ||
                !tokenizer_digest(&in->tokenizer, in->tokenizer_sha256, e))
                return err_in(e, "'%s'", sides[i]->checkpoint.path);
            opened = true;
        }
    }
    return true;
}

/* ---- models ---- */

struct described {
    struct buf sizes, settings;
};

static void described_release(struct described *d)
{
    buf_release(&d->sizes);
    buf_release(&d->settings);
}

static bool match_candidate(struct diff_inputs *in, const struct source *s, const struct described *ref,
                            const char *whose, struct diff_report *r, struct err *e)
{
    struct described d = {0};
    struct buf settings = {0};
    uint64_t vocab = s->arch.vocab_size, wide = in->vocab;

    model_describe(&s->arch, &d.sizes, &d.settings);
    bool ok = model_match_sizes(ref->sizes.data, d.sizes.data, whose, e) &&
              (in->vocab = model_match_vocab(wide, vocab, whose, e)) > 0;
    if (ok && model_match_settings(ref->settings.data, d.settings.data, whose, &settings))
        diff_report_note(r, "the configs differ: %s", settings.data);
    if (ok && wide != vocab)
        diff_report_note(
            r, "the vocabulary has %" PRIu64 " ids in %s and %" PRIu64 " in '%s'; the first %" PRIu64 " are compared",
            wide, whose, vocab, s->checkpoint.path, in->vocab);
    buf_release(&settings);
    described_release(&d);
    return ok || err_in(e, "'%s'", s->checkpoint.path);
}

static bool match_models(struct diff_inputs *in, size_t candidate_count, const char *whose, struct diff_report *r,
                         struct err *e)
{
    struct described ref = {0};
    bool ok = true;

    if (in->has_golden) {
        buf_puts(&ref.sizes, in->golden.sizes);
        buf_puts(&ref.settings, in->golden.settings);
        in->vocab = in->golden.vocab;
    } else {
        model_describe(&in->ref->arch, &ref.sizes, &ref.settings);
        in->vocab = in->ref->arch.vocab_size;
    }
    for (size_t i = 0; ok && i < candidate_count; i++)
        ok = match_candidate(in, in->candidates[i], &ref, whose, r, e);
    if (ok && in->has_golden && in->vocab < in->golden.vocab)
        ok = err_set(e, ERR_UNSUPPORTED, "the vocabulary of the golden file has %" PRIu64 " ids, CAND's only %" PRIu64,
                     in->golden.vocab, in->vocab);
    described_release(&ref);
    return ok;
}

/* Renumbered experts are held against those of ref that they are. */
static bool find_numbers(struct diff_inputs *in, size_t candidate_count, struct diff_report *r, struct err *e)
{
    for (size_t i = 0; i < candidate_count; i++) {
        if (!expert_numbers_find(&in->numbers[i], &r->arena, in->ref, in->candidates[i], e))
            return false;
        size_t layers = expert_numbers_layers(&in->numbers[i]);
        if (layers > 0)
            diff_report_note(r,
                             "'%s': the experts of %zu layer%s have other numbers, as the rows of the router%s tell; "
                             "they are called by REF's",
                             in->candidates[i]->checkpoint.path, layers, plural(layers), plural(layers));
    }
    return true;
}

/* ---- tokens ---- */

static void batch_of_golden(struct diff_inputs *in)
{
    const struct golden *g = &in->golden;

    in->sequences = mem_alloc(g->contexts * sizeof *in->sequences);
    for (size_t s = 0; s < g->contexts; s++)
        in->sequences[s] = (struct sequence){.first = g->starts[s], .tokens = g->starts[s + 1] - g->starts[s]};
    in->batch =
        (struct batch){.ids = g->ids, .tokens = g->tokens, .sequences = in->sequences, .sequence_count = g->contexts};
}

static bool open_texts(struct diff_inputs *in, const struct corpus_options *texts, struct diff_report *r, struct err *e)
{
    const struct tokenizer *t = in->tokenizer_sha256[0] ? &in->tokenizer : NULL;

    if (!t && !texts->ids)
        return err_set(e, ERR_UNSUPPORTED, "no checkpoint has a tokenizer: give token ids (--ids FILE)");
    if (!corpus_open(&in->corpus, t, &in->ref->arch, texts, e))
        return false;
    in->batch = in->corpus.batch;
    r->text = in->corpus.source;
    if (in->corpus.is_short)
        diff_report_note(r, "the text has only %zu token%s", in->corpus.text_tokens, plural(in->corpus.text_tokens));
    return true;
}

static bool open_source(struct diff_inputs *in, size_t slot, const char *path, const struct source **out, struct err *e)
{
    if (!source_open(&in->sources[slot], path, true, e))
        return false;
    *out = &in->sources[slot];
    return true;
}

bool diff_inputs_open(struct diff_inputs *in, const struct diff_paths *paths, const struct corpus_options *texts,
                      struct diff_report *r, struct err *e)
{
    const char *whose = paths->golden ? "the golden file" : "REF";
    struct buf line = {0};

    *in = (struct diff_inputs){0};
    if (paths->golden && !golden_read(&in->golden, paths->golden, e))
        return false;
    in->has_golden = paths->golden != NULL;
    if (paths->ref && !open_source(in, 0, paths->ref, &in->ref, e))
        return false;
    for (size_t i = 0; i < paths->candidate_count; i++)
        if (!open_source(in, 1 + i, paths->candidates[i], &in->candidates[i], e))
            return false;
    if (!match_models(in, paths->candidate_count, whose, r, e) ||
        !open_tokenizers(in, paths->candidate_count, whose, r, e))
        return false;
    if (in->has_golden) {
        batch_of_golden(in);
        r->model = in->golden.model;
        r->text = in->golden.text;
        return true;
    }
    if (!find_numbers(in, paths->candidate_count, r, e))
        return false;
    model_line(&in->ref->arch, &line);
    r->model = arena_strdup(&r->arena, line.data);
    buf_release(&line);
    return open_texts(in, texts, r, e);
}

void diff_inputs_close(struct diff_inputs *in)
{
    corpus_release(&in->corpus);
    tokenizer_release(&in->tokenizer);
    mem_free(in->sequences);
    golden_release(&in->golden);
    for (size_t i = 0; i < 1 + DIFF_CANDIDATES_MAX; i++)
        source_close(&in->sources[i]);
    *in = (struct diff_inputs){0};
}
