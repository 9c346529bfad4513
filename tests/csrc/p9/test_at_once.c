// sources: p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Two requests at once that append to one file or make one name: should the process die, the
 * evidence of each says what it has done itself.
 *
 * The first one is inside of its system call when the second one begins. It goes on once that one
 * has come to its own, or waits. The functions below replace those of the C library.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <semaphore.h>
#include <sys/syscall.h>

#include "p9/device.h"

enum { MODE = 0755, SIZE = 4 }; /* of what is written */

static struct v9_request second;
static struct v9_scratch second_scratch;
static uint8_t second_message[MSIZE], second_reply[MSIZE], second_replies[MSIZE];
static pthread_t second_thread;
static bool is_first_done;     /* or there are no two */
static bool second_waits;      /* for the first one */
static sem_t arrived, release; /* the second one: at its call, or at a lock; it may go on */
static struct v9_evidence left, second_left; /* by a process that died after the first one's call */
static uint32_t appended, second_appended;   /* as its successor would find */

/* ---- the second request ---------------------------------------------------------------------- */

static void *run_second(void *argument)
{
    v9_budget_charge(dev.fids.inodes.account);
    v9_fids_begin_request(&dev.fids, NULL);
    v9_evidence_begin(&second.evidence, false);
    CHECK(v9_p9_run(&dev, &second, &second_scratch) > 0);
    v9_evidence_begin(NULL, false);
    return argument;
}

static void prepare_second(uint8_t type, const char *fields, ...)
{
    va_list values;

    message_size = P9_HEADER_SIZE;
    va_start(values, fields);
    put_fields(fields, values);
    va_end(values);
    v9_put_header(message, (uint32_t)message_size, type, TAG);
    memcpy(second_message, message, message_size);
    second = (struct v9_request){.type = type, .tag = TAG, .size = (uint32_t)message_size};
    second.data_size = type == P9_TWRITE ? P9_TWRITE_SIZE : (uint32_t)message_size;
    second.question.fd = -1;
    second.created = V9_CREATED_NONE;
    memcpy(second.data, message, second.data_size);
    second.chain.iov[0] = (struct iovec){second_message, message_size};
    second.chain.iov[1] = (struct iovec){second_reply, sizeof(second_reply)};
    second.chain.readable_count = second.chain.writable_count = 1;
    second.chain.readable_size = message_size;
    second.chain.writable_size = sizeof(second_reply);
    second_scratch.reply = second_replies;
    v9_evidence_clear(&second.evidence);
    v9_evidence_clear(&request.evidence);
    v9_evidence_begin(&request.evidence, false);
    sem_init(&arrived, 0, 0);
    sem_init(&release, 0, 0);
    is_first_done = second_waits = false;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static bool is_second(void)
{
    return second_thread && pthread_equal(pthread_self(), second_thread);
}

/* Before a call of one of the two. */
static void begin_call(void)
{
    if (is_second() && !is_first_done) {
        sem_post(&arrived);
        sem_wait(&release);
    } else if (!is_second() && !is_first_done) {
        CHECK(pthread_create(&second_thread, NULL, run_second, NULL) == 0);
        sem_wait(&arrived);
    }
}

/* The process might die now. */
static void end_call(void)
{
    if (is_second() || is_first_done)
        return;
    left = request.evidence;
    second_left = second.evidence;
    appended = v9_evidence_appended(&left, SIZE);
    second_appended = v9_evidence_appended(&second_left, SIZE);
    is_first_done = true;
    sem_post(&release);
}

ssize_t writev(int fd, const struct iovec *iov, int count)
{
    ssize_t put;

    begin_call();
    put = syscall(SYS_writev, fd, iov, count);
    end_call();
    return put;
}

int mkdirat(int dir, const char *path, mode_t mode)
{
    int result;

    begin_call();
    result = (int)syscall(SYS_mkdirat, dir, path, mode);
    end_call();
    return result;
}

int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    static __typeof__(pthread_cond_wait) *next;

    if (!next)
        next = (__typeof__(next))dlsym(RTLD_NEXT, "pthread_cond_wait");
    second_waits = true;
    sem_post(&arrived);
    return next(cond, mutex);
}

static void join_second(void)
{
    CHECK(pthread_join(second_thread, NULL) == 0);
    second_thread = 0;
}

/* ---- appends --------------------------------------------------------------------------------- */

static void open_to_append(int fid, const char *name)
{
    is_first_done = true;
    CHECK(walk_to(fid, name) == 0 && ask(P9_TLOPEN, "44", fid, O_WRONLY | O_APPEND) == 0);
}

/* One fid appends "ones" while another, or the same, appends "twos". */
static void append_at_once(int fid, int other)
{
    prepare_second(P9_TWRITE, "484d", other, 0, SIZE, "twos");
    CHECK(ask(P9_TWRITE, "484d", fid, 0, SIZE, "ones") == 0);
    join_second();
    CHECK(second_reply[4] == P9_TWRITE + 1);
}

TEST(of_two_appends_by_one_fid_each_one_shows_by_itself)
{
    host_writes("log", "");
    open_to_append(1, "log");
    append_at_once(1, 1);
    CHECK(appended == SIZE && second_appended == 0);
    CHECK(host_has("log", "onestwos"));
}

TEST(of_two_appends_to_one_file_the_second_one_notes_nothing_before_the_first_one_has_ended)
{
    host_writes("log", "");
    open_to_append(1, "log");
    open_to_append(2, "log");
    append_at_once(1, 2);
    CHECK(second_waits && second_appended == 0);
    CHECK(host_has("log", "onestwos"));
}

TEST(an_append_waits_for_none_to_another_file)
{
    host_writes("log", "");
    host_writes("other", "");
    open_to_append(1, "log");
    open_to_append(2, "other");
    append_at_once(1, 2);
    CHECK(!second_waits && host_has("log", "ones") && host_has("other", "twos"));
}

/* ---- names ----------------------------------------------------------------------------------- */

/* Whether a Tmkdir succeeds that a process has left with this evidence. */
static bool is_made_again(const struct v9_evidence *evidence)
{
    request.evidence = *evidence;
    v9_evidence_begin(&request.evidence, true);
    return ask(P9_TMKDIR, "4s44", ROOT, "new", MODE, (int)getegid()) == 0;
}

TEST(of_two_requests_that_make_a_name_one_succeeds_also_if_both_run_again)
{
    prepare_second(P9_TMKDIR, "4s44", ROOT, "new", MODE, (int)getegid());
    CHECK(ask(P9_TMKDIR, "4s44", ROOT, "new", MODE, (int)getegid()) == 0);
    join_second();
    CHECK(second_waits && second_reply[4] == P9_RLERROR);
    CHECK(is_made_again(&left) && !is_made_again(&second_left));
}

TEST(a_request_that_makes_a_name_waits_for_none_that_makes_another)
{
    prepare_second(P9_TMKDIR, "4s44", ROOT, "other", MODE, (int)getegid());
    CHECK(ask(P9_TMKDIR, "4s44", ROOT, "new", MODE, (int)getegid()) == 0);
    join_second();
    CHECK(!second_waits && second_reply[4] == P9_TMKDIR + 1);
}
