"""What QEMU has to be given so that a guest gets the devices of a configuration.

All knowledge of QEMU's command line is here: the options and the formats in which they are printed,
a user's own command line, the program, and what the guest mounts. Nothing here serves, and nothing
that serves knows of it.
"""
