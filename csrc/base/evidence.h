/*
 * evidence: what tells whether a request's change of names was made, where its process died.
 *
 * Making, removing and moving a name cannot be done twice: the second time fails, or hits what
 * somebody else has put there since. So before each such call a request notes what the name led to,
 * in memory that outlives the process. If it is run again, by the process's successor, it comes to
 * the same calls in the same order, its *steps*, save those for which there is no need any more: it
 * finds what it had made. A step that shows in the names is taken as made; from the first one that
 * does not on, the request goes on as if nothing had happened. So changes of several steps are
 * completed, too. Where a step failed, those before it may have been undone, which are steps as
 * well: a name that is made, and then removed, is made anew.
 *
 * What the name leads to is what was seen last (base/sightings.h), or is looked up now. One who
 * changes the same name between that and the call may be taken for us. So from the look to the end
 * of the call a request has the name to itself (base/key_lock.h), among those of its process that
 * reach it by the same descriptor of the directory. If the call fails, what was noted of the step
 * is dropped. Others can come between: processes of the host, and devices that share the directory.
 *
 * After a death, requests that have not begun a change may come before one that has. Whoever
 * changes a name then looks at it first, and decides for all others what their steps at that name
 * have done: what shows there later is not theirs.
 *
 * Appends are likewise one at a time, for each file of a device (p9/io.c). Whether one was made
 * shows in the position of the open file, which the next one moves; so before the next one may
 * begin, the evidence has what has become of the last one.
 *
 * The thread that runs a request has its evidence; one that runs none notes nothing.
 */
#ifndef V9_BASE_EVIDENCE_H
#define V9_BASE_EVIDENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/sightings.h"

enum { V9_STEPS_MAX = 8 }; /* more than any request takes */
/* Of append_fd: -2 less how many bytes, once they were appended. */
enum { V9_APPEND_NONE = -1, V9_APPEND_LOST = -2 };

struct v9_step {
    uint8_t kind;            /* and what another request has found of it */
    bool existed;            /* the name led to a file, the one with this identity: */
    uint32_t name;           /* a hash of it */
    uint64_t st_dev, st_ino; /* (0 where it did not, or that is not known) */
    int32_t dir_fd;          /* the directory */
};

struct v9_evidence {
    uint32_t count;          /* steps that were noted */
    int32_t made;            /* descriptor of a file that step made_by has made; -1: not known */
    uint32_t made_by;        /* counted from 1 */
    int32_t append_fd;       /* that is appended to; or V9_APPEND_* */
    int64_t append_at, size; /* its position, and the file's size, before */
    struct v9_step steps[V9_STEPS_MAX];
};

/* No evidence yet. */
static inline void v9_evidence_clear(struct v9_evidence *evidence)
{
    evidence->count = 0;
    evidence->made = -1;
    evidence->append_fd = V9_APPEND_NONE;
}

/* The calling thread runs a request, for the first time or again, until it begins with the next;
 * NULL: it runs none. */
void v9_evidence_begin(struct v9_evidence *evidence, bool again);

/* A process before this one has left evidence, and the request runs again, until it is forgotten.
 */
void v9_evidence_recover(struct v9_evidence *evidence);
void v9_evidence_forget(const struct v9_evidence *evidence);

/* The thread has just looked, and a name leads to this file: the next step need not look again. */
void v9_evidence_seen(int dir_fd, const char *name, const struct v9_sighting *seen);
/* Whether a process that died has noted, as a step to come, that a name is removed or moved. */
bool v9_evidence_loss_is_noted(void);
/* Before a name is made: whether that was done. If not, the caller makes it now, and says with
 * v9_evidence_outcome how that has ended; so with all that ask whether something was done. */
bool v9_evidence_made(int dir_fd, const char *name);
/* Before a name is removed. */
bool v9_evidence_removed(int dir_fd, const char *name);
/* Before a file is moved from one name to another. */
bool v9_evidence_moved(int old_dir, const char *old, int new_dir, const char *new);
/* The call that was to be made has returned: `result`, which is negative if it has changed nothing.
 * Returns it. */
int v9_evidence_outcome(int result);
/* The thread has just seen what a name that the request has changed leads to now, by a look or by a
 * system call's success; st_ino 0: to nothing. */
void v9_evidence_leads(int dir_fd, const char *name, uint64_t st_dev, uint64_t st_ino);
/* A file has just been moved from one name to another; it has kept its number if it is on the
 * device `st_dev`. */
void v9_evidence_has_moved(int old_dir, const char *old, int new_dir, const char *new,
                           uint64_t st_dev);
/* The descriptor of the file that the last step has made, which is the caller's from now on; -1. */
int v9_evidence_take_made(void);

/* Before it is looked whether a file has an attribute of this name, and then before it, which
 * exists or does not, comes to be the opposite. */
void v9_evidence_toggle(int fd, const char *name);
bool v9_evidence_toggled(bool exists);
/* Before a write to a descriptor with O_APPEND, for which only write(2) and writev(2) will do: they
 * move the descriptor's position to the file's end if and only if they write. So that it differs
 * from where it was, it is moved if the file has been truncated since. */
void v9_evidence_append(int fd);
/* So many bytes were appended; 0 or less: none. */
void v9_evidence_append_ends(int64_t put);
/* How many of `count` bytes a request that died has appended; 0: it has not. From then on this is
 * all that the evidence has of it: others may use the descriptor. */
uint32_t v9_evidence_appended(struct v9_evidence *evidence, uint32_t count);

/* The descriptors of all evidence are lost with the process. */
void v9_evidence_lose_descriptors(struct v9_evidence *evidence);
/* Before an append by another descriptor than the one that was lost: how many of `count` bytes were
 * appended already, as far as the size of the file shows, which others may have changed as well. */
uint32_t v9_evidence_grown(int fd, uint32_t count);

/* The directory in which a request that died was about to make a name, as its last step but for
 * taking it back; -1: none. */
int v9_evidence_making(const struct v9_evidence *evidence);
/* This descriptor was found to be of the file that this step has made. */
void v9_evidence_adopt(struct v9_evidence *evidence, int fd);
/* The request ends: closes the descriptor if nobody has taken it. */
void v9_evidence_end(struct v9_evidence *evidence);

#endif
