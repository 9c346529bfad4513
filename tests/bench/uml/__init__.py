"""The benchmark in User Mode Linux: what it compares, and how, is in __main__.py."""
