"""Debian packages for any user: apt with private directories, and dpkg -x.

Belongs here: reading the host's apt sources, driving apt-get and unpacking. What is fetched, and
why, is fetch.py's business.

apt works without root when its lists, its cache and its idea of what is installed (an empty
status file) lie in folders of the user's own. The archive's address comes from the host's own
sources, its signatures are verified with the host's debian-archive-keyring. A host's keyring may
be older than a suite: then the keyring package of the host's *own* release is fetched first, and
verified with the keys that the host has. Verification is never switched off. The transport
settings (proxies, time-outs) of the host's apt configuration are kept; its hooks are not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.guest import cache

_KEYRING_FOLDER = Path("/usr/share/keyrings")
_KEYRING = "debian-archive-keyring.gpg"
_TRANSPORT = re.compile(
    r"^(Acquire::(https?|ftp|mirror|Retries|ForceIPv[46]|Check-Valid-Until|Check-Date|"
    r"Max-ValidTime)\b.*);$"
)
_OUR_RELEASES = re.compile(r"^(bookworm|trixie|(old)*stable)(-updates)?$")


class FetchError(Exception):
    """Something could not be fetched; the message says what, why and what would help."""


@dataclass(frozen=True)
class Source:
    """One archive out of the host's apt sources."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str


class Archive:
    """Some suites of the Debian archive, with private apt directories in the cache folder."""

    def __init__(self, suites: tuple[str, ...]) -> None:
        """`suites` are read together; packages come from `-t` the suite that a call names."""
        self._suites = suites
        self._name = suites[0]
        self._base = cache.folder() / "apt" / self._name
        self._updated = False

    def closure(self, suite: str, packages: tuple[str, ...]) -> list[str]:
        """The names of `packages` and of all that they depend on, as apt resolves them."""
        install = ("install", "--simulate", f"--target-release={suite}", *packages)
        with cache.locked(f"apt-{self._name}"):
            self._update()
            shown = self._run("apt-get", *install)
        return re.findall(r"^Inst (\S+)", shown, re.MULTILINE)

    def depends(self, suite: str, package: str) -> list[str]:
        """The names that `package` of `suite` depends on directly."""
        with cache.locked(f"apt-{self._name}"):
            self._update()
            shown = self._run("apt-cache", "--important", "depends", f"{package}/{suite}")
        return re.findall(r"^ [ |](?:Pre)?Depends: ([^<\s]+)", shown, re.MULTILINE)

    def unpack(self, suite: str, packages: list[str], target: Path, what: str) -> None:
        """Download `packages` of `suite` and unpack them over each other into `target`.

        Downloads that were interrupted are taken up again. Raises FetchError.
        """
        with cache.locked(f"apt-{self._name}"):
            self._update()
            debs = self._base / "debs" / target.name
            debs.mkdir(parents=True, exist_ok=True)
            with cache.Progress(f"fetching {what}") as progress:
                self._run(
                    "apt-get",
                    f"--target-release={suite}",
                    "download",
                    *packages,
                    cwd=debs,
                    progress=progress,
                )
            with cache.Progress(f"unpacking {what}"):
                _unpack_all(sorted(debs.glob("*.deb")), target)
            shutil.rmtree(debs)

    def _update(self) -> None:
        """Read the package lists, once in the life of this object."""
        if self._updated:
            return
        self._configure()
        with cache.Progress(f"reading the package lists of {self._name}") as progress:
            try:
                self._run("apt-get", "update", "--error-on=any", progress=progress)
            except FetchError as error:
                raise FetchError(f"the Debian archive cannot be read: {error}") from None
        self._updated = True

    def _configure(self) -> None:
        for name in ("lists/partial", "archives/partial", "state"):
            (self._base / name).mkdir(parents=True, exist_ok=True)
        (self._base / "status").write_text("")
        uri = debian_uri()
        keyring = _keyring_for(self._suites)
        lines = [f"deb [arch=amd64 signed-by={keyring}] {uri} {s} main\n" for s in self._suites]
        (self._base / "sources.list").write_text("".join(lines))
        settings = {
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Install-Recommends": "0",
            # apt as root would give up its rights for a user who cannot read the private folders.
            "APT::Sandbox::User": "root",
            "Acquire::GzipIndexes": "true",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "20",
            "Acquire::https::Timeout": "20",
            "Dir::Cache": f"{self._base}",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": f"{self._base}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": f"{self._base}/state",
            "Dir::State::lists": f"{self._base}/lists",
            "Dir::State::status": f"{self._base}/status",
        }
        text = "".join(f'{key} "{value}";\n' for key, value in settings.items())
        (self._base / "apt.conf").write_text(text + _transport_settings())

    def _run(
        self,
        *command: str,
        cwd: Path | None = None,
        progress: cache.Progress | None = None,
    ) -> str:
        """Run one of apt's programs with the private configuration; its standard output."""
        env = {**os.environ, "APT_CONFIG": f"{self._base}/apt.conf", "LC_ALL": "C"}
        read_end, write_end = os.pipe()
        try:
            process = subprocess.Popen(
                (command[0], "-q", "-o", f"APT::Status-Fd={write_end}", *command[1:]),
                cwd=cwd or self._base,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=(write_end,),
            )
        except FileNotFoundError:
            os.close(read_end)
            raise FetchError(f"{command[0]} is not installed; this needs a Debian host") from None
        finally:
            os.close(write_end)
        with ThreadPoolExecutor(1) as reader, open(read_end, errors="replace") as status:
            output = reader.submit(process.communicate)
            for line in status:
                percent = line.split(":")[2:3] if line.startswith("dlstatus:") else []
                if progress and percent:
                    progress.update(f"{float(percent[0]):.0f} %")
            text = output.result()[0]
        if process.returncode:
            tail = "\n".join(text.strip().splitlines()[-6:])
            raise FetchError(f"{' '.join(command[:3])} failed:\n{tail}")
        return text


