"""Decisions that an export is served by. They are taken here and installed in the C layer, which
asks once for each thing it does not know.
"""
