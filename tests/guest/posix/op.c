/*
 * The system calls that take a path, as a table: name lookup and directory permissions have the
 * same rules for all of them, so their cases are loops over this table.
 */
#include "posix.h"

#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

static int open_and_close(const char *path, int flags)
{
    int fd = open(path, flags, 0644);
    return fd < 0 ? fd : close(fd);
}

static int op_open(const char *path)
{
    return open_and_close(path, O_RDONLY);
}

static int op_open_write(const char *path)
{
    return open_and_close(path, O_WRONLY);
}

static int op_open_truncate(const char *path)
{
    return open_and_close(path, O_WRONLY | O_TRUNC);
}

static int op_open_path(const char *path)
{
    return open_and_close(path, O_PATH);
}

static int op_create(const char *path)
{
    return open_and_close(path, O_WRONLY | O_CREAT);
}

static int op_create_excl(const char *path)
{
    return open_and_close(path, O_RDWR | O_CREAT | O_EXCL);
}

static int op_opendir(const char *path)
{
    return open_and_close(path, O_RDONLY | O_DIRECTORY);
}

static int op_mkdir(const char *path)
{
    return mkdir(path, 0755);
}

static int op_mkfifo(const char *path)
{
    return mkfifo(path, 0644);
}

static int op_mknod_file(const char *path)
{
    return mknod(path, S_IFREG | 0644, 0);
}

static int op_mknod_socket(const char *path)
{
    return mknod(path, S_IFSOCK | 0644, 0);
}

static int op_symlink(const char *path)
{
    return symlink("nowhere", path);
}

static int op_link_from(const char *path)
{
    return link(path, "made");
}

static int op_link_to(const char *path)
{
    return link("source", path);
}

static int op_rename_from(const char *path)
{
    return rename(path, "made");
}

static int op_rename_to(const char *path)
{
    return rename("source", path);
}

static int op_chmod(const char *path)
{
    return chmod(path, 0640);
}

static int op_chown(const char *path)
{
    return chown(path, (uid_t)-1, getegid());
}

static int op_lchown(const char *path)
{
    return lchown(path, (uid_t)-1, getegid());
}

static int op_truncate(const char *path)
{
    return truncate(path, 3);
}

static int op_utimens(const char *path)
{
    return utimensat(AT_FDCWD, path, NULL, 0);
}

static int op_lutimens(const char *path)
{
    return utimensat(AT_FDCWD, path, NULL, AT_SYMLINK_NOFOLLOW);
}

static int op_stat(const char *path)
{
    struct stat st;
    return stat(path, &st);
}

static int op_lstat(const char *path)
{
    struct stat st;
    return lstat(path, &st);
}

static int op_access(const char *path)
{
    return access(path, F_OK);
}

static int op_readlink(const char *path)
{
    char target[16];
    return (int)readlink(path, target, sizeof(target));
}

static int op_statfs(const char *path)
{
    struct statfs st;
    return statfs(path, &st);
}

static int op_chdir(const char *path)
{
    int here = open(".", O_PATH | O_DIRECTORY);
    int result = chdir(path);
    int error = errno;
    if (fchdir(here) < 0 || close(here) < 0)
        return -1;
    errno = error;
    return result;
}

static int op_getxattr(const char *path)
{
    char value[16];
    return (int)getxattr(path, "user.posix", value, sizeof(value));
}

static int op_listxattr(const char *path)
{
    char names[256];
    return (int)listxattr(path, names, sizeof(names));
}

static int op_setxattr(const char *path)
{
    return setxattr(path, "user.posix", "new", 3, 0);
}

static int op_removexattr(const char *path)
{
    return removexattr(path, "user.posix");
}

const struct op ops[] = {
    {"open", op_open, FOLLOWS, FILE_},
    {"open-write", op_open_write, FOLLOWS, FILE_},
    {"open-truncate", op_open_truncate, FOLLOWS, FILE_},
    {"open-path", op_open_path, FOLLOWS, FILE_},
    {"create", op_create, MAKES | FOLLOWS | CHANGES, FILE_},
    {"create-excl", op_create_excl, MAKES | CHANGES, FILE_},
    {"opendir", op_opendir, FOLLOWS, DIR_},
    {"mkdir", op_mkdir, MAKES | CHANGES, DIR_},
    {"mkfifo", op_mkfifo, MAKES | CHANGES, FIFO},
    {"mknod-file", op_mknod_file, MAKES | CHANGES, FILE_},
    {"mknod-socket", op_mknod_socket, MAKES | CHANGES, SOCK},
    {"symlink", op_symlink, MAKES | CHANGES, LINK},
    {"link-from", op_link_from, 0, FILE_},
    {"link-to", op_link_to, MAKES | CHANGES, FILE_},
    {"unlink", unlink, CHANGES, FILE_},
    {"rmdir", rmdir, CHANGES, DIR_},
    {"rename-from", op_rename_from, CHANGES, FILE_},
    {"rename-to", op_rename_to, MAKES | CHANGES, FILE_},
    {"chmod", op_chmod, FOLLOWS, FILE_},
    {"chown", op_chown, FOLLOWS, FILE_},
    {"lchown", op_lchown, 0, FILE_},
    {"truncate", op_truncate, FOLLOWS, FILE_},
    {"utimens", op_utimens, FOLLOWS, FILE_},
    {"lutimens", op_lutimens, 0, LINK},
    {"stat", op_stat, FOLLOWS, FILE_},
    {"lstat", op_lstat, 0, FILE_},
    {"access", op_access, FOLLOWS, FILE_},
    {"readlink", op_readlink, 0, LINK},
    {"statfs", op_statfs, FOLLOWS, FILE_},
    {"chdir", op_chdir, FOLLOWS, DIR_},
    {"getxattr", op_getxattr, FOLLOWS | USES_XATTR, FILE_},
    {"listxattr", op_listxattr, FOLLOWS | USES_XATTR, FILE_},
    {"setxattr", op_setxattr, FOLLOWS | USES_XATTR, FILE_},
    {"removexattr", op_removexattr, FOLLOWS | USES_XATTR, FILE_},
};
const size_t ops_count = COUNT(ops);

void need_xattrs(void)
{
    static int known = -1;
    if (known < 0) {
        put("xattr-probe", "");
        known = setxattr("xattr-probe", "user.posix", "", 0, 0) == 0 || errno != EOPNOTSUPP;
        OK(unlink("xattr-probe"));
    }
    if (!known)
        skip("no user.* extended attributes");
}

void op_prepare(const struct op *op, const char *path)
{
    if (op->flags & USES_XATTR)
        need_xattrs();
    if (!strcmp(op->name, "link-to") || !strcmp(op->name, "rename-to"))
        put("source", "");
    if (op->flags & MAKES)
        return;
    node(op->wants, path);
    if (op->flags & USES_XATTR)
        OK(setxattr(path, "user.posix", "value", 5, 0));
}
