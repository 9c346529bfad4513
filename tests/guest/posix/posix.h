/*
 * The POSIX conformance program: what its case files share.
 *
 * A case is a function that works in a fresh, empty directory of mode 0777 (its working
 * directory, so names are short and relative) and says what it expects of single system calls.
 * The first expectation that is not met ends the case; whatever the case leaves behind (open
 * descriptors, another user's credentials, a umask, a peer process, files) is put right before
 * the next one. Cases start as the program's own user, with umask 0.
 *
 * The expectations are those of POSIX where it is definite and otherwise of Linux, as its manual
 * pages tell and its native file systems do: the program passes on ext4 and tmpfs. What needs
 * root skips itself elsewhere, because the helpers that need privileges (as(), give(), node() of
 * a device) do so.
 */
#ifndef POSIX_H
#define POSIX_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The kinds of node that a directory can hold. */
enum type { FILE_, DIR_, FIFO, SOCK, CHAR, BLOCK, LINK, TYPES };

/* Users and groups that own nothing outside of the cases. */
enum { ALICE = 61001, BOB = 61002, CAROL = 61003 };
enum { ALICES = 62001, BOBS = 62002, CAROLS = 62003, TEAM = 62010, FOREIGN = 62011 };

/* What a generated case works on; each case function says which members it reads. */
struct arg {
    enum type type, other;
    int error;
    int flags;
    long number;
    mode_t mode;
    const char *text;
    const void *table;
};

typedef void case_fn(const struct arg *a);

/* Begins a case function; `a` is its argument. */
#define CASE(name) static void name(__attribute__((unused)) const struct arg *a)

struct plain_case {
    const char *name;
    case_fn *fn;
};

/* case.c: running cases */

/*
 * Runs one case under the name that the format gives, unless the options leave it out. The cases of
 * one function are told apart by their arguments: --every N takes the first of them, and then every
 * Nth.
 */
