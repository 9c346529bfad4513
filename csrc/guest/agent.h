/*
 * The agent: a program that runs in a guest and passes on to its kernel what others change in files
 * that vhost9p serves. It fires inotify there, and drops what the kernel caches.
 *
 * It uses nothing of csrc/ but what both have to agree upon (export/refresher.h): it is linked
 * statically, for any guest of the machine that built it, and reaches the guest as a file of the
 * mount (vhost9p/guest/, which has the same for a shell).
 *
 * A file's room: lines.c takes the text of `events` apart; kernel.c is what makes the guest's
 * kernel look again; changes.c says what a change takes; missed.c has those of what was not there;
 * pins.c holds directories, where the kernel would forget their watches; in_use.c finds what
 * programs have open; mounts.c finds out what is mounted, mount_points.c what lies on what it
 * leads to; ready.c tells a service manager; agent.c has the processes.
 */
#ifndef AGENT_H
#define AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <time.h>

#include "export/refresher.h"

/* What vhost9p takes from V9_REFRESH_UID for an agent's, which changes nothing on the host. */
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
/* IN_ATTRIB; has the kernel find out which file has the name. */
void agent_ask(const struct mount *mount, int file, const char *path);
/* Whether a name leads to a file's inode, after the kernel has asked. */
bool agent_leads_to(const struct mount *mount, const char *path, int file);
/* Has the name looked up anew, and leads to another inode if the contents have changed. */
void agent_forget(const struct mount *mount, int file, const char *path);
void agent_forget_directory(const struct mount *mount, const char *path);
/* IN_MODIFY, and IN_CLOSE_WRITE where that can be had. TOLD: who has the file open sees the host's
 * data, of some `size` bytes (-1: not known); FAILED: not yet; FORGOTTEN: only who opens it anew.
 */
enum written { TOLD, FAILED, FORGOTTEN };
enum written agent_fire_written(const struct mount *mount, int file, off_t size);
/* Has the kernel ask for the attributes of what is open, if it has to. */
void agent_look_at(int file);
/* Drops a file's pages, and fires nothing; where names are not cached its size is the host's. */
void agent_renew(const struct mount *mount, int file);
enum pretence agent_can_pretend(const char *directory);
/* Has vhost9p report names as missing, once, that have come to lead to another file. */
void agent_renew_names(const char *directory);

/* missed.c */
/* Something has changed that is not there; takes over `file` (-1: none). */
void agent_missed(const struct mount *mount, const char *path, int file);
void agent_missed_removed(const struct mount *mount, const char *path);
/* Has what was there, or below, changed where it is now. */
void agent_missed_renamed(const struct mount *mount, const char *from, const char *to,
                          void (*change)(const struct mount *mount, const char *path));

/* changes.c */
void agent_change(const struct mount *mount, const struct line *line);
void agent_changes_end(const struct mount *mount); /* behind the last line that was read at once */

/* pins.c */
void agent_pin_limit(unsigned limit);
void agent_pin(const struct mount *mount, const char *path); /* with all directories below it */
void agent_unpin(const char *path);
void agent_each_directory(const struct mount *mount,
                          void (*visit)(const struct mount *mount, int directory));

/* in_use.c: each file of the mount's that a program has open or mapped */
void agent_each_in_use(const struct mount *mount,
                       void (*visit)(const struct mount *mount, int file));

/* mounts.c */
/* Finds the mount whose .vhost9p is `directory`; -1, after a message, if there is none. */
int agent_mount(struct mount *mount, const char *directory);
bool agent_mounted(int id);

/* mount_points.c */
/* Whether another mount lies on a file, or below a directory: its name must not be dropped. */
bool agent_holds_mounts(const struct mount *mount, int file);

/* agent.c */
void agent_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
