#define _GNU_SOURCE
#include "base/evidence.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/commit.h"
#include "base/key_lock.h"
#include "base/sightings.h"

enum kind { MAKE = 1, REMOVE, MOVE, TOGGLE };
enum { KIND = 0x3f, DONE = 0x40, UNDONE = 0x80 }; /* in the `kind` of a step */
enum { CHANGED_MAX = 2 * V9_STEPS_MAX };          /* a move changes two names */

/* A name that the request changes. */
struct changed {
    struct v9_name_change change;
    struct v9_sighting before, left; /* `at` 0: not known */
    const char *name;
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
    struct v9_key_lock names[2]; /* that it has to itself, */
    uint32_t names_count;
} running;

/* ---- names that a request has to itself ------------------------------------------------------ */

static struct v9_key key_of(int dir_fd, uint32_t name)
{
    return (struct v9_key){(uint32_t)dir_fd, name};
}

static void give_names_up(void)
{
    if (running.names_count)
        v9_key_unlock(running.names, running.names_count);
    running.names_count = 0;
}

static void take_names(uint32_t count, const struct v9_key *keys)
{
    give_names_up();
    for (uint32_t i = 0; i < count; i++)
        running.names[i].key = keys[i];
    v9_key_lock(running.names, count);
    running.names_count = count;
}

static void take_name(int dir_fd, const char *name)
{
    const struct v9_key key = key_of(dir_fd, v9_sightings_hash(name));

    take_names(1, &key);
}

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
        if ((int32_t)running.changed[i].change.dir == dir_fd && running.changed[i].name == name)
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
    give_names_up();
    running.evidence = evidence;
    running.again = again;
    running.noted = evidence && again ? evidence->count : 0;
    running.next = 0;
    running.seen_name = NULL;
}

void v9_evidence_seen(int dir_fd, const char *name, const struct v9_sighting *seen)
{
    running.seen = *seen;
    running.seen_dir = dir_fd;
    running.seen_name = name;
}

static enum kind kind_of(const struct v9_step *step)
{
    return (enum kind)(step->kind & KIND);
}

bool v9_evidence_loss_is_noted(void)
{
    for (uint32_t i = running.next; running.evidence && i < running.noted; i++) {
        const enum kind kind = kind_of(&running.evidence->steps[i]);
        if (kind == REMOVE || kind == MOVE)
            return true;
    }
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

    if (running.seen_name == name && running.seen_dir == dir_fd &&
        v9_sightings_are_unchanged(&changed->change, running.seen.at))
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

/* Evidence of requests that run again. */
struct recovered {
    struct v9_evidence *evidence;
    struct recovered *next;
};

static struct {
    /* Guards its steps, too; lock order: docs/architecture.md */
    pthread_mutex_t lock;
    struct recovered *first;
} recovered = {.lock = PTHREAD_MUTEX_INITIALIZER};

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
    /* A request changes one attribute; older versions have noted none of its name. */
    return kind_of(noted) == kind_of(now) && (noted->name == now->name || kind_of(now) == TOGGLE);
}

/* See next_step. */
static const struct v9_step *find_step(const struct v9_step *now)
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

/* Others look at the steps of a request that runs again. */
static void lock_steps(void)
{
    if (running.again)
        pthread_mutex_lock(&recovered.lock);
}

static void unlock_steps(void)
{
    if (running.again)
        pthread_mutex_unlock(&recovered.lock);
}

/* The next step, which leads from `now`: what was noted of it by a process before this one, or
 * NULL; then it is noted now. */
static const struct v9_step *next_step(const struct v9_step *now)
{
    const struct v9_step *before;

    lock_steps();
    before = find_step(now);
    unlock_steps();
    return before;
}

/* ---- steps of other requests ----------------------------------------------------------------- */

void v9_evidence_recover(struct v9_evidence *evidence)
{
    struct recovered *entry;

    v9_evidence_forget(evidence);
    entry = evidence->count ? malloc(sizeof(*entry)) : NULL;
    if (!entry)
        return;
    pthread_mutex_lock(&recovered.lock);
    *entry = (struct recovered){evidence, recovered.first};
    __atomic_store_n(&recovered.first, entry, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&recovered.lock);
}

