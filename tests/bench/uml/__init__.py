"""The benchmark in a native guest; __main__.py says what it compares."""
