#include "verify/model_match.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/units.h"
#include "verify/diff_words.h"

static const struct {
    const char *name;
    size_t offset;
} sizes[] = {
#define SIZE(name)                                                                                                     \
    {                                                                                                                  \
#name, offsetof(struct arch, name)                                                                             \
    }
    SIZE(layers),
    SIZE(hidden_size),
    SIZE(heads),
    SIZE(q_lora_rank),
    SIZE(kv_lora_rank),
    SIZE(qk_nope_dim),
    SIZE(qk_rope_dim),
    SIZE(v_dim),
    SIZE(intermediate_size),
    SIZE(moe_intermediate_size),
    SIZE(experts),
    SIZE(shared_experts),
    SIZE(experts_per_token),
    SIZE(first_dense_layers),
    SIZE(moe_layer_freq),
#undef SIZE
};

void model_describe(const struct arch *arch, struct buf *out_sizes, struct buf *settings)
{
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint64_t value;
        memcpy(&value, (const char *)arch + sizes[i].offset, sizeof value);
        buf_printf(out_sizes, "%s %" PRIu64 "\n", sizes[i].name, value);
    }
    buf_printf(settings, "n_group %" PRIu64 "\ntopk_group %" PRIu64 "\n", arch->groups, arch->topk_groups);
    buf_printf(settings, "scoring_func %s\n", arch->scoring == SCORING_SIGMOID ? "sigmoid" : "softmax");
    buf_printf(settings, "topk_method %d\n", (int)arch->topk);
    buf_printf(settings, "norm_topk_prob %d\n", arch->norm_topk_prob);
    buf_printf(settings, "routed_scaling_factor %.17g\n", arch->routed_scaling);
    buf_printf(settings, "rms_norm_eps %.17g\n", arch->rms_norm_eps);
    buf_printf(settings, "rope_theta %.17g\n", arch->rope_theta);
    buf_printf(settings, "yarn %d\n", arch->yarn);
    if (!arch->yarn)
        return;
    buf_printf(settings, "yarn_factor %.17g\nyarn_beta_fast %.17g\nyarn_beta_slow %.17g\n", arch->yarn_factor,
               arch->yarn_beta_fast, arch->yarn_beta_slow);
    buf_printf(settings, "yarn_mscale %.17g\nyarn_mscale_all_dim %.17g\nyarn_original_positions %" PRIu64 "\n",
               arch->yarn_mscale, arch->yarn_mscale_all_dim, arch->yarn_original_positions);
}

/* The value of a name's line, and its length; NULL: no such line. */
static const char *value_of(const char *lines, const char *name, size_t name_bytes, int *bytes)
{
    for (const char *line = lines; *line; line += strcspn(line, "\n") + 1) {
        if (strncmp(line, name, name_bytes) == 0 && line[name_bytes] == ' ') {
            *bytes = (int)strcspn(line + name_bytes + 1, "\n");
            return line + name_bytes + 1;
        }
        if (!line[strcspn(line, "\n")])
            break;
    }
    return NULL;
}

struct difference {
    const char *name, *a, *b;
    int name_bytes, a_bytes, b_bytes;
};

/* The next line of a, from *at, whose value b does not share. */
static bool next_difference(const char **at, const char *b, struct difference *d)
{
    while (**at) {
        const char *line = *at;
        size_t bytes = strcspn(line, "\n"), name = strcspn(line, " \n");
        *at = line + bytes + (line[bytes] == '\n');
        if (name == bytes)
            continue;
        *d = (struct difference){.name = line, .name_bytes = (int)name, .a = line + name + 1};
        d->a_bytes = (int)(bytes - name - 1);
        d->b = value_of(b, line, name, &d->b_bytes);
        if (d->b && (d->a_bytes != d->b_bytes || strncmp(d->a, d->b, (size_t)d->a_bytes) != 0))
            return true;
        if (!d->b) {
            d->b = "absent";
            d->b_bytes = 6;
            return true;
        }
    }
    return false;
}

bool model_match_sizes(const char *ref_sizes, const char *cand_sizes, const char *whose, struct err *e)
{
    struct difference d;

    if (!next_difference(&ref_sizes, cand_sizes, &d))
        return true;
    return err_set(e, ERR_UNSUPPORTED, "'%.*s' is %.*s in %s and %.*s in CAND: not the same architecture", d.name_bytes,
                   d.name, d.a_bytes, d.a, whose, d.b_bytes, d.b);
}

bool model_match_settings(const char *ref_settings, const char *cand_settings, const char *whose, struct buf *out)
{
    struct difference d;
    bool any = false;

    while (next_difference(&ref_settings, cand_settings, &d)) {
        buf_printf(out, "%s%.*s is %.*s in %s and %.*s in CAND", any ? "; " : "", d.name_bytes, d.name, d.a_bytes, d.a,
                   whose, d.b_bytes, d.b);
        any = true;
    }
    return any;
}

uint64_t model_match_vocab(uint64_t ref, uint64_t cand, const char *whose, struct err *e)
{
    uint64_t least = ref < cand ? ref : cand, most = ref < cand ? cand : ref;

    if (most - least <= VOCAB_PADDING_MAX)
        return least;
    err_set(e, ERR_UNSUPPORTED,
            "the vocabulary has %" PRIu64 " ids in %s and %" PRIu64 " in CAND, more apart than padding explains (%u)",
            ref, whose, cand, VOCAB_PADDING_MAX);
    return 0;
}

void model_line(const struct arch *arch, struct buf *out)
{
    char layers[WORD_TEXT], hidden[WORD_TEXT], vocab[WORD_TEXT];

    buf_printf(out, "%s, %s layer%s, hidden %s, vocabulary %s", arch->model_type, word_count(arch->layers, layers),
               plural(arch->layers), word_count(arch->hidden_size, hidden), word_count(arch->vocab_size, vocab));
}
