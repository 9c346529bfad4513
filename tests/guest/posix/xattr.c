/* Extended attributes of the user namespace: values, names, flags, listing, limits, types. */
#include "posix.h"

#include <sys/xattr.h>

static unsigned char want[65536 + 16], got[65536 + 16];

static void value_is(const char *path, const char *name, const void *value, size_t size)
{
    SAME((long long)size, getxattr(path, name, got, sizeof(got)));
    SAME_BYTES(value, got, size);
}

/* a->number bytes of value on a file or directory. */
CASE(value_size)
{
    size_t size = (size_t)a->number;
    need_xattrs();
    node(a->type, "n");
    pattern(want, size, 3);
    if (setxattr("n", "user.x", want, size, 0) < 0) {
        /* What fits is the file system's choice above one small block's worth. */
        if (size > 900 && (errno == ENOSPC || errno == E2BIG))
            skip("the file system stores no value of this size");
        EXPECT(0, -1);
    }
    SAME((long long)size, getxattr("n", "user.x", NULL, 0));
    value_is("n", "user.x", want, size);
    OK(removexattr("n", "user.x"));
    EXPECT(ENODATA, getxattr("n", "user.x", got, sizeof(got)));
}

CASE(too_large)
{
    need_xattrs();
    put("f", "");
    EXPECT(E2BIG, setxattr("f", "user.x", want, 65537, 0));
    EXPECT(ENODATA, getxattr("f", "user.x", got, sizeof(got)));
}

CASE(empty_value)
{
    need_xattrs();
    put("f", "");
    OK(setxattr("f", "user.x", "", 0, 0));
    SAME(0, getxattr("f", "user.x", got, sizeof(got)));
    SAME(0, getxattr("f", "user.x", NULL, 0));
    SAME(7, listxattr("f", (char *)got, sizeof(got)));
    SAME_BYTES("user.x", got, 7);
    OK(setxattr("f", "user.x", "full", 4, XATTR_REPLACE));
    OK(setxattr("f", "user.x", NULL, 0, 0));
    SAME(0, getxattr("f", "user.x", got, sizeof(got)));
    OK(removexattr("f", "user.x"));
    SAME(0, listxattr("f", NULL, 0));
}

CASE(create_and_replace)
{
    need_xattrs();
    put("f", "");
    EXPECT(ENODATA, setxattr("f", "user.x", "1", 1, XATTR_REPLACE));
    OK(setxattr("f", "user.x", "12", 2, XATTR_CREATE));
    EXPECT(EEXIST, setxattr("f", "user.x", "3", 1, XATTR_CREATE));
    value_is("f", "user.x", "12", 2);
    OK(setxattr("f", "user.x", "a longer value", 14, XATTR_REPLACE));
    value_is("f", "user.x", "a longer value", 14);
    OK(setxattr("f", "user.x", "s", 1, 0));
    value_is("f", "user.x", "s", 1);
    EXPECT(EINVAL, setxattr("f", "user.x", "s", 1, 4));
}

CASE(missing)
{
    need_xattrs();
    put("f", "");
    EXPECT(ENODATA, getxattr("f", "user.none", got, sizeof(got)));
    EXPECT(ENODATA, getxattr("f", "user.none", NULL, 0));
    EXPECT(ENODATA, removexattr("f", "user.none"));
    SAME(0, listxattr("f", (char *)got, sizeof(got)));
}

CASE(short_buffers)
{
    need_xattrs();
    put("f", "");
    OK(setxattr("f", "user.one", "value", 5, 0));
    OK(setxattr("f", "user.two", "value", 5, 0));
    EXPECT(ERANGE, getxattr("f", "user.one", got, 4));
    EXPECT(ERANGE, getxattr("f", "user.one", got, 1));
    SAME(5, getxattr("f", "user.one", got, 5));
    SAME(18, listxattr("f", NULL, 0));
    EXPECT(ERANGE, listxattr("f", (char *)got, 17));
    EXPECT(ERANGE, listxattr("f", (char *)got, 1));
    SAME(18, listxattr("f", (char *)got, 18));
}

