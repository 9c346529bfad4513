"""The typed face of the C layer: the only package that imports the extension `vhost9p._native`.

Its modules take and return Python values and raise OSError; `lib` and `ffi` stay inside. The
contracts of the C functions are in the api.h of the folders of csrc and are not repeated here.
"""
