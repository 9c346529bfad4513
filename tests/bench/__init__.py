"""The benchmark: a guest's driver played in shared memory against vhost9p and its peers.

The C files are the driver: one program that makes requests, checks every reply and measures. The
Python files start the servers, run the workloads on them in turn, and report.
"""
