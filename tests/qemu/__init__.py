"""Tests of vhost9p.qemu: the texts that it makes and reads. tests/guest gives them to QEMU."""
