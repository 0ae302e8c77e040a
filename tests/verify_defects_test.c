/* Bundles that are spoilt in one way each, and found out by the name of it. */
#include <string.h>

#include "formats/base/file.h"
#include "formats/index.h"
#include "tests/bundle_support.h"
#include "tests/convert_support.h"
#include "tests/ct.h"
#include "tests/defect_support.h"

#define EXPERT    DEFECT_EXPERT
#define ROUTER    "model.layers.1.mlp.gate.weight"
#define BIAS      "model.layers.1.mlp.gate.e_score_correction_bias"
#define NORM      "model.layers.2.input_layernorm.weight"
#define MTP_PROJ  "model.layers.4.eh_proj.weight"
#define ATTENTION DEFECT_ATTENTION

/* ---- ways to spoil one ---- */

static void poke16(const char *dir, const char *tensor, uint64_t at, uint16_t value)
{
    bundle_poke(dir, tensor, at * 2, &value, sizeof value);
}

static void poke32(const char *dir, const char *tensor, uint64_t at, uint32_t value)
{
    bundle_poke(dir, tensor, at * 4, &value, sizeof value);
}

static void poke_bytes(const char *dir, const char *tensor, uint8_t value, size_t bytes)
{
    uint8_t *data = mem_alloc(bytes);

    memset(data, value, bytes);
    bundle_poke(dir, tensor, 0, data, bytes);
    mem_free(data);
}

static void flip_byte(const char *dir)
{
    uint8_t byte = 0;

    bundle_peek(dir, EXPERT "_packed", 777, &byte, 1);
    byte ^= 0x10;
    bundle_poke(dir, EXPERT "_packed", 777, &byte, 1);
}

static void truncate_shard(const char *dir)
{
    struct arena a = {0};

    bundle_truncate(dir, bundle_shard_of(&a, dir, EXPERT "_packed"), 100);
    arena_release(&a);
}

static void remove_shard(const char *dir)
{
    struct arena a = {0};

    bundle_remove(dir, bundle_shard_of(&a, dir, EXPERT "_packed"));
    arena_release(&a);
}

static void add_shard(const char *dir)
{
    struct arena a = {0};
    struct err e = {0};
    const char *shard = bundle_shard_of(&a, dir, EXPERT "_packed");

    EXPECT_OK(file_copy(path_join(&a, dir, shard), path_join(&a, dir, "consolidated.safetensors"), &e), e);
    arena_release(&a);
}

static void spoil_header(const char *dir)
{
    struct arena a = {0};

    bundle_replace(dir, bundle_shard_of(&a, dir, EXPERT "_packed"), "{", "[");
    arena_release(&a);
}

static void add_file(const char *dir)
{
    struct arena a = {0};
    struct err e = {0};

    EXPECT_OK(file_write_whole(path_join(&a, dir, "notes.txt"), "x", 1, &e), e);
    arena_release(&a);
}

static void index_absent(const char *dir)
{
    bundle_replace(dir, INDEX_FILE_NAME, "\"" EXPERT "_packed\"",
                   "\"model.ghost.weight\": \"model-00001-of-00004.safetensors\",\n\"" EXPERT "_packed\"");
}

static void index_lacks(const char *dir)
{
    bundle_replace(dir, INDEX_FILE_NAME, "\"" EXPERT "_packed\"", "\"model.ghost.weight\"");
}

static void index_wrong_shard(const char *dir)
{
    bundle_replace(dir, INDEX_FILE_NAME, "\"model.embed_tokens.weight\": \"model-00001",
                   "\"model.embed_tokens.weight\": \"model-00002");
}

static void index_total(const char *dir)
{
    bundle_replace(dir, INDEX_FILE_NAME, "\"total_size\": 1", "\"total_size\": 2");
}

static void index_spoilt(const char *dir)
{
    bundle_replace(dir, INDEX_FILE_NAME, "weight_map", "weight_mop");
}

static void index_gone(const char *dir)
{
    bundle_remove(dir, INDEX_FILE_NAME);
}

static void scale_zero(const char *dir)
{
    poke16(dir, EXPERT "_scale", 5, 0);
}

static void scale_nan(const char *dir)
{
    poke16(dir, EXPERT "_scale", 5, 0x7FC0);
}

