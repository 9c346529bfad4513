/*
 * The files that the workloads use: their names, sizes and contents.
 */
#ifndef TREE_H
#define TREE_H

#include "bench.h"

enum {
    FILES = 256,     /* files/fNNN, of different sizes */
    LEVELS = 8,      /* level1/level2/…/level8 */
    ENTRIES = 10000, /* list/eNNNNN, empty files */
    FRESH_FILES = 10000,
    FRESH_WAYS = 1500, /* of LEVELS directories each */
};

#define DATA_SIZE (16ull << 20) /* bytes of `data` and of `written` */

extern const char *const tree_levels[LEVELS];

/* Makes the tree below the directory `at`, which may hold one already. */
void tree_make(int at);

/* Makes a directory of `count` files below `at`: tree_many_name is what it is called, for
 * run.entries, and tree_many_entry its files, whose modes are as tree_fresh_mode has them. */
void tree_grow(int at, uint32_t count);
void tree_many_name(char name[32]);
void tree_many_entry(char name[16], uint32_t index);

/* Name and size of one of the files. */
void tree_file_name(char name[16], unsigned index);
uint64_t tree_file_size(unsigned index);

/*
 * Each lane's own file in `made`, and what is made beside it or takes its place (`other`).
 */
void tree_own_name(const struct lane *lane, char name[16], bool other);

/* What workloads set on it, and have to find there. */
#define XATTR_NAME "user.bench"
#define XATTR_VALUE "a value of 24 bytes, say"
#define XATTR_MISSING "user.missing"
#define LINK_TARGET "where/the/link/points"
enum {
    XATTR_SIZE = sizeof(XATTR_VALUE) - 1,
    XATTR_NAMES_MAX = 1024,
    TARGET_SIZE = sizeof(LINK_TARGET) - 1,
    TIME_SET = 1000000000, /* seconds */
};

/* Whether a list of names, each ended by a 0, has XATTR_NAME. */
bool tree_names_xattr(const uint8_t *names, uint32_t size);

/* The size of the file system that the tree lies in, and whether a server's is the same: servers
 * may count in larger units. */
void tree_note_size(int at);
bool tree_size_right(uint64_t unit, uint64_t blocks);

/*
 * A listing of `list`: begun, told each name that it gives (returns the entry's number, or -1 for
 * `.` and `..`; all else, and what comes twice, is wrong), and checked to be whole at its end.
 */
void tree_listing_begin(struct lane *lane);
int tree_listing_note(struct lane *lane, const char *name, unsigned length);
void tree_listing_check(const struct lane *lane);

/*
 * Directories that nobody has looked into before: made before a run below the directory `at`,
 * removed after it. tree_fresh_name is what they are called; in it are fNNNNN or, for
 * FRESH_WALK, ways wNNNNN/a/b/….
 */
void tree_fresh_make(int at, enum workload workload);
void tree_fresh_remove(int at, enum workload workload);
void tree_fresh_name(char name[40]);
uint32_t tree_fresh_count(enum workload workload);
void tree_fresh_entry(char name[16], enum workload workload, unsigned index);
extern const char *const tree_fresh_levels[LEVELS]; /* but the first */
unsigned tree_fresh_mode(unsigned index);

/* Whether `size` bytes are what `data` holds at `offset`; all of them, or a word in 512 bytes. */
bool tree_data_right(const uint8_t *bytes, uint64_t offset, uint32_t size);

/*
 * What a run writes into `written`: blocks that tell their offset, lane and run. A lane writes only
 * to blocks of its own.
 */
void tree_block_fill(struct lane *lane, uint32_t size);
void tree_block_stamp(struct lane *lane);
uint64_t tree_block_choose(struct lane *lane, uint32_t size);
void tree_written_begin(void);
void tree_written_note(uint64_t offset);
void tree_written_check(int at, uint32_t size);

#endif
