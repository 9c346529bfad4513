"""The loaded extension, the conversion of a negative result to an OSError, and the layout of C
structs."""

import os
import struct

from vhost9p._native import ffi, lib

__all__ = ["Layout", "check", "ffi", "lib"]

_CODES = {"int32_t": "i", "uint32_t": "I", "uint64_t": "Q"}


def check(result: int) -> int:
    """Returns a result of 0 or more; raises OSError for a result of -errno."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


class Layout(struct.Struct):
    """The memory layout of a C struct of integers. Unpacking all fields at once is faster than
    reading each one through cffi. `names` has the names of the fields, in order."""

    def __init__(self, ctype: str) -> None:
        fields = ffi.typeof(ctype).fields
        code, at = "=", 0
        for _, field in fields:
            code += "x" * (field.offset - at) + _CODES[field.type.cname]
            at = field.offset + ffi.sizeof(field.type)
        super().__init__(code + "x" * (ffi.sizeof(ctype) - at))
        self.names = tuple(name for name, _ in fields)
