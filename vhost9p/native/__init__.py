"""The typed face of the C layer: the only package that imports the extension `vhost9p._native`.

Everything below deals in Python values and raises OSError; `lib` and `ffi` stay inside. What the C
functions promise stands in csrc/vhost9p.h and is not repeated here.
"""
