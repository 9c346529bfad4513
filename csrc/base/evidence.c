#define _GNU_SOURCE
#include "base/evidence.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/commit.h"

enum kind { MAKE = 1, REMOVE, MOVE, TOGGLE };

static _Thread_local struct {
    struct v9_evidence *evidence;
    uint32_t noted; /* steps that a process before this one has noted */
    uint32_t next;
    struct v9_step seen; /* what the next step finds there, if it is at this name: */
    const char *seen_name;
} running;

void v9_evidence_begin(struct v9_evidence *evidence, bool again)
{
    running.evidence = evidence;
    running.noted = evidence && again ? evidence->count : 0;
    running.next = 0;
    running.seen_name = NULL;
}

void v9_evidence_seen(int dir_fd, const char *name, uint64_t st_dev, uint64_t st_ino)
{
    running.seen =
        (struct v9_step){.existed = true, .st_dev = st_dev, .st_ino = st_ino, .dir_fd = dir_fd};
    running.seen_name = name;
}

bool v9_evidence_loss_is_noted(void)
{
    for (uint32_t i = running.next; running.evidence && i < running.noted; i++)
        if (running.evidence->steps[i].kind == REMOVE || running.evidence->steps[i].kind == MOVE)
            return true;
    return false;
}

static uint32_t hash(const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */

    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return hash;
}

/* What a name leads to; `is_gone` if it leads to nothing for certain. */
static struct v9_step look(enum kind kind, int dir_fd, const char *name, bool *is_gone)
{
    struct v9_step step = {.kind = (uint8_t)kind, .name = hash(name), .dir_fd = dir_fd};
    struct stat st;

    *is_gone = false;
    if (running.seen_name == name && running.seen.dir_fd == dir_fd) {
        step.existed = true;
        step.st_dev = running.seen.st_dev;
        step.st_ino = running.seen.st_ino;
    } else if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        step.existed = true;
        step.st_dev = st.st_dev;
        step.st_ino = st.st_ino;
    } else if (errno == ENOENT) {
        *is_gone = true;
    } else {
        step.existed = kind == MAKE; /* perhaps: it must not be taken for made */
    }
    return step;
}

static bool is_same(const struct v9_step *a, const struct v9_step *b)
{
    return a->existed && b->existed && a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Whether a name that led to a file leads to another one, or is gone. */
static bool has_left(const struct v9_step *before, const struct v9_step *now, bool is_gone)
{
    return before->existed && (now->existed ? !is_same(before, now) : is_gone);
}

static void note(struct v9_evidence *evidence, uint32_t index, const struct v9_step *now)
{
    evidence->count = index; /* what was noted of it, or after it, is of no use */
    V9_COMMIT();
    evidence->steps[index] = *now;
    V9_COMMIT();
    evidence->count = index + 1;
    V9_COMMIT();
}

static bool is_step(const struct v9_step *noted, const struct v9_step *now)
{
    return noted->kind == now->kind && noted->name == now->name;
}

/* The next step, which leads from `now`: what was noted of it by a process before this one, or
 * NULL; then it is noted now. */
static const struct v9_step *next_step(const struct v9_step *now)
{
    struct v9_evidence *evidence = running.evidence;
    uint32_t index = running.next;

    running.seen_name = NULL;
    while (index < running.noted && !is_step(&evidence->steps[index], now))
        index++;
    if (index < running.noted) {
        running.next = index + 1;
        return &evidence->steps[index];
    }
    running.noted = 0; /* it takes another way now */
    index = running.next++;
    if (index < V9_STEPS_MAX)
        note(evidence, index, now);
    return NULL;
}

/* Whether the step shows that was looked up last. If not, those after it were undone, or not made:
 * they are forgotten. */
static bool settle(bool shows)
{
    if (!shows && running.noted) {
        running.noted = 0;
        running.evidence->count = running.next;
        V9_COMMIT();
    }
    return shows;
}

bool v9_evidence_made(int dir_fd, const char *name)
{
    const struct v9_step *before;
    struct v9_step now;
    bool is_gone;

    if (!running.evidence)
        return false;
    now = look(MAKE, dir_fd, name, &is_gone);
    before = next_step(&now);
    return settle(before && !before->existed && now.st_ino);
}

bool v9_evidence_removed(int dir_fd, const char *name)
{
    const struct v9_step *before;
    struct v9_step now;
    bool is_gone;

    if (!running.evidence)
        return false;
    now = look(REMOVE, dir_fd, name, &is_gone);
    before = next_step(&now);
    return settle(before && has_left(before, &now, is_gone));
}

bool v9_evidence_moved(int old_dir, const char *old, int new_dir, const char *new)
{
    const struct v9_step *before;
    struct v9_step now, target;
    bool is_gone, ignored;

    if (!running.evidence)
        return false;
    now = look(MOVE, old_dir, old, &is_gone);
    before = next_step(&now);
    if (!before || !has_left(before, &now, is_gone))
        return settle(false);
    target = look(MOVE, new_dir, new, &ignored);
    return settle(is_same(before, &target));
}

bool v9_evidence_toggled(bool exists)
{
    const struct v9_step now = {.kind = TOGGLE, .existed = exists}, *before;

    if (!running.evidence)
        return false;
    before = next_step(&now);
    return settle(before && before->existed != exists);
}

int v9_evidence_take_made(void)
{
    struct v9_evidence *evidence = running.evidence;
    int fd;

    if (!evidence || evidence->made_by != running.next)
        return -1;
    fd = evidence->made;
    evidence->made = -1;
    return fd;
}

void v9_evidence_append(int fd)
{
    struct v9_evidence *evidence = running.evidence;
    struct stat st;

    if (!evidence || fstat(fd, &st) < 0)
        return;
    evidence->append_at = lseek(fd, 0, SEEK_CUR);
    if (evidence->append_at > st.st_size) /* an append may end where the last one did */
        evidence->append_at = lseek(fd, 0, SEEK_SET);
    evidence->size = st.st_size;
    V9_COMMIT();
    evidence->append_fd = fd;
    V9_COMMIT();
}

uint32_t v9_evidence_appended(const struct v9_evidence *evidence, uint32_t count)
{
    const int64_t at = evidence->append_fd < 0 ? 0 : lseek(evidence->append_fd, 0, SEEK_CUR);
    const int64_t grown = at - evidence->size;

    if (evidence->append_fd < 0 || at == evidence->append_at)
        return 0;
    /* Less, where the disk was full. If others have changed the size meanwhile, all of it. */
    return grown > 0 && grown < count ? (uint32_t)grown : count;
}

/* The last step that makes, counted from 1: the last one, or what that takes back; 0: none. */
static uint32_t find_making(const struct v9_evidence *evidence)
{
    uint32_t count = evidence->count <= V9_STEPS_MAX ? evidence->count : 0;

    if (count && evidence->steps[count - 1].kind == REMOVE)
        count--;
    return count && evidence->steps[count - 1].kind == MAKE ? count : 0;
}

int v9_evidence_making(const struct v9_evidence *evidence)
{
    const uint32_t making = find_making(evidence);

    return making && !evidence->steps[making - 1].existed ? evidence->steps[making - 1].dir_fd : -1;
}

void v9_evidence_adopt(struct v9_evidence *evidence, int fd)
{
    evidence->made_by = find_making(evidence);
    V9_COMMIT();
    evidence->made = fd;
}

void v9_evidence_end(struct v9_evidence *evidence)
{
    const int fd = evidence->made;

    evidence->made = -1;
    V9_COMMIT();
    if (fd >= 0)
        v9_budget_close(fd);
}
