/*
 * The agent: a program that runs in a guest and passes on to its kernel what others change in files
 * that vhost9p serves. It fires inotify there, and drops what the kernel caches.
 *
 * It uses nothing of csrc/: it is linked statically, for any guest of the machine that built it,
 * and reaches the guest as a file of the mount (vhost9p/guest/, which has the same for a shell).
 *
 * A file's room: lines.c takes the text of `events` apart; kernel.c is what makes the guest's
 * kernel look again; changes.c says what a change takes; pins.c holds directories, where the kernel
 * would forget their watches; mounts.c finds out what is mounted; ready.c tells a service
 * manager; agent.c has the processes.
 */
#ifndef AGENT_H
#define AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <time.h>

/* The user whose requests vhost9p takes for those of an agent: they change nothing on the host. */
#define REFRESH_UID 1986541936
/* What that user writes to set a file's size here; it reaches no file. */
#define REFRESH_DATA "vhost9p refresh\n"

/* What vhost9p takes from REFRESH_UID for an agent's, which changes nothing on the host. */
enum pretence { NOTHING, TRUNCATIONS, WRITES };

struct mount {
    const char *name;  /* of its .vhost9p, for messages */
    int root, events;  /* descriptors: O_PATH of the root; the open `events` */
    int id;            /* of the mount, as in /proc/self/mountinfo */
    bool caches_names; /* cache=loose or fscache: names and attributes are not asked for again */
    bool caches_pages; /* any mode but none */
    bool read_only;    /* nothing can fire inotify */
    enum pretence pretence;
    struct timespec refresh, forget; /* mtimes that change nothing on the host */
};

/* ready.c: before there are processes; by each of them; by the first, which waits for them */
void agent_ready_begin(void);
void agent_ready(void);
void agent_ready_await(void);

/* lines.c */
enum kind { CHANGED, ATTRIBUTES, CREATED, REMOVED, RENAMED, OVERFLOW, KINDS };

struct line {
    enum kind kind;
    const char *path; /* from the mount's root, without a / at the end; "." is the root itself */
    const char *to;   /* RENAMED: the new path */
    bool directory;
    off_t size; /* CHANGED: in bytes; -1 if the file is gone */
};

/* Takes a line apart, in place; `text` ends with its newline. False if it is none of those above.
 */
bool agent_line(char *text, struct line *line);
/* True if both say the same of the same path, so that the later one is enough. */
bool agent_line_repeats(const struct line *line, const struct line *later);

/* Whether the kernel has all that this needs. */
bool agent_kernel_suits(void);

/* kernel.c: each takes a path below the root, which no symlink and no other mount may lead out of
 */
int agent_open(const struct mount *mount, const char *path); /* O_PATH; -1 with errno */
void agent_fire_attributes(const struct mount *mount, int file, bool forget); /* IN_ATTRIB */
void agent_look(const struct mount *mount, const char *path); /* has the kernel ask for it now */
/* Has the name looked up anew; where names are not cached it fires IN_ATTRIB alone. */
void agent_forget(const struct mount *mount, int file, const char *path);
void agent_forget_directory(const struct mount *mount, const char *path);
/* IN_MODIFY, and IN_CLOSE_WRITE where that can be had. Who has the file open sees the host's data,
 * of `size` bytes, unless it has to be forgotten; -1: as many as were found when it was opened. */
void agent_fire_written(const struct mount *mount, int file, off_t size);
/* Drops a file's pages, and fires nothing; where names are not cached its size is the host's. */
void agent_renew(const struct mount *mount, int file);
enum pretence agent_can_pretend(const char *directory);

/* changes.c */
void agent_change(const struct mount *mount, const struct line *line);
void agent_changes_end(const struct mount *mount); /* behind the last line that was read at once */

/* pins.c */
void agent_pin_limit(unsigned limit);
void agent_pin(const struct mount *mount, const char *path); /* with all directories below it */
void agent_unpin(const char *path);
void agent_each_directory(const struct mount *mount,
                          void (*visit)(const struct mount *mount, int directory));

/* mounts.c */
/* Finds the mount whose .vhost9p is `directory`; -1, after a message, if there is none. */
int agent_mount(struct mount *mount, const char *directory);
bool agent_mounted(int id);

/* agent.c */
void agent_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
