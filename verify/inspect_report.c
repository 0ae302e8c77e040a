#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/units.h"
#include "formats/json.h"
#include "verify/inspect.h"
#include "verify/report_text.h"

#define NUMBER_TEXT 40

/* 1234567 -> "1,234,567". */
static const char *grouped(uint64_t n, char text[NUMBER_TEXT])
{
    char digits[24];
    int count = snprintf(digits, sizeof digits, "%" PRIu64, n);
    size_t at = 0;

    for (int i = 0; i < count; i++) {
        if (i > 0 && (count - i) % 3 == 0)
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = '\0';
    return text;
}

static const char *scaled(uint64_t n, const char *const units[5], char text[NUMBER_TEXT])
{
    double value = (double)n;
    size_t unit = 0;

    while (unit < 3 && value >= 999.995) {
        value /= 1000;
        unit++;
    }
    if (unit == 0)
        snprintf(text, NUMBER_TEXT, "%" PRIu64 "%s%s", n, units[0][0] ? " " : "", units[0]);
    else
        snprintf(text, NUMBER_TEXT, "%.2f %s", value, units[unit]);
    return text;
}

static const char *size_text(uint64_t n, char text[NUMBER_TEXT])
{
    static const char *const units[5] = {"B", "kB", "MB", "GB", NULL};
    return scaled(n, units, text);
}

static const char *params_text(uint64_t n, char text[NUMBER_TEXT])
{
    static const char *const units[5] = {"", "K", "M", "B", NULL}; /* B: billion, as everyone writes it */
    return scaled(n, units, text);
}

static void print_head(const struct inspection *in, struct buf *out)
{
    const struct arch *a = &in->source->arch;
    char n[4][NUMBER_TEXT];

    buf_printf(out, "%s\n", in->source->checkpoint.path);
    buf_printf(out, "  architecture   %s (%s)\n", a->architecture ? a->architecture : "not named", a->model_type);
    buf_printf(out, "  layers         %" PRIu64, a->layers);
    if (in->moe_layers)
        buf_printf(out, " (%" PRIu64 " dense, %" PRIu64 " MoE)", in->dense_layers, in->moe_layers);
    buf_printf(out, "; MTP: %" PRIu64 " declared, %" PRIu64 " stored\n", a->mtp_layers, in->mtp_layers_stored);
    buf_printf(out,
               "  dimensions     hidden %" PRIu64 ", %" PRIu64 " head%s of %" PRIu64 "+%" PRIu64 " (value %" PRIu64
               "), KV latent %" PRIu64 ", vocabulary %s\n",
               a->hidden_size, a->heads, plural(a->heads), a->qk_nope_dim, a->qk_rope_dim, a->v_dim, a->kv_lora_rank,
               grouped(a->vocab_size, n[0]));
    if (a->experts)
        buf_printf(out,
                   "  experts        %" PRIu64 " routed, %" PRIu64 " per token from %" PRIu64 " of %" PRIu64
                   " group%s; %" PRIu64 " shared\n",
                   a->experts, a->experts_per_token, a->topk_groups, a->groups, plural(a->groups), a->shared_experts);
    buf_printf(out, "  context        %s tokens", grouped(a->max_positions, n[0]));
    if (a->yarn)
        buf_printf(out, " (YaRN x%g from %s)", a->yarn_factor, grouped(a->yarn_original_positions, n[1]));
    buf_printf(out, "\n  parameters     %s, %s active per token", params_text(in->main.parameters, n[0]),
               params_text(in->active_parameters, n[1]));
    if (in->mtp.parameters)
        buf_printf(out, "; MTP %s more", params_text(in->mtp.parameters, n[2]));
    buf_printf(out, "\n  read per token %s of weights, decoding at batch 1 without MTP\n",
               size_text(in->active_bytes, n[0]));
    buf_printf(out, "  KV cache       %s bytes per token (MLA latent, BF16); all heads' keys and values: %s\n",
               grouped(in->kv_latent_bytes, n[0]), grouped(in->kv_heads_bytes, n[1]));
    buf_printf(out, "  quantization   config.json: %s\n                 stored: %s\n", in->claimed, in->stored);
    buf_printf(out, "  files          %zu shard%s, %s, %s tensors\n\n", in->source->checkpoint.shard_count,
               plural(in->source->checkpoint.shard_count), size_text(in->file_bytes, n[0]),
               grouped(in->source->checkpoint.tensor_count, n[1]));
}

static void print_row(struct buf *out, const char *group, const char *stored, const struct inspect_sum *sum, int width)
{
    char n[3][NUMBER_TEXT];
    double bits = sum->parameters ? 8.0 * (double)sum->bytes / (double)sum->parameters : 0;

    buf_printf(out, "  %-*s  %-16s %9s %11s %11s %7.3f\n", width, group, stored, grouped(sum->weights, n[0]),
               params_text(sum->parameters, n[1]), size_text(sum->bytes, n[2]), bits);
}

static void print_table(const struct inspection *in, struct buf *out)
{
    size_t width = strlen("role group");
    struct inspect_sum total = {0};

    for (size_t i = 0; i < in->row_count; i++) {
        size_t w = strlen(in->rows[i].group) + (in->rows[i].mtp ? 5 : 0);
        width = w > width ? w : width;
    }
    buf_printf(out, "  %-*s  %-16s %9s %11s %11s %7s\n", (int)width, "role group", "stored as", "weights", "parameters",
               "bytes", "bits");
    for (size_t i = 0; i < in->row_count; i++) {
        const struct inspect_row *r = &in->rows[i];
        char group[80];
        snprintf(group, sizeof group, "%s%s", r->mtp && strcmp(r->group, "mtp") != 0 ? "mtp: " : "", r->group);
        print_row(out, group, r->stored, &r->sum, (int)width);
        total.weights += r->sum.weights;
        total.parameters += r->sum.parameters;
        total.bytes += r->sum.bytes;
    }
    print_row(out, "all", "", &total, (int)width);
    buf_puts(out, "  bits: per weight, scales included. kB, MB, GB: powers of 1000; B: 10^9 parameters.\n\n");
}

static void print_findings(const struct inspection *in, const char *indent, struct buf *out)
{
    for (size_t i = 0; i < in->findings.count; i++) {
        const struct finding *f = &in->findings.items[i];
        buf_printf(out, "%s%-7s  %s\n", indent, severity_name(rule_get(f->rule)->severity), f->text);
    }
}

static const char *tensor_group(const struct inspection *in, const struct tensor *t)
{
    struct tensor_id id = {0};

    arch_identify(&in->source->arch, t->name, &id);
    return role_get(id.role)->name;
}

static void print_tensors(const struct inspection *in, struct buf *out)
{
    const struct checkpoint *c = &in->source->checkpoint;
    char shape[TENSOR_SHAPE_TEXT];
    size_t width = 0;

    for (size_t i = 0; i < c->tensor_count; i++) {
        size_t w = strlen(c->tensors[i].name);
        width = w > width && w < 120 ? w : width;
    }
    for (size_t i = 0; i < c->tensor_count; i++) {
        const struct tensor *t = &c->tensors[i];
        buf_printf(out, "  %-*s  %-8s %-18s %12" PRIu64 "  %-12s %s\n", (int)width, t->name, dtype_get(t->dtype)->name,
                   tensor_shape_text(t->rank, t->dims, shape), t->bytes, tensor_group(in, t), c->shards[t->shard].name);
    }
    buf_puts(out, "\n");
}

void inspect_print_text(const struct inspection *in, const struct inspect_show *show, struct buf *out)
{
    size_t from = out->bytes;

    if (show->findings_only) {
        print_findings(in, "", out);
    } else {
        print_head(in, out);
        if (show->tensors)
            print_tensors(in, out);
        print_table(in, out);
        buf_puts(out, "  health\n");
        print_findings(in, "    ", out);
        if (in->findings.count == 0)
            buf_puts(out, "    ok       nothing found\n");
    }
    report_disarm(out, from);
}

static void put_sum(struct json_writer *w, const struct inspect_sum *sum)
{
    json_put_u64(w, "weights", sum->weights);
    json_put_u64(w, "parameters", sum->parameters);
    json_put_u64(w, "bytes", sum->bytes);
}

static void put_arch(struct json_writer *w, const struct inspection *in)
{
    const struct arch *a = &in->source->arch;

    json_put_string(w, "architecture", a->architecture);
    json_put_string(w, "model_type", a->model_type);
    json_begin_object(w, "layers");
    json_put_u64(w, "main", a->layers);
    json_put_u64(w, "dense", in->dense_layers);
    json_put_u64(w, "moe", in->moe_layers);
    json_put_u64(w, "mtp_declared", a->mtp_layers);
    json_put_u64(w, "mtp_stored", in->mtp_layers_stored);
    json_end(w, '}');
    json_begin_object(w, "dimensions");
    json_put_u64(w, "hidden_size", a->hidden_size);
    json_put_u64(w, "vocab_size", a->vocab_size);
    json_put_u64(w, "heads", a->heads);
    json_put_u64(w, "q_lora_rank", a->q_lora_rank);
    json_put_u64(w, "kv_lora_rank", a->kv_lora_rank);
    json_put_u64(w, "qk_nope_dim", a->qk_nope_dim);
    json_put_u64(w, "qk_rope_dim", a->qk_rope_dim);
    json_put_u64(w, "v_dim", a->v_dim);
    json_end(w, '}');
    json_begin_object(w, "experts");
    json_put_u64(w, "routed", a->experts);
    json_put_u64(w, "per_token", a->experts_per_token);
    json_put_u64(w, "shared", a->shared_experts);
    json_put_u64(w, "groups", a->groups);
    json_put_u64(w, "groups_per_token", a->topk_groups);
    json_end(w, '}');
    json_begin_object(w, "context");
    json_put_u64(w, "max_positions", a->max_positions);
    if (a->yarn) {
        json_put_double(w, "yarn_factor", a->yarn_factor);
        json_put_u64(w, "yarn_original_positions", a->yarn_original_positions);
    }
    json_end(w, '}');
}

static void put_numbers(struct json_writer *w, const struct inspection *in)
{
    json_begin_object(w, "parameters");
    json_put_u64(w, "main", in->main.parameters);
    json_put_u64(w, "active_per_token", in->active_parameters);
    json_put_u64(w, "mtp", in->mtp.parameters);
    json_end(w, '}');
    json_put_u64(w, "weight_bytes_per_token", in->active_bytes);
    json_begin_object(w, "kv_bytes_per_token");
    json_put_u64(w, "latent", in->kv_latent_bytes);
    json_put_u64(w, "all_heads", in->kv_heads_bytes);
    json_end(w, '}');
    json_begin_object(w, "quantization");
    json_put_string(w, "config", in->claimed);
    json_put_string(w, "stored", in->stored);
    json_end(w, '}');
    json_begin_object(w, "files");
    json_put_u64(w, "shards", in->source->checkpoint.shard_count);
    json_put_u64(w, "bytes", in->file_bytes);
    json_put_u64(w, "tensors", in->source->checkpoint.tensor_count);
    json_put_u64(w, "tensor_bytes", in->source->checkpoint.tensor_bytes);
    json_end(w, '}');
}

static void put_rows(struct json_writer *w, const struct inspection *in)
{
    json_begin_array(w, "roles");
    for (size_t i = 0; i < in->row_count; i++) {
        json_begin_object(w, NULL);
        json_put_string(w, "group", in->rows[i].group);
        json_put_bool(w, "mtp", in->rows[i].mtp);
        json_put_string(w, "stored", in->rows[i].stored);
        put_sum(w, &in->rows[i].sum);
        json_end(w, '}');
    }
    json_end(w, ']');
}

static void put_tensors(struct json_writer *w, const struct inspection *in)
{
    const struct checkpoint *c = &in->source->checkpoint;

    json_begin_array(w, "tensors");
    for (size_t i = 0; i < c->tensor_count; i++) {
        const struct tensor *t = &c->tensors[i];
        json_begin_object(w, NULL);
        json_put_string(w, "name", t->name);
        json_put_string(w, "dtype", dtype_get(t->dtype)->name);
        json_begin_array(w, "shape");
        for (uint32_t d = 0; d < t->rank; d++)
            json_put_u64(w, NULL, t->dims[d]);
        json_end(w, ']');
        json_put_string(w, "role", tensor_group(in, t));
        json_put_u64(w, "bytes", t->bytes);
        json_put_string(w, "shard", c->shards[t->shard].name);
        json_put_u64(w, "offset", t->offset);
        json_end(w, '}');
    }
    json_end(w, ']');
}

void inspect_print_json(const struct inspection *in, const struct inspect_show *show, struct buf *out)
{
    struct json_writer w = {.out = out};

    json_begin_object(&w, NULL);
    json_put_string(&w, "path", in->source->checkpoint.path);
    put_arch(&w, in);
    put_numbers(&w, in);
    put_rows(&w, in);
    if (show->tensors)
        put_tensors(&w, in);
    findings_put_json(&in->findings, &w);
    json_end(&w, '}');
    buf_puts(out, "\n");
}
