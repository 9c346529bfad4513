"""The lock table: two guest processes, and the host beside them, on real files."""
