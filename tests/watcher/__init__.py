"""The process that watches file systems, and main's part of it."""
