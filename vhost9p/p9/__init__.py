"""9P2000.L: messages, and the server for the requests that are not served in C.

No module here does input or output of its own: bytes come in and go out, files are reached through
the driver, fids through the fid table.
"""
