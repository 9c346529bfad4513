"""git's fsmonitor with the hook of docs/guests.md: `git status` in a guest names what has changed,
whoever has done it, and looks at nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.guest import fetch, uml_kernel
from tests.guest.conftest import Loud
from tests.guest.following import MOUNT, SHARED, Following, following

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh (gather|fsmonitor)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOG = "/tmp/changes"

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
    pytest.mark.skipif(
        not uml_kernel.is_built(), reason="User Mode Linux is not built; make test-all builds it"
    ),
    pytest.mark.skipif(not shutil.which("git"), reason="the host has no git"),
]


def install(shared: Path) -> None:
    """The files of the document, for this guest's mount."""
    found = dict(BLOCK.findall((ROOT / "docs/guests.md").read_text(encoding="utf-8")))
    assert len(found) == 2
    for name, text in found.items():
        line = "mount=/mnt log=/run/changes"
        assert line in text
        (shared / name).write_text(text.replace(line, f"mount={MOUNT} log={LOG}"))
        (shared / name).chmod(0o755)
    tool = shared / "inotifywait"
    tool.write_text(f'#!/bin/sh\nexec {" ".join(fetch.inotifywait().command)} "$@"\n')
    tool.chmod(0o755)


class Repository:
    """One on the host, at `top` below the mount, as git in the guest sees it."""

    def __init__(self, following: Following, top: str) -> None:
        self.host = following.export / top
        self._guest = following.guest
        self._place = f"{MOUNT}/{top}".rstrip("/.")

    def sh(self, script: str) -> str:
        """What a script in the repository prints in the guest."""
        variables = {"HOME": "/tmp", "GIT_OPTIONAL_LOCKS": "1", "PATH": os.environ["PATH"]}
        return self._guest.run(script, cwd=self._place, env=variables).text

    def status(self) -> list[str]:
        """Lines of `git status`."""
        return self.sh("git status --porcelain").splitlines()

    def await_status(self, *wanted: str) -> None:
        """Until what the host has done arrives. Raises CommandFailed if it does not."""
        text = "\n".join(wanted)
        self.sh(
            f"for i in $(seq 300); do test \"$(git status --porcelain)\" = '{text}' && exit; "
            "sleep 0.1; done; git status --porcelain; tail -n 20 {LOG}; exit 1".replace(
                "{LOG}", LOG
            )
        )

    def unlooked(self) -> int:
        """How many files git would not look at."""
        return self.sh("git ls-files -f").count("h ")


def git(folder: Path, *words: str) -> None:
    settings = ("-c", "user.name=host", "-c", "user.email=host@example.org")
    subprocess.run(("git", *settings, *words), cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize(
    "cache", ["loose", *(pytest.param(each, marks=pytest.mark.full) for each in ("none", "mmap"))]
)
@pytest.mark.parametrize("top", ["src", pytest.param(".", marks=pytest.mark.full)])
def test_git_status_names_what_has_changed(cache: str, top: str, loud: Loud) -> None:
    loud(fetch.inotifywait)
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="v9-guest-") as folder:
        export = Path(folder)
        export.chmod(0o755)
        work = export / top
        for name in (".", "d", "d/e"):
            (work / name).mkdir(exist_ok=True)
        names = ["f", "g", "d/h", "d/e/a b\\c", "d/e/k"]
        for name in names:
            (work / name).write_text("old\n")
        git(work, "init", "-q")
        git(work, "add", ".")
        git(work, "commit", "-qm", "all")
        with following(export, cache, "--security-model", "passthrough") as found:
            install(found.shared)
            path = f"{SHARED}:{os.environ['PATH']}"
            gather = found.guest.popen(f"exec {SHARED}/gather", env={"PATH": path})
            found.guest.run(f"until test -e {LOG}; do sleep 0.1; done")
            repository = Repository(found, top)
            see(repository, len(names))
            assert gather.poll() is None
            found.guest.run("pkill -f /bin/[i]notifywait")
            gather.wait(check=False)
            (work / "f").write_text("nobody names it")
            repository.sh(f"test ! -e {LOG}")
            repository.await_status(" M f")  # the agent has to drop what is cached


def see(repository: Repository, files: int) -> None:
    """Changes of the host, of the guest, of names and directories."""
    repository.sh(f"git config core.fsmonitor {SHARED}/fsmonitor; git status")
    assert repository.status() == []
    assert repository.unlooked() == files
    (repository.host / "d/e/a b\\c").write_text("the host's\n")
    changed = ' M "d/e/a b\\\\c"'
    repository.await_status(changed)
    assert repository.unlooked() == files - 1
    repository.sh('echo "the guest\'s" > d/h')
    assert repository.status() == [changed, " M d/h"]
    (repository.host / "new").mkdir()
    (repository.host / "new/file").write_text("new\n")
    repository.await_status(changed, " M d/h", "?? new/")
    (repository.host / "new/file").unlink()
    (repository.host / "new").rmdir()
    (repository.host / "d/e").rename(repository.host / "d/moved")
    repository.await_status(' D "d/e/a b\\\\c"', " D d/e/k", " M d/h", "?? d/moved/")
    repository.sh("git checkout -q .; rm -r d/moved")
    repository.await_status()
    assert repository.unlooked() == files
