/*
 * The harness of the C tests. A program is a list of cases:
 *
 *     TEST(a_ring_outside_memory_is_refused)
 *     {
 *         CHECK(v9_virtqueue_start(&ring, &setup, &mem) != NULL);
 *     }
 *
 * `test_x` runs all of them, each in a process of its own, so that no case sees what another one
 * left behind; `test_x case…` runs those named, a single one in the program's own process, where a
 * debugger finds it; `test_x --list` prints the names. test_csrc.py finds the names by their lines,
 * which therefore begin with TEST, or with LONG_TEST for what takes minutes. SET_UP and TEAR_DOWN
 * surround each case.
 *
 * CHECK reports what failed and where, and goes on; the exit status shows the result. (assert would
 * vanish with NDEBUG, and hide the checks behind it.) SKIP ends a case that this machine cannot
 * run.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned long checks_made, checks_failed; /* of this case, by all its threads */

static inline bool check_that(bool held, const char *what, const char *file, int line)
{
    __atomic_add_fetch(&checks_made, 1, __ATOMIC_RELAXED);
    if (!held) {
        __atomic_add_fetch(&checks_failed, 1, __ATOMIC_RELAXED);
        fprintf(stderr, "%s:%d: %s\n", file, line, what);
    }
    return held;
}

#define CHECK(condition) check_that((condition), #condition, __FILE__, __LINE__)

enum { CHECK_SKIPPED = 77 };
static const char *check_skipped; /* why */

#define SKIP(why)                                                                                  \
    do {                                                                                           \
        check_skipped = (why);                                                                     \
        return;                                                                                    \
    } while (0)

struct check_case {
    const char *name;
    void (*run)(void);
    struct check_case *next;
};

static struct check_case *check_cases, **check_last = &check_cases;
static void (*check_set_up)(void), (*check_tear_down)(void);

/* The constructors of a file run in their order. */
#define TEST(name_)                                                                                \
    static void name_(void);                                                                       \
    __attribute__((constructor)) static void check_enter_##name_(void)                             \
    {                                                                                              \
        static struct check_case entry = {#name_, name_, NULL};                                    \
        *check_last = &entry;                                                                      \
        check_last = &entry.next;                                                                  \
    }                                                                                              \
    static void name_(void)

#define LONG_TEST(name_) TEST(name_)

#define CHECK_AROUND(which)                                                                        \
    static void which##_each(void);                                                                \
    __attribute__((constructor)) static void which##_enter(void)                                   \
    {                                                                                              \
        which = which##_each;                                                                      \
    }                                                                                              \
    static void which##_each(void)
#define SET_UP() CHECK_AROUND(check_set_up)
#define TEAR_DOWN() CHECK_AROUND(check_tear_down)

/* Runs one case in this process; returns its exit status. A case that checks nothing itself,
 * whatever surrounds it, has failed. */
static inline int check_run(const struct check_case *entry)
{
    bool empty;

    if (check_set_up)
        check_set_up();
    checks_made = 0;
    entry->run();
    empty = !checks_made;
    if (check_tear_down)
        check_tear_down();
    if (check_skipped && !checks_failed) {
        printf("%s: skipped: %s\n", entry->name, check_skipped);
        return CHECK_SKIPPED;
    }
    printf("%s: %lu checks, %lu failed\n", entry->name, checks_made, checks_failed);
    return checks_failed || empty;
}

/* Runs one case in a child, which may crash; returns whether it failed. */
static inline bool check_run_apart(const struct check_case *entry)
{
    int status = 0;
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child == 0)
        exit(check_run(entry));
    if (child < 0 || waitpid(child, &status, 0) != child)
        status = -1;
    if (status && !(WIFEXITED(status) && WEXITSTATUS(status) == CHECK_SKIPPED)) {
        if (WIFSIGNALED(status))
            printf("%s: ended by signal %d\n", entry->name, WTERMSIG(status));
        return true;
    }
    return false;
}

static inline const struct check_case *check_find(const char *name)
{
    const struct check_case *entry = check_cases;

    while (entry && strcmp(entry->name, name))
        entry = entry->next;
    if (!entry)
        fprintf(stderr, "no such case: %s\n", name);
    return entry;
}

int main(int argc, char **argv)
{
    const struct check_case *entry;
    bool failed = false;

    if (argc == 2 && !strcmp(argv[1], "--list")) {
        for (entry = check_cases; entry; entry = entry->next)
            puts(entry->name);
        return 0;
    }
    for (int i = 1; i < argc; i++)
        if (!check_find(argv[i]))
            return 2;
    if (argc == 2)
        return check_run(check_find(argv[1]));
    for (int i = 1; i < argc; i++)
        failed |= check_run_apart(check_find(argv[i]));
    for (entry = check_cases; entry && argc == 1; entry = entry->next)
        failed |= check_run_apart(entry);
    return failed;
}

#endif