def debian_uri() -> str:
    """The address of the Debian archive that the host itself uses. Raises FetchError."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    return choose([source for file in files for source in read_sources(file)])


def choose(sources: list[Source]) -> str:
    """The address of the first Debian archive among `sources`, a signed one if there is one."""
    found = [source for source in sources if _is_debian(source)]
    if not found:
        raise FetchError(
            "no Debian archive among the host's apt sources (/etc/apt/sources.list, "
            "/etc/apt/sources.list.d): expected an entry for bookworm, trixie or stable, main"
        )
    return min(found, key=lambda source: "debian-archive" not in source.signed_by).uri


def read_sources(file: Path) -> list[Source]:
    """The enabled binary entries of one apt sources file, in either format; else none."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError):
        return []
    if file.suffix == ".sources":
        return [s for stanza in re.split(r"\n\s*\n", text) for s in _read_stanza(stanza)]
    return _read_lines(text) if file.suffix == ".list" else []


def _read_stanza(stanza: str) -> list[Source]:
    """One stanza of the deb822 format: a field may continue on indented lines."""
    text = re.sub(r"^#.*\n?", "", stanza, flags=re.MULTILINE)
    pairs = re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t]+.*)*)", text, re.MULTILINE)
    fields = {key.lower(): value.split() for key, value in pairs}
    if "deb" not in fields.get("types", []) or fields.get("enabled") == ["no"]:
        return []
    return [
        Source(
            uri,
            tuple(fields.get("suites", [])),
            tuple(fields.get("components", [])),
            " ".join(fields.get("signed-by", [])),
        )
        for uri in fields.get("uris", [])
    ]


def _read_lines(text: str) -> list[Source]:
    """The one-line format: deb [options] uri suite component…"""
    pattern = r"^\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#\n]*)"
    return [
        Source(uri, (suite,), tuple(components.split()), options)
        for options, uri, suite, components in re.findall(pattern, text, re.MULTILINE)
    ]


def _is_debian(source: Source) -> bool:
    """Whether this is Debian's own archive, not another one for users of Debian."""
    return (
        "main" in source.components
        and any(_OUR_RELEASES.match(suite) for suite in source.suites)
        and ("debian-archive" in source.signed_by or "debian" in source.uri)
        and not source.uri.startswith("cdrom:")
    )


def _keyring_for(suites: tuple[str, ...]) -> Path:
    """The keyring that verifies `suites`: the host's, or a newer one that the host's verifies."""
    if not (_KEYRING_FOLDER / _KEYRING).exists():
        raise FetchError(
            f"{_KEYRING_FOLDER / _KEYRING} is missing; install the package debian-archive-keyring"
        )
    if suites[0] == "bookworm" or any(_KEYRING_FOLDER.glob(f"*{suites[0]}-stable.*")):
        return _KEYRING_FOLDER / _KEYRING

    def make(target: Path) -> None:
        Archive(("bookworm",)).unpack(
            "bookworm", ["debian-archive-keyring"], target, "Debian's newer keys"
        )

    return cache.entry("keyring", make) / str(_KEYRING_FOLDER / _KEYRING).lstrip("/")


def _transport_settings() -> str:
    """How the host's apt reaches the network: lines of its configuration."""
    try:
        dump = subprocess.run(
            ("apt-config", "dump"), capture_output=True, text=True, check=False
        ).stdout
    except FileNotFoundError:
        raise FetchError("apt-config is not installed; this needs a Debian host") from None
    return "".join(f"{line}\n" for line in dump.splitlines() if _TRANSPORT.match(line))


def _unpack_all(debs: list[Path], target: Path) -> None:
    target.mkdir()
    for deb in debs:
        command = ("dpkg", "-x", str(deb), str(target))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise FetchError(f"{' '.join(command)} failed: {done.stderr.strip()}")
