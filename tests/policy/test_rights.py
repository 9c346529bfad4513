"""What the host must allow: ids that files can be given to, attributes that are kept."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.share import AS_USER, IS_ROOT, USER, USER_GROUP
from vhost9p.config import IdMap, IdRange
from vhost9p.policy import rights

OWN = IdMap(uid=(IdRange(0, 500, 1),), gid=(IdRange(0, 600, 1),), squash_uid=500, squash_gid=601)


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    """User 500 with groups 600 and 601."""
    monkeypatch.setattr(rights, "lacking_capabilities", lambda: ["CAP_CHOWN", "CAP_SETUID"])
    for name, value in (("geteuid", 500), ("getegid", 600), ("getgroups", [601])):
        monkeypatch.setattr(os, name, lambda value=value: value)


@pytest.mark.usefixtures("ordinary")
def test_an_ordinary_user_maps_to_itself() -> None:
    assert not list(rights.why_not_own(OWN))


@pytest.mark.usefixtures("ordinary")
@pytest.mark.parametrize(
    "ids,said",
    [
        (IdMap(uid=(IdRange(0, 0, 1),)), "uid: host id 0: without CAP_CHOWN and CAP_SETUID the"
         " daemon gives files to its own uid only (500); map to that, or take security_model"
         " mapped-xattr"),
        (IdMap(uid=(IdRange(0, 500, 2),)), "uid: host ids 500 to 501: without"),
        (IdMap(gid=(IdRange(7, 600, 3),)), "gid: host ids 600 to 602: without CAP_CHOWN and"
         " CAP_SETUID the daemon gives files to its own gid only (600, 601); map"),
        (IdMap(squash_uid=65534), "uid: host id 65534: without"),
        (IdMap(squash_gid=65534), "gid: host id 65534: without"),
    ],
)  # fmt: skip
def test_others_ids(ids: IdMap, said: str) -> None:
    (problem,) = rights.why_not_own(ids)
    assert problem.startswith(f"id_map: {said}")


def test_a_user_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the capability, what counts is what the namespace has; here 0 to 99, from two lines."""
    monkeypatch.setattr(rights, "lacking_capabilities", list)
    monkeypatch.setattr(rights, "namespace", lambda kind: [(0, 99)])
    assert not list(rights.why_not_own(IdMap(uid=(IdRange(5, 0, 100),), squash_gid=99)))
    (problem,) = rights.why_not_own(IdMap(uid=(IdRange(5, 1, 100),)))
    assert problem == (
        "id_map: uid: host ids 1 to 100: not all are in the daemon's user namespace "
        "(/proc/self/uid_map)"
    )


def test_the_hosts_ids_are_all_there() -> None:
    with open("/proc/self/uid_map", encoding="ascii") as lines:
        whole = lines.read().split() == ["0", "0", "4294967295"]
    assert (rights.namespace("uid") == [(0, 2**32 - 2)]) == whole


def start(path: Path, uid: int, gid: int) -> str:
    """What an ordinary user's daemon says of a map of the guest's root to these ids."""
    ids = [f"--map-uid=0:{uid}:1", f"--map-gid=0:{gid}:1"]
    ids += [f"--forbid-{kind}=1:4294967294" for kind in ("uid", "gid")]
    done = subprocess.run(
        [
            *AS_USER,
            *(sys.executable, "-m", "vhost9p"),
            *(f"--socket={path}/none/s", "--path=/usr", *ids),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    return done.stderr


def test_in_an_ordinary_users_daemon(tmp_path: Path) -> None:
    """It is refused for something else only, a socket's missing directory, where ids are right."""
    own = (USER, USER_GROUP) if IS_ROOT else (os.geteuid(), os.getegid())
    assert "id_map" not in start(tmp_path, *own)
    said = start(tmp_path, own[0] + 1, own[1] + 1)
    assert f"id_map: uid: host id {own[0] + 1}: without CAP_CHOWN" in said
    assert f"id_map: gid: host id {own[1] + 1}: without CAP_CHOWN" in said


# ---- attributes ----------------------------------------------------------------------------------


def test_a_file_system_with_attributes(tmp_path: Path) -> None:
    before = os.stat(tmp_path)
    assert rights.why_not_xattrs(str(tmp_path), readonly=False) is None
    assert os.listdir(tmp_path) == os.listxattr(tmp_path) == []
    assert os.stat(tmp_path).st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("call", ["getxattr", "setxattr"])
def test_a_file_system_without(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some keep none, some refuse to write them only."""

    def refuse(*args: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, call, refuse)
    problem = rights.why_not_xattrs(str(tmp_path), readonly=False)
    assert problem and "is on a file system without user.* attributes" in problem
    read_only = rights.why_not_xattrs(str(tmp_path), readonly=True)
    assert (read_only is None) == (call == "setxattr")


def test_a_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no reason against it."""

    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(os, "open", refuse)
    assert rights.why_not_xattrs(str(tmp_path), readonly=False) is None
