/*
 * Watches files and directories of a guest by inotify(7): prints a line for each event that tells
 * of a change, PATH[/NAME] KIND, and `ready` when all watches are set.
 */
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

static const struct {
    uint32_t bit;
    const char *name;
} kinds[] = {
    {IN_MODIFY, "modify"},       {IN_ATTRIB, "attrib"},         {IN_CLOSE_WRITE, "close_write"},
    {IN_CREATE, "create"},       {IN_DELETE, "delete"},         {IN_MOVE, "move"},
    {IN_DELETE_SELF, "deleted"}, {IN_Q_OVERFLOW, "overflowed"},
};

static void report(const struct inotify_event *event, char **paths)
{
    const char *name = event->len ? event->name : "";
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (event->mask & kinds[i].bit)
            printf("%s%s%s %s\n", event->wd > 0 ? paths[event->wd] : "", *name ? "/" : "", name,
                   kinds[i].name);
    fflush(stdout);
}

int main(int count, char **paths)
{
    static char buffer[65536] __attribute__((aligned(8)));
    uint32_t mask = IN_Q_OVERFLOW;
    int fd = inotify_init1(IN_CLOEXEC);
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        mask |= kinds[i].bit;
    for (int i = 1; i < count; i++) {
        if (inotify_add_watch(fd, paths[i], mask) != i) {
            perror(paths[i]);
            return 1;
        }
    }
    puts("ready");
    fflush(stdout);
    for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;) {
        for (char *next = buffer; next < buffer + got;) {
            const struct inotify_event *event = (const struct inotify_event *)next;
            report(event, paths);
            next += sizeof *event + event->len;
        }
    }
    return 1;
}