static void scale_inf(const char *dir)
{
    poke16(dir, EXPERT "_scale", 5, 0xFF80);
}

static void scale_denormal(const char *dir)
{
    poke16(dir, EXPERT "_scale", 5, 0x0012);
}

static void scale_huge(const char *dir)
{
    poke16(dir, EXPERT "_scale", 5, 0x4600);
}

static void scale_dtype(const char *dir)
{
    bundle_edit_header(dir, EXPERT "_scale", "BF16", "I16");
}

static void scale_shape(const char *dir)
{
    bundle_edit_header(dir, EXPERT "_scale", "[128,2]", "[2,128]");
}

static void scale_renamed(const char *dir)
{
    bundle_edit_header(dir, EXPERT "_scale", "", "");
    bundle_edit_header(dir, EXPERT "_packed", "weight_scale\"", "weight_scal3\"");
    bundle_replace(dir, INDEX_FILE_NAME, EXPERT "_scale", EXPERT "_scal3");
}

static void shape_wrong(const char *dir)
{
    bundle_edit_header(dir, ATTENTION, "[256,256]", "[128,512]");
}

static void packed_shape(const char *dir)
{
    poke32(dir, EXPERT "_shape", 0, 64);
}

static void hidden_size(const char *dir)
{
    bundle_replace(dir, "config.json", "\"hidden_size\": 256", "\"hidden_size\": 512");
}

static void config_spoilt(const char *dir)
{
    bundle_replace(dir, "config.json", "\"hidden_size\"", "\"hidden_siz3\"");
}

static void config_gone(const char *dir)
{
    bundle_remove(dir, "config.json");
}

static void quant_unsaid(const char *dir)
{
    bundle_replace(dir, "config.json", "\"quantization_config\"", "\"quantization_c0nfig\"");
}

static void quant_spoilt(const char *dir)
{
    bundle_replace(dir, "config.json", "\"num_bits\": 4", "\"num_bits\": 400");
}

static void group_size(const char *dir)
{
    bundle_replace(dir, "config.json", "\"group_size\": 128", "\"group_size\": 64");
}

static void quant_format(const char *dir)
{
    bundle_replace(dir, "config.json", "\"pack-quantized\"", "\"float-quantized\"");
}

static void ignore_less(const char *dir)
{
    bundle_replace(dir, "config.json", "shared_experts\\\\..*\"", "sh4red_experts\\\\..*\"");
}

static void ignore_more(const char *dir)
{
    bundle_replace(dir, "config.json", "\"ignore\": [", "\"ignore\": [\"re:.*mlp.experts.*\",");
}

static void ignore_unmatched(const char *dir)
{
    bundle_replace(dir, "config.json", "\"ignore\": [", "\"ignore\": [\"vision_tower\",");
}

static void mtp_more(const char *dir)
{
    bundle_replace(dir, "config.json", "\"num_nextn_predict_layers\": 1", "\"num_nextn_predict_layers\": 2");
}

static void mtp_none(const char *dir)
{
    bundle_replace(dir, "config.json", "\"num_nextn_predict_layers\": 1", "\"num_nextn_predict_layers\": 0");
}

static void router_fp8(const char *dir)
{
    bundle_edit_header(dir, ROUTER, "\"BF16\",\"shape\":[16,256]", "\"F8_E4M3\",\"shape\":[16,512]");
}

static void bias_bf16(const char *dir)
{
    bundle_edit_header(dir, BIAS, "\"F32\",\"shape\":[16]", "\"BF16\",\"shape\":[32]");
}

static void norm_fp8(const char *dir)
{
    bundle_edit_header(dir, NORM, "\"BF16\",\"shape\":[256]", "\"F8_E4M3\",\"shape\":[512]");
}

static void norm_f16(const char *dir)
{
    bundle_edit_header(dir, NORM, "\"BF16\"", "\"F16\"");
}

static void tokenizer_gone(const char *dir)
{
    bundle_remove(dir, "tokenizer.json");
}

static void tokenizer_spoilt(const char *dir)
{
    bundle_replace(dir, "tokenizer.json", "\"merges\"", "\"m3rges\"");
}

static void generation_spoilt(const char *dir)
{
    bundle_replace(dir, "generation_config.json", "}", "");
}

static void generation_gone(const char *dir)
{
    bundle_remove(dir, "generation_config.json");
}

