// sources: server/device.c server/ring_setup.c server/workers.c server/wait.c
// server/adaptive_poll.c server/fids.c server/recover.c server/process.c request/ p9/ fs/ fid/
// export/ mapped/ quota/ virtio/ base/
/*
 * Memory that was damaged when its process died: the successor neither crashes nor hangs, a fid is
 * good for its own file or gives an error, and a new session works.
 *
 * Random bytes are changed where something lies: in the device, in its requests, in fids, inodes,
 * names and values.
 */
#define _GNU_SOURCE
#include "server/kinds_of_files.h"

enum { SEEDS = 150, MANY_SEEDS = 5000, BYTES_MAX = 24, OLD_MS = 300 };

static unsigned seed; /* of a run: it can be repeated */

static uint32_t below(uint32_t limit)
{
    return (uint32_t)rand_r(&seed) % limit;
}

/* ---- damage ---------------------------------------------------------------------------------- */

/* The parts of the memory, and how much of each is in use. */
static struct area pick_part(void)
{
    struct v9_fids *fids = &dev->fids;
    struct v9_arena *names = &fids->inodes.recipes.arena, *values = &fids->values.arena;
    struct v9_inode *inodes = fids->inodes.entries;
    struct v9_request *slot = &dev->slots[below(dev->slots_used)];

    switch (below(8)) {
    case 0:
        return (struct area){dev, dev + 1};
    case 1:
        return (struct area){&dev->conf, &dev->fids};
    case 2:
        return (struct area){&dev->mem, dev + 1};
    case 3:
        return (struct area){slot, slot->chain.iov + 4};
    case 4:
        return (struct area){fids->entries, fids->entries + 4};
    case 5:
        return (struct area){inodes, inodes + fids->inodes.used};
    case 6:
        return (struct area){names->base, names->base + names->used * V9_ARENA_UNIT};
    default:
        return (struct area){values->base, values->base + values->used * V9_ARENA_UNIT};
    }
}

static void damage(void)
{
    const struct area part = pick_part();
    const size_t size = (size_t)((const uint8_t *)part.end - (const uint8_t *)part.at);

    for (uint32_t count = 1 + below(BYTES_MAX); count; count--)
        ((uint8_t *)(uintptr_t)part.at)[below((uint32_t)size)] = (uint8_t)below(256);
}

/* ---- a run ----------------------------------------------------------------------------------- */

/* Whether the worker is alive, and has become ready in time. */
static bool becomes_ready(void)
{
    for (int i = 0; i < 100; i++) {
        if (poll(&(struct pollfd){ready_fd, POLLIN, 0}, 1, 50) == 1) {
            wait_for(ready_fd);
            return true;
        }
        if (waitpid(worker_pid, NULL, WNOHANG))
            return false;
    }
    return false;
}

/* Whether a request of the old session is answered: its ring may be broken. */
static bool is_answered(uint8_t type, const uint8_t *body, uint32_t size)
{
    const uint16_t before = count_used();

    send_body(0, type, body, size);
    for (int i = 0; i < OLD_MS && count_used() == before; i++)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    return count_used() != before;
}

/* A file's fid never gives another file's content. */
static void use_old_fids(void)
{
    const char *data = (const char *)guest + DATA_AT + REPLY_AT + 11;
    uint8_t body[ROOM];

    for (uint32_t fid = 0; fid <= OTHER; fid++) {
        v9_put(v9_put(v9_put(body, fid, 4), 0, 8), 100, 4);
        if (!is_answered(P9_TREAD, body, 16))
            return;
        if (reply_in(0) == P9_TREAD + 1)
            CHECK(strncmp(data, fid == FID ? "inner" : "content", 5) != 0);
    }
}

static void begin_anew(void)
{
    memset(guest, 0, DATA_AT);
    memset(&packed, 0, sizeof(packed));
    notify(command_fd);
    if (!CHECK(becomes_ready()))
        return;
    walk_to(ROOT, FID, "file");
    open_as(FID, O_RDONLY);
    must(P9_TREAD, (const uint8_t[16]){FID, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7}, 16);
    CHECK(!memcmp(guest + DATA_AT + REPLY_AT + 11, "content", 7));
    exchange(LAST_SLOT);
}

static void damaged_run(const struct kind *kind, const struct fate *fate)
{
    pid_t tid;

    set_up(kind);
    seed = (unsigned)fate->points[1];
    tid = find_server();
    watch(tid);
    send_requests(kind);
    go_on(tid, 0);
    kill_at(kind, fate->points[0], (uint16_t)(count_used() + 1));
    damage();
    clone_worker(false);
    if (CHECK(becomes_ready())) {
        use_old_fids();
        begin_anew();
        CHECK(waitpid(worker_pid, NULL, WNOHANG) == 0);
    }
    kill(worker_pid, SIGKILL);
    host_ends();
}

/* Fids of all sorts: an open file, an evicted one, a value that is written, one that is read. */
static void all_sorts(void)
{
    uint8_t body[ROOM];

    walk_to(ROOT, OTHER, "dir");
    walk_to(OTHER, NEW, "inner");
    open_as(NEW, O_RDWR);
    evict();
    walk_to(ROOT, FID, "file");
    v9_put(v9_put(v9_put(v9_put(body, FID, 4), 9, 4), 9, 2), 0, 0);
    memcpy(body + 10, "user.name", 9);
    must(P9_TXATTRWALK, body, 19);
    walk_to(ROOT, 8, "file");
    put_name(&(uint8_t *){v9_put(body, 8, 4)}, "user.new");
    v9_put(v9_put(body + 14, 4, 8), 0, 4);
    must(P9_TXATTRCREATE, body, 26);
    open_as(FID, O_RDWR);
}

static void damage_runs(uint32_t count)
{
    const struct kind kind = {"damage", named_value, all_sorts, {{P9_TREAD, read_on}}};
    const char *only = getenv("V9_SEED");

    for (uint32_t i = only ? (uint32_t)atoi(only) : 0; i < count; i++) {
        if (!CHECK(run_apart(damaged_run, &kind, &(struct fate){0, {(int)(i * 7 % 40), (int)i}})))
            fprintf(stderr, "V9_SEED=%u\n", i);
        if (only)
            break;
    }
}

TEST(damaged_memory_gives_clean_errors)
{
    damage_runs(SEEDS);
}

TEST(damaged_memory_gives_clean_errors_with_metadata_in_files)
{
    model = V9_MODEL_FILE;
    damage_runs(SEEDS);
}

TEST(damaged_memory_gives_clean_errors_with_a_packed_ring)
{
    layout = PACKED_RING;
    damage_runs(SEEDS);
}

LONG_TEST(much_damaged_memory_gives_clean_errors)
{
    damage_runs(MANY_SEEDS);
}
