"""What is installed: a source distribution and a wheel, each into an empty virtual environment.

The wheel is built and run with the oldest versions of what it needs that are served: Debian's own,
of the release that has this Python. The source distribution takes what is newest.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.system.share import SECURITY, mounted
from vhost9p import __version__
from vhost9p.reference import schema
from vhost9p.reference.__main__ import OUTPUTS

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
DEBIAN_12 = "cffi==1.15.1 pyyaml==6.0 uvloop==0.17.0 xxhash==3.2.0 setuptools==66.1.1 wheel==0.38.4"
DEBIAN_13 = "cffi==1.17.1 pyyaml==6.0.2 uvloop==0.21.0 xxhash==3.5.0 setuptools==78.1.1 wheel"
OLDEST = (DEBIAN_12 if sys.version_info < (3, 12) else DEBIAN_13).split()


def run(*command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a command away from the tree, so that nothing is found there."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **env}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        list(map(str, command)),
        cwd="/",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )


def empty_environment(path: Path) -> Path:
    """Without pip: it would take longer to install than all else that is installed here."""
    venv.create(path)
    return path


def pip(environment: Path, command: str, *arguments: str | Path) -> None:
    """Runs this environment's pip for another one."""
    other = ("--python", environment / "bin" / "python")
    done = run(sys.executable, "-m", "pip", *other, command, "--quiet", *arguments)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module", autouse=True)
