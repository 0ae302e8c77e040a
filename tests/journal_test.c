#include "convert/journal.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "convert/run.h"
#include "formats/base/file.h"
#include "tests/ct.h"
#include "tests/plan_support.h"

static const struct conversion_case bf16 = {.recipe = "bf16"};

/* A plan of the tiny model, and the path of a journal. */
struct fixture {
    struct arena arena;
    struct planned planned;
    const char *src, *path;
};

static bool begin(struct fixture *f, const struct conversion_case *c)
{
    struct ckpt_maker m = {0};
    struct err e = {0};
    const char *dir = ct_temp_dir();

    *f = (struct fixture){0};
    f->src = ct_temp_dir();
    f->path = path_join(&f->arena, dir, "journal");
    if (support_model(&m, &support_fp8))
        ckpt_write(&m, f->src);
    ckpt_release(&m);
    return planned_open(&f->planned, f->src, dir, c, &e) || ct_err(__FILE__, __LINE__, "plan", &e, ERR_NONE, NULL);
}

static void end(struct fixture *f)
{
    planned_close(&f->planned);
    arena_release(&f->arena);
}

static bool open_journal(struct fixture *f, struct journal *j, struct run_result **results, struct err *e)
{
    *results = run_results_new(&f->planned.plan);
    return journal_open(j, f->path, &f->planned.plan, *results, e);
}

static const struct weight_error some_error = {.error2 = 0.1, .energy2 = 1e300, .weights = 12345678901};

