// sources: server/names.c server/ p9/ request/ fid/ fs/ mapped/ export/ quota/ base/ virtio/
/*
 * Python reports the guest's changes of names: fids keep the names by which they were reached, and
 * what is evicted or cached is prepared before a file loses its name.
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "fid/evict.h"
#include "request/state.h"
#include "server/served.h"

enum { KINDS = V9_NAMES_FILE | V9_NAMES_DIRECTORY };

static int root_fd;

static void begin_device(void)
{
    create_device();
    CHECK(v9_device_set_export(dev, 0, export) == 0);
    root_fd = open(top, O_PATH | O_CLOEXEC);
}

static void end_device(void)
{
    close(root_fd);
    stop();
}

/* Evicts all that can be: the files are old enough to be told from later ones. */
static void evict_all(void)
{
    struct v9_shrinker *shrinker = &dev->fids.shrinker;

    nanosleep(&(struct timespec){0, 120000000}, NULL);
    for (int round = 0; round < 3; round++) /* what was used lately is spared at first */
        while (v9_evict_ops.evict(shrinker, 16))
            ;
}

static bool is_reachable(uint32_t fid)
{
    struct v9_fid_info info;
    const int err = v9_fid_get(dev, fid, &info);

    CHECK(!err || err == -ESTALE);
    if (!err)
        v9_fid_put(dev, info.handle);
    return !err;
}

/* ---- the names of fids -------------------------------------------------------------------------
 */

/* Which directory of the host, and which name in it, the guest reached a fid by: 0 or -errno. */
static int own_name(uint32_t fid, uint64_t *directory, char name[V9_NAME_SIZE])
{
    struct v9_fid_info info;
    struct stat st = {0};
    int fd;

    CHECK(v9_fid_get(dev, fid, &info) == 0);
    fd = v9_names_own(dev, info.handle, name);
    v9_fid_put(dev, info.handle);
    if (fd < 0)
        return fd;
    CHECK(fstat(fd, &st) == 0);
    *directory = st.st_ino;
    v9_budget_close(fd);
    return 0;
}

static bool is_at(uint32_t fid, const char *directory, const char *name)
{
    char found[V9_NAME_SIZE];
    uint64_t ino;

    return own_name(fid, &ino, found) == 0 && ino == host_ino(directory) && !strcmp(found, name);
}

static int why_nowhere(uint32_t fid)
{
    char found[V9_NAME_SIZE];
    uint64_t ino;

    return own_name(fid, &ino, found);
}

/* Reports a rename, which the host makes of one path to the other. */
static void guest_renames(const char *old, const char *new, uint64_t handle, const char *name,
                          uint64_t directory, const char *into)
{
    v9_names_begin(dev, 0, KINDS);
    CHECK(rename(host(old), host(new)) == 0);
    v9_names_moved(dev, handle, name, directory, into);
    v9_names_end(dev, 0);
}

static void host_links(const char *old, const char *new)
{
    CHECK(link(host(old), host(new)) == 0);
}

static void host_unlinks(const char *name)
{
    CHECK(unlink(host(name)) == 0);
}

TEST(a_fid_has_the_name_by_which_it_was_reached)
{
    begin_device();
    host_makes_directory("dir");
    host_writes("a", "text");
    host_links("a", "dir/b");
    add_fid(ROOT, "");
    add_fid(1, "a");
    add_fid(2, "dir");
    add_fid(3, "dir/b");
    CHECK(is_at(1, "", "a") && is_at(2, "", "dir") && is_at(3, "dir", "b"));
    CHECK(why_nowhere(ROOT) == -EBUSY);
    end_device();
}

