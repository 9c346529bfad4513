"""Coverage-guided fuzzers of what guests and frontends send: CONTRIBUTING.md, Fuzz."""