void v9_evidence_forget(const struct v9_evidence *evidence)
{
    struct recovered **at = &recovered.first, *entry;

    pthread_mutex_lock(&recovered.lock);
    while (*at && (*at)->evidence != evidence)
        at = &(*at)->next;
    entry = *at;
    if (entry)
        __atomic_store_n(at, entry->next, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&recovered.lock);
    free(entry);
}

/* Whether a step is at the name that was looked up, and nobody has decided yet what it has done. */
static bool is_open(const struct v9_step *step, const struct v9_step *now)
{
    return !(step->kind & (DONE | UNDONE)) && step->dir_fd == now->dir_fd &&
           step->name == now->name && (kind_of(step) == TOGGLE) == (kind_of(now) == TOGGLE);
}

/* Whether a step shows in what its name leads to now. */
static bool is_visible(const struct v9_step *step, const struct v9_step *now)
{
    if (kind_of(step) == MAKE)
        return !step->existed && now->existed;
    if (kind_of(step) == TOGGLE)
        return step->existed != now->existed;
    return has_left(step, now, !now->existed);
}

/* A bit for what a step does to its name, which one step at most has done where that shows. */
static uint32_t effect_of(const struct v9_step *step)
{
    return kind_of(step) == MOVE ? 1u << REMOVE : 1u << kind_of(step);
}

/*
 * Before a request changes a name: decides what the steps of others at that name have done, which
 * would show wrongly after the change. Of several that would have done the same, one has at most:
 * if `mine` shows, a step of the request's own, it is that one. No matter which has: nobody was
 * answered yet, and the others could as well have come after it.
 */
static void decide_others(const struct v9_step *now, const struct v9_step *mine)
{
    uint32_t done = mine ? effect_of(mine) : 0;

    if (!__atomic_load_n(&recovered.first, __ATOMIC_RELAXED))
        return;
    pthread_mutex_lock(&recovered.lock);
    for (struct recovered *each = recovered.first; each; each = each->next) {
        struct v9_evidence *other = each->evidence;
        for (uint32_t i = 0; other != running.evidence && i < other->count; i++) {
            struct v9_step *step = &other->steps[i];
            if (!is_open(step, now))
                continue;
            step->kind |= is_visible(step, now) && !(done & effect_of(step)) ? DONE : UNDONE;
            if (step->kind & DONE)
                done |= effect_of(step);
        }
    }
    V9_COMMIT();
    pthread_mutex_unlock(&recovered.lock);
}