/* What the guest has removed is gone, even if the same file gets the same name again. */
TEST(a_name_that_is_lost_is_no_fids_name)
{
    uint64_t root, own;

    begin_device();
    host_writes("a", "text");
    host_links("a", "b");
    host_links("a", "c");
    host_links("a", "d");
    root = add_fid(ROOT, "");
    add_fid(1, "a");
    own = add_fid(2, "b");
    add_fid(3, "c");
    host_unlinks("a");
    v9_names_lost(dev, root, "a"); /* an entry of a fid's directory */
    host_unlinks("b");
    v9_names_lost(dev, own, ""); /* the fid's own name */
    host_unlinks("c");
    CHECK(why_nowhere(1) == -ENOENT && why_nowhere(2) == -ENOENT && why_nowhere(3) == -ENOENT);
    host_links("d", "a");
    host_links("d", "b");
    host_links("d", "c");
    CHECK(why_nowhere(1) == -ENOENT && why_nowhere(2) == -ENOENT && is_at(3, "", "c"));
    end_device();
}

TEST(a_name_that_is_moved_is_a_fids_name_where_it_is_now)
{
    uint64_t root, dir, file;

    begin_device();
    host_makes_directory("dir");
    host_makes_directory("dir/sub");
    host_writes("a", "text");
    host_writes("dir/sub/below", "text");
    root = add_fid(ROOT, "");
    dir = add_fid(1, "dir");
    file = add_fid(2, "a");
    add_fid(3, "dir/sub");
    add_fid(4, "dir/sub/below");
    guest_renames("a", "b", root, "a", V9_OWN_DIRECTORY, "b");
    CHECK(is_at(2, "", "b"));
    guest_renames("b", "dir/c", file, "", dir, "c");
    CHECK(is_at(2, "dir", "c"));
    guest_renames("dir/c", "dir/d", file, "", V9_OWN_DIRECTORY, "d");
    CHECK(is_at(2, "dir", "d"));
    guest_renames("dir/d", "e", dir, "d", root, "e");
    CHECK(is_at(2, "", "e"));
    guest_renames("dir/sub", "sub", dir, "sub", root, "sub");
    CHECK(is_at(3, "", "sub") && is_at(4, "sub", "below"));
    end_device();
}

TEST(a_file_that_a_rename_replaces_loses_its_name)
{
    uint64_t root;

    begin_device();
    host_writes("old", "text");
    host_writes("new", "text");
    root = add_fid(ROOT, "");
    add_fid(1, "old");
    add_fid(2, "new");
    guest_renames("old", "new", root, "old", V9_OWN_DIRECTORY, "new");
    CHECK(is_at(1, "", "new") && why_nowhere(2) == -ENOENT);
    end_device();
}

/* rename(2) does nothing where both names are of one file. */
TEST(a_rename_to_another_name_of_the_file_moves_none)
{
    uint64_t root;

    begin_device();
    host_writes("one", "text");
    host_links("one", "two");
    root = add_fid(ROOT, "");
    add_fid(1, "one");
    add_fid(2, "two");
    guest_renames("one", "two", root, "one", V9_OWN_DIRECTORY, "two");
    CHECK(is_at(1, "", "one") && is_at(2, "", "two"));
    end_device();
}

/* ---- before a name is lost ---------------------------------------------------------------------
 */

TEST(a_change_has_to_be_prepared_for_what_may_be_cached)
{
    uint64_t handle;

    serve();
    host_writes("file", "text");
    host_makes_directory("dir");
    add_fid(ROOT, "");
    CHECK(v9_names_begin(dev, 0, KINDS) == 0);
    v9_names_end(dev, 0);
    walk(1, "file");
    CHECK(v9_names_begin(dev, 0, KINDS) == 1);
    CHECK(v9_names_begin(dev, 0, V9_NAMES_DIRECTORY) == 0);
    v9_names_end(dev, 0);
    walk(2, "dir");
    CHECK(v9_names_begin(dev, 0, V9_NAMES_DIRECTORY) == 1);
    v9_names_end(dev, 0);
    v9_names_end(dev, 0);
    CHECK(v9_fid_find(dev, 1, &handle) == 0 && v9_fid_clunk(dev, handle) == 0);
    v9_names_begin(dev, 0, KINDS);
    CHECK(v9_names_before_loss(dev, 0, -1, "file") == 0);
    CHECK(stats().inodes == 2); /* the root and the directory */
    CHECK(v9_names_before_loss(dev, 0, -1, "dir") == 1);
    v9_names_end(dev, 0);
    CHECK(v9_names_begin(dev, 0, KINDS) == 0);
    v9_names_end(dev, 0);
    stop();
}

