"""The loaded extension, the one place where a negative result becomes an OSError, and how C's
structs are read."""

import os
import struct

from vhost9p._native import ffi, lib

__all__ = ["Layout", "check", "ffi", "lib"]

_CODES = {"int32_t": "i", "uint32_t": "I", "uint64_t": "Q"}


def check(result: int) -> int:
    """Passes a result of 0 or more on; raises OSError for -errno."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


class Layout(struct.Struct):
    """How a C struct of integers lies in memory: all fields at once are read faster so than one at
    a time through cffi. `names` are the fields', in order."""

    def __init__(self, ctype: str) -> None:
        fields = ffi.typeof(ctype).fields
        code, at = "=", 0
        for _, field in fields:
            code += "x" * (field.offset - at) + _CODES[field.type.cname]
            at = field.offset + ffi.sizeof(field.type)
        super().__init__(code + "x" * (ffi.sizeof(ctype) - at))
        self.names = tuple(name for name, _ in fields)
