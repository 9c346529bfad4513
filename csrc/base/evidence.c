#define _GNU_SOURCE
#include "base/evidence.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/commit.h"
#include "base/sightings.h"

enum kind { MAKE = 1, REMOVE, MOVE, TOGGLE };
enum { CHANGED_MAX = 2 * V9_STEPS_MAX }; /* a move changes two names */

/* A name that the request changes. */
struct changed {
    struct v9_name_change change;
    struct v9_sighting before, left; /* `at` 0: not known */
    const char *name;
    int32_t dir_fd;
};

static _Thread_local struct {
    struct v9_evidence *evidence;
    bool again;
    uint32_t noted; /* steps that a process before this one has noted */
    uint32_t next;
    uint32_t changed_count;
    struct changed changed[CHANGED_MAX];
    struct v9_sighting seen; /* what the next step finds there, if it is at this name: */
    const char *seen_name;
    int seen_dir;
} running;

/* ---- what was seen --------------------------------------------------------------------------- */

/* The request has changed all that it changes. */
static void end_changes(void)
{
    for (uint32_t i = 0; i < running.changed_count; i++)
        v9_sightings_end(&running.changed[i].change,
                         running.changed[i].left.at ? &running.changed[i].left : NULL);
    running.changed_count = 0;
}

/* A name is about to be changed. `before` is what it leads to, if that was seen. */
static struct changed *begin_change(int dir_fd, const char *name)
{
    struct changed *changed;

    if (running.changed_count == CHANGED_MAX)
        end_changes(); /* what was changed before is changed by now */
    changed = &running.changed[running.changed_count++];
    changed->dir_fd = dir_fd;
    changed->name = name;
    changed->left.at = 0;
    if (!v9_sightings_begin(dir_fd, name, &changed->change, &changed->before) || running.again)
        changed->before.at = 0;
    return changed;
}

/* What the request has begun to change last by this name; NULL: it has not. */
static struct changed *find_change(int dir_fd, const char *name)
{
    for (uint32_t i = running.changed_count; i-- > 0;)
        if (running.changed[i].dir_fd == dir_fd && running.changed[i].name == name)
            return &running.changed[i];
    return NULL;
}

void v9_evidence_leads(int dir_fd, const char *name, uint64_t st_dev, uint64_t st_ino)
{
    struct changed *changed = find_change(dir_fd, name);

    if (changed)
        changed->left = (struct v9_sighting){v9_ticks_now(), st_dev, st_ino};
}

void v9_evidence_has_moved(int old_dir, const char *old, int new_dir, const char *new,
                           uint64_t st_dev)
{
    const struct changed *from = find_change(old_dir, old);
    struct changed *to = find_change(new_dir, new);

    if (from && to && from->before.st_ino && from->before.st_dev == st_dev)
        to->left = from->before;
    v9_evidence_leads(old_dir, old, 0, 0);
}

void v9_evidence_begin(struct v9_evidence *evidence, bool again)
{
    end_changes();
    running.evidence = evidence;
    running.again = again;
    running.noted = evidence && again ? evidence->count : 0;
    running.next = 0;
    running.seen_name = NULL;
}

void v9_evidence_seen(int dir_fd, const char *name, uint64_t st_dev, uint64_t st_ino)
{
    running.seen = (struct v9_sighting){v9_ticks_now(), st_dev, st_ino};
    running.seen_dir = dir_fd;
    running.seen_name = name;
}

bool v9_evidence_loss_is_noted(void)
{
    for (uint32_t i = running.next; running.evidence && i < running.noted; i++)
        if (running.evidence->steps[i].kind == REMOVE || running.evidence->steps[i].kind == MOVE)
            return true;
    return false;
}

/* Looks at a name that is about to be changed; false: what it leads to cannot be said. */
static bool see(int dir_fd, const char *name, struct v9_sighting *seen)
{
    struct stat st;

    *seen = (struct v9_sighting){.at = v9_ticks_now()};
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT;
    seen->st_dev = st.st_dev;
    seen->st_ino = st.st_ino;
    return true;
}

/* What a name leads to that is about to be changed; `is_gone` if it leads to nothing for certain.
 */
static struct v9_step look(enum kind kind, int dir_fd, const char *name, bool *is_gone)
{
    struct changed *changed = begin_change(dir_fd, name);
    struct v9_sighting *seen = &changed->before;
    bool known = true;

    if (running.seen_name == name && running.seen_dir == dir_fd)
        *seen = running.seen;
    else if (!seen->at)
        known = see(dir_fd, name, seen);
    *is_gone = known && !seen->st_ino;
    return (struct v9_step){
        .kind = (uint8_t)kind,
        .name = changed->change.name,
        .dir_fd = dir_fd,
        /* perhaps: it must not be taken for made */
        .existed = known ? seen->st_ino != 0 : kind == MAKE,
        .st_dev = seen->st_dev,
        .st_ino = seen->st_ino,
    };
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
    begin_change(new_dir, new);
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

void v9_evidence_lose_descriptors(struct v9_evidence *evidence)
{
    evidence->made = -1;
    for (uint32_t i = 0; i < V9_STEPS_MAX; i++)
        evidence->steps[i].dir_fd = -1;
    if (evidence->append_fd >= 0)
        evidence->append_fd = V9_APPEND_LOST;
}

uint32_t v9_evidence_grown(int fd, uint32_t count)
{
    const struct v9_evidence *evidence = running.evidence;
    struct stat st;

    if (!evidence || evidence->append_fd != V9_APPEND_LOST || fstat(fd, &st) < 0 ||
        st.st_size <= evidence->size)
        return 0;
    return st.st_size - evidence->size < count ? (uint32_t)(st.st_size - evidence->size) : count;
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

    if (evidence->count)
        end_changes();
    evidence->made = -1;
    V9_COMMIT();
    if (fd >= 0)
        v9_budget_close(fd);
}
