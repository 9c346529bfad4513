// sources: server/device.c server/ring_setup.c server/workers.c server/wait.c
// server/adaptive_poll.c server/fids.c server/recover.c server/process.c request/ p9/ fs/ fid/
// export/ mapped/ quota/ virtio/ base/
/*
 * Two requests for one name are in work when their process dies: whichever runs again first, one
 * succeeds. The function below replaces that of the C library.
 */
#define _GNU_SOURCE
#include "server/requests.h"

enum { MODE = 0755 };

static bool mkdir_hangs; /* in the next workers */

int mkdirat(int dir, const char *path, mode_t mode)
{
    if (mkdir_hangs) {
        notify(waits_fd);
        pause();
    }
    return (int)syscall(SYS_mkdirat, dir, path, mode);
}

static void send_mkdir(uint16_t slot)
{
    uint8_t body[ROOM], *at = begin_message(body, ROOT, "new");

    put(&at, MODE, 4);
    put(&at, getegid(), 4);
    send_body(slot, P9_TMKDIR, body, (uint32_t)(at - body));
}

static bool is_in_work(uint32_t slot)
{
    return *(volatile enum v9_state *)&dev->slots[slot].state == V9_RUNNING;
}

/* The first one has not made the name yet, and the second one waits for it. Their process dies. */
static void die_before_the_call(void)
{
    send_mkdir(0);
    wait_for(waits_fd);
    send_mkdir(1);
    while (!is_in_work(1))
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    kill_worker();
}

static void run_again_in_reverse(const struct kind *kind, const struct fate *fate)
{
    uint16_t before;

    conf.threads = 2;
    mkdir_hangs = true;
    set_up(kind);
    before = count_used();
    die_before_the_call();
    dev->slots[0].order = dev->slots[1].order + 1;
    conf.threads = 1;
    mkdir_hangs = false;
    start_worker();
    wait_for_used((uint16_t)(before + 2));
    CHECK(reply_in(1) == P9_TMKDIR + 1 && reply_in(0) == -EEXIST);
    host_ends();
}

TEST(what_another_request_has_made_before_it_runs_again_is_not_taken_for_its_own)
{
    const struct kind kind = {.name = "mkdir twice"};

    CHECK(run_apart(run_again_in_reverse, &kind, &(struct fate){0, {0, 0}}));
}
