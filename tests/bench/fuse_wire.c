/*
 * FUSE on the wire: requests as the kernel's client makes them, and what has to be true of replies.
 */
#include <fcntl.h>
#include <string.h>

#include "fuse.h"

/* ---- requests */

void fuse_put(struct lane *lane, const void *bytes, size_t size)
{
    memcpy(lane->out + lane->head, bytes, size);
    lane->head += (uint32_t)size;
}

void fuse_put_name(struct lane *lane, const char *name)
{
    fuse_put(lane, name, strlen(name) + 1);
}

void fuse_start(struct lane *lane, unsigned opcode, uint64_t node, size_t reply)
{
    struct fuse_in_header header = {
        .opcode = opcode, .unique = 2 * (uint64_t)lane->index + 2, .nodeid = node, .pid = 1};

    lane->head = 0;
    lane->payload = 0;
    lane->way = NO_PAYLOAD;
    lane->in_size = (uint32_t)(sizeof(struct fuse_out_header) + reply);
    lane->silent = false;
    lane->error = 0;
    fuse_put(lane, &header, sizeof(header));
}

bool fuse_finish(struct lane *lane)
{
    ((struct fuse_in_header *)lane->out)->len =
        lane->head + (lane->way == PAYLOAD_OUT ? lane->payload : 0);
    return true;
}

bool fuse_lookup(struct lane *lane, uint64_t parent, const char *name)
{
    fuse_start(lane, FUSE_LOOKUP, parent, sizeof(struct fuse_entry_out));
    fuse_put_name(lane, name);
    return fuse_finish(lane);
}

bool fuse_forget(struct lane *lane, unsigned count, const uint64_t *nodes)
{
    struct fuse_batch_forget_in many = {.count = count};

    fuse_start(lane, count == 1 ? FUSE_FORGET : FUSE_BATCH_FORGET, count == 1 ? nodes[0] : 0, 0);
    lane->silent = true;
    if (count == 1) {
        fuse_put(lane, &(struct fuse_forget_in){.nlookup = 1}, sizeof(struct fuse_forget_in));
        return fuse_finish(lane);
    }
    fuse_put(lane, &many, sizeof(many));
    for (unsigned i = 0; i < count; i++)
        fuse_put(lane, &(struct fuse_forget_one){nodes[i], 1}, sizeof(struct fuse_forget_one));
    return fuse_finish(lane);
}

bool fuse_open_node(struct lane *lane, unsigned opcode, uint64_t node, uint32_t flags)
{
    fuse_start(lane, opcode, node, sizeof(struct fuse_open_out));
    fuse_put(lane, &(struct fuse_open_in){.flags = flags}, sizeof(struct fuse_open_in));
    return fuse_finish(lane);
}

bool fuse_release_handle(struct lane *lane, unsigned opcode)
{
    fuse_start(lane, opcode, lane->node, 0);
    fuse_put(lane, &(struct fuse_release_in){.fh = lane->handle}, sizeof(struct fuse_release_in));
    return fuse_finish(lane);
}

bool fuse_create(struct lane *lane, uint64_t parent, const char *name)
{
    struct fuse_create_in in = {.flags = O_RDWR | O_CREAT | O_EXCL, .mode = 0100644};

    fuse_start(lane, FUSE_CREATE, parent,
               sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out));
    fuse_put(lane, &in, sizeof(in));
    fuse_put_name(lane, name);
    return fuse_finish(lane);
}

bool fuse_remove(struct lane *lane, unsigned opcode, uint64_t parent, const char *name)
{
    fuse_start(lane, opcode, parent, 0);
    fuse_put_name(lane, name);
    return fuse_finish(lane);
}

bool fuse_transfer(struct lane *lane, unsigned opcode, uint64_t offset, uint32_t size)
{
    bool out = opcode == FUSE_WRITE;

    lane->offset = offset;
    fuse_start(lane, opcode, lane->node, out ? sizeof(struct fuse_write_out) : 0);
    if (out) {
        struct fuse_write_in in = {.fh = lane->handle, .offset = offset, .size = size};

        fuse_put(lane, &in, sizeof(in));
    } else {
        struct fuse_read_in in = {.fh = lane->handle, .offset = offset, .size = size};

        fuse_put(lane, &in, sizeof(in));
    }
    lane->payload = size;
    lane->way = out ? PAYLOAD_OUT : PAYLOAD_IN;
    return fuse_finish(lane);
}

/* ---- replies */

const void *fuse_body(const struct lane *lane)
{
    return lane->in + sizeof(struct fuse_out_header);
}

void fuse_check(const struct lane *lane)
{
    const struct fuse_in_header *asked = (const struct fuse_in_header *)lane->out;
    const struct fuse_out_header *got = (const struct fuse_out_header *)lane->in;

    if (lane->written < sizeof(*got) || got->len != lane->written)
        wrong(lane, "length %u in a reply of %u bytes", got->len, lane->written);
    if (got->unique != asked->unique)
        wrong(lane, "the reply is to %llu, not to %llu", (unsigned long long)got->unique,
              (unsigned long long)asked->unique);
    if (got->error != -lane->error)
        engine_take_error(lane, asked->opcode, -got->error);
}

void fuse_expect_body(const struct lane *lane, size_t size)
{
    if (lane->written != sizeof(struct fuse_out_header) + size)
        wrong(lane, "%u bytes instead of %zu", lane->written,
              sizeof(struct fuse_out_header) + size);
}

void fuse_expect_attr(const struct lane *lane, const struct fuse_attr *attr, uint64_t ino,
                      uint32_t mode, uint64_t size)
{
    if (attr->ino != ino)
        wrong(lane, "inode %llu instead of %llu", (unsigned long long)attr->ino,
              (unsigned long long)ino);
    if (attr->mode != mode || attr->size != size)
        wrong(lane, "mode %o, size %llu instead of %o, %llu", attr->mode,
              (unsigned long long)attr->size, mode, (unsigned long long)size);
}

const struct fuse_entry_out *fuse_entry(const struct lane *lane)
{
    const struct fuse_entry_out *found = fuse_body(lane);

    fuse_expect_body(lane, sizeof(*found));
    if (!found->nodeid)
        wrong(lane, "a lookup found nothing");
    return found;
}

void fuse_take_handle(struct lane *lane)
{
    fuse_expect_body(lane, sizeof(struct fuse_open_out));
    lane->handle = ((const struct fuse_open_out *)fuse_body(lane))->fh;
}

void fuse_take_created(struct lane *lane)
{
    const struct fuse_entry_out *made = fuse_body(lane);

    fuse_expect_body(lane, sizeof(*made) + sizeof(struct fuse_open_out));
    if (!made->nodeid || made->attr.mode != 0100644 || made->attr.size)
        wrong(lane, "a new file has mode %o", made->attr.mode);
    lane->node = made->nodeid;
    lane->ino = made->attr.ino;
    lane->handle = ((const struct fuse_open_out *)(made + 1))->fh;
}

/* ---- requests whose replies are waited for */

const struct fuse_entry_out *fuse_reach(struct lane *lane, uint64_t parent, const char *name)
{
    fuse_lookup(lane, parent, name);
    engine_call(lane);
    return fuse_entry(lane);
}

void fuse_give_back(struct lane *lane, uint64_t node)
{
    fuse_forget(lane, 1, &node);
    engine_call(lane);
}
