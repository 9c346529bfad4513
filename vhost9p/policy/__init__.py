"""Decisions about an export. They are made here and installed in the C layer, which asks once for
each thing it does not know.
"""
