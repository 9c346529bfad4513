"""The build backend (PEP 517): setuptools, after the extension's C source has been generated.

cffi turns the declarations of vhost9p.h, run through the C preprocessor so that nothing is declared
twice, into build/_native.c; pyproject.toml lists that file with the rest of csrc/ as one extension
module.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

from cffi import FFI
from setuptools import build_meta

ROOT = Path(__file__).resolve().parent.parent

get_requires_for_build_wheel = build_meta.get_requires_for_build_wheel
get_requires_for_build_editable = build_meta.get_requires_for_build_editable
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
build_sdist = build_meta.build_sdist


def generate() -> None:
    """Writes build/_native.c."""
    compiler = os.environ.get("CC", "cc").split()
    command = [*compiler, "-E", "-P", "-DV9_CDEF", str(ROOT / "csrc" / "vhost9p.h")]
    declarations = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    builder = FFI()
    builder.cdef(declarations)
    builder.set_source("vhost9p._native", '#include "vhost9p.h"')
    (ROOT / "build").mkdir(exist_ok=True)
    builder.emit_c_code(str(ROOT / "build" / "_native.c"))


def build_wheel(*args: Any, **kwargs: Any) -> str:
    """PEP 517."""
    generate()
    return str(build_meta.build_wheel(*args, **kwargs))


def build_editable(*args: Any, **kwargs: Any) -> str:
    """PEP 660."""
    generate()
    return str(build_meta.build_editable(*args, **kwargs))
