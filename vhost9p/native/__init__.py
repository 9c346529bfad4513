"""The typed face of the C layer: the only package that imports the extension `vhost9p._native`.

Its modules take and return Python values and raise OSError; `lib` and `ffi` stay inside. The
contracts of the C functions are in csrc/vhost9p.h and are not repeated here.
"""
