/* The command line of the conformance program and the order of its suites. */
#include "posix.h"

#include <getopt.h>

struct options options;

/* The argument under which a copy of the program does nothing but run: the text-busy cases. */
#define HOLD "--hold"

static const char usage[] =
    "usage: posix DIR [--only PREFIX] [--every N] [--list] [--quiet] [--mmap] [--client-limits]\n"
    "Checks the file system that holds DIR against POSIX and Linux.\n"
    "  --only PREFIX    only the cases whose name begins so\n"
    "  --every N        of each function's cases the first and then every Nth\n"
    "  --list           print the names of the cases and run none\n"
    "  --quiet          print failures, skipped cases and the summary only\n"
    "  --mmap           also shared writable mappings\n"
    "  --client-limits  also what Linux's 9p client cannot do on any server\n"
    "exit status: 0 none failed, 1 some failed, 2 nothing was run\n";

static const struct {
    void (*run)(void);
} suites[] = {
    {suite_path},         {suite_permission}, {suite_open},     {suite_directory}, {suite_node},
    {suite_symlink},      {suite_link},       {suite_unlink},   {suite_sticky},    {suite_rename},
    {suite_rename_rules}, {suite_chmod},      {suite_chown},    {suite_truncate},  {suite_utimens},
    {suite_touch},        {suite_stat},       {suite_unlinked}, {suite_io},        {suite_names},
    {suite_readdir},      {suite_inherit},    {suite_xattr},    {suite_lock},
};

static int bad_usage(void)
{
    fputs(usage, stderr);
    return 2;
}

static int parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"only", required_argument, NULL, 'o'},
        {"every", required_argument, NULL, 'e'},
        {"list", no_argument, NULL, 'l'},
        {"quiet", no_argument, NULL, 'q'},
        {"mmap", no_argument, NULL, 'm'},
        {"client-limits", no_argument, NULL, 'c'},
        {NULL, 0, NULL, 0},
    };
    options.only = "";
    options.every = 1;
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'o':
            options.only = optarg;
            break;
        case 'e':
            options.every = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'l':
            options.list = true;
            break;
        case 'q':
            options.quiet = true;
            break;
        case 'm':
            options.mmap = true;
            break;
        case 'c':
            options.client_limits = true;
            break;
        default:
            return bad_usage();
        }
    }
    if (!options.every || (optind + 1 != argc && !(options.list && optind == argc)))
        return bad_usage();
    options.root = argv[optind];
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], HOLD)) {
        char byte;
        return read(STDIN_FILENO, &byte, 1) != 0;
    }
    int status = parse(argc, argv);
    if (status)
        return status;
    begin_run();
    for (size_t i = 0; i < COUNT(suites); i++)
        suites[i].run();
    if (options.mmap)
        suite_mmap();
    if (options.client_limits)
        suite_client_limits();
    return end_run();
}