void run(case_fn *fn, struct arg a, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Runs cases without arguments, as GROUP/NAME each. */
void run_plain(const char *group, const struct plain_case *cases, size_t count);

/* Ends the running case as skipped. */
_Noreturn void skip(const char *reason);

/* Ends the running case as failed. */
_Noreturn void fail(const char *file, int line, const char *what, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Runs the suites and prints the summary; the exit status. */
struct options {
    const char *root, *only;
    unsigned every;
    bool list, quiet, mmap, client_limits;
};
extern struct options options;
void begin_run(void);
int end_run(void);

/*
 * Expectations. CALL is a system call: negative for failure with errno set.
 * OK(call) has the call's value; EXPECT(0, call) wants success.
 */
#define OK(call) check_ok((call), __FILE__, __LINE__, #call)
#define EXPECT(error, call) check_error((error), (error), (call), __FILE__, __LINE__, #call)
#define EITHER(one, other, call) check_error((one), (other), (call), __FILE__, __LINE__, #call)
#define SAME(want, got) check_same((want), (got), __FILE__, __LINE__, #got)
#define SAME_MODE(want, path) check_mode((want), (path), __FILE__, __LINE__)
#define SAME_BYTES(want, got, size) check_bytes((want), (got), (size), __FILE__, __LINE__, #got)
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail(__FILE__, __LINE__, #condition, "expected true got false");                       \
    } while (0)

long check_ok(long result, const char *file, int line, const char *what);
void check_error(int one, int other, long result, const char *file, int line, const char *what);
void check_same(long long want, long long got, const char *file, int line, const char *what);
void check_mode(mode_t want, const char *path, const char *file, int line);
void check_bytes(const void *want, const void *got, size_t size, const char *file, int line,
                 const char *what);

/* user.c: credentials, switched within the process */

/* True where the program holds every capability that the full set of cases needs. */
bool privileged(void);
void need_privileges(void);

/* Acts as a user with one group and no supplementary ones; skips the case where it may not. */
void as(uid_t uid, gid_t gid);
/* The same with one supplementary group. */
void as_member(uid_t uid, gid_t gid, gid_t group);
/* Effective user and group only; the real ones stay the program's own. */
void as_effective(uid_t uid, gid_t gid);
/* Back to the program's own user. */
void as_self(void);

/* node.c: making and looking at files */

extern const char *const type_names[TYPES];
extern const mode_t type_bits[TYPES];

/* A new node of that type: mode 0644, directories 0755; a symlink to "nowhere". */
void node(enum type type, const char *path);
/* Removes a node of any type (a directory must be empty). */
int drop(enum type type, const char *path);
/* lchown; skips the case without privileges. */
void give(const char *path, uid_t uid, gid_t gid);
/* A new file of mode 0644 with these contents. */
void put(const char *path, const char *text);
/* A new file of `size` bytes, each made from its offset by pattern(). */
void put_pattern(const char *path, size_t size);
void pattern(unsigned char *buffer, size_t size, size_t offset);
/* The whole contents must be this text. */
void holds(const char *path, const char *text);
/* lstat and fstat that must succeed. */
struct stat look(const char *path);
struct stat look_fd(int fd);
/* The mode's twelve permission bits. */
mode_t mode_of(const char *path);
bool exists(const char *path);
/* How many names a directory has besides . and .. */
long entries(const char *path);

/* Name and path builders in static buffers: `length` characters each. */
const char *long_name(size_t length, char letter);
const char *long_path(size_t length, const char *tail);

/* Nodes' times: earlier than(), with nanoseconds; and a wait until the server's clock moved on. */
bool before(struct timespec a, struct timespec b);
void tick(void);

/* Removes everything below an open directory; consumes the descriptor. 0 or an errno. */
int empty_directory(int fd);

/* op.c: the system calls that take a path, as a table for loops over them */
enum {
    MAKES = 1,     /* the path's last component must not exist */
    FOLLOWS = 2,   /* a symlink in the last place is followed */
    CHANGES = 4,   /* writes the directory that holds the path */
    USES_XATTR = 8 /* needs user.* attributes */
};
struct op {
    const char *name;
    int (*call)(const char *path);
    unsigned flags;
    enum type wants; /* what the path must be for success, unless MAKES */
};
extern const struct op ops[];
extern const size_t ops_count;
/* Makes what the operation needs besides the path ("source"), and its path unless MAKES. */
void op_prepare(const struct op *op, const char *path);
/* Skips the case where user.* extended attributes are not to be had. */
void need_xattrs(void);

/* peer.c: a second process that locks */
enum peer_request { PEER_OPEN, PEER_SETLK, PEER_GETLK, PEER_FLOCK, PEER_CLOSE, PEER_SETLKW };
/* Starts the process. peer() has its answer: 0 or a negative errno (GETLK: the lock's type). */
void peer_start(void);
int peer(enum peer_request request, short type, off_t start, off_t length, const char *path);
/* Sends a request without waiting for the answer; peer_answer() waits, peer_answered() looks. */
void peer_send(enum peer_request request, short type, off_t start, off_t length, const char *path);
int peer_answer(void);
bool peer_answered(int milliseconds);
void peer_exit(void);

/* The suites, in the order in which they run. */
void suite_path(void);
void suite_permission(void);
void suite_open(void);
void suite_directory(void);
void suite_node(void);
void suite_symlink(void);
void suite_link(void);
void suite_unlink(void);
void suite_sticky(void);
void suite_rename(void);
void suite_rename_rules(void);
void suite_chmod(void);
void suite_chown(void);
void suite_truncate(void);
void suite_utimens(void);
void suite_touch(void);
void suite_stat(void);
void suite_unlinked(void);
void suite_io(void);
void suite_names(void);
void suite_readdir(void);
void suite_inherit(void);
void suite_xattr(void);
void suite_lock(void);
void suite_mmap(void);
void suite_client_limits(void);

#endif
