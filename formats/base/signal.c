/* Signals set a flag; the contracts are in progress.h. */
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

#include "formats/base/progress.h"

static _Atomic int came; /* the first of the stopping signals, 0: none */
static atomic_bool report_wanted;

_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_BOOL_LOCK_FREE == 2, "a handler may touch lock-free atomics only");

static void on_stop(int number)
{
    int none = 0;

    atomic_compare_exchange_strong(&came, &none, number);
}

static void on_report(int number)
{
    (void)number;
    report_wanted = true;
}

/* SA_RESTART: nothing here blocks for long, everything polls the flag, and no
 * library we call has to cope with EINTR. What nohup or a background shell has
 * set to be ignored stays ignored. */
static void watch(int number, void (*handler)(int))
{
    struct sigaction now, action = {.sa_handler = handler, .sa_flags = SA_RESTART};

    if (sigaction(number, NULL, &now) != 0 || now.sa_handler == SIG_IGN)
        return;
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

void signal_install(void)
{
    watch(SIGINT, on_stop);
    watch(SIGTERM, on_stop);
    watch(SIGHUP, on_stop);
    watch(SIGUSR1, on_report);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is EFBIG from write, with a message */
}

void signal_interrupts_reads(bool on)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction now;
        if (sigaction(numbers[i], NULL, &now) != 0 || now.sa_handler != on_stop)
            continue;
        now.sa_flags = on ? 0 : SA_RESTART;
        sigaction(numbers[i], &now, NULL);
    }
}

bool signal_cancelled(void)
{
    return came != 0;
}

void signal_reraise(void)
{
    int number = came;

    if (!number)
        return;
    signal(number, SIG_DFL);
    raise(number);
}

bool signal_take_report(void)
{
    return atomic_exchange(&report_wanted, false);
}
