/*
 * CHECK for the test programs: says what failed and where, goes on, and lets the program's exit
 * code tell. (assert would vanish with NDEBUG and hide what comes after.)
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdio.h>

static unsigned long checks_made, checks_failed;

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

/* main's return value. A program that checked nothing has failed. */
static inline int check_report(void)
{
    printf("%lu checks, %lu failed\n", checks_made, checks_failed);
    return checks_failed || !checks_made;
}

#endif
