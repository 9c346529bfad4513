/* utimensat: explicit times, the time now, leaving one out, and who may set which. */
#include "posix.h"

#include <sys/time.h>
#include <time.h>

#define NOW {0, UTIME_NOW}
#define OMIT {0, UTIME_OMIT}

static const struct timespec long_ago[2] = {{1000000, 0}, {2000000, 0}};

static void times_are(const char *path, long atime, long mtime)
{
    struct stat st = look(path);
    SAME(atime, st.st_atim.tv_sec);
    SAME(mtime, st.st_mtim.tv_sec);
}

static int set(const char *path, const struct timespec times[2])
{
    return utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW);
}

CASE(explicit_times)
{
    node(a->type, "n");
    struct timespec times[2] = {{a->number, 0}, {a->number + 7, 0}};
    OK(set("n", times));
    times_are("n", a->number, a->number + 7);
    times[0].tv_sec = a->number + 3;
    OK(set("n", times));
    times_are("n", a->number + 3, a->number + 7);
}

static bool is_now(struct timespec time)
{
    /* The server's clock may differ from this one's, but not by the years since long_ago. */
    return time.tv_sec > 1000000000;
}

CASE(now)
{
    static const struct timespec both[2] = {NOW, NOW};
    node(a->type, "n");
    OK(set("n", long_ago));
    OK(set("n", NULL));
    CHECK(is_now(look("n").st_atim) && is_now(look("n").st_mtim));
    OK(set("n", long_ago));
    OK(set("n", both));
    CHECK(is_now(look("n").st_atim) && is_now(look("n").st_mtim));
}

CASE(one_of_two)
{
    static const struct timespec atime[2] = {{5000000, 0}, OMIT}, mtime[2] = {OMIT, {6000000, 0}};
    static const struct timespec atime_now[2] = {NOW, OMIT}, mtime_now[2] = {OMIT, NOW};
    static const struct timespec mixed[2] = {{7000000, 0}, NOW}, none[2] = {OMIT, OMIT};
    node(a->type, "n");
    OK(set("n", long_ago));
    OK(set("n", atime));
    times_are("n", 5000000, 2000000);
    OK(set("n", mtime));
    times_are("n", 5000000, 6000000);
    OK(set("n", none));
    times_are("n", 5000000, 6000000);
    OK(set("n", mixed));
    SAME(7000000, look("n").st_atim.tv_sec);
    CHECK(is_now(look("n").st_mtim));
    OK(set("n", long_ago));
    OK(set("n", atime_now));
    CHECK(is_now(look("n").st_atim));
    SAME(2000000, look("n").st_mtim.tv_sec);
    OK(set("n", long_ago));
    OK(set("n", mtime_now));
    SAME(1000000, look("n").st_atim.tv_sec);
    CHECK(is_now(look("n").st_mtim));
}

struct permission {
    const char *name;
    struct timespec times[2];
    bool null;
    int owner, writer, reader; /* errors for each */
};

static const struct permission permissions[] = {
    {"null", {{0, 0}, {0, 0}}, true, 0, 0, EACCES},
    {"both-now", {NOW, NOW}, false, 0, 0, EACCES},
    {"both-omit", {OMIT, OMIT}, false, 0, 0, 0},
    {"explicit", {{1, 0}, {2, 0}}, false, 0, EPERM, EPERM},
    {"explicit-atime", {{1, 0}, OMIT}, false, 0, EPERM, EPERM},
    {"explicit-mtime", {OMIT, {2, 0}}, false, 0, EPERM, EPERM},
    {"now-omit", {NOW, OMIT}, false, 0, EPERM, EPERM},
    {"omit-now", {OMIT, NOW}, false, 0, EPERM, EPERM},
    {"now-explicit", {NOW, {2, 0}}, false, 0, EPERM, EPERM},
};

/* a->number: 0 the owner, 1 who may write, 2 who may not; a->error: what it gets. */
CASE(permission)
{
    const struct permission *p = a->table;
    node(a->type, "n");
    OK(chmod("n", a->number == 0 ? 0 : a->number == 1 ? 0666 : 0644));
    give("n", ALICE, ALICES);
    OK(set("n", long_ago));
    if (a->number)
        as(BOB, BOBS);
    else
        as(ALICE, ALICES);
    EXPECT(a->error, set("n", p->null ? NULL : p->times));
    if (a->error)
        times_are("n", 1000000, 2000000);
}

