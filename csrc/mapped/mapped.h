/*
 * mapped: what the mapped security models keep beside a host file, in QEMU's formats.
 *
 * Under mapped-xattr and mapped-file everything that the guest creates is a regular file or a
 * directory of the daemon's own user on the host, with mode fmode or dmode; the guest sees metadata
 * instead. For files without metadata, and for missing parts, the host's attributes count.
 *
 *   mapped-xattr  user.virtfs.uid, .gid, .mode: 4 bytes each; user.virtfs.rdev: 8 bytes, a dev_t as
 *                 makedev(3) makes it; all little endian. The host allows user.* for regular files
 *                 and directories only.
 *   mapped-file   the file DIR/.virtfs_metadata/NAME for DIR/NAME, and ROOT/.virtfs_metadata_root
 *                 for the export's root: lines "virtfs.uid=", ".gid=", ".mode=", ".rdev=" and a
 *                 signed 32-bit decimal number. Names of one file share one metadata file by hard
 *                 links.
 *
 * The mode includes the file's type. It counts for regular files of the host, which may be a
 * symlink (whose content is its target), a device, a FIFO or a socket in the guest; any other file
 * has the host's type in the guest too, whatever the metadata say.
 *
 * mapped-file and identity. A file is a descriptor here, and its name may change at any time. So an
 * inode holds a second descriptor, of its metadata file, which stays the right one when the file is
 * renamed, linked or unlinked; a metadata file is rewritten in place and never replaced. It is
 * found by name when a walk reaches the file. A file and its metadata are renamed one after the
 * other (mapped/sidecar.h); a pair that was found meanwhile is not trusted, and looked up again
 * (v9_mapped_read_retry). One daemon serves a tree: nobody else is waited for.
 */
#ifndef V9_MAPPED_MAPPED_H
#define V9_MAPPED_MAPPED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "export/export.h"
#include "mapped/api.h"

/* In a change: a program loses its set-id bits, as by chown(2) and write(2), whatever its mode is
 * by then. Not together with a mode. */
enum { V9_NO_SET_IDS = 16 };
/* Opens the metadata file of the file `fd` (O_PATH will do), by the file's present name; -ENOENT:
 * it has none, or the model is not mapped-file. */
int v9_mapped_find(v9_export *ex, int32_t fd);
/* A change of names begins, or has ended. In between, a file and its metadata may have different
 * names. */
void v9_mapped_changing(v9_export *ex, bool begin);
/* Around a lookup that a change of names would break (base/seqcount.h). */
uint32_t v9_mapped_read_begin(const v9_export *ex);
bool v9_mapped_read_retry(const v9_export *ex, uint32_t seq);
/*
 * The metadata file of what v9_export_step(ex, dir_fd, name) has just opened as `fd`, after
 * v9_mapped_read_begin returned `seq`: a descriptor, or -1 where there is none (always so but under
 * mapped-file).
 */
int32_t v9_mapped_stepped(v9_export *ex, int32_t dir_fd, const char *name, int32_t fd,
                          uint32_t seq);

/*
 * Metadata of `name` in directory `fd`, or of `fd` itself where name is "", which `meta_fd` is the
 * metadata file of, if known (else -1). What may not be read is absent; so may be what is not
 * `wanted` (V9_HAS_*), and the device number of a file that is no device. 0, or -errno where the
 * host has failed (v9_sys_has_failed): then nothing is known about them.
 */
int v9_mapped_read(v9_export *ex, int32_t fd, const char *name, int32_t meta_fd, uint32_t wanted,
                   struct v9_mapped *out);
/* The set-id bits that a program of this mode loses when it is written or given away; 0 for a
 * directory. */
uint32_t v9_mapped_set_ids(uint32_t mode);
/*
 * Changes the metadata of the file `fd` (O_PATH will do); `meta_fd` is its metadata file under
 * mapped-file. A mode without a type leaves the type alone. After a crash the text of mapped-file
 * is the old one or the new one.
 */
int v9_mapped_write(v9_export *ex, int32_t fd, int32_t meta_fd, const struct v9_mapped *change);
/* Turns the host's attributes into the guest's. */
void v9_mapped_apply(const struct v9_mapped *mapped, struct v9_attr *attr);
/* The file type (S_IFMT) that a regular file of the host has in the guest: `name` in directory
 * `dir_fd`, for which v9_mapped_dir has returned meta_dir after the name was there. -errno
 * where the host has failed. */
int v9_mapped_type(v9_export *ex, int32_t dir_fd, int32_t meta_dir, const char *name);
/* Under mapped-file, the directory that has the metadata files of a directory's files: a
 * descriptor, or negative. */
int32_t v9_mapped_dir(v9_export *ex, int32_t dir_fd);

#endif
