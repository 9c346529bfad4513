"""The benchmark of changes by the host: what it measures, and how, is in __main__.py."""