CASE(bad_nanoseconds)
{
    put("f", "");
    OK(set("f", long_ago));
    EXPECT(EINVAL, set("f", (struct timespec[2]){{1, 1000000000}, {2, 0}}));
    EXPECT(EINVAL, set("f", (struct timespec[2]){{1, 0}, {2, -1}}));
    times_are("f", 1000000, 2000000);
}

CASE(descriptor)
{
    put("f", "");
    int fd = (int)OK(open("f", O_RDONLY));
    OK(futimens(fd, long_ago));
    times_are("f", 1000000, 2000000);
    OK(futimens(fd, NULL));
    CHECK(is_now(look("f").st_mtim));
    OK(mkdir("d", 0755));
    OK(futimens((int)OK(open("d", O_RDONLY)), long_ago));
    times_are("d", 1000000, 2000000);
    EXPECT(EBADF, futimens(9999, NULL));
}

CASE(through_symlink)
{
    put("f", "");
    OK(symlink("f", "l"));
    OK(utimensat(AT_FDCWD, "l", long_ago, 0));
    times_are("f", 1000000, 2000000);
    CHECK(is_now(look("l").st_mtim));
    OK(set("l", (struct timespec[2]){{3000000, 0}, {4000000, 0}}));
    SAME(4000000, look("l").st_mtim.tv_sec);
    times_are("f", 1000000, 2000000);
}

CASE(old_calls)
{
    put("f", "");
    OK(utimes("f", (struct timeval[2]){{1000000, 0}, {2000000, 0}}));
    times_are("f", 1000000, 2000000);
    OK(utimes("f", NULL));
    CHECK(is_now(look("f").st_atim));
}

/* A read-only file's times are its owner's, and untouched by its mode. */
CASE(read_only_file)
{
    put("f", "");
    OK(chmod("f", 0));
    OK(set("f", long_ago));
    times_are("f", 1000000, 2000000);
    SAME_MODE(0, "f");
}

/* Times survive what does not concern them. */
CASE(times_stay)
{
    put("f", "data");
    OK(set("f", long_ago));
    OK(chmod("f", 0600));
    OK(rename("f", "g"));
    OK(link("g", "h"));
    OK(close((int)OK(open("g", O_RDWR))));
    SAME(2000000, look("g").st_mtim.tv_sec);
    SAME(1000000, look("h").st_atim.tv_sec);
}

void suite_utimens(void)
{
    static const long seconds[] = {0,          1,          1000000000, 0x7ffffff0,
                                   0x7fffffff, 0x80000000, 0xfffffff0};
    static const char *const users[] = {"owner", "writer", "reader"};
    static const struct plain_case plain[] = {
        {"bad-nanoseconds-EINVAL", bad_nanoseconds}, {"descriptor", descriptor},
        {"through-symlink", through_symlink},        {"old-calls", old_calls},
        {"read-only-file", read_only_file},          {"times-stay", times_stay},
    };
    for (enum type type = 0; type < TYPES; type++) {
        for (size_t i = 0; i < COUNT(seconds); i++)
            run(explicit_times, (struct arg){.type = type, .number = seconds[i]},
                "utimens/explicit/%s/%ld", type_names[type], seconds[i]);
        run(now, (struct arg){.type = type}, "utimens/now/%s", type_names[type]);
        run(one_of_two, (struct arg){.type = type}, "utimens/one-of-two/%s", type_names[type]);
        if (type == LINK)
            continue;
        for (size_t p = 0; p < COUNT(permissions); p++)
            for (int user = 0; user < 3; user++) {
                int error = user == 0   ? permissions[p].owner
                            : user == 1 ? permissions[p].writer
                                        : permissions[p].reader;
                run(permission,
                    (struct arg){
                        .type = type, .table = &permissions[p], .number = user, .error = error},
                    "utimens/may/%s/%s/%s%s%s", type_names[type], permissions[p].name, users[user],
                    error ? "-" : "", error ? strerrorname_np(error) : "");
            }
    }
    run_plain("utimens", plain, COUNT(plain));
}
