/*
 * names: one more name for a file, none, or another one, for all security models.
 *
 * The host does what link(2), unlink(2) and rename(2) do. Under mapped-file the metadata follow the
 * names (mapped/sidecar.h).
 *
 * Before each change the most that it may take of the quota is set aside: a new name may let its
 * directory grow by a block. What takes nothing new (unlinking, a rename within a directory) is
 * never refused; if it takes something after all, that is counted.
 */
#define _GNU_SOURCE
#include "fs/names.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/evidence.h"
#include "base/refusal.h"
#include "base/sys.h"
#include "export/containment.h"
#include "export/export.h"
#include "export/hidden_names.h"
#include "export/notices.h"
#include "mapped/sidecar.h"
#include "quota/change.h"
#include "quota/quota.h"

/* ---- linking --------------------------------------------------------------------------------- */

static int link_file(v9_export *ex, int fd, int meta_fd, int dir_fd, const char *name)
{
    int meta_dir, err = v9_sidecar_share(ex, fd, meta_fd, dir_fd, name, &meta_dir);

    if (err)
        return err;
    if (!v9_evidence_made(dir_fd, name))
        err = v9_evidence_outcome(v9_sys_link(ex->proc_fd, fd, dir_fd, name));
    v9_sidecar_placed(meta_dir, name, err);
    return err;
}

static int link_counted(v9_export *ex, int fd, int meta_fd, int dir_fd, const char *name)
{
    struct v9_quota_change change = {.bytes = v9_quota_block(ex->quota), .fds = {dir_fd, -1, -1}};
    int err = v9_quota_change_begin(ex->quota, &change);

    if (err)
        return err;
    err = link_file(ex, fd, meta_fd, dir_fd, name);
    v9_quota_change_end(ex->quota, &change);
    return err;
}

int v9_link_file(v9_export *ex, int32_t fd, int32_t meta_fd, int32_t dir_fd, const char *name)
{
    int err = v9_export_check_name(ex, dir_fd, name, EACCES);

    if (err)
        return err;
    v9_export_names_begin(ex);
    err = ex->quota ? link_counted(ex, fd, meta_fd, dir_fd, name)
                    : link_file(ex, fd, meta_fd, dir_fd, name);
    v9_export_names_end(ex);
    return err;
}

/* ---- unlinking ------------------------------------------------------------------------------- */

int v9_unlink_entry(v9_export *ex, int dir_fd, const char *name, bool directory)
{
    int err;

    if (ex->conf.model == V9_MODEL_FILE)
        return v9_sidecar_remove(ex, dir_fd, name, directory);
    if (v9_evidence_removed(dir_fd, name))
        return 0;
    err =
        v9_evidence_outcome(unlinkat(dir_fd, name, directory ? AT_REMOVEDIR : 0) < 0 ? -errno : 0);
    if (!err)
        v9_evidence_leads(dir_fd, name, 0, 0);
    return err;
}

static int unlink_counted(v9_export *ex, int dir_fd, const char *name, bool directory)
{
    const int victim = v9_sys_reach(dir_fd, name, 0);
    struct v9_quota_change change = {.fds = {dir_fd, victim, -1}};
    int err = v9_sys_has_failed(victim) ? victim : v9_quota_change_begin(ex->quota, &change);

    if (!err) {
        err = v9_unlink_entry(ex, dir_fd, name, directory);
        change.gone[1] = !err && directory;
        v9_quota_change_end(ex->quota, &change);
    }
    if (victim >= 0)
        v9_budget_close(victim);
    return err;
}

int v9_unlink(v9_export *ex, int32_t dir_fd, const char *name, uint32_t directory)
{
    int err = v9_export_check_name(ex, dir_fd, name, ENOENT);

    if (err)
        return err;
    v9_export_names_begin(ex);
    err = ex->quota ? unlink_counted(ex, dir_fd, name, directory)
                    : v9_unlink_entry(ex, dir_fd, name, directory);
    v9_export_names_end(ex);
    return err;
}

/* ---- renaming -------------------------------------------------------------------------------- */

static int rename_entry(v9_export *ex, int old_dir, const char *old, int new_dir, const char *new)
{
    if (ex->conf.model == V9_MODEL_FILE)
        return v9_sidecar_rename(ex, old_dir, old, new_dir, new);
    if (v9_evidence_moved(old_dir, old, new_dir, new))
        return 0;
    return v9_evidence_outcome(renameat(old_dir, old, new_dir, new) < 0 ? -errno : 0);
}

/* Whether a directory has lost its name to another one: a rename to its own name leaves it. */
static bool is_replaced(int victim, int dir_fd, const char *name)
{
    struct stat st;

    return victim >= 0 && fstat(victim, &st) == 0 && S_ISDIR(st.st_mode) &&
           v9_export_is_entry(victim, dir_fd, name) == 0;
}

static int rename_counted(v9_export *ex, int old_dir, const char *old, int new_dir, const char *new)
{
    const bool stays = old_dir == new_dir || v9_export_is_entry(old_dir, new_dir, "") > 0;
    const int victim = v9_sys_reach(new_dir, new, 0);
    struct v9_quota_change change = {.bytes = stays ? 0 : v9_quota_block(ex->quota),
                                     .fds = {old_dir, stays ? -1 : new_dir, victim}};
    int err = v9_sys_has_failed(victim) ? victim : v9_quota_change_begin(ex->quota, &change);

    if (!err) {
        err = rename_entry(ex, old_dir, old, new_dir, new);
        change.gone[2] = !err && is_replaced(victim, new_dir, new);
        v9_quota_change_end(ex->quota, &change);
    }
    if (victim >= 0)
        v9_budget_close(victim);
    return err;
}

int v9_rename(v9_export *ex, int32_t old_dir, const char *old, int32_t new_dir, const char *new)
{
    int err = v9_export_check_name(ex, old_dir, old, ENOENT);

    if (!err)
        err = v9_export_check_name(ex, new_dir, new, EACCES);
    if (err)
        return err;
    v9_export_names_begin(ex);
    err = v9_export_may_move(ex, old_dir, old, new_dir, new);
    if (!err)
        err = ex->quota ? rename_counted(ex, old_dir, old, new_dir, new)
                        : rename_entry(ex, old_dir, old, new_dir, new);
    v9_export_names_end(ex);
    return err;
}

int v9_rename_to_free(v9_export *ex, int32_t old_dir, const char *old, int32_t new_dir,
                      const char *new)
{
    int err;

    if (ex->quota || ex->conf.model == V9_MODEL_FILE || ex->hidden || v9_export_joins(ex, old) ||
        v9_export_joins(ex, new))
        return -EEXIST;
    if (v9_evidence_moved(old_dir, old, new_dir, new))
        return 0;
    err = v9_evidence_outcome(renameat2(old_dir, old, new_dir, new, RENAME_NOREPLACE) < 0 ? -errno
                                                                                          : 0);
    if (!err)
        v9_evidence_has_moved(old_dir, old, new_dir, new, ex->ctime_is_reliable ? ex->root_dev : 0);
    return err;
}
