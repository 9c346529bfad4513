"""The POSIX conformance program: C sources, and build.py, which compiles them."""
