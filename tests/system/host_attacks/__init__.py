"""A process of the host changes an export, in a tight loop, beneath the requests of a guest.

It swaps directories for symlinks that lead out, files for FIFOs, sockets and devices, moves a
directory out of the export and back, and mounts over one. Meanwhile the guest does everything a
guest can through these names. It must not come to what is outside, which is marked, so that a reply
shows it, and watched, so that the kernel shows whoever opens or changes it (stage.py).

The same attack has to win against servers that are not careful: one in Python that knows files by
their paths (naive.py), and the daemon itself without the flags that keep it from following symlinks
(careless.c).
"""
