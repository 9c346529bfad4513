"""The frontend: QEMU and a guest's 9p driver, played by Python against a running daemon.

Everything here speaks from the other side of the socket and of the ring. Nothing is imported from
vhost9p's vhost-user or native code, so that a misreading of a specification there meets a second
reading here.
"""

PATIENCE = 60.0
"""Seconds after which what has not happened counts as hung. No test waits that long to pass."""
