"""Drivers: how files are reached. The Protocol is in `driver`, the one that serves in `local`."""
