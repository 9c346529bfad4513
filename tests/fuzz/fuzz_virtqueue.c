// sources: virtio/virtqueue.c virtio/split.c virtio/packed.c virtio/descriptor_chain.c
// virtio/guest_memory.c virtio/mapping.c virtio/iov.c
/*
 * The walk of a ring: see rings.h. The guest holds still while its ring is read, so that an input
 * says everything; tests/csrc/virtio/test_racing_guest.c has one that does not.
 */
#define _GNU_SOURCE
#include "fuzz.h"

#include "rings.h"

void fuzz_begins(void)
{
    create_guest();
}

void fuzz_once(struct fuzz_input *in)
{
    run_rings(in);
}