static void eos_past_vocabulary(const char *dir)
{
    bundle_replace(dir, "generation_config.json", "\"eos_token_id\": 1", "\"eos_token_id\": [1, 4096]");
}

static void eos_text(const char *dir)
{
    bundle_replace(dir, "generation_config.json", "\"eos_token_id\": 1", "\"eos_token_id\": \"</s>\"");
}

static void eos_negative(const char *dir)
{
    bundle_replace(dir, "generation_config.json", "\"eos_token_id\": 1", "\"eos_token_id\": [1, -1]");
}

static void value_nan(const char *dir)
{
    poke16(dir, NORM, 255, 0x7FC1);
}

static void value_inf(const char *dir)
{
    poke16(dir, ATTENTION, 256 * 256 - 1, 0xFF80);
}

static void weight_empty(const char *dir)
{
    poke_bytes(dir, ATTENTION, 0, 256 * 256 * 2);
}

static void group_empty(const char *dir)
{
    poke_bytes(dir, EXPERT "_packed", 0x88, 64);
}

/* ---- FP8 ---- */

static void fp8_nan(const char *dir)
{
    bundle_poke(dir, ATTENTION, 12345, "\x7f", 1);
}

static void fp8_scale_negative(const char *dir)
{
    poke32(dir, ATTENTION "_scale_inv", 1, 0xBA000000u);
}

static void fp8_scale_not_pow2(const char *dir)
{
    bundle_replace(dir, "config.json", "\"fmt\": \"e4m3\"", "\"fmt\": \"e4m3\", \"scale_fmt\": \"ue8m0\"");
}
/* ---- the forward pass ---- */

static void raise_bias(const char *dir)
{
    poke32(dir, BIAS, 2, 0x40A00000u); /* 5: every token goes to expert 2 */
}

/* Columns of the MTP layer's eh_proj, which nothing else reads: the hidden state's half takes the embedding's place. */
static void mtp_halves_swapped(const char *dir)
{
    enum { ROWS = 256, HALF = 512 };
    static uint8_t rows[ROWS][2][HALF];

    bundle_peek(dir, MTP_PROJ, 0, rows, sizeof rows);
    for (size_t row = 0; row < ROWS; row++) {
        uint8_t half[HALF];
        memcpy(half, rows[row][0], HALF);
        memcpy(rows[row][0], rows[row][1], HALF);
        memcpy(rows[row][1], half, HALF);
    }
    bundle_poke(dir, MTP_PROJ, 0, rows, sizeof rows);
}

#define STATIC_UP "model.layers.1.mlp.experts.3.up_proj"

static void input_scale_zero(const char *dir)
{
    poke32(dir, STATIC_UP ".input_scale", 0, 0);
}

static void input_scale_nan(const char *dir)
{
    poke32(dir, STATIC_UP ".input_scale", 0, 0x7FC00000u);
}

static void input_scale_negative(const char *dir)
{
    poke32(dir, STATIC_UP ".input_scale", 0, 0xBF800000u);
}

static void input_scale_other(const char *dir)
{
    poke32(dir, STATIC_UP ".input_scale", 0, 0x3F800000u);
}

static void weight_scale_other(const char *dir)
{
    poke32(dir, STATIC_UP ".weight_scale", 0, 0x3C000000u);
}

static void static_promised(const char *dir)
{
    bundle_replace(dir, "config.json", "\"activation_scheme\": \"dynamic\"", "\"activation_scheme\": \"static\"");
}

static void static_unsaid(const char *dir)
{
    static const char inputs[] =
        "\"input_activations\": {\n          \"num_bits\": 8,\n          \"type\": \"float\",\n"
        "          \"symmetric\": true,\n          \"strategy\": \"tensor\",\n"
        "          \"group_size\": null,\n          \"dynamic\": ";
    struct arena a = {0};

    bundle_replace(dir, "config.json", arena_printf(&a, "%sfalse", inputs), arena_printf(&a, "%strue", inputs));
    arena_release(&a);
}

static void nothing(const char *dir)
{
    (void)dir;
}

/* ---- the table ---- */

