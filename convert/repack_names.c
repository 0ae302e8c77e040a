/* Names of repacked tensors. Those of DeepSeek's inference code are what its convert.py makes of the published ones
 * (github.com/deepseek-ai/DeepSeek-V3, inference/, and V3.2's for the indexer); its model.py splits by the same
 * dimensions. */
#include <stdlib.h>
#include <string.h>

#include "convert/repack_plan.h"

static const struct {
    const char *hf, *own;
} words[] = {
    {"self_attn", "attn"},
    {"mlp", "ffn"},
    {"embed_tokens", "embed"},
    {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"q_proj", "wq"},
    {"q_a_proj", "wq_a"},
    {"q_a_layernorm", "q_norm"},
    {"q_b_proj", "wq_b"},
    {"kv_a_proj_with_mqa", "wkv_a"},
    {"kv_a_layernorm", "kv_norm"},
    {"kv_b_proj", "wkv_b"},
    {"o_proj", "wo"},
    {"gate_proj", "w1"},
    {"down_proj", "w2"},
    {"up_proj", "w3"},
    {"lm_head", "head"},
    {"weight_scale_inv", "scale"},
    {"e_score_correction_bias", "bias"},
};

static bool is_word(const char *word, const char *text, size_t bytes)
{
    return strlen(word) == bytes && memcmp(word, text, bytes) == 0;
}

static void add_word(struct buf *out, const char *text, size_t bytes)
{
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (is_word(words[i].hf, text, bytes)) {
            buf_puts(out, words[i].own);
            return;
        }
    buf_add(out, text, bytes);
}

static const char *skip(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0 ? name + strlen(prefix) : name;
}

char *repack_mp_name(struct arena *a, const char *name)
{
    struct buf out = {0};

    name = skip(skip(name, "language_model."), "model.");
    for (;;) {
        size_t bytes = strcspn(name, ".");
        add_word(&out, name, bytes);
        if (name[bytes] == '\0')
            break;
        buf_puts(&out, ".");
        name += bytes + 1;
    }
    char *own = arena_strdup(a, out.data);
    buf_release(&out);
    return own;
}

int repack_mp_dimension(enum role role)
{
    switch ((int)role) {
    case ROLE_EMBED:
    case ROLE_HEAD:
    case ROLE_Q_PROJ:
    case ROLE_Q_B_PROJ:
    case ROLE_KV_B_PROJ:
    case ROLE_DENSE_GATE:
    case ROLE_DENSE_UP:
    case ROLE_SHARED_GATE:
    case ROLE_SHARED_UP:
        return 0;
    case ROLE_O_PROJ:
    case ROLE_DENSE_DOWN:
    case ROLE_SHARED_DOWN:
        return 1;
    default:
        return -1;
    }
}
