/*
 * fuzz: what every fuzz target in C has: an input (input.h), and CHECK, which ends the process so
 * that libFuzzer keeps the input. A target defines `fuzz_once`, which leaves nothing behind that
 * the next input could see; and `fuzz_begins`, called once before the first.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "input.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

void fuzz_begins(void);
void fuzz_once(struct fuzz_input *in);

#endif