static const struct defect defects[] = {
    {"shard-truncated", truncate_shard, BASE_INT4, HOW_REHASH},
    {"file-size", truncate_shard, BASE_INT4, HOW_PLAIN},
    {"file-hash", flip_byte, BASE_INT4, HOW_PLAIN},
    {"shard-missing", remove_shard, BASE_INT4, HOW_PLAIN},
    {"file-missing", remove_shard, BASE_INT4, HOW_PLAIN},
    {"weight-missing", remove_shard, BASE_INT4, HOW_PLAIN},
    {"shard-extra", add_shard, BASE_INT4, HOW_PLAIN},
    {"file-extra", add_file, BASE_INT4, HOW_PLAIN},
    {"shard-malformed", spoil_header, BASE_INT4, HOW_REHASH},
    {"index-names-absent-tensor", index_absent, BASE_INT4, HOW_REHASH},
    {"index-lacks-tensor", index_lacks, BASE_INT4, HOW_REHASH},
    {"index-wrong-shard", index_wrong_shard, BASE_INT4, HOW_REHASH},
    {"index-total-size", index_total, BASE_INT4, HOW_REHASH},
    {"index-malformed", index_spoilt, BASE_INT4, HOW_REHASH},
    {"index-missing", index_gone, BASE_INT4, HOW_PLAIN},
    {"scale-zero", scale_zero, BASE_INT4, HOW_REHASH},
    {"scale-nan", scale_nan, BASE_INT4, HOW_REHASH},
    {"scale-inf", scale_inf, BASE_INT4, HOW_REHASH},
    {"scale-denormal", scale_denormal, BASE_INT4, HOW_REHASH},
    {"scale-absurd", scale_huge, BASE_INT4, HOW_REHASH},
    {"scale-dtype", scale_dtype, BASE_INT4, HOW_REHASH},
    {"scale-shape", scale_shape, BASE_INT4, HOW_REHASH},
    {"scale-missing", scale_renamed, BASE_INT4, HOW_REHASH},
    {"shape-mismatch", shape_wrong, BASE_INT4, HOW_REHASH},
    {"packed-shape", packed_shape, BASE_INT4, HOW_REHASH},
    {"shape-mismatch", hidden_size, BASE_INT4, HOW_REHASH},
    {"config-malformed", config_spoilt, BASE_INT4, HOW_REHASH},
    {"config-missing", config_gone, BASE_INT4, HOW_PLAIN},
    {"quant-config-missing", quant_unsaid, BASE_INT4, HOW_REHASH},
    {"quant-config-malformed", quant_spoilt, BASE_INT4, HOW_REHASH},
    {"quant-config-mismatch", group_size, BASE_INT4, HOW_REHASH},
    {"quant-format", quant_format, BASE_INT4, HOW_REHASH},
    {"quant-ignore", ignore_less, BASE_INT4, HOW_REHASH},
    {"quant-ignore", ignore_more, BASE_INT4, HOW_REHASH},
    {"quant-ignore-unmatched", ignore_unmatched, BASE_INT4, HOW_REHASH},
    {"fused-split", nothing, BASE_SPLIT, HOW_PLAIN},
    {"mtp-missing", mtp_more, BASE_INT4, HOW_REHASH},
    {"mtp-undeclared", mtp_none, BASE_INT4, HOW_REHASH},
    {"router-quantized", router_fp8, BASE_INT4, HOW_REHASH},
    {"router-bias-narrowed", bias_bf16, BASE_INT4, HOW_REHASH},
    {"norm-quantized", norm_fp8, BASE_INT4, HOW_REHASH},
    {"norm-dtype", norm_f16, BASE_INT4, HOW_REHASH},
    {"tokenizer-missing", tokenizer_gone, BASE_INT4, HOW_PLAIN},
    {"tokenizer-malformed", tokenizer_spoilt, BASE_INT4, HOW_REHASH},
    {"side-file-malformed", generation_spoilt, BASE_INT4, HOW_REHASH},
    {"side-file-malformed", eos_text, BASE_INT4, HOW_REHASH},
    {"side-file-malformed", eos_negative, BASE_INT4, HOW_REHASH},
    {"generation-config-missing", generation_gone, BASE_INT4, HOW_PLAIN},
    {"token-id-range", eos_past_vocabulary, BASE_INT4, HOW_REHASH},
    {"value-nan", value_nan, BASE_INT4, HOW_REHASH | HOW_DEEP},
    {"value-inf", value_inf, BASE_INT4, HOW_REHASH | HOW_DEEP},
    {"weight-empty", weight_empty, BASE_INT4, HOW_REHASH | HOW_DEEP},
    {"group-empty", group_empty, BASE_INT4, HOW_REHASH | HOW_DEEP},
    {"value-nan", fp8_nan, BASE_FP8, HOW_REHASH | HOW_DEEP},
    {"scale-negative", fp8_scale_negative, BASE_FP8, HOW_REHASH},
    {"scale-absurd", plant_fp8_scale_twice, BASE_FP8, HOW_REHASH},
    {"scale-not-pow2", fp8_scale_not_pow2, BASE_FP8, HOW_REHASH},
    {"scale-zero", input_scale_zero, BASE_STATIC, HOW_REHASH},
    {"scale-nan", input_scale_nan, BASE_STATIC, HOW_REHASH},
    {"scale-negative", input_scale_negative, BASE_STATIC, HOW_REHASH},
    {"scale-split", input_scale_other, BASE_STATIC, HOW_REHASH},
    {"scale-split", weight_scale_other, BASE_STATIC, HOW_REHASH},
    {"source-mismatch", weight_scale_other, BASE_STATIC, HOW_REHASH | HOW_SOURCE},
    {"input-scale-missing", static_promised, BASE_FP8, HOW_REHASH},
    {"input-scale-unused", static_unsaid, BASE_STATIC, HOW_REHASH},
    {"source-mismatch", flip_byte, BASE_INT4, HOW_REHASH | HOW_SOURCE},
    {"source-mismatch", plant_fp8_scale_twice, BASE_FP8, HOW_REHASH | HOW_SOURCE},
    {"side-file-lost", generation_gone, BASE_INT4, HOW_SOURCE},
    {"side-file-changed", eos_past_vocabulary, BASE_INT4, HOW_REHASH | HOW_SOURCE},
    {"fingerprint-off", plant_swapped_experts, BASE_INT4, HOW_REHASH | HOW_ASK},
    {"fingerprint-off", plant_fp8_scale_twice, BASE_FP8, HOW_REHASH | HOW_ASK},
    {"fingerprint-off", raise_bias, BASE_INT4, HOW_REHASH | HOW_ASK},
    {"router-flips", raise_bias, BASE_INT4, HOW_REHASH | HOW_ASK},
    {"fingerprint-off", mtp_halves_swapped, BASE_INT4, HOW_REHASH | HOW_ASK},
    {"fingerprint-failed", mtp_none, BASE_INT4, HOW_REHASH | HOW_ASK},
    {"fingerprint-failed", fp8_nan, BASE_FP8, HOW_REHASH | HOW_ASK},
    {"fingerprint-failed", value_nan, BASE_INT4, HOW_REHASH | HOW_ASK},
};

