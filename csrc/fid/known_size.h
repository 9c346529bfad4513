/*
 * told: which size of a file its client knows, so that it is not told that again.
 *
 * Linux's client, with a write-back cache (cache=mmap), takes the size of each reply to stat(2) for
 * its inode's (v9fs_vfs_getattr_dotl, v9fs_stat2inode_dotl), also when another of its processes has
 * extended the file in the cache since it asked. Then the file ends too early for all of them:
 * reads end short, and writing the pages back has crashed kernels. So a reply that has nothing new
 * to say about the size leaves it out of its valid mask, and the client keeps its own.
 *
 * A client knows the size that it was told, and what its own writes and truncations have made of
 * it. What differs from that is the host's doing, and is told. This holds for one inode of the
 * client. An inode is looked up by a walk of names, whose fid lives as long as it. Where several
 * such fids stand for a file (hard links, several users), any of them may be an inode that knows
 * less, and each is told all. So is the inode whose fid has moved from one file to another
 * (p9/lookup.c), since it stands for both: its fid counts as two.
 */
#ifndef V9_FID_KNOWN_SIZE_H
#define V9_FID_KNOWN_SIZE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "inode.h"

/* A fid that a walk of names has made comes (1; 2 where it moves here), or goes (-1, -2). Under the
 * lock of the fids. */
static inline void v9_known_size_walked(struct v9_inode *inode, int fids)
{
    __atomic_add_fetch(&inode->walked, (uint32_t)fids, __ATOMIC_SEQ_CST);
    __atomic_store_n(&inode->told, 0, __ATOMIC_SEQ_CST);
}

/* The client is about to change the size. */
static inline void v9_known_size_changing(struct v9_inode *inode)
{
    __atomic_add_fetch(&inode->changing, 1, __ATOMIC_SEQ_CST);
}

/* It has not. */
static inline void v9_known_size_changed_nothing(struct v9_inode *inode)
{
    __atomic_sub_fetch(&inode->changing, 1, __ATOMIC_SEQ_CST);
}

/* It has written up to `end`. */
static inline void v9_known_size_written(struct v9_inode *inode, uint64_t end)
{
    uint64_t told = __atomic_load_n(&inode->told, __ATOMIC_SEQ_CST);

    while (told && told <= end &&
           !__atomic_compare_exchange_n(&inode->told, &told, end + 1, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
        ;
    v9_known_size_changed_nothing(inode);
}

/* It has set the size. */
static inline void v9_known_size_resized(struct v9_inode *inode, uint64_t size)
{
    uint64_t told = __atomic_load_n(&inode->told, __ATOMIC_SEQ_CST);

    while (told && !__atomic_compare_exchange_n(&inode->told, &told, size + 1, false,
                                                __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
    v9_known_size_changed_nothing(inode);
}

/* What is known before the host is asked for a size. */
struct v9_known_size {
    uint64_t told;
    bool changing;
};

static inline struct v9_known_size v9_known_size_now(const struct v9_inode *inode)
{
    return (struct v9_known_size){__atomic_load_n(&inode->told, __ATOMIC_SEQ_CST),
                                  __atomic_load_n(&inode->changing, __ATOMIC_SEQ_CST) != 0};
}

/* Whether the client keeps a size of a file that it uses, and may be right with it. */
static inline bool v9_known_size_may_know(const struct v9_inode *inode,
                                          const struct v9_known_size *before)
{
    return before->told && S_ISREG(inode->mode) &&
           __atomic_load_n(&inode->opens, __ATOMIC_RELAXED) &&
           __atomic_load_n(&inode->walked, __ATOMIC_SEQ_CST) == 1;
}

/* Whether a size that was asked for since `before` is the client's own doing, or known to it. */
static inline bool v9_known_size_knows(const struct v9_inode *inode,
                                       const struct v9_known_size *before, uint64_t size)
{
    const struct v9_known_size after = v9_known_size_now(inode);

    return after.told == size + 1 || before->changing || after.changing ||
           before->told != after.told;
}

/* The client is told a size that was asked for since `before`. */
static inline void v9_known_size_tell(struct v9_inode *inode, struct v9_known_size before,
                                      uint64_t size)
{
    if (before.told != size + 1)
        __atomic_compare_exchange_n(&inode->told, &before.told, size + 1, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST);
}

#endif