/* a->number bytes of name after "user.". */
CASE(name_length)
{
    char name[300] = "user.";
    need_xattrs();
    put("f", "");
    strcat(name, long_name((size_t)a->number, 'n'));
    EXPECT(a->error, setxattr("f", name, "v", 1, 0));
    if (a->error)
        return;
    value_is("f", name, "v", 1);
    SAME(a->number + 6, listxattr("f", (char *)got, sizeof(got)));
    SAME_BYTES(name, got, (size_t)a->number + 6);
    OK(removexattr("f", name));
}

CASE(name_bytes)
{
    static const char *const names[] = {"user.\xff\xfe", "user.a b",   "user.a/b",
                                        "user..",        "user.a.b.c", "user.\x01\n"};
    need_xattrs();
    put("f", "");
    for (size_t i = 0; i < COUNT(names); i++) {
        OK(setxattr("f", names[i], names[i], strlen(names[i]), 0));
        value_is("f", names[i], names[i], strlen(names[i]));
        SAME((long)strlen(names[i]) + 1, listxattr("f", (char *)got, sizeof(got)));
        SAME_BYTES(names[i], got, strlen(names[i]) + 1);
        OK(removexattr("f", names[i]));
    }
}

CASE(bad_names)
{
    need_xattrs();
    put("f", "");
    EXPECT(EINVAL, setxattr("f", "user.", "v", 1, 0));
    EXPECT(ERANGE, setxattr("f", "", "v", 1, 0));
    EXPECT(EOPNOTSUPP, setxattr("f", "nospace", "v", 1, 0));
    EXPECT(EOPNOTSUPP, setxattr("f", "unknown.x", "v", 1, 0));
    EXPECT(EOPNOTSUPP, getxattr("f", "unknown.x", got, sizeof(got)));
    SAME(0, listxattr("f", NULL, 0));
}

/* user.* belongs to regular files and directories alone. */
CASE(other_types)
{
    need_xattrs();
    node(a->type, "n");
    EXPECT(EPERM, lsetxattr("n", "user.x", "v", 1, 0));
    EXPECT(ENODATA, lgetxattr("n", "user.x", got, sizeof(got)));
    EXPECT(EPERM, lremovexattr("n", "user.x"));
}

CASE(through_symlink)
{
    need_xattrs();
    put("f", "");
    OK(symlink("f", "l"));
    OK(setxattr("l", "user.x", "v", 1, 0));
    value_is("f", "user.x", "v", 1);
    value_is("l", "user.x", "v", 1);
    SAME(7, listxattr("l", NULL, 0));
    SAME(0, llistxattr("l", NULL, 0));
    OK(removexattr("l", "user.x"));
    SAME(0, listxattr("f", NULL, 0));
}

CASE(through_descriptor)
{
    need_xattrs();
    node(a->type, "n");
    int fd = (int)OK(open("n", O_RDONLY));
    OK(fsetxattr(fd, "user.x", "value", 5, XATTR_CREATE));
    SAME(5, fgetxattr(fd, "user.x", got, sizeof(got)));
    SAME(7, flistxattr(fd, (char *)got, sizeof(got)));
    value_is("n", "user.x", "value", 5);
    OK(rename("n", "m"));
    OK(fsetxattr(fd, "user.y", "", 0, 0));
    SAME(14, listxattr("m", NULL, 0));
    OK(fremovexattr(fd, "user.x"));
    SAME(7, listxattr("m", NULL, 0));
    EXPECT(EBADF, fsetxattr(9999, "user.x", "v", 1, 0));
}

/* Thirty attributes of one file: each found, all listed, then removed one by one. */
CASE(many)
{
    char name[32];
    size_t total = 0;
    need_xattrs();
    node(a->type, "n");
    for (int i = 0; i < 30; i++) {
        snprintf(name, sizeof(name), "user.attribute-%d", i);
        OK(setxattr("n", name, name, strlen(name), 0));
        total += strlen(name) + 1;
    }
    SAME((long long)total, listxattr("n", (char *)got, sizeof(got)));
    for (int i = 29; i >= 0; i--) {
        snprintf(name, sizeof(name), "user.attribute-%d", i);
        CHECK(memmem(got, total, name, strlen(name) + 1) != NULL);
    }
    for (int i = 0; i < 30; i++) {
        snprintf(name, sizeof(name), "user.attribute-%d", i);
        value_is("n", name, name, strlen(name));
        OK(removexattr("n", name));
    }
    SAME(0, listxattr("n", NULL, 0));
}

