"""The host fails: each system call of each request, and what was written before a crash."""
