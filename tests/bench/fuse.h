/*
 * FUSE for the workloads: how requests are made and replies taken apart (fuse_wire.c). The
 * workloads themselves are in fuse.c. Layouts: linux/fuse.h.
 */
#ifndef FUSE_H
#define FUSE_H

#include <linux/fuse.h>

#include "bench.h"

/* ---- requests. Those that return a bool return true, for a step to return. */

/* Begins a request, whose reply has a body of up to `reply` bytes. */
void fuse_start(struct lane *lane, unsigned opcode, uint64_t node, size_t reply);
/* Appends to what was begun. */
void fuse_put(struct lane *lane, const void *bytes, size_t size);
/* Ends a request: its size, with the payload that follows. */
bool fuse_finish(struct lane *lane);
bool fuse_lookup(struct lane *lane, uint64_t parent, const char *name);
bool fuse_forget(struct lane *lane, unsigned count, const uint64_t *nodes);
bool fuse_open_node(struct lane *lane, unsigned opcode, uint64_t node, uint32_t flags);
bool fuse_release_handle(struct lane *lane, unsigned opcode);
/* FUSE_READ, FUSE_READDIR and FUSE_WRITE: the payload lies in pages of its own. */
bool fuse_transfer(struct lane *lane, unsigned opcode, uint64_t offset, uint32_t size);

/* ---- replies. What is not as expected ends the benchmark. */

const void *fuse_body(const struct lane *lane);
void fuse_check(const struct lane *lane);
void fuse_expect_body(const struct lane *lane, size_t size);
void fuse_expect_attr(const struct lane *lane, const struct fuse_attr *attr, uint64_t ino,
                      uint32_t mode, uint64_t size);
const struct fuse_entry_out *fuse_entry(const struct lane *lane);
void fuse_take_handle(struct lane *lane);

#endif
