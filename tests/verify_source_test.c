/* What --source makes again: by a row's scheme and method, whatever the recipe, and as far off where a text decided. */
#include <string.h>

#include "tests/bundle_support.h"
#include "tests/convert_support.h"
#include "tests/ct.h"
#include "tests/defect_support.h"

/* What a calibration chose cannot be made again, but how far off it is can be measured. */
static void call_calibrated(struct manifest *m, struct arena *a)
{
    (void)a;
    for (size_t i = 0; i < m->row_count; i++)
        if (strcmp(m->rows[i].method, "absmax") == 0)
            m->rows[i].method = "ldlq";
}

TEST(verify_source, calibrated_weights_are_as_far_off_as_recorded)
{
    struct arena a = {0};
    struct verification v;

    const char *copy = defect_copy(&a, BASE_INT4);
    ASSERT_TRUE(copy != NULL);
    bundle_edit_manifest(copy, call_calibrated);
    if (defect_verify(&v, copy, HOW_SOURCE)) {
        EXPECT_EQ_U64(192, v.derived.as_far);
        EXPECT_EQ_U64(v.manifest.row_count - 192, v.derived.exact);
        EXPECT_EQ_U64(0, findings_count(&v.findings, SEVERITY_ERROR));
        verify_release(&v);
    }
    plant_swapped_experts(copy);
    bundle_rehash(copy);
    if (defect_verify(&v, copy, HOW_SOURCE)) {
        expect_finding(&v, "source-error");
        EXPECT_EQ_U64(2, findings_count(&v.findings, SEVERITY_ERROR)); /* both that were swapped */
        verify_release(&v);
    }
    arena_release(&a);
}

/* Of FP8 the scales are made again, which a text does not change; they must be the same bytes, not only as far off. */
TEST(verify_source, calibrated_fp8_has_the_scales_that_its_source_gives)
{
    struct conversion_case c = {.recipe = "fp8-ue8m0"}; /* the source has other scales: none is copied */
    struct arena a = {0};
    struct verification v;
    struct err e = {0};
    const char *copy = arena_printf(&a, "%s/copy", ct_temp_dir());

    ASSERT_OK(support_convert(SAMPLE, copy, &c, &e), e);
    bundle_edit_manifest(copy, call_calibrated);
    if (defect_verify(&v, copy, HOW_SOURCE)) {
        EXPECT_TRUE(v.derived.as_far > 200);
        EXPECT_EQ_U64(v.manifest.row_count, v.derived.as_far + v.derived.exact);
        EXPECT_EQ_U64(0, findings_count(&v.findings, SEVERITY_ERROR));
        verify_release(&v);
    }
    plant_fp8_scale_twice(copy);
    bundle_rehash(copy);
    if (defect_verify(&v, copy, HOW_SOURCE)) {
        expect_finding(&v, "source-mismatch");
        verify_release(&v);
    }
    arena_release(&a);
}

static void call_searched(struct manifest *m, struct arena *a)
{
    static struct manifest_calibration none = {.ending = "search",
                                               .reason = "no tokens reached it",
                                               .routed_weight = -1,
                                               .to_prior = -1,
                                               .to_diagonal = -1,
                                               .output_error = -1};

    call_calibrated(m, a);
    for (size_t i = 0; i < m->row_count; i++)
        if (strcmp(m->rows[i].method, "ldlq") == 0)
            m->rows[i].calibration = &none;
}

TEST(verify_source, what_no_token_reached_must_be_what_a_search_gives)
{
    struct arena a = {0};
    struct verification v;

    const char *copy = defect_copy(&a, BASE_INT4); /* which has the scales of the largest magnitude */
    ASSERT_TRUE(copy != NULL);
    bundle_edit_manifest(copy, call_searched);
    if (defect_verify(&v, copy, HOW_SOURCE)) {
        expect_finding(&v, "source-mismatch");
        EXPECT_EQ_U64(192, findings_count(&v.findings, SEVERITY_ERROR));
        EXPECT_EQ_U64(0, v.derived.as_far);
        verify_release(&v);
    }
    arena_release(&a);
}

/* Whatever a recipe may ask for, and from whatever. */
TEST(verify_source, bundles_of_every_kind_are_what_their_rows_say)
{
    static const struct {
        const char *from, *recipe;
    } cases[] = {
        {"sample", "f32"},
        {"sample", "f16"},
        {"sample", "fp8-ue8m0"},
        {"sample", "fp8-channel"},
        {"sample", "int4:g32:asym:absmax"},
        {"sample", "int4:g64:absmax"},
        {"fp8-ue8m0", "bf16"},
        {"fp8-ue8m0", "fp8"},
        {"fp8-ue8m0",
         "[{\"match\": \"routed_expert\", \"scheme\": \"fp8\"}, {\"match\": \"*\", \"scheme\": \"keep\"}]"},
        {"sample", "[{\"match\": \"attention\", \"scheme\": \"fp8-ue8m0\"}, {\"match\": \"*\", \"scheme\": \"keep\"}]"},
        {"sample", "[{\"match\": \"routed_expert\", \"scheme\": \"int4\", \"group\": 128, \"method\": \"absmax\"}, "
                   "{\"match\": \"*\", \"scheme\": \"fp8\", \"layout\": \"compressed-tensors\"}]"},
        {"int4:g64:absmax", "int4:g32:absmax"},
        {"int4:g32:asym:absmax", "fp8"},
        {"f16", "fp8"},
    };
    struct arena a = {0};
    const char *dir = ct_temp_dir();

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool sample = strcmp(cases[i].from, "sample") == 0;
        const char *from = sample ? SAMPLE : arena_printf(&a, "%s/%s", dir, cases[i].from);
        const char *to = arena_printf(
            &a, "%s/%s", dir, sample && cases[i].recipe[0] != '[' ? cases[i].recipe : arena_printf(&a, "%zu", i));
        struct conversion_case c = {.recipe = cases[i].recipe};
        struct verify_options o = {
            .quiet = true, .deep = true, .no_fingerprint = true, .sample_percent = 100, .source = from};
        struct verification v;
        struct err e = {0};
        ct_case("%s from %s", cases[i].recipe, cases[i].from);
        EXPECT_OK(support_convert(from, to, &c, &e), e);
        if (e.code != ERR_NONE || !verify_run(&v, to, &o, &e)) {
            EXPECT_OK(e.code == ERR_NONE, e);
            continue;
        }
        for (size_t k = 0; k < v.findings.count; k++)
            if (rule_get(v.findings.items[k].rule)->severity != SEVERITY_NOTE &&
                v.findings.items[k].rule != RULE_ENGINE_REFUSES) /* the sample's kv_b_proj is narrow */
                EXPECT_STR_EQ("", v.findings.items[k].text);
        EXPECT_EQ_U64(v.manifest.row_count, v.derived.exact);
        verify_release(&v);
    }
    arena_release(&a);
}