def quick_compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A compiler that optimises little: to optimise all of csrc/ takes longer than all else here,
    and `make build` has done it."""
    program = tmp_path_factory.mktemp("compiler") / "cc"
    program.write_text('#!/bin/sh\nexec cc "$@" -O1 -fno-lto\n')
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", str(program))
        yield


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This tree's files as they are, without what was built in it."""
    copy = tmp_path_factory.mktemp("packaging") / "tree"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    for name in filter(None, os.fsdecode(names).split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    code = "import sys; sys.path.insert(0, 'csrc'); import build; build.backend.build_sdist('dist')"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    (archive,) = (tree / "dist").glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the oldest versions, which stay beside it in an environment."""
    folder = tmp_path_factory.mktemp("wheel")
    builder = empty_environment(folder / "builder")
    pip(builder, "install", *OLDEST)
    pip(builder, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, tree)
    (path,) = folder.glob("*.whl")
    return path


def serves(environment: Path, tmp_path: Path) -> None:
    """What is installed answers a guest."""
    export = tmp_path / "export"
    export.mkdir()
    command = (str(environment / "bin" / "vhost9p"),)
    arguments = ("--path", str(export), *SECURITY)
    daemon = Daemon(*arguments, command=command, env={"PYTHONPATH": ""}, cwd="/")
    with daemon, mounted(daemon, export) as share:
        share.put("file", b"from the host")
        share.client.walk(share.top, 3, b"file")
        share.client.lopen(3, os.O_RDONLY)
        assert share.client.read(3, 0, 100) == b"from the host"
    daemon.check_output()


def test_a_source_distribution_is_built_installed_and_serves(sdist: Path, tmp_path: Path) -> None:
    environment = empty_environment(tmp_path / "venv")
    pip(environment, "install", sdist)
    serves(environment, tmp_path)


def test_a_source_distribution_has_csrc_and_documents_and_nothing_generated(
    tree: Path, sdist: Path
) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [
        *(p for p in tree.glob("csrc/**/*.*") if p.suffix != ".pyc"),
        *tree.glob("docs/*"),
        *tree.glob("*.md"),
        *(p for p in tree.glob("packaging/**/*") if p.is_file()),
        *tree.glob("qemu-configs/*"),
    ]
    assert {str(p.relative_to(tree)) for p in wanted} - names == set()
    assert not [name for name in names if name.startswith("build/") or name.endswith(".pyc")]


def test_a_wheel_serves_with_the_oldest_versions(wheel: Path, tmp_path: Path) -> None:
    environment = empty_environment(tmp_path / "venv")
    pip(environment, "install", wheel, *(name for name in OLDEST if "==" in name))
    serves(environment, tmp_path)
    assert printed(environment / "bin/vhost9p", "--version") == f"vhost9p {__version__}\n"
    assert json.loads(printed(environment / "bin/vhost9p", "--print-schema")) == schema.schema()
    prints_the_reference(environment)


def printed(*command: str | Path) -> str:
    done = run(*command)
    assert done.returncode == 0, done.stdout
    return done.stdout


def prints_the_reference(environment: Path) -> None:
    """What is installed prints the same as this tree, for whoever makes a package of it."""
    module = (environment / "bin/python", "-m", "vhost9p.reference")
    for name, output in OUTPUTS.items():
        if name != "descriptor":
            assert printed(*module, name) == output()
    # What management software starts, as QEMU's docs/interop/vhost-user.rst says.
    descriptor = json.loads(printed(*module, "descriptor"))
    assert descriptor["binary"] == str(environment / "bin/vhost9p")
    capabilities = json.loads(printed(descriptor["binary"], "--print-capabilities"))
    assert capabilities["type"] == descriptor["type"]


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_a_wheel_says_that_it_is_for_every_newer_python(wheel: Path) -> None:
    # No manylinux: nobody has checked it against such a system's libraries.
    assert wheel.name.endswith(f"-cp311-abi3-linux_{os.uname().machine}.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "vhost9p/_native.abi3.so" in archive.namelist()


def test_a_wheel_has_both_agents_and_guests_may_run_the_program(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        agents = {i.filename: i for i in archive.infolist() if "/guest/" in i.filename}
    program = f"vhost9p/guest/agent-{os.uname().machine}"
    assert set(agents) == {"vhost9p/guest/agent", program}
    assert agents[program].external_attr >> 16 & 0o111 == 0o111


def test_without_a_static_library_there_is_the_script_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\n[ "$*" = -dumpmachine ] && exec cc -dumpmachine\nexit 1\n')
    compiler.chmod(0o755)
    code = "import sys; sys.path.insert(0, 'csrc'); import build; from pathlib import Path; "
    code += f"build.build_agent(Path({str(tmp_path)!r}))"
    monkeypatch.setenv("CC", str(compiler))
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    said = capfd.readouterr().out
    assert (
        said == f"vhost9p: agent-{os.uname().machine} is left out: it cannot be linked statically\n"
    )
    assert list(tmp_path.iterdir()) == [compiler]


def test_an_error_in_the_program_ends_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else guests would have an older one, or none, and nobody would notice."""
    program = tmp_path / f"agent-{os.uname().machine}"
    program.write_text("an older one")
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\ncase $* in *guest*) exit 1 ;; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    code = "import sys; sys.path.insert(0, 'csrc'); import build; from pathlib import Path; "
    code += f"build.build_agent(Path({str(tmp_path)!r}))"
    monkeypatch.setenv("CC", str(compiler))
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True)
    assert ran.returncode != 0
    assert program.read_bytes() != b"an older one"


def test_a_wheel_names_its_licence_and_carries_the_text(wheel: Path) -> None:
    said = metadata(wheel)
    assert "Apache-2.0" in (said["License-Expression"], said["License"])
    assert "LICENSE" in said["License-File"]


def test_building_warns_of_nothing_deprecated(tree: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'csrc'); import build; "
        "build.backend.prepare_metadata_for_build_wheel('metadata')"
    )
    (tree / "metadata").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in (done.stdout + done.stderr).lower()


@pytest.mark.parametrize("isolation", [[], ["--no-build-isolation"]], ids=["isolated", "not"])
def test_without_a_compiler_one_line_says_what_to_install(tree: Path, isolation: list[str]) -> None:
    done = run(
        *(sys.executable, "-m", "pip", "install", "--no-deps", *isolation),
        *("--target", tree / "nowhere", tree),
        CC="no-such-compiler",
    )
    assert done.returncode != 0
    ours = [line.strip() for line in done.stdout.splitlines() if "vhost9p:" in line]
    assert ours == ["vhost9p: no C compiler (CC=no-such-compiler): install gcc, or name one in CC"]
    assert "[1 lines of output]" in done.stdout
    assert "Traceback" not in done.stdout
