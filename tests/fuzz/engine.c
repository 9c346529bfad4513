/*
 * engine: a fuzz target's main(), and where gcc's instrumentation meets libFuzzer.
 *
 * libFuzzer wants an array of counters, one for each point of the program, and a table with the
 * address of each. clang makes both; gcc (-fsanitize-coverage=trace-pc) only calls a function at
 * each point. So a point gets the next free counter when it is first passed. Threads may pass the
 * same point for the first time together: one of two numbers is then never used again. libFuzzer
 * has a function of the same name that does nothing: the linker's --wrap leads calls here.
 *
 * Where VHOST9P_FUZZ_POINTS names a file, the addresses of all points that were passed are written
 * to it in the end (tests/fuzz/run.py).
 */
#include "fuzz.h"

enum { POINTS = 1 << 15, TEXT = 1 << 24 };

struct point {
    uintptr_t pc, flags; /* as libFuzzer reads it */
};

extern char __executable_start[];
static uint8_t counts[POINTS];
static struct point points[POINTS];
static uint16_t numbers[TEXT]; /* of the point at an address; 0: not passed yet */
static uint32_t passed;

void __sanitizer_cov_8bit_counters_init(uint8_t *begin, uint8_t *end);
void __sanitizer_cov_pcs_init(const struct point *begin, const struct point *end);
void __wrap___sanitizer_cov_trace_pc(void);
int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*once)(const uint8_t *data, size_t size));

static uint16_t number_of(uintptr_t pc)
{
    const uintptr_t at = pc - (uintptr_t)__executable_start;
    uint16_t number;

    if (at >= TEXT)
        abort();
    number = __atomic_load_n(&numbers[at], __ATOMIC_RELAXED);
    if (number)
        return number;
    number = (uint16_t)__atomic_add_fetch(&passed, 1, __ATOMIC_RELAXED);
    if (number >= POINTS)
        abort();
    points[number].pc = pc;
    __atomic_store_n(&numbers[at], number, __ATOMIC_RELAXED);
    return number;
}

void __wrap___sanitizer_cov_trace_pc(void)
{
    counts[number_of((uintptr_t)__builtin_return_address(0))]++;
}

static void write_points(void)
{
    const char *path = getenv("VHOST9P_FUZZ_POINTS");
    FILE *file = path ? fopen(path, "w") : NULL;

    if (!file)
        return;
    for (uint32_t i = 1; i <= passed; i++)
        fprintf(file, "%#zx\n", points[i].pc - (uintptr_t)__executable_start);
    fclose(file);
}

static int once(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, data + size};

    fuzz_once(&in);
    return 0;
}

int main(int argc, char **argv)
{
    __sanitizer_cov_8bit_counters_init(counts, counts + POINTS);
    __sanitizer_cov_pcs_init(points, points + POINTS);
    atexit(write_points);
    fuzz_begins();
    return LLVMFuzzerRunDriver(&argc, &argv, once);
}
