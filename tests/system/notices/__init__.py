"""The directory of notices, in which a guest reads what the host changes."""
