/*
 * known size: the size of a file that its client already knows, so that no reply repeats it.
 *
 * Linux's client with a write-back cache (cache=mmap) takes the size of each reply to stat(2) for
 * its inode's (v9fs_vfs_getattr_dotl, v9fs_stat2inode_dotl), even if another of its processes has
 * extended the file in the cache since it asked. Then the file ends too early for all of them:
 * reads end short, and writing the pages back has crashed kernels. So a reply that has nothing new
 * to say about the size leaves it out of its valid mask, and the client keeps its own.
 *
 * A client knows the size that a reply contained, and what its own writes and truncations have made
 * of it. Whatever differs from that is the host's doing, and is reported. This holds for one inode
 * of the client, which is looked up by a walk of names and whose fid lives as long as it does. If
 * several such fids stand for a file (hard links, several users), any of them may be an inode that
 * knows less, and each gets the size every time. The same goes for an inode whose fid has moved
 * from one file to another (p9/lookup.c), since it stands for both: its fid counts as two.
 */
#ifndef V9_FID_KNOWN_SIZE_H
#define V9_FID_KNOWN_SIZE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "fid/inode.h"

/* A fid that a walk of names has made comes (1; 2 where it moves here), or goes (-1, -2). With the
 * table's lock held. */
static inline void v9_known_size_walked(struct v9_inode *inode, int fids)
{
    __atomic_add_fetch(&inode->walked_fids, (uint32_t)fids, __ATOMIC_SEQ_CST);
    __atomic_store_n(&inode->known_size, 0, __ATOMIC_SEQ_CST);
}

/* The client is about to change the size. One of the three below follows. */
static inline void v9_known_size_changing(struct v9_inode *inode)
{
    __atomic_add_fetch(&inode->resizing, 1, __ATOMIC_SEQ_CST);
}

/* It has changed nothing. */
static inline void v9_known_size_changed_nothing(struct v9_inode *inode)
{
    __atomic_sub_fetch(&inode->resizing, 1, __ATOMIC_SEQ_CST);
}

/* It has written up to `end`. */
static inline void v9_known_size_written(struct v9_inode *inode, uint64_t end)
{
    uint64_t known = __atomic_load_n(&inode->known_size, __ATOMIC_SEQ_CST);

    while (known && known <= end &&
           !__atomic_compare_exchange_n(&inode->known_size, &known, end + 1, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
    v9_known_size_changed_nothing(inode);
}

/* It has set the size. */
static inline void v9_known_size_resized(struct v9_inode *inode, uint64_t size)
{
    uint64_t known = __atomic_load_n(&inode->known_size, __ATOMIC_SEQ_CST);

    while (known && !__atomic_compare_exchange_n(&inode->known_size, &known, size + 1, false,
                                                 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
    v9_known_size_changed_nothing(inode);
}

/* It may have set any size, which the host does not have. */
static inline void v9_known_size_pretended(struct v9_inode *inode)
{
    __atomic_store_n(&inode->known_size, 0, __ATOMIC_SEQ_CST);
}

/* What is known before the host is asked for a size. */
struct v9_known_size {
    uint64_t size; /* + 1; 0: not known */
    bool resizing;
};

static inline struct v9_known_size v9_known_size_now(const struct v9_inode *inode)
{
    return (struct v9_known_size){__atomic_load_n(&inode->known_size, __ATOMIC_SEQ_CST),
                                  __atomic_load_n(&inode->resizing, __ATOMIC_SEQ_CST) != 0};
}

/* Whether the client keeps a size of a file that it uses, and may be right with it. */
static inline bool v9_known_size_may_know(const struct v9_inode *inode,
                                          const struct v9_known_size *before)
{
    return before->size && S_ISREG(inode->mode) &&
           __atomic_load_n(&inode->open_fids, __ATOMIC_RELAXED) &&
           __atomic_load_n(&inode->walked_fids, __ATOMIC_SEQ_CST) == 1;
}

/* Whether a size that was asked for since `before` is the client's own doing, or known to it. */
static inline bool v9_known_size_is_known(const struct v9_inode *inode,
                                          const struct v9_known_size *before, uint64_t size)
{
    const struct v9_known_size after = v9_known_size_now(inode);

    return after.size == size + 1 || before->resizing || after.resizing ||
           before->size != after.size;
}

/* A reply contains a size that was asked for since `before`. */
static inline void v9_known_size_reported(struct v9_inode *inode, struct v9_known_size before,
                                          uint64_t size)
{
    if (before.size != size + 1)
        __atomic_compare_exchange_n(&inode->known_size, &before.size, size + 1, false,
                                    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

#endif