/* The same at a name that a file is moved to. */
static void decide_target(int dir_fd, const char *name)
{
    struct v9_step now = {.kind = MOVE, .dir_fd = dir_fd, .name = v9_sightings_hash(name)};
    struct v9_sighting seen;

    if (!__atomic_load_n(&recovered.first, __ATOMIC_RELAXED) || !see(dir_fd, name, &seen))
        return;
    now.existed = seen.st_ino;
    now.st_dev = seen.st_dev;
    now.st_ino = seen.st_ino;
    decide_others(&now, NULL);
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* Whether a step was done that was noted, if it is visible. */
static bool was_done(const struct v9_step *before, bool visible)
{
    return before && (before->kind & DONE || (visible && !(before->kind & UNDONE)));
}

/* Whether the step was done that was looked up last: now. If not, those after it were undone, or
 * not made: they are forgotten. The caller makes it, and has its names to itself meanwhile. */
static bool settle(bool done, const struct v9_step *now)
{
    if (done) {
        give_names_up();
    } else if (running.noted) {
        running.noted = 0;
        lock_steps();
        note(running.evidence, running.next - 1, now);
        unlock_steps();
    }
    return done;
}

int v9_evidence_outcome(int result)
{
    struct v9_evidence *evidence = running.evidence;

    if (!running.names_count)
        return result;
    if (result < 0 && running.next && evidence->count == running.next) {
        lock_steps();
        evidence->count = --running.next;
        V9_COMMIT();
        unlock_steps();
    }
    give_names_up();
    return result;
}

bool v9_evidence_made(int dir_fd, const char *name)
{
    const struct v9_step *before;
    struct v9_step now;
    bool is_gone, done;

    if (!running.evidence)
        return false;
    take_name(dir_fd, name);
    now = look(MAKE, dir_fd, name, &is_gone);
    before = next_step(&now);
    done = was_done(before, before && !before->existed && now.st_ino);
    if (is_gone || now.st_ino)
        decide_others(&now, done ? before : NULL);
    return settle(done, &now);
}

bool v9_evidence_removed(int dir_fd, const char *name)
{
    const struct v9_step *before;
    struct v9_step now;
    bool is_gone, done;

    if (!running.evidence)
        return false;
    take_name(dir_fd, name);
    now = look(REMOVE, dir_fd, name, &is_gone);
    before = next_step(&now);
    done = was_done(before, before && has_left(before, &now, is_gone));
    if (is_gone || now.st_ino)
        decide_others(&now, done ? before : NULL);
    return settle(done, &now);
}

/* Whether a file that was to be moved has left its old name, and has the new one. */
static bool has_arrived(const struct v9_step *before, const struct v9_step *now, bool is_gone,
                        int new_dir, const char *new)
{
    struct v9_step target;
    bool ignored;

    if (!before || !has_left(before, now, is_gone))
        return false;
    target = look(MOVE, new_dir, new, &ignored);
    return is_same(before, &target);
}

bool v9_evidence_moved(int old_dir, const char *old, int new_dir, const char *new)
{
    const struct v9_key keys[] = {key_of(old_dir, v9_sightings_hash(old)),
                                  key_of(new_dir, v9_sightings_hash(new))};
    const struct v9_step *before;
    struct v9_step now;
    bool is_gone, done;

    if (!running.evidence)
        return false;
    take_names(2, keys);
    now = look(MOVE, old_dir, old, &is_gone);
    begin_change(new_dir, new);
    before = next_step(&now);
    done = was_done(before, has_arrived(before, &now, is_gone, new_dir, new));
    if (is_gone || now.st_ino)
        decide_others(&now, done ? before : NULL);
    if (!done)
        decide_target(new_dir, new);
    return settle(done, &now);
}

/* Another key than that of a file of this name. */
static uint32_t attribute(const char *name)
{
    return ~v9_sightings_hash(name);
}

void v9_evidence_toggle(int fd, const char *name)
{
    const struct v9_key key = key_of(fd, attribute(name));

    if (running.evidence)
        take_names(1, &key);
}

bool v9_evidence_toggled(bool exists)
{
    const struct v9_key *key = &running.names[0].key;
    const struct v9_step *before;
    struct v9_step now;
    bool done;

    if (!running.evidence)
        return false;
    now = (struct v9_step){
        .kind = TOGGLE, .existed = exists, .name = (uint32_t)key->b, .dir_fd = (int32_t)key->a};
    before = next_step(&now);
    done = was_done(before, before && before->existed != exists);
    decide_others(&now, done ? before : NULL);
    return settle(done, &now);
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

/* One store decides: what the position shows counts until then, and nothing of it from then on. */
static void note_appended(struct v9_evidence *evidence, int64_t put)
{
    evidence->append_fd = put > 0 ? V9_APPEND_LOST - (int32_t)put : V9_APPEND_NONE;
    V9_COMMIT();
}

void v9_evidence_append_ends(int64_t put)
{
    if (running.evidence)
        note_appended(running.evidence, put);
}

/* How many of `count` bytes the descriptor that is appended to shows. */
static uint32_t find_appended(const struct v9_evidence *evidence, uint32_t count)
{
    const int64_t at = lseek(evidence->append_fd, 0, SEEK_CUR);
    const int64_t grown = at - evidence->size;

    if (at == evidence->append_at)
        return 0;
    /* Less, where the disk was full. If others have changed the size meanwhile, all of it. */
    return grown > 0 && grown < count ? (uint32_t)grown : count;
}

uint32_t v9_evidence_appended(struct v9_evidence *evidence, uint32_t count)
{
    if (evidence->append_fd >= 0)
        note_appended(evidence, find_appended(evidence, count));
    if (evidence->append_fd >= V9_APPEND_LOST)
        return 0;
    return V9_APPEND_LOST - evidence->append_fd;
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

    if (count && kind_of(&evidence->steps[count - 1]) == REMOVE)
        count--;
    return count && kind_of(&evidence->steps[count - 1]) == MAKE ? count : 0;
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

    end_changes();
    give_names_up();
    evidence->made = -1;
    V9_COMMIT();
    if (fd >= 0)
        v9_budget_close(fd);
}