/* They belong to the file, not to a name, and stay when other things change. */
CASE(belong_to_file)
{
    need_xattrs();
    put("f", "data");
    OK(setxattr("f", "user.x", "v", 1, 0));
    OK(link("f", "g"));
    value_is("g", "user.x", "v", 1);
    OK(rename("f", "h"));
    OK(chmod("h", 0600));
    OK(truncate("h", 0));
    value_is("h", "user.x", "v", 1);
    put("f", "");
    EXPECT(ENODATA, getxattr("f", "user.x", got, sizeof(got)));
    OK(rename("f", "g"));
    EXPECT(ENODATA, getxattr("g", "user.x", got, sizeof(got)));
    value_is("h", "user.x", "v", 1);
}

/* In a directory with the sticky bit, its owner alone sets them. */
CASE(sticky_directory)
{
    need_xattrs();
    OK(mkdir("d", 0777));
    give("d", ALICE, ALICES);
    OK(chmod("d", 01777));
    as(BOB, BOBS);
    EXPECT(EPERM, setxattr("d", "user.x", "v", 1, 0));
    as(ALICE, ALICES);
    OK(setxattr("d", "user.x", "v", 1, 0));
    as(BOB, BOBS);
    value_is("d", "user.x", "v", 1);
    EXPECT(EPERM, removexattr("d", "user.x"));
}

/* Other users see and set them as the mode allows. */
CASE(users)
{
    need_xattrs();
    put("f", "");
    OK(setxattr("f", "user.x", "v", 1, 0));
    give("f", ALICE, TEAM);
    OK(chmod("f", 0640));
    as(ALICE, ALICES);
    OK(setxattr("f", "user.x", "alices", 6, 0));
    as_member(BOB, BOBS, TEAM);
    value_is("f", "user.x", "alices", 6);
    EXPECT(EACCES, setxattr("f", "user.x", "bobs", 4, 0));
    EXPECT(EACCES, removexattr("f", "user.x"));
    as(CAROL, CAROLS);
    EXPECT(EACCES, getxattr("f", "user.x", got, sizeof(got)));
    SAME(7, listxattr("f", (char *)got, sizeof(got)));
}

void suite_xattr(void)
{
    static const long sizes[] = {1, 2, 100, 255, 256, 900, 2000, 3500, 4096, 16000, 65535, 65536};
    static const struct plain_case plain[] = {
        {"too-large-E2BIG", too_large},
        {"empty-value", empty_value},
        {"create-and-replace", create_and_replace},
        {"missing-ENODATA", missing},
        {"short-buffers-ERANGE", short_buffers},
        {"name-bytes", name_bytes},
        {"bad-names", bad_names},
        {"through-symlink", through_symlink},
        {"belong-to-file", belong_to_file},
        {"sticky-directory", sticky_directory},
        {"users", users},
    };
    for (enum type type = 0; type < TYPES; type++) {
        if (type > DIR_) {
            run(other_types, (struct arg){.type = type}, "xattr/%s-EPERM", type_names[type]);
            continue;
        }
        for (size_t i = 0; i < COUNT(sizes); i++)
            run(value_size, (struct arg){.type = type, .number = sizes[i]}, "xattr/%s/size-%ld",
                type_names[type], sizes[i]);
        run(through_descriptor, (struct arg){.type = type}, "xattr/%s/descriptor",
            type_names[type]);
        run(many, (struct arg){.type = type}, "xattr/%s/many", type_names[type]);
    }
    run(name_length, (struct arg){.number = 1}, "xattr/name-6");
    run(name_length, (struct arg){.number = 250}, "xattr/name-255");
    run(name_length, (struct arg){.number = 251, .error = ERANGE}, "xattr/name-256-ERANGE");
    run_plain("xattr", plain, COUNT(plain));
}
