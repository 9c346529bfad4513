"""What the host changes: records of the kernel, lines for guests, and the ring that keeps them."""