/* A journal with two jobs and a shard. */
static void write_journal(struct fixture *f)
{
    struct journal j = {0};
    struct run_result *results = NULL;
    struct err e = {0};

    ASSERT_OK(open_journal(f, &j, &results, &e), e);
    EXPECT_FALSE(j.found);
    journal_job(&j, &f->planned.plan, 0, &some_error);
    EXPECT_EQ_U64(0, j.jobs_durable);
    journal_hand_jobs(&j);
    journal_shard(&j, 0, 0, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
    EXPECT_OK(journal_flush(&j, &e), e);
    journal_job(&j, &f->planned.plan, 1, &some_error);
    journal_hand_jobs(&j);
    EXPECT_OK(journal_flush(&j, &e), e);
    EXPECT_EQ_U64(2, j.jobs_durable);
    journal_close(&j);
}

static void append_text(const char *path, const char *text, size_t bytes)
{
    struct err e = {0};
    char *data = NULL;
    size_t data_bytes = 0;
    struct buf all = {0};

    ASSERT_OK(file_slurp(path, 1 << 20, &data, &data_bytes, &e), e);
    buf_add(&all, data, data_bytes);
    buf_add(&all, text, bytes);
    EXPECT_OK(file_write_whole(path, all.data, all.bytes, &e), e);
    mem_free(data);
    buf_release(&all);
}

TEST(journal, says_what_was_done_to_the_last_bit)
{
    struct fixture f;
    struct journal j = {0};
    struct run_result *results = NULL;
    struct err e = {0};

    ASSERT_TRUE(begin(&f, &bf16));
    write_journal(&f);
    ASSERT_OK(open_journal(&f, &j, &results, &e), e);
    EXPECT_TRUE(j.found);
    EXPECT_EQ_U64(2, j.jobs_done);
    EXPECT_EQ_U64(2, j.jobs_durable);
    const struct weight_error *got = &results[0].errors[f.planned.plan.jobs[0].weight];
    EXPECT_TRUE(got->error2 == 0.1 && got->energy2 == 1e300 && got->weights == 12345678901);
    EXPECT_STR_EQ("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", results[0].sha256[0]);
    journal_close(&j);
    journal_close(&j);
    end(&f);
}

/* Rules of one calibrated weight. */
static const struct conversion_case calibrated = {
    .recipe = "[{\"match\": \"o_proj\", \"scheme\": \"int4\", \"group\": 32, \"method\": \"ldlq\"}]"};

static size_t calibrated_row(const struct plan *p)
{
    size_t row = 0;

    while (row < p->weight_count && !p->outputs[0].rows[row].calibrated)
        row++;
    return row;
}

TEST(journal, says_what_calibration_did_to_the_last_bit)
{
    static const struct calibrated_result wrote = {.ending = ENDING_DIAGONAL,
                                                   .reason = REASON_PIVOT,
                                                   .loss_error = 0.1,
                                                   .loss_energy = 3e-200,
                                                   .to_prior = 1.0 / 3,
                                                   .to_diagonal = 0.98,
                                                   .tokens = 1234567890123,
                                                   .routed_weight = 17.25,
                                                   .input_most = 1.0f / 3,
                                                   .output_most = 3e38f};
    struct fixture f;
    struct journal j = {0};
    struct run_result *results = NULL;
    struct err e = {0};

    ASSERT_TRUE(begin(&f, &calibrated));
    size_t row = calibrated_row(&f.planned.plan);
    ASSERT_TRUE(row < f.planned.plan.weight_count);
    ASSERT_OK(open_journal(&f, &j, &results, &e), e);
    journal_calibrated(&j, row, &wrote, &some_error);
    journal_layer(&j, 0);
    EXPECT_OK(journal_flush(&j, &e), e);
    journal_close(&j);

    ASSERT_OK(open_journal(&f, &j, &results, &e), e);
    const struct calibrated_result *got = &results[0].calibrated[row];
    EXPECT_EQ_U64(1, j.layers_done);
    EXPECT_TRUE(got->done && got->ending == ENDING_DIAGONAL && got->reason == REASON_PIVOT);
    EXPECT_TRUE(got->loss_error == 0.1 && got->loss_energy == 3e-200 && got->to_prior == 1.0 / 3);
    EXPECT_TRUE(got->to_diagonal == 0.98 && got->tokens == 1234567890123 && got->routed_weight == 17.25);
    EXPECT_TRUE(got->input_most == 1.0f / 3 && got->output_most == 3e38f);
    EXPECT_TRUE(results[0].errors[row].energy2 == 1e300);
    journal_close(&j);
    end(&f);
}

TEST(journal, a_half_line_is_cut_and_written_over)
{
    static const struct {
        const char *name, *text;
        size_t bytes;
    } cases[] = {
        {"a cut number", "job 2 0x1.8", 11}, {"zeros where the size grew alone", "\0\0\0\0", 4}, {"a word", "sha", 3}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture f;
        struct journal j = {0};
        struct run_result *results = NULL;
        struct err e = {0};

        ct_case("%s", cases[i].name);
        ASSERT_TRUE(begin(&f, &bf16));
        write_journal(&f);
        append_text(f.path, cases[i].text, cases[i].bytes);
        ASSERT_OK(open_journal(&f, &j, &results, &e), e);
        EXPECT_EQ_U64(2, j.jobs_done);
        journal_job(&j, &f.planned.plan, 2, &some_error);
        journal_hand_jobs(&j);
        EXPECT_OK(journal_flush(&j, &e), e);
        journal_close(&j);
        ASSERT_OK(open_journal(&f, &j, &results, &e), e);
        EXPECT_EQ_U64(3, j.jobs_done);
        journal_close(&j);
        end(&f);
    }
}

/* A full disk cut a record; the state saved after the error glued the same record to it. */
TEST(journal, a_record_that_failed_is_written_again_whole)
{
    struct fixture f;
    struct journal j = {0};
    struct run_result *results = NULL;
    struct rlimit old, small;
    struct err e = {0};

    ASSERT_TRUE(begin(&f, &bf16));
    ASSERT_OK(open_journal(&f, &j, &results, &e), e);
    journal_job(&j, &f.planned.plan, 0, &some_error);
    journal_hand_jobs(&j);
    getrlimit(RLIMIT_FSIZE, &old);
    small = (struct rlimit){.rlim_cur = j.file.bytes + 10, .rlim_max = old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    bool flushed = journal_flush(&j, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    EXPECT_FALSE(flushed);
    EXPECT_ERR(e, ERR_IO, "cannot write");
    EXPECT_STR_HAS(e.text, f.path);
    EXPECT_EQ_U64(0, j.jobs_durable);
    e = (struct err){0};
    EXPECT_OK(journal_flush(&j, &e), e);
    EXPECT_EQ_U64(1, j.jobs_durable);
    journal_close(&j);
    EXPECT_OK(open_journal(&f, &j, &results, &e), e);
    EXPECT_EQ_U64(1, j.jobs_done);
    journal_close(&j);
    end(&f);
}

/* Jobs that are hashed while a batch is being synced: what is flushed behind the sync must not speak of them. */
TEST(journal, a_flush_leaves_out_jobs_that_were_not_handed_on)
{
    struct fixture f;
    struct journal j = {0};
    struct run_result *results = NULL;
    struct err e = {0};

    ASSERT_TRUE(begin(&f, &bf16));
    ASSERT_OK(open_journal(&f, &j, &results, &e), e);
    journal_job(&j, &f.planned.plan, 0, &some_error);
    journal_hand_jobs(&j);
    journal_job(&j, &f.planned.plan, 1, &some_error);
    EXPECT_OK(journal_flush(&j, &e), e);
    EXPECT_EQ_U64(2, j.jobs_done);
    EXPECT_EQ_U64(1, j.jobs_durable);
    EXPECT_OK(journal_flush(&j, &e), e);
    EXPECT_EQ_U64(1, j.jobs_durable);
    journal_close(&j);
    ASSERT_OK(open_journal(&f, &j, &results, &e), e);
    EXPECT_EQ_U64(1, j.jobs_done);
    journal_close(&j);
    end(&f);
}

TEST(journal, a_line_that_no_run_wrote_is_refused)
{
    static const char *const lines[] = {
        "job 7 0x0p+0 0x0p+0 0\n",   /* not the next */
        "job 2\n",                   /* no sums */
        "job 2 0x0p+0 0x0p+0\n1\n",  /* the count is in the next line */
        "job 2 0x0p+0 0x0p+0 0 5\n", /* one too many */
        "job two\n",
        "shard 0 99 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n",
        "shard 1 0 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n",
        "shard 0 0 0123\n",
        "source 9 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n",
        "round 0 1 0 0x0p+0 0x0p+0 0x0p+0 0x0p+0 5 0x0p+0 0x0p+0 0x0p+0 7\n", /* nothing is calibrated here */
        "layer 1\n",                                                          /* not the next */
        "layer\n",
        "\n",
        "hello\n",
    };

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        struct fixture f;
        struct journal j = {0};
        struct run_result *results = NULL;
        struct err e = {0};

        ct_case("%s", lines[i]);
        ASSERT_TRUE(begin(&f, &bf16));
        write_journal(&f);
        append_text(f.path, lines[i], strlen(lines[i]));
        EXPECT_FALSE(open_journal(&f, &j, &results, &e));
        EXPECT_ERR(e, ERR_FORMAT, "has a line that no run wrote");
        end(&f);
    }
}

TEST(journal, facts_that_were_cut_are_written_anew)
{
    struct fixture f;
    struct journal j = {0};
    struct run_result *results = NULL;
    struct err e = {0};

    ASSERT_TRUE(begin(&f, &bf16));
    EXPECT_OK(file_write_whole(f.path, "quern-journal 1\nfact vers", 25, &e), e);
    ASSERT_OK(open_journal(&f, &j, &results, &e), e);
    EXPECT_FALSE(j.found);
    journal_close(&j);
    ASSERT_OK(open_journal(&f, &j, &results, &e), e);
    EXPECT_TRUE(j.found);
    journal_close(&j);
    end(&f);
}

/* The journal of `bf16` meets another plan. */
static void expect_refused(const struct conversion_case *c, bool touched, const char *named)
{
    struct fixture f;
    struct planned other = {0};
    struct journal j = {0};
    struct err e = {0};

    ASSERT_TRUE(begin(&f, &bf16));
    write_journal(&f);
    if (touched) {
        const struct timespec times[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
        EXPECT_EQ_I64(0, utimensat(-1, path_join(&f.arena, f.src, "model.safetensors"), times, 0));
    }
    ASSERT_OK(planned_open(&other, f.src, f.src, c, &e), e);
    EXPECT_FALSE(journal_open(&j, f.path, &other.plan, run_results_new(&other.plan), &e));
    EXPECT_ERR(e, ERR_USAGE, "an unfinished run of something else is here: its ");
    EXPECT_STR_HAS(e.text, named);
    EXPECT_STR_HAS(e.text, "--restart discards it");
    planned_close(&other);
    end(&f);
}

TEST(journal, a_run_of_something_else_is_refused_with_what_differs)
{
    const struct conversion_case f16 = {.recipe = "f16"};
    const struct conversion_case small = {.recipe = "bf16", .options = {.shard_bytes = 100000}};

    ct_case("recipe");
    expect_refused(&f16, false, "its recipe-0 has '");
    ct_case("shard size");
    expect_refused(&small, false, "its layout-0 has '\"1 shard,");
    ct_case("source");
    expect_refused(&bf16, true, "its source-0 has '\"model.safetensors: ");
}
