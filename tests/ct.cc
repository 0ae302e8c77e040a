// The one C++ file: hands the C tests to GoogleTest. See ct.h.
#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <list>
#include <string>

#include "tests/ct.h"

extern "C" {
#include "quant/kernel.h"
}

// A plain list: C++ statics are not ready when the constructors in the C files run.
static ct_test *first, **last = &first;
static char case_now[256];
static std::list<std::string> *folders;
static std::string shared;

void ct_register(ct_test *t)
{
    *last = t;
    last = &t->next;
}

class CTest : public testing::Test
{
public:
    explicit CTest(const ct_test *t) : test(t) {}
    void SetUp() override { case_now[0] = '\0'; }
    void TestBody() override { test->run(); }
    void TearDown() override
    {
        for (const std::string &folder : *folders)
            std::filesystem::remove_all(folder);
        folders->clear();
    }

private:
    const ct_test *test;
};

void ct_case(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(case_now, sizeof case_now, fmt, args);
    va_end(args);
}

static void skip() { GTEST_SKIP(); }

void ct_skip_note(const char *file, int line, const char *fmt, ...)
{
    const testing::TestInfo *info = testing::UnitTest::GetInstance()->current_test_info();
    char why[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(why, sizeof why, fmt, args);
    va_end(args);
    fprintf(stderr, "%s:%d: SKIPPED %s.%s: %s\n", file, line, info->test_suite_name(), info->name(), why);
    skip();
}

static std::string new_folder()
{
    std::string name = testing::TempDir() + "quern-test-XXXXXX";

    if (!mkdtemp(name.data())) {
        perror(name.c_str());
        abort();
    }
    return name;
}

const char *ct_temp_dir(void)
{
    folders->push_back(new_folder());
    return folders->back().c_str();
}

const char *ct_shared_dir(void)
{
    if (shared.empty())
        shared = new_folder();
    return shared.c_str();
}

static bool held(bool ok, const char *file, int line, const char *fmt, ...) PRINTF_LIKE(4, 5);
static bool held(bool ok, const char *file, int line, const char *fmt, ...)
{
    char text[2048];
    va_list args;

    if (ok)
        return true;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ADD_FAILURE_AT(file, line) << text << (case_now[0] ? "\n  case: " : "") << case_now;
    return false;
}

bool ct_true(const char *file, int line, const char *expr, bool want, bool got)
{
    return held(want == got, file, line, "%s\n  is %s", expr, got ? "true" : "false");
}

bool ct_i64(const char *file, int line, const char *expr, int64_t want, int64_t got)
{
    return held(want == got, file, line, "%s\n  want: %" PRId64 "\n   got: %" PRId64, expr, want, got);
}

bool ct_u64(const char *file, int line, const char *expr, uint64_t want, uint64_t got)
{
    return held(want == got, file, line, "%s\n  want: %" PRIu64 " (0x%" PRIx64 ")\n   got: %" PRIu64 " (0x%" PRIx64 ")",
                expr, want, want, got, got);
}

bool ct_f32(const char *file, int line, const char *expr, float want, float got)
{
    uint32_t want_bits, got_bits;

    memcpy(&want_bits, &want, sizeof want_bits);
    memcpy(&got_bits, &got, sizeof got_bits);
    return held(want_bits == got_bits, file, line, "%s\n  want: %.9g (0x%08x)\n   got: %.9g (0x%08x)", expr,
                (double)want, want_bits, (double)got, got_bits);
}

bool ct_near(const char *file, int line, const char *expr, double want, double got, double tolerance)
{
    double off = got > want ? got - want : want - got;

    return held(want == got || off <= tolerance, file, line,
                "%s\n  want: %.17g\n   got: %.17g\n   off: %.3g, more than %.3g", expr, want, got, off, tolerance);
}

bool ct_str(const char *file, int line, const char *expr, const char *want, const char *got)
{
    bool same = want && got ? !strcmp(want, got) : want == got;

    return held(same, file, line, "%s\n  want: \"%s\"\n   got: \"%s\"", expr, want ? want : "(NULL)",
                got ? got : "(NULL)");
}

bool ct_has(const char *file, int line, const char *expr, const char *haystack, const char *needle)
{
    return held(haystack && strstr(haystack, needle), file, line, "%s\n  is: \"%s\"\n  and has no: \"%s\"", expr,
                haystack ? haystack : "(NULL)", needle);
}

bool ct_mem(const char *file, int line, const char *expr, const void *want, const void *got, size_t bytes)
{
    const unsigned char *w = (const unsigned char *)want, *g = (const unsigned char *)got;
    size_t at = 0;

    while (at < bytes && w[at] == g[at])
        at++;
    return at == bytes || held(false, file, line, "%s\n  differs first at byte %zu of %zu: want %02x, got %02x", expr,
                               at, bytes, w[at], g[at]);
}

bool ct_err(const char *file, int line, const char *expr, const err *e, err_code code, const char *part)
{
    if (!part)
        return held(false, file, line, "%s\n  failed with code %d: \"%s\"", expr, (int)e->code, e->text);
    return held(e->code == code && strstr(e->text, part), file, line,
                "%s\n  want: code %d with \"%s\"\n   got: code %d, \"%s\"", expr, (int)code, part, (int)e->code,
                e->text);
}

int main(int argc, char **argv)
{
    std::list<std::string> all_folders;

    folders = &all_folders;
    testing::InitGoogleTest(&argc, argv);
    if (err e = {}; !kernel_pick(&e)) {
        fprintf(stderr, "%s\n", e.text);
        return 2;
    }
    for (const ct_test *t = first; t; t = t->next)
        testing::RegisterTest(t->group, t->name, nullptr, nullptr, t->file, t->line,
                              [t]() -> testing::Test * { return new CTest(t); });
    int status = RUN_ALL_TESTS();
    if (!shared.empty())
        std::filesystem::remove_all(shared);
    return status;
}
