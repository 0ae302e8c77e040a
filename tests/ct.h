/* Tests in C, run by GoogleTest (ct.cc): filters, XML, sharding and repeat work.
 *
 *     TEST(gguf, a_name_longer_than_the_file_is_refused) { ... }
 *
 * EXPECT_ notes a failure and goes on; ASSERT_ also returns from the C function
 * it stands in. The kernels are those that the program picks (QUERN_CPU). The wanted value comes first. Safe from any
 * thread, but for ct_case, ct_skip and the folders, which belong to the test's own. */
#ifndef TESTS_CT_H
#define TESTS_CT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats/base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ct_test {
    const char *group, *name, *file;
    int line;
    void (*run)(void);
    struct ct_test *next;
};
void ct_register(struct ct_test *t);

/* Names the current case in the failures that follow, until the next or the end of the test. */
void ct_case(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* A new empty folder, removed at the end of the test. The name lives as long. */
const char *ct_temp_dir(void);
/* The same, but one for all tests of this process and removed behind the last: for what several of them read. */
const char *ct_shared_dir(void);

/* What the macros call. All return whether the expectation held. */
void ct_skip_note(const char *file, int line, const char *fmt, ...) PRINTF_LIKE(3, 4);
bool ct_true(const char *file, int line, const char *expr, bool want, bool got);
bool ct_i64(const char *file, int line, const char *expr, int64_t want, int64_t got);
bool ct_u64(const char *file, int line, const char *expr, uint64_t want, uint64_t got);
bool ct_f32(const char *file, int line, const char *expr, float want, float got);
bool ct_near(const char *file, int line, const char *expr, double want, double got, double tolerance);
bool ct_str(const char *file, int line, const char *expr, const char *want, const char *got);
bool ct_has(const char *file, int line, const char *expr, const char *haystack, const char *needle);
bool ct_mem(const char *file, int line, const char *expr, const void *want, const void *got, size_t bytes);
bool ct_err(const char *file, int line, const char *expr, const struct err *e, enum err_code code, const char *part);

#ifdef __cplusplus
}
#else

#define TEST(group_, name_)                                                                                            \
    static void group_##_##name_##_run(void);                                                                          \
    __attribute__((constructor)) static void group_##_##name_##_register(void)                                         \
    {                                                                                                                  \
        static struct ct_test t = {#group_, #name_, __FILE__, __LINE__, group_##_##name_##_run, NULL};                 \
        ct_register(&t);                                                                                               \
    }                                                                                                                  \
    static void group_##_##name_##_run(void)

/* Ends the test, loudly: ct_skip("no AVX-512 here"). Only in the test's own function. */
#define ct_skip(...)                                                                                                   \
    do {                                                                                                               \
        ct_skip_note(__FILE__, __LINE__, __VA_ARGS__);                                                                 \
        return;                                                                                                        \
    } while (0)

#define CT_OR_RETURN(held)                                                                                             \
    do {                                                                                                               \
        if (!(held))                                                                                                   \
            return;                                                                                                    \
    } while (0)

#define CT_TRUE(x)                    ct_true(__FILE__, __LINE__, #x, true, (x))
#define CT_FALSE(x)                   ct_true(__FILE__, __LINE__, #x, false, (x))
#define CT_I64(want, got)             ct_i64(__FILE__, __LINE__, #got, (int64_t)(want), (int64_t)(got))
#define CT_U64(want, got)             ct_u64(__FILE__, __LINE__, #got, (uint64_t)(want), (uint64_t)(got))
#define CT_F32(want, got)             ct_f32(__FILE__, __LINE__, #got, (want), (got))
#define CT_NEAR(want, got, tolerance) ct_near(__FILE__, __LINE__, #got, (want), (got), (tolerance))
#define CT_STR(want, got)             ct_str(__FILE__, __LINE__, #got, (want), (got))
#define CT_HAS(haystack, needle)      ct_has(__FILE__, __LINE__, #haystack, (haystack), (needle))
#define CT_MEM(want, got, bytes)      ct_mem(__FILE__, __LINE__, #got, (want), (got), (bytes))
#define CT_ERR(e, code, part)         ct_err(__FILE__, __LINE__, #e, &(e), (code), (part))

#define EXPECT_TRUE(x)                        ((void)CT_TRUE(x))
#define EXPECT_FALSE(x)                       ((void)CT_FALSE(x))
#define EXPECT_EQ_I64(want, got)              ((void)CT_I64(want, got))
#define EXPECT_EQ_U64(want, got)              ((void)CT_U64(want, got))
#define EXPECT_EQ_F32(want, got)              ((void)CT_F32(want, got)) /* the same bits */
#define EXPECT_NEAR_F64(want, got, tolerance) ((void)CT_NEAR(want, got, tolerance))
#define EXPECT_STR_EQ(want, got)              ((void)CT_STR(want, got))
#define EXPECT_STR_HAS(haystack, needle)      ((void)CT_HAS(haystack, needle))
#define EXPECT_MEM_EQ(want, got, bytes)       ((void)CT_MEM(want, got, bytes))
#define EXPECT_ERR(e, code, part)             ((void)CT_ERR(e, code, part)) /* e: a struct err, not a pointer */

#define ASSERT_TRUE(x)                        CT_OR_RETURN(CT_TRUE(x))
#define ASSERT_FALSE(x)                       CT_OR_RETURN(CT_FALSE(x))
#define ASSERT_EQ_I64(want, got)              CT_OR_RETURN(CT_I64(want, got))
#define ASSERT_EQ_U64(want, got)              CT_OR_RETURN(CT_U64(want, got))
#define ASSERT_EQ_F32(want, got)              CT_OR_RETURN(CT_F32(want, got))
#define ASSERT_NEAR_F64(want, got, tolerance) CT_OR_RETURN(CT_NEAR(want, got, tolerance))
#define ASSERT_STR_EQ(want, got)              CT_OR_RETURN(CT_STR(want, got))
#define ASSERT_STR_HAS(haystack, needle)      CT_OR_RETURN(CT_HAS(haystack, needle))
#define ASSERT_MEM_EQ(want, got, bytes)       CT_OR_RETURN(CT_MEM(want, got, bytes))
#define ASSERT_ERR(e, code, part)             CT_OR_RETURN(CT_ERR(e, code, part))
/* A call that takes &e last and must succeed; shows the message when it does not. */
#define EXPECT_OK(call, e)                    ((void)((call) || ct_err(__FILE__, __LINE__, #call, &(e), ERR_NONE, NULL)))
#define ASSERT_OK(call, e)                    CT_OR_RETURN((call) || ct_err(__FILE__, __LINE__, #call, &(e), ERR_NONE, NULL))

#endif
#endif
