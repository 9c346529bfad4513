/* symlink and readlink: targets are bytes that nobody interprets before they are followed. */
#include "posix.h"

CASE(target_length)
{
    char want[PATH_MAX + 8], got[PATH_MAX + 8];
    memset(want, 'x', sizeof(want));
    want[a->number] = 0;
    OK(symlink(want, "l"));
    SAME(a->number, readlink("l", got, sizeof(got)));
    SAME_BYTES(want, got, (size_t)a->number);
    SAME(a->number, look("l").st_size);
}

CASE(target_refused)
{
    char target[PATH_MAX + 8];
    memset(target, 'x', sizeof(target));
    target[a->number] = 0;
    EXPECT(a->error, symlink(target, "l"));
    CHECK(!exists("l"));
}

/* a->text as the target comes back as it is. */
CASE(target_bytes)
{
    char got[256];
    OK(symlink(a->text, "l"));
    SAME((long)strlen(a->text), readlink("l", got, sizeof(got)));
    SAME_BYTES(a->text, got, strlen(a->text));
}

CASE(target_all_bytes)
{
    char target[256], got[300];
    for (int i = 0; i < 255; i++)
        target[i] = (char)(i + 1);
    target[255] = 0;
    OK(symlink(target, "l"));
    SAME(255, readlink("l", got, sizeof(got)));
    SAME_BYTES(target, got, 255);
}

CASE(short_buffer)
{
    char got[8] = "--------";
    OK(symlink("target", "l"));
    SAME(3, readlink("l", got, 3));
    SAME_BYTES("tar-----", got, 8);
    SAME(6, readlink("l", got, 6));
    EXPECT(EINVAL, readlink("l", got, 0));
}

CASE(not_a_link)
{
    char got[8];
    node(a->type, "n");
    EXPECT(EINVAL, readlink("n", got, sizeof(got)));
}

CASE(existing)
{
    node(a->type, "n");
    struct stat old = look("n");
    EXPECT(EEXIST, symlink("target", "n"));
    SAME((long long)old.st_ino, (long long)look("n").st_ino);
}

CASE(properties)
{
    umask(077);
    OK(symlink("target", "l"));
    struct stat st = look("l");
    SAME((long long)(S_IFLNK | 0777), st.st_mode);
    SAME(1, (long long)st.st_nlink);
    SAME(6, st.st_size);
    SAME(geteuid(), st.st_uid);
}

CASE(owner)
{
    as(ALICE, ALICES);
    OK(symlink("target", "l"));
    SAME(ALICE, look("l").st_uid);
    SAME(ALICES, look("l").st_gid);
}

CASE(following)
{
    char path[PATH_MAX];
    OK(mkdir("d", 0755));
    put("d/f", "data");
    OK(symlink("f", "d/relative"));
    OK(symlink("../d/f", "d/up"));
    OK(symlink("./d/../d//f", "roundabout"));
    CHECK(getcwd(path, sizeof(path) - 8) != NULL);
    strcat(path, "/d/f");
    OK(symlink(path, "absolute"));
    holds("d/relative", "data");
    holds("d/up", "data");
    holds("roundabout", "data");
    holds("absolute", "data");
    OK(symlink("d/f/", "slash"));
    EXPECT(ENOTDIR, open("slash", O_RDONLY));
}

/* A link out of the tree is followed by the client: its target is another file system. */
CASE(following_out)
{
    OK(symlink("/proc/self/status", "l"));
    int fd = (int)OK(open("l", O_RDONLY));
    char got[5];
    SAME(5, read(fd, got, 5));
    SAME_BYTES("Name:", got, 5);
    OK(unlink("l"));
}

CASE(replaced_target)
{
    put("one", "1");
    put("two", "2");
    OK(symlink("one", "l"));
    holds("l", "1");
    OK(unlink("l"));
    OK(symlink("two", "l"));
    holds("l", "2");
    OK(rename("two", "three"));
    EXPECT(ENOENT, open("l", O_RDONLY));
    OK(rename("one", "two"));
    holds("l", "1");
}

CASE(without_following)
{
    put("f", "");
    OK(symlink("f", "l"));
    OK(utimensat(AT_FDCWD, "l", (struct timespec[2]){{100, 0}, {200, 0}}, AT_SYMLINK_NOFOLLOW));
    SAME(200, look("l").st_mtim.tv_sec);
    CHECK(look("f").st_mtim.tv_sec != 200);
    OK(link("l", "l2"));
    CHECK(S_ISLNK(look("l2").st_mode));
    OK(rename("l", "l3"));
    CHECK(S_ISLNK(look("l3").st_mode));
    OK(unlink("l3"));
    CHECK(exists("f"));
}

void suite_symlink(void)
{
    static const long lengths[] = {1, 2, 59, 60, 61, 255, 256, 1000, 1023, 1024, 4000, 4094, 4095};
    static const struct {
        const char *name, *target;
    } targets[] = {{"not-utf8", "\xff\xfe\x80"}, {"spaces", " a  b "},       {"newline", "a\nb"},
                   {"slashes", "//a///b//"},     {"dots", "../../../../.."}, {"root", "/"},
                   {"backslash", "a\\b"},        {"control", "\x01\x1b\x7f"}};
    static const struct plain_case plain[] = {
        {"target-all-bytes", target_all_bytes},
        {"short-buffer", short_buffer},
        {"properties", properties},
        {"owner", owner},
        {"following", following},
        {"following-out", following_out},
        {"replaced-target", replaced_target},
        {"without-following", without_following},
    };
    for (size_t i = 0; i < COUNT(lengths); i++)
        run(target_length, (struct arg){.number = lengths[i]}, "symlink/length-%ld", lengths[i]);
    run(target_refused, (struct arg){.number = 0, .error = ENOENT}, "symlink/length-0-ENOENT");
    run(target_refused, (struct arg){.number = PATH_MAX, .error = ENAMETOOLONG},
        "symlink/length-4096-ENAMETOOLONG");
    for (size_t i = 0; i < COUNT(targets); i++)
        run(target_bytes, (struct arg){.text = targets[i].target}, "symlink/target/%s",
            targets[i].name);
    for (enum type type = 0; type < TYPES; type++) {
        if (type != LINK)
            run(not_a_link, (struct arg){.type = type}, "symlink/readlink/%s-EINVAL",
                type_names[type]);
        run(existing, (struct arg){.type = type}, "symlink/%s-EEXIST", type_names[type]);
    }
    run_plain("symlink", plain, COUNT(plain));
}
