"""More files than the daemon may hold descriptors: those of idle fids are closed and reopened."""
