"""The build backend (PEP 517): setuptools, and what an extension made by cffi needs besides.

Belongs here: what the extension is compiled from and how, the check for a compiler, and what
pyproject.toml cannot say in every setuptools that is served (Debian 12 has 66: its pyproject.toml
knows neither extension modules nor an SPDX licence, so both are given to setup() here). cffi turns
the declarations of the folders' api.h, which vhost9p.h includes, into build/_native.c, which is
compiled with the rest of csrc/ as one extension module. They go through the C preprocessor, so that
nothing is declared twice. csrc/guest/ is not part of it, but a program that guests run.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import layout
import setuptools
from setuptools import Extension, build_meta
from setuptools.command.build_ext import build_ext
from setuptools.dist import Distribution

ROOT = Path(__file__).resolve().parent.parent
GENERATED = "build/_native.c"
FLAGS = (
    *("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror"),
    *("-Wno-unused-parameter", "-Wno-missing-field-initializers"),
    # A request makes many calls, and looks at what its thread holds. Functions are bound, and so
    # little of a thread's memory finds room, when the library is loaded: neither has to be looked
    # up at each use.
    *("-fno-plt", "-ftls-model=initial-exec"),
)
WHOLE = ("-O2", "-flto=auto", "-fno-semantic-interposition")
"""With gcc: calls between files, of which a request makes dozens, are inlined."""
LICENSE = "Apache-2.0"
AGENT_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s")
OTHER_NAMES = {"arm": "armv7l", "i386": "i686", "powerpc64le": "ppc64le"}
"""Machines that `uname -m` names otherwise than gcc."""


def csrc(*suffixes: str) -> list[str]:
    """The files of csrc/ with these suffixes, as paths below the root."""
    files = (ROOT / "csrc").rglob("*")
    return sorted(str(file.relative_to(ROOT)) for file in files if file.suffix in suffixes)


def agent() -> list[str]:
    """Those of the agent, which is a program of its own."""
    return [each for each in csrc(".c") if each.startswith("csrc/guest/")]


def compiler() -> list[str]:
    """The C compiler's command."""
    return os.environ.get("CC", "cc").split()


def whole_program() -> list[str]:
    """The flags that optimise all files as one; none for other compilers than gcc, which may lack
    the linker's plugin."""
    about = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True)
    return [*WHOLE] if "Free Software Foundation" in about.stdout else []


def build_agent(folder: Path) -> None:
    """Compiles csrc/guest/ into the folder, as agent-MACHINE (`uname -m`), for guests of any Linux.

    Where nothing can be linked statically it says so, and guests have the script alone.
    """
    about = subprocess.run(
        [*compiler(), "-dumpmachine"], capture_output=True, text=True, check=True
    )
    machine = about.stdout.partition("-")[0]
    target = folder / f"agent-{OTHER_NAMES.get(machine, machine)}"
    sources = [str(ROOT / each) for each in agent()]
    folder.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # it is never older than what it is made of
    program = ["-x", "c", "-o", str(target), "-"]
    empty = "int main(void) { return 0; }\n"
    tried = [*compiler(), *AGENT_FLAGS, *program]
    if subprocess.run(tried, input=empty, text=True, check=False).returncode:
        print(f"vhost9p: {target.name} is left out: it cannot be linked statically")
        return
    flags = (*AGENT_FLAGS, "-I", str(ROOT / "csrc"))
    subprocess.run([*compiler(), *flags, "-o", str(target), *sources], check=True)


def demand_compiler() -> None:
    """Ends with one line where the extension cannot be compiled."""
    command = compiler()
    if not command or not shutil.which(command[0]):
        named = f"CC={os.environ['CC']}" if "CC" in os.environ else "cc"
        sys.exit(f"vhost9p: no C compiler ({named}): install gcc, or name one in CC")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        sys.exit(
            f"vhost9p: no Python.h for {sys.executable}: install Python's headers "
            "(Debian: python3-dev)"
        )


def generate() -> None:
    """Writes build/_native.c."""
    from cffi import FFI  # a source distribution is made without it

    command = [*compiler(), "-E", "-P", "-DV9_CDEF", "-I", str(ROOT / "csrc")]
    command.append(str(ROOT / "csrc" / "vhost9p.h"))
    declarations = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    fields = layout.generate(ROOT / "csrc", compiler())
    builder = FFI()
    builder.cdef(declarations + layout.DECLARATION)
    builder.set_source("vhost9p._native", f'#include "vhost9p.h"\n{fields}')
    (ROOT / "build").mkdir(exist_ok=True)
    builder.emit_c_code(str(ROOT / GENERATED))


class BuildExtension(build_ext):
    """Generates the source before it is compiled; names what a source distribution contains."""

    def run(self) -> None:
        """Compiles the extension, and the program for guests."""
        generate()
        for extension in self.extensions:
            extension.extra_compile_args += whole_program()
            extension.extra_link_args += whole_program()
        super().run()
        build_agent(Path(self.get_ext_fullpath("vhost9p._native")).parent / "guest")

    def get_source_files(self) -> list[str]:
        """All that the extension is built from, this file included."""
        return csrc(".c", ".h", ".py")


class Backend(build_meta._BuildMetaBackend):
    """setuptools' backend, with setup()'s arguments from here instead of from a setup.py."""

    def run_setup(self, setup_script: str = "setup.py") -> None:
        """Runs setup() for one command; the hooks of PEP 517 call it."""
        spdx = hasattr(Distribution().metadata, "license_expression")
        setuptools.setup(
            ext_modules=[
                Extension(
                    "vhost9p._native",
                    [GENERATED, *(each for each in csrc(".c") if each not in agent())],
                    include_dirs=["csrc"],
                    extra_compile_args=[*FLAGS],
                    py_limited_api=True,
                )
            ],
            cmdclass={"build_ext": BuildExtension},
            options={"bdist_wheel": {"py_limited_api": "cp311"}},
            **{"license_expression" if spdx else "license": LICENSE},
        )

    # A compiler is asked for in each hook that comes to need one, before anything is printed: the
    # first ones are left out by who brings the requirements along.

    def get_requires_for_build_wheel(self, *args: Any, **kwargs: Any) -> list[str]:
        """PEP 517."""
        demand_compiler()
        return list(super().get_requires_for_build_wheel(*args, **kwargs))

    def get_requires_for_build_editable(self, *args: Any, **kwargs: Any) -> list[str]:
        """PEP 660."""
        demand_compiler()
        return list(super().get_requires_for_build_editable(*args, **kwargs))

    def build_wheel(self, *args: Any, **kwargs: Any) -> str:
        """PEP 517."""
        demand_compiler()
        return str(super().build_wheel(*args, **kwargs))

    def build_editable(self, *args: Any, **kwargs: Any) -> str:
        """PEP 660."""
        demand_compiler()
        return str(super().build_editable(*args, **kwargs))


backend = Backend()