TEST(nothing_is_evicted_while_names_change)
{
    begin_device();
    host_writes("file", "text");
    add_fid(1, "file");
    CHECK(v9_names_begin(dev, 0, KINDS) == 0);
    evict_all();
    CHECK(stats().evicted == 0);
    v9_names_end(dev, 0);
    evict_all();
    CHECK(stats().evicted == 1);
    CHECK(v9_names_begin(dev, 0, 0) == 1);
    v9_names_end(dev, 0);
    end_device();
}

TEST(what_is_evicted_is_restored_before_it_loses_its_name)
{
    int file_fd;

    begin_device();
    host_makes_directory("dir");
    for (uint32_t i = 0; i < 4; i++) {
        const char *names[] = {"entry", "dir/path", "itself", "unprepared"};
        host_writes(names[i], "text");
        add_fid(i + 1, names[i]);
    }
    add_fid(5, "dir");
    file_fd = open(host("itself"), O_PATH | O_CLOEXEC);
    evict_all();
    CHECK(stats().evicted == 5);
    CHECK(v9_names_begin(dev, 0, KINDS) == 1);
    CHECK(v9_names_before_loss(dev, 0, root_fd, "entry") == 0 && stats().evicted == 4);
    CHECK(v9_names_before_loss(dev, 0, -1, "dir/path") == 0 && stats().evicted == 3);
    CHECK(v9_names_before_loss(dev, 0, file_fd, "") == 0 && stats().evicted == 2);
    CHECK(v9_names_before_loss(dev, 0, root_fd, "nothing") == 0 && stats().evicted == 2);
    CHECK(v9_names_before_loss(dev, 0, root_fd, "dir") == 1 && stats().evicted == 1);
    close(file_fd);
    host_unlinks("entry");
    host_unlinks("dir/path");
    host_unlinks("itself");
    host_unlinks("unprepared");
    v9_names_end(dev, 0);
    CHECK(is_reachable(1) && is_reachable(2) && is_reachable(3) && !is_reachable(4));
    end_device();
}

TEST(a_name_is_kept_where_no_descriptor_is_left)
{
    begin_device();
    host_writes("file", "text");
    add_fid(1, "file");
    evict_all();
    CHECK(v9_names_begin(dev, 0, KINDS) == 1);
    v9_budget_charge(v9_device_account(dev));
    v9_budget_set(0, 0);
    CHECK(v9_names_before_loss(dev, 0, root_fd, "file") == -EMFILE && stats().evicted == 1);
    v9_budget_set(UINT32_MAX, 0);
    CHECK(v9_names_before_loss(dev, 0, root_fd, "file") == 0 && stats().evicted == 0);
    v9_names_end(dev, 0);
    end_device();
}

/* Where files are not found by their handles. */
TEST(what_is_evicted_is_found_below_a_renamed_directory)
{
    char old[V9_PATH_SIZE], new[V9_PATH_SIZE];
    struct v9_recipe_store *store;
    uint64_t root;

    begin_device();
    host_makes_directory("dir");
    host_makes_directory("dir/sub");
    host_writes("dir/sub/file", "text");
    root = add_fid(ROOT, "");
    add_fid(1, "dir");
    add_fid(2, "dir/sub");
    add_fid(3, "dir/sub/file");
    evict_all();
    CHECK(stats().evicted == 3);
    store = &dev->fids.inodes.recipes;
    for (struct v9_anchor *each = store->anchors; each < store->anchors + V9_ANCHORS_MAX; each++)
        each->by_handle = false;
    CHECK(v9_names_begin(dev, 0, KINDS) == 1);
    v9_names_lock(dev, 0);
    CHECK(v9_names_before_loss(dev, 0, root_fd, "dir") == 1);
    CHECK(v9_names_path(dev, 0, root_fd, "dir", old) == 3);
    CHECK(v9_names_path(dev, 0, root_fd, "elsewhere", new) == 9);
    CHECK(rename(host("dir"), host("elsewhere")) == 0);
    v9_names_moved(dev, root, "dir", V9_OWN_DIRECTORY, "elsewhere");
    v9_names_renamed(dev, 0, old, new);
    v9_names_unlock(dev, 0);
    v9_names_end(dev, 0);
    CHECK(stats().evicted == 2 && is_reachable(3) && is_at(3, "elsewhere/sub", "file"));
    end_device();
}

