"""Tests of the C layer in C: test_csrc.py builds and runs them."""
