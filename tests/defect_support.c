#include "tests/defect_support.h"

#include "formats/base/file.h"
#include "tests/bundle_support.h"
#include "tests/convert_support.h"
#include "tests/ct.h"

const char *defect_base(enum base b)
{
    static const char *const recipes[BASE_COUNT] = {
        [BASE_INT4] = "int4:g128:absmax", /* searching takes the reference kernel seconds */
        [BASE_FP8] = "fp8",
        [BASE_STATIC] = "[{\"match\": [\"routed_expert\", \"dense_mlp\"], \"scheme\": \"fp8-static\"}, "
                        "{\"match\": \"*\", \"scheme\": \"bf16\"}]",
        [BASE_SPLIT] = "[{\"match\": \"expert_gate\", \"scheme\": \"int4\", \"group\": 128, \"method\": \"absmax\"}, "
                       "{\"match\": \"*\", \"scheme\": \"bf16\"}]",
    };
    static struct arena names;
    static const char *made[BASE_COUNT];
    struct conversion_case c = {.recipe = recipes[b], .options = {.shard_bytes = 4500000}, .fingerprint = true};
    struct err e = {0};

    if (made[b])
        return made[b];
    const char *dir = arena_printf(&names, "%s/base-%d", ct_shared_dir(), (int)b);
    c.ids = b == BASE_STATIC ? support_ids(&names, ct_shared_dir()) : NULL;
    EXPECT_OK(support_convert(SAMPLE, dir, &c, &e), e);
    made[b] = e.code == ERR_NONE ? dir : NULL;
    return made[b];
}

const char *defect_copy(struct arena *a, enum base b)
{
    const char *base = defect_base(b), *copy = arena_printf(a, "%s/copy", ct_temp_dir());

    if (!base)
        return NULL;
    bundle_copy(base, copy);
    return copy;
}

void plant_fp8_scale_twice(const char *dir)
{
    float scales[4];

    bundle_peek(dir, DEFECT_ATTENTION "_scale_inv", 0, scales, sizeof scales);
    for (size_t i = 0; i < 4; i++)
        scales[i] /= 448;
    bundle_poke(dir, DEFECT_ATTENTION "_scale_inv", 0, scales, sizeof scales);
}

static void swap_tensors(const char *dir, const char *a, const char *b, size_t bytes)
{
    void *x = mem_alloc(bytes), *y = mem_alloc(bytes);

    bundle_peek(dir, a, 0, x, bytes);
    bundle_peek(dir, b, 0, y, bytes);
    bundle_poke(dir, a, 0, y, bytes);
    bundle_poke(dir, b, 0, x, bytes);
    mem_free(x);
    mem_free(y);
}

void plant_swapped_experts(const char *dir)
{
    static const char *const parts[] = {"_packed", "_scale"};
    struct arena a = {0};

    for (size_t i = 0; i < 2; i++)
        swap_tensors(dir, arena_printf(&a, DEFECT_EXPERT "%s", parts[i]),
                     arena_printf(&a, "model.layers.1.mlp.experts.5.up_proj.weight%s", parts[i]),
                     i == 0 ? 128 * 256 / 2 : 128 * 2 * 2);
    arena_release(&a);
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

    for (size_t i = 0; i < count; i++) {
        const struct defect *d = &defects[i];
        const char *copy = defect_copy(&a, d->base);
        struct verification v;
        struct err e = {0};
        ct_case("%s (%zu)", d->rule, i);
        ASSERT_TRUE(copy != NULL);
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