/* ---- paths and the lock ------------------------------------------------------------------------
 */

static int path_is(int fd, const char *name, const char *expected)
{
    char path[V9_PATH_SIZE];
    const int size = v9_names_path(dev, 0, fd, name, path);

    CHECK(size < 0 || strlen(path) == (size_t)size);
    return size < 0 ? size : !strcmp(path, expected);
}

TEST(paths_are_below_the_root)
{
    char beside[sizeof(top) + 1];
    int fd;

    begin_device();
    snprintf(beside, sizeof(beside), "%s2", top); /* whose path begins as the root's does */
    CHECK(mkdir(beside, 0755) == 0);
    host_makes_directory("dir");
    host_makes_directory("dir/sub");
    fd = open(host("dir/sub"), O_PATH | O_CLOEXEC);
    CHECK(path_is(root_fd, "new", "new") == 1);
    CHECK(path_is(fd, "", "dir/sub") == 1 && path_is(fd, "new", "dir/sub/new") == 1);
    close(fd);
    CHECK(path_is(root_fd, "", "") == -EBUSY);
    fd = open(beside, O_PATH | O_CLOEXEC);
    CHECK(path_is(fd, "", "") == -ENOENT && path_is(fd, "new", "") == -ENOENT);
    close(fd);
    fd = open("/", O_PATH | O_CLOEXEC);
    CHECK(path_is(fd, "tmp", "") == -ENOENT);
    close(fd);
    CHECK(rmdir(beside) == 0);
    end_device();
}

TEST(a_path_that_is_too_long_is_refused)
{
    char name[V9_NAME_SIZE] = {0}, path[V9_PATH_SIZE];
    const char *level = memset(name, 'n', 100);
    int fd, below, size = 0;

    begin_device();
    for (fd = dup(root_fd); size < V9_PATH_SIZE - V9_NAME_SIZE; fd = below) {
        CHECK(mkdirat(fd, level, 0755) == 0);
        below = openat(fd, level, O_PATH | O_CLOEXEC);
        close(fd);
        size = v9_names_path(dev, 0, below, "", path);
        if (!CHECK(size > 0))
            break;
    }
    memset(name, 'n', V9_NAME_SIZE - 1);
    CHECK(v9_names_path(dev, 0, fd, name, path) == -ENAMETOOLONG);
    name[V9_PATH_SIZE - 1 - size] = 0; /* no room for the NUL */
    CHECK(v9_names_path(dev, 0, fd, name, path) == -ENAMETOOLONG);
    name[V9_PATH_SIZE - 2 - size] = 0;
    CHECK(v9_names_path(dev, 0, fd, name, path) == V9_PATH_SIZE - 1);
    CHECK(strlen(path) == V9_PATH_SIZE - 1);
    close(fd);
    end_device();
}

static bool entered;

static void *enter(void *unused)
{
    v9_names_lock(dev, 0);
    __atomic_store_n(&entered, true, __ATOMIC_SEQ_CST);
    v9_names_unlock(dev, 0);
    return unused;
}

/* Which its holder may take again. */
TEST(one_thread_changes_names_at_a_time)
{
    pthread_t thread;

    begin_device();
    v9_names_lock(dev, 0);
    v9_names_lock(dev, 0);
    CHECK(pthread_create(&thread, NULL, enter, NULL) == 0);
    pause_briefly();
    v9_names_unlock(dev, 0);
    pause_briefly();
    CHECK(!__atomic_load_n(&entered, __ATOMIC_SEQ_CST));
    v9_names_unlock(dev, 0);
    pthread_join(thread, NULL);
    CHECK(entered);
    end_device();
}
