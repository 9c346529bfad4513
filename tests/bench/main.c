/*
 * The benchmark's driver: plays a guest's 9p or virtio-fs driver, or makes the host's system calls.
 *
 *     driver make DIRECTORY
 *     driver grow DIRECTORY COUNT
 *     driver host DIRECTORY
 *     driver 9p|fuse DIRECTORY MEMORY-FD MEMORY-SIZE RING-AT KICK-FD CALL-FD PID…
 *
 * `make` makes the tree of files, `grow` a directory of COUNT files in it. The others serve runs:
 * each line of standard input says
 *
 *     WORKLOAD DEPTH poll|call|rest MILLISECONDS THINK-MICROSECONDS SERIAL [SIZE FILES ENTRIES]
 *
 * and is answered by one line of JSON: what was measured, or `refused`, the errno by which the
 * server said that it does not support the workload. PIDs are the server's processes, whose CPU
 * time is taken. The first wrong reply ends the process with exit status 3 and a line on standard
 * error.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"
#include "tree.h"

enum { MAX_PROCESSES = 8, LANE_TABLE = 0x4000, LANE_SIZE = 0x90000 };

const char *const workload_names[WORKLOADS] = {
    [GETATTR] = "getattr",
    [STAT] = "stat",
    [WALK] = "walk8",
    [OPEN] = "open",
    [READ_SMALL] = "read4k",
    [WRITE_SMALL] = "write4k",
    [READ_LARGE] = "read512k",
    [WRITE_LARGE] = "write512k",
    [LIST] = "list",
    [CREATE] = "create",
    [CHMOD] = "chmod",
    [UTIMENS] = "utimens",
    [TRUNCATE] = "truncate",
    [RENAME] = "rename",
    [LINK] = "link",
    [MKDIR] = "mkdir",
    [SYMLINK] = "symlink",
    [READLINK] = "readlink",
    [XATTR_GET] = "xattr-get",
    [XATTR_NONE] = "xattr-none",
    [XATTR_LIST] = "xattr-list",
    [XATTR_SET] = "xattr-set",
    [LOCK] = "lock",
    [GETLOCK] = "getlock",
    [FSYNC] = "fsync",
    [STATFS] = "statfs",
    [ATTACH] = "attach",
    [FIDS_FILL] = "fids-fill",
    [FIDS_GETATTR] = "fids-getattr",
    [FIDS_CLONE] = "fids-clone",
    [FIDS_WALK] = "fids-walk",
    [DEVICES_FIRST] = "devices-first",
    [DEVICES_STAT] = "devices-stat",
    [ENTRIES_LIST] = "entries-list",
    [FRESH_STAT] = "fresh-stat",
    [FRESH_WALK] = "fresh-walk8",
};
struct run run;

static struct lane lanes[MAX_LANES];
static struct ring ring;
static clockid_t clocks[MAX_PROCESSES];
static unsigned processes;

uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

uint64_t draw(struct lane *lane)
{
    uint64_t value = lane->random += 0x9E3779B97F4A7C15ull;

    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9ull;
    value = (value ^ value >> 27) * 0x94D049BB133111EBull;
    return value ^ value >> 31;
}

void wrong(const struct lane *lane, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "%s at depth %u", workload_names[run.workload], run.depth);
    if (lane)
        fprintf(stderr, ", lane %u, reply %u", lane->index, lane->step + 1);
    fputs(": ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(3);
}

void broken(const char *format, ...)
{
    va_list arguments;

    fputs("driver: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 0);

    if (!*text || *end)
        broken("%s is not a number", text);
    return value;
}

/* CPU time of the server's processes in ns. */
static uint64_t server_cpu(void)
{
    struct timespec time;
    uint64_t sum = 0;

    for (unsigned i = 0; i < processes; i++) {
        if (clock_gettime(clocks[i], &time) < 0)
            broken("the server has ended");
        sum += (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
    }
    return sum;
}

static uint64_t cpu_taken;

void engine_clock(bool starts)
{
    cpu_taken = server_cpu() - (starts ? 0 : cpu_taken);
}

static void place_lanes(uint8_t *memory, uint64_t at)
{
    for (unsigned i = 0; i < MAX_LANES; i++) {
        uint8_t *place = memory + at + LANE_TABLE + i * (uint64_t)LANE_SIZE;

        lanes[i].table = (struct ring_desc *)place;
        lanes[i].out = place + PAGE;
        lanes[i].in = place + PAGE + HEADER_MAX;
        lanes[i].data = place + PAGE + 2 * (uint64_t)HEADER_MAX;
    }
}

static void take_ring(char **arguments)
{
    uint64_t size = number(arguments[1]), at = number(arguments[2]);
    uint8_t *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, (int)number(arguments[0]), 0);

    if (memory == MAP_FAILED)
        broken("guest memory: %s", strerror(errno));
    if (at + LANE_TABLE + MAX_LANES * (uint64_t)LANE_SIZE > size)
        broken("%llu bytes of guest memory are too few", (unsigned long long)size);
    ring_open(&ring, memory, at, (int)number(arguments[3]), (int)number(arguments[4]));
    place_lanes(memory, at);
}

