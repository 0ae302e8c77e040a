/* Manifests that do not say what is in the bundle, each spoilt in one way. */
#include <string.h>

#include "tests/bundle_support.h"
#include "tests/ct.h"
#include "tests/defect_support.h"

/* ---- rows, files, sources ---- */

static void drop_row(struct manifest *m, struct arena *a)
{
    (void)a;
    m->row_count--;
}

static void row_missing(const char *dir)
{
    bundle_edit_manifest(dir, drop_row);
}

static void repeat_row(struct manifest *m, struct arena *a)
{
    (void)a;
    m->rows[1] = m->rows[0];
}

static void row_twice(const char *dir)
{
    bundle_edit_manifest(dir, repeat_row);
}

static void rename_tensor(struct manifest *m, struct arena *a)
{
    (void)a;
    m->rows[7].tensors[0] = "model.ghost.weight";
}

static void row_tensor(const char *dir)
{
    bundle_edit_manifest(dir, rename_tensor);
}

static void change_scheme(struct manifest *m, struct arena *a)
{
    (void)a;
    m->rows[0].scheme = "F32";
}

static void row_scheme(const char *dir)
{
    bundle_edit_manifest(dir, change_scheme);
}

static void change_shape(struct manifest *m, struct arena *a)
{
    (void)a;
    m->rows[0].shape[0]++;
}

static void row_shape(const char *dir)
{
    bundle_edit_manifest(dir, change_shape);
}

static void change_hash(struct manifest *m, struct arena *a)
{
    char *hex = arena_strdup(a, m->files[1].sha256);

    hex[63] = hex[63] == '0' ? '1' : '0';
    m->files[1].sha256 = hex;
}

static void hash_wrong(const char *dir)
{
    bundle_edit_manifest(dir, change_hash);
}

static void climb_out(struct manifest *m, struct arena *a)
{
    (void)a;
    m->files[0].name = "../outside";
}

static void file_outside(const char *dir)
{
    bundle_edit_manifest(dir, climb_out);
}

static void manifest_spoilt(const char *dir)
{
    bundle_replace(dir, MANIFEST_NAME, "\"weights\"", "\"w3ights\"");
}

static void change_error(struct manifest *m, struct arena *a)
{
    (void)a;
    for (size_t i = 0; i < m->row_count; i++)
        if (m->rows[i].error > 0)
            m->rows[i].error *= 1.01;
}

static void error_wrong(const char *dir)
{
    bundle_edit_manifest(dir, change_error);
}

static void change_config_hash(struct manifest *m, struct arena *a)
{
    (void)a;
    m->config_sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
}

static void another_source(const char *dir)
{
    bundle_edit_manifest(dir, change_config_hash);
}

static void change_sources(struct manifest *m, struct arena *a)
{
    (void)a;
    m->rows[0].sources[0] = "model.ghost.weight";
}

static void source_ghost(const char *dir)
{
    bundle_edit_manifest(dir, change_sources);
}

static void change_method(struct manifest *m, struct arena *a)
{
    (void)a;
    m->rows[0].method = "astrology";
}

static void method_unknown(const char *dir)
{
    bundle_edit_manifest(dir, change_method);
}

/* ---- the fingerprint ---- */

static void strange_prompt(struct manifest *m, struct arena *a)
{
    (void)a;
    m->fingerprint->prompt[3] = 4096;
}

static void prompt_past_vocabulary(const char *dir)
{
    bundle_edit_manifest(dir, strange_prompt);
}

static void fewer_positions(struct manifest *m, struct arena *a)
{
    (void)a;
    m->fingerprint->position_count--;
}

static void position_missing(const char *dir)
{
    bundle_edit_manifest(dir, fewer_positions);
}

static void fewer_mtp_positions(struct manifest *m, struct arena *a)
{
    (void)a;
    m->fingerprint->mtp_count--;
}

static void mtp_position_missing(const char *dir)
{
    bundle_edit_manifest(dir, fewer_mtp_positions);
}

static void strange_expert(struct manifest *m, struct arena *a)
{
    (void)a;
    m->fingerprint->routing[0].experts[0] = 16;
}

static void expert_past_count(const char *dir)
{
    bundle_edit_manifest(dir, strange_expert);
}

static void forget(struct manifest *m, struct arena *a)
{
    (void)a;
    m->fingerprint = NULL;
    m->no_fingerprint = "left out";
}

static void fingerprint_forgotten(const char *dir)
{
    bundle_edit_manifest(dir, forget);
}

static const struct defect defects[] = {
    {"row-missing", row_missing, BASE_INT4, HOW_PLAIN},
    {"row-twice", row_twice, BASE_INT4, HOW_PLAIN},
    {"row-tensor-missing", row_tensor, BASE_INT4, HOW_PLAIN},
    {"row-scheme", row_scheme, BASE_INT4, HOW_PLAIN},
    {"row-shape", row_shape, BASE_INT4, HOW_PLAIN},
    {"file-hash", hash_wrong, BASE_INT4, HOW_PLAIN},
    {"manifest-malformed", manifest_spoilt, BASE_INT4, HOW_PLAIN},
    {"manifest-malformed", file_outside, BASE_INT4, HOW_PLAIN},
    {"source-error", error_wrong, BASE_INT4, HOW_SOURCE},
    {"source-config", another_source, BASE_INT4, HOW_SOURCE},
    {"source-tensor-missing", source_ghost, BASE_INT4, HOW_SOURCE},
    {"source-unused", source_ghost, BASE_INT4, HOW_SOURCE},
    {"method-unknown", method_unknown, BASE_INT4, HOW_SOURCE},
    {"fingerprint-missing", fingerprint_forgotten, BASE_INT4, HOW_PLAIN | HOW_ASK},
    {"manifest-malformed", prompt_past_vocabulary, BASE_INT4, HOW_PLAIN | HOW_ASK},
    {"manifest-malformed", position_missing, BASE_INT4, HOW_PLAIN | HOW_ASK},
    {"manifest-malformed", mtp_position_missing, BASE_INT4, HOW_PLAIN | HOW_ASK},
    {"manifest-malformed", expert_past_count, BASE_INT4, HOW_PLAIN | HOW_ASK},
};

TEST(verify_defects_manifest, every_planted_one_is_found_by_its_name)
{
    defects_check(defects, sizeof defects / sizeof defects[0]);
}

static void ask_no_mtp(struct manifest *m, struct arena *a)
{
    (void)a;
    m->fingerprint->mtp_count = 0;
    m->fingerprint->routing_count--;
}

/* Bundles that were made before the MTP layer was asked are held to what they have. */
TEST(verify_defects_manifest, a_fingerprint_without_the_mtp_layer_is_held_to_what_it_has)
{
    struct arena a = {0};
    struct verification v;

    const char *copy = defect_copy(&a, BASE_INT4);
    ASSERT_TRUE(copy != NULL);
    bundle_edit_manifest(copy, ask_no_mtp);
    if (defect_verify(&v, copy, HOW_ASK)) {
        EXPECT_EQ_U64(0, findings_count(&v.findings, SEVERITY_ERROR));
        EXPECT_EQ_U64(FINGERPRINT_TOKENS * FINGERPRINT_TOP, v.fingerprint.logprobs);
        EXPECT_EQ_U64(FINGERPRINT_TOKENS * 4 * 3, v.fingerprint.choices);
        EXPECT_EQ_U64(0, v.fingerprint.mtp_positions);
        verify_release(&v);
    }
    arena_release(&a);
}
