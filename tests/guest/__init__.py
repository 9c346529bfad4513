"""Real guests: QEMU and Debian kernels for any user (fetch), images (image), machines (vm); and
User Mode Linux, built (uml_kernel) and run (uml).

conftest has the fixtures; nothing here imports vhost9p, so that the harness can be proved against
QEMU's own 9p server (test_harness).
"""