TEST(verify_defects, every_planted_one_is_found_by_its_name)
{
    defects_check(defects, sizeof defects / sizeof defects[0]);
}

/* And nothing is found in what was just made, but what engines would rather have otherwise. */
TEST(verify_defects, a_good_bundle_has_none)
{
    for (enum base b = 0; b < BASE_SPLIT; b++) {
        const char *base = defect_base(b);
        struct verification v;
        ct_case("base %d", (int)b);
        if (!base || !defect_verify(&v, base, HOW_DEEP | HOW_SOURCE | HOW_ASK))
            continue;
        for (size_t i = 0; i < v.findings.count; i++)
            EXPECT_TRUE(strncmp("engine-", rule_get(v.findings.items[i].rule)->id, 7) == 0);
        EXPECT_EQ_U64(v.manifest.row_count, v.derived.rows);
        EXPECT_EQ_U64(v.manifest.row_count, v.derived.exact);
        EXPECT_EQ_U64((2 * FINGERPRINT_TOKENS - 1) * FINGERPRINT_TOP, v.fingerprint.logprobs);
        EXPECT_TRUE(v.fingerprint.delta_max < 1e-5); /* five digits are recorded */
        EXPECT_EQ_U64(FINGERPRINT_TOKENS * 4 * 3 + (FINGERPRINT_TOKENS - 1) * 4, v.fingerprint.choices);
        EXPECT_EQ_U64(0, v.fingerprint.flips);
        verify_release(&v);
    }
}
