#include "tests/defect_support.h"

#include "formats/base/file.h"
#include "tests/bundle_support.h"
#include "tests/convert_support.h"
#include "tests/ct.h"

const char *defect_bases[BASE_COUNT];

bool defect_bases_make(struct arena *a)
{
    static const char *const recipes[BASE_COUNT] = {
        [BASE_INT4] = "int4:g128:absmax", /* searching takes the reference kernel seconds */
        [BASE_FP8] = "fp8",
        [BASE_SPLIT] = "[{\"match\": \"expert_gate\", \"scheme\": \"int4\", \"group\": 128, \"method\": \"absmax\"}, "
                       "{\"match\": \"*\", \"scheme\": \"bf16\"}]",
    };
    const char *dir = ct_temp_dir();
    struct err e = {0};

    for (enum base b = 0; b < BASE_COUNT && e.code == ERR_NONE; b++) {
        struct conversion_case c = {.recipe = recipes[b], .options = {.shard_bytes = 4500000}, .fingerprint = true};
        defect_bases[b] = arena_printf(a, "%s/base-%d", dir, (int)b);
        EXPECT_OK(support_convert(SAMPLE, defect_bases[b], &c, &e), e);
    }
    return e.code == ERR_NONE;
}

bool defect_verify(struct verification *v, const char *dir, unsigned how)
{
    struct verify_options o = {.quiet = true, .deep = how & HOW_DEEP, .sample_percent = 100, .threads = 2};
    struct err e = {0};

    o.no_fingerprint = !(how & HOW_ASK);
    o.source = how & HOW_SOURCE ? SAMPLE : NULL;
    EXPECT_OK(verify_run(v, dir, &o, &e), e);
    return e.code == ERR_NONE;
}

void expect_finding(const struct verification *v, const char *id)
{
    struct verify_show show = {0};
    struct buf text = {0};

    EXPECT_TRUE(rule_find(id) != RULE_MALFORMED);
    if (!findings_has(&v->findings, rule_find(id))) {
        verify_print_text(v, &show, &text);
        EXPECT_STR_HAS(text.data, id);
    }
    buf_release(&text);
}

void defects_check(const struct defect *defects, size_t count)
{
    struct arena a = {0};
    const char *dir = ct_temp_dir();

    ASSERT_TRUE(defect_bases_make(&a));
    for (size_t i = 0; i < count; i++) {
        const struct defect *d = &defects[i];
        const char *copy = arena_printf(&a, "%s/%zu", dir, i);
        struct verification v;
        struct err e = {0};
        ct_case("%s (%zu)", d->rule, i);
        bundle_copy(defect_bases[d->base], copy);
        d->plant(copy);
        if (d->how & HOW_REHASH)
            bundle_rehash(copy);
        if (defect_verify(&v, copy, d->how)) {
            expect_finding(&v, d->rule);
            bool defective = findings_count(&v.findings, SEVERITY_ERROR) > 0;
            bool wanted = rule_get(rule_find(d->rule))->severity == SEVERITY_ERROR;
            EXPECT_TRUE(defective || !wanted);
            verify_release(&v);
        }
        EXPECT_OK(dir_remove_tree(copy, &e), e);
    }
    arena_release(&a);
}
