/*
 * input: an input of a fuzz target, which is taken apart piece by piece. It chooses what is done
 * rather than hold the bytes of a protocol: few bytes then reach far, and each of libFuzzer's small
 * changes has a small effect. An input that is used up yields zeros.
 */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct fuzz_input {
    const uint8_t *at, *end;
};

static inline size_t fuzz_left(const struct fuzz_input *in)
{
    return (size_t)(in->end - in->at);
}

/* A number of so many bytes. */
static inline uint64_t fuzz_take(struct fuzz_input *in, uint32_t bytes)
{
    const size_t taken = fuzz_left(in) < bytes ? fuzz_left(in) : bytes;
    uint64_t value = 0;

    memcpy(&value, in->at, taken);
    in->at += taken;
    return value;
}

static inline uint8_t fuzz_byte(struct fuzz_input *in)
{
    return (uint8_t)fuzz_take(in, 1);
}

/* A number below `bound`, of one byte. */
static inline uint32_t fuzz_below(struct fuzz_input *in, uint32_t bound)
{
    return fuzz_byte(in) % bound;
}

#endif
