// sources: fs/xattr.c fs/ mapped/ export/ quota/ base/
/*
 * Extended attributes within limits and a quota: whoever waits for another one's change has nothing
 * of the quota set aside.
 */
#define _GNU_SOURCE
#include "fs/xattr.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "check.h"
#include "export/xattr_names.h"
#include "quota/quota.h"

enum { QUOTA = 400000, VALUE = 60000, SETTERS = 8 };

static char path[] = "/var/tmp/v9-xattr-quota-XXXXXX";
static pthread_mutex_t hang = PTHREAD_MUTEX_INITIALIZER;
static unsigned begun;
static v9_export *ex;
static int file;

/* That of the C library, but it hangs. */
int setxattr(const char *at, const char *name, const void *value, size_t size, int flags)
{
    pthread_mutex_lock(&hang);
    pthread_mutex_unlock(&hang);
    return (int)syscall(SYS_setxattr, at, name, value, size, flags);
}

static void *set(void *unused)
{
    uint8_t *value = calloc(1, VALUE);

    __atomic_add_fetch(&begun, 1, __ATOMIC_RELEASE);
    v9_xattr_set(ex, file, "user.a", value, VALUE, 0);
    free(value);
    return unused;
}

static v9_quota *quota_of(int fd)
{
    const struct v9_quota_conf conf = {.fd = fd,
                                       .bytes = QUOTA,
                                       .inodes = 100,
                                       .error = EDQUOT,
                                       .block = 4096,
                                       .max_accounts = 64};
    v9_quota *quota;
    int err;

    CHECK(ftruncate(fd, V9_QUOTA_FILE) == 0);
    quota = v9_quota_new(&conf, &err);
    CHECK(quota && !err);
    return quota;
}

TEST(what_waits_takes_nothing_of_the_quota)
{
    struct v9_export_conf conf = {0};
    const int fd = memfd_create("usage", MFD_CLOEXEC);
    v9_quota *quota = quota_of(fd);
    v9_qidmap *qids = v9_qidmap_new();
    pthread_t threads[SETTERS];
    int32_t err;

    CHECK(mkdtemp(path));
    conf.root_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    close(openat(conf.root_fd, "f", O_CREAT | O_WRONLY, 0600));
    file = openat(conf.root_fd, "f", O_PATH | O_CLOEXEC);
    ex = v9_export_new(&conf, qids, &err);
    CHECK(ex && !v9_export_set_quota(ex, quota));
    v9_export_limit_xattrs(ex, &(struct v9_xattr_limits){65536, 10, 1 << 20});
    pthread_mutex_lock(&hang);
    for (int i = 0; i < SETTERS; i++)
        pthread_create(&threads[i], NULL, set, NULL);
    while (__atomic_load_n(&begun, __ATOMIC_ACQUIRE) < SETTERS)
        usleep(1000);
    usleep(100000); /* they wait now: one in its call, the others for it */
    err = v9_quota_begin(quota, QUOTA / 2, 0);
    CHECK(err == 0);
    v9_quota_end(quota, QUOTA / 2, 0);
    pthread_mutex_unlock(&hang);
    for (int i = 0; i < SETTERS; i++)
        pthread_join(threads[i], NULL);
    v9_export_free(ex);
    v9_quota_free(quota);
    v9_qidmap_free(qids);
    unlinkat(conf.root_fd, "f", 0);
    close(conf.root_fd);
    close(file);
    close(fd);
    rmdir(path);
}