static void take_processes(char **arguments)
{
    for (; *arguments; arguments++, processes++) {
        if (processes == MAX_PROCESSES)
            broken("more than %d processes", MAX_PROCESSES);
        if (clock_getcpuclockid((pid_t)number(*arguments), &clocks[processes]))
            broken("no process %s", *arguments);
    }
}

/* Reads what is to be run; false at the end of the input. */
static bool read_run(const struct protocol *protocol)
{
    char line[256], name[32], waiting[8];
    unsigned long long limit, think, serial;
    int words;

    if (!fgets(line, sizeof(line), stdin))
        return false;
    words = sscanf(line, "%31s %u %7s %llu %llu %llu %u %u %u", name, &run.depth, waiting, &limit,
                   &think, &serial, &run.size, &run.files, &run.entries);
    if (words < 1)
        broken("not a run: %s", line);
    for (run.workload = 0; run.workload < WORKLOADS; run.workload++)
        if (!strcmp(name, workload_names[run.workload]))
            break;
    if (run.workload == WORKLOADS)
        broken("no workload is called %s", name);
    if (words != (is_scale(run.workload) ? 9 : 6))
        broken("not a run of %s: %s", name, line);
    if (!protocol->operations[run.workload].step)
        broken("%s is not for this protocol", name);
    if (run.depth < 1 || run.depth > MAX_LANES)
        broken("depth %u is not 1 to %d", run.depth, MAX_LANES);
    run.waiting = !strcmp(waiting, "call")   ? WAIT_CALL
                  : !strcmp(waiting, "rest") ? WAIT_REST
                                             : WAIT_POLL;
    run.limit = limit * 1000000;
    run.think = think * 1000;
    run.serial = serial;
    return true;
}

static void print_outcome(const struct outcome *outcome)
{
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"ops", outcome->ops},      {"ns", outcome->ns},       {"cpu_ns", cpu_taken},
        {"mean_ns", outcome->mean}, {"p50_ns", outcome->p50},  {"p99_ns", outcome->p99},
        {"kicks", outcome->kicks},  {"calls", outcome->calls},
    };

    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
        printf("%s\"%s\": %llu", i ? ", " : "{", fields[i].name,
               (unsigned long long)fields[i].value);
    puts("}");
}

static void serve_runs(const struct protocol *protocol, bool over_ring, int tree)
{
    for (unsigned i = 0; i < MAX_LANES; i++) {
        lanes[i].index = i;
        lanes[i].seen = malloc(ENTRIES);
        if (!lanes[i].seen)
            broken("out of memory");
    }
    run = (struct run){.depth = 1};
    engine_open(protocol, over_ring ? &ring : NULL, lanes, tree);
    puts("{}");
    fflush(stdout);
    while (read_run(protocol)) {
        struct outcome outcome = engine_run();

        if (outcome.refused)
            printf("{\"refused\": %d}\n", outcome.refused);
        else
            print_outcome(&outcome);
        fflush(stdout);
    }
}

int main(int count, char **arguments)
{
    int tree;

    if (count < 3)
        broken("usage: driver make|grow|host|9p|fuse DIRECTORY …");
    umask(0);
    tree = open(arguments[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (tree < 0)
        broken("%s: %s", arguments[2], strerror(errno));
    if (!strcmp(arguments[1], "make")) {
        tree_make(tree);
        return 0;
    }
    if (!strcmp(arguments[1], "grow") && count == 4) {
        tree_grow(tree, (uint32_t)number(arguments[3]));
        return 0;
    }
    if (!strcmp(arguments[1], "host")) {
        take_processes((char *[]){"0", NULL});
        host_directory = tree;
        serve_runs(&host, false, tree);
        return 0;
    }
    if (count < 9 || (strcmp(arguments[1], "9p") && strcmp(arguments[1], "fuse")))
        broken("usage: driver 9p|fuse DIRECTORY MEMORY-FD SIZE RING-AT KICK-FD CALL-FD PID…");
    take_ring(arguments + 3);
    take_processes(arguments + 8);
    serve_runs(strcmp(arguments[1], "9p") ? &fuse : &ninep, true, tree);
    return 0;
}
