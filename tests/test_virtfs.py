"""QEMU's own option string: what it means here, and that QEMU takes and refuses the same."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.guest import fetch
from tests.marks import fetched
from vhost9p import virtfs
from vhost9p.config_schema import DEVICE
from vhost9p.config_tree import find_problems, make_device

BASE = "local,path={path},security_model=mapped-xattr"
VIRTFS = "local,path={path},mount_tag=t,security_model=mapped-xattr"
RATE = "throttling.bps-total"


def test_every_key_of_qemu_is_known() -> None:
    assert virtfs.parse(
        "local,path=/srv/a,,b,mount_tag=work,security_model=mapped-file,id=fs0,fsdev=fs0,"
        "multidevs=remap,readonly=on,fmode=0640,dmode=0x1ed,writeout=immediate,max_xattr=010,"
        "throttling.bps-read=1048576,throttling.iops-write-max-length=3"
    ) == {
        "path": "/srv/a,b",
        "tag": "work",
        "security_model": "mapped-file",
        "multidevs": "remap",
        "readonly": True,
        "fmode": 0o640,
        "dmode": 0o755,
        "writeout": "immediate",
        "max_xattr": 8,
        "throttling": {"bps-read": 1048576, "iops-write-max-length": 3},
    }


MEANINGS = [
    ("security_model=mapped", "security_model", "mapped-xattr"),
    ("readonly", "readonly", True),
    ("noreadonly", "readonly", False),
    ("readonly=on,readonly=off", "readonly", False),
    ("path=/a,path=~/b", "path", "~/b"),
    ("path=/a,,,readonly", "path", "/a,"),
    ("fmode=01777", "fmode", 0o777),
    ("fmode=600", "fmode", 0o130),
    ("throttling.iops-total=010", "throttling", {"iops-total": 8}),
]


@pytest.mark.parametrize("text,key,value", MEANINGS, ids=lambda each: str(each)[:30])
def test_keys_mean_what_they_mean_to_qemu(text: str, key: str, value: Any) -> None:
    assert virtfs.parse(f"local,path=/x,security_model=none,{text}")[key] == value


MISTAKES = [
    ("", "'' is no driver; only local is served"),
    ("path=/x,security_model=none", "begins with no driver; local,path=… is expected"),
    ("proxy,socket=/x", "'proxy' is another of QEMU's drivers; only local is served"),
    ("synth,mount_tag=t", "'synth' is another of QEMU's drivers; only local is served"),
    ("locla,path=/x", "'locla' is no driver; only local is served"),
    ("local,sock_fd=3", "sock_fd is the driver proxy's; only local is served"),
    ("local,path=/x,mount_tag=t", "security_model is missing; QEMU requires it, too"),
    ("local,security_model=none", "path is missing; QEMU requires it, too"),
    ("local,,path=/x", "'local,path=/x' is no driver; only local is served"),
    ("local,path=", "path: '' is no path"),
    ("local,path=/x,=on", "contains '=on', where key=value is expected"),
    ("local,path=/x,,,,=on", "security_model is missing"),
    ("local,path=/x, ,readonly", "unknown key ' '"),
    ("local,readonyl=on", "unknown key 'readonyl'; valid are path, mount_tag, "),
    ("local,readonyl=on", "; did you mean 'readonly'?"),
    ("local,throttling.bps-totla=1", "did you mean 'throttling.bps-total'?"),
    ("local,readonly=1", "readonly: '1' is neither on nor off"),
    ("local,fmode=0o600", "fmode: '0o600' is no number; units are not allowed here, 0600 is octal"),
    ("local,fmode=089", "fmode: '089' is no number"),
    ("local,fmode", "fmode: 'on' is no number"),
    ("local,throttling.bps-total=1M", "throttling.bps-total: '1M' is no number"),
    ("local,throttling.bps-total=1000000000000001", "is no size from 0 to 1000000000000000 bytes"),
    ("local,multidevs=all", "multidevs: 'all' is not one of warn, forbid, remap"),
    ("local,writeout=later", "writeout: 'later' is not one of immediate"),
    ("local,mount_tag=", "mount_tag: '' is no mount tag"),
    ("local,id=1", "id: '1' is no identifier: letters, digits, -, . and _, a letter first"),
]


@pytest.mark.parametrize("text,said", MISTAKES, ids=lambda each: each[:40])
def test_mistakes_are_reported_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        virtfs.parse(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


PIECES = st.sampled_from(
    ["local", ",", "=", "path", "fmode", "0x", "9" * 30, "no", "readonly", "on", "throttling.",
     "bps-total", "id", " ", "é", "\0", "mount_tag", "security_model=none"]
)  # fmt: skip


@settings(deadline=None)
@given(st.text() | st.lists(PIECES).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        tree = virtfs.parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert list(find_problems(DEVICE, tree)) or make_device(tree)


# ---- the same as QEMU ----------------------------------------------------------------------------

Qemu = Callable[[str, str], bool]


@pytest.fixture(scope="module")
def qemu() -> Qemu:
    """Whether QEMU takes an option's argument: it starts, without a guest, and is told to end."""
    command = fetched(fetch.qemu).command

    def takes(option: str, argument: str) -> bool:
        done = subprocess.run(
            [*command, "-machine", "q35", "-accel", "tcg", "-m", "32", "-nodefaults", "-S",
             "-display", "none", "-monitor", "stdio", option, argument],
            input="quit\n", capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        return done.returncode == 0

    return takes


def we_take(argument: str) -> bool:
    """Whether this string describes a device without a mistake."""
    try:
        tree = virtfs.parse(argument)
    except ValueError:
        return False
    return not list(find_problems(DEVICE, tree))


SAME_AS_VIRTFS = [
    *(f"{VIRTFS}{more}" for more in (
        "", ",", ",,", ",readonly", ",noreadonly", ",readonly=on", ",readonly=yes",
        ",readonly=true", ",readonly=y", ",readonly=n", ",readonly=off", ",readonly=no",
        ",readonly=false", ",readonly=1", ",readonly=", ",readonly=ON", ",writeout=immediate",
        ",multidevs=warn", ",multidevs=forbid", ",multidevs=remap",
        ",multidevs=x", ",multidevs=", ",id=a.b-c_1",
        ",id=", ",id=1a", ",id=a/b", ",fmode=0600", ",fmode=600", ",fmode=0x1ff", ",fmode=01777",
        ",fmode= 0600", ",fmode=+0600", ",fmode=0600 ", ",fmode=abc", ",fmode=", ",fmode",
        ",fmode=0o600", ",fmode=089", ",dmode=0700", ",foo=bar", ",socket=/x", ",sock_fd=3",
        ",path={path}", ",readonly=on,readonly=off", ",=x", ",Readonly=on", ",max_xattr=0",
        ",max_xattr=4294967295", ",max_xattr=4294967296", ",max_xattr=-1", ",max_xattr=1k",
        ",max_xattr", ",security_model=mapped", ",security_model=mapped-file",
        ",security_model=none", ",security_model=passthrough", ",security_model=foo",
    )),
    "local,path={path},mount_tag=t",
    "local,mount_tag=t,security_model=none",
    "path={path},mount_tag=t,security_model=none",
    "fsdriver=local,path={path},mount_tag=t,security_model=none",
    "path={path},mount_tag=t,security_model=none,fsdriver=local",
    "proxy,socket=/tmp/x,mount_tag=t", "foo,path={path},mount_tag=t", "," + VIRTFS,
    "local,path={path},,b,mount_tag=t,security_model=none",
    "local,path={path}=b,mount_tag=t,security_model=none",
]  # fmt: skip

SAME_AS_FSDEV = [
    "fmode=0600", "security_model=none,fmode=0600", "security_model=passthrough,dmode=0700",
    f"{RATE}=100", f"{RATE}=0", f"{RATE}=0x10", f"{RATE}=010", f"{RATE}=1M", f"{RATE}=-1",
    f"{RATE}=", f"{RATE}", f"{RATE}=1.5", f"{RATE}=abc", f"{RATE}=1000000000000000",
    f"{RATE}=1000000000000001", f"{RATE}=18446744073709551616", "throttling.bps_total=5",
    "throttling.group=x", f"{RATE}=100,throttling.bps-read=100",
    f"{RATE}=100,throttling.bps-write=100", f"{RATE}=100,throttling.bps-read=0",
    f"{RATE}=100,throttling.iops-read=1", f"{RATE}=100,throttling.bps-read-max=100",
    f"throttling.bps-read=100,{RATE}-max=100", f"{RATE}-max=100", f"{RATE}=100,{RATE}-max=100",
    f"{RATE}=100,{RATE}-max=99", f"{RATE}=100,{RATE}-max=101", f"{RATE}-max-length=5",
    f"{RATE}-max-length=1", f"{RATE}-max-length=0", f"{RATE}=100,{RATE}-max-length=5",
    f"{RATE}=100,{RATE}-max=200,{RATE}-max-length=5",
    f"{RATE}=100,{RATE}-max=200,{RATE}-max-length=0",
    f"{RATE}=1,{RATE}-max=1000000000000000,{RATE}-max-length=2",
    f"{RATE}=1,{RATE}-max=500000000000000,{RATE}-max-length=2",
    "throttling.iops-size=4096", "throttling.iops-size=0",
    "throttling.iops-size=4096,throttling.iops-total=5",
    "throttling.iops-size=4096,throttling.iops-read=5",
    "throttling.iops-size=4096,throttling.bps-total=5",
    "throttling.iops-size=4096,throttling.iops-total-max=5",
    "throttling.iops-total=100,throttling.iops-write=100",
    "throttling.iops-total=1,throttling.iops-total-max=2,throttling.iops-total-max-length=3",
    "throttling.iops-read=1,throttling.iops-write-max=5",
    "throttling.bps-read=1,throttling.bps-read-max=5,throttling.bps-write=3,"
    "throttling.bps-write-max=2",
]  # fmt: skip


@pytest.mark.guest
def test_what_qemu_takes_and_refuses(tmp_path: Path, qemu: Qemu) -> None:
    """One test for all strings: QEMU is quick, and the difference is what one wants to see."""
    for name in ("x", "x,b", "x=b"):
        (tmp_path / name).mkdir()
    asked = [("-virtfs", text) for text in SAME_AS_VIRTFS]
    asked += [("-fsdev", f"{BASE},id=t,{text}") for text in SAME_AS_FSDEV]
    differing = []
    for option, text in asked:
        argument = text.replace("{path}", str(tmp_path / "x"))
        if (theirs := qemu(option, argument)) != we_take(argument):
            differing.append(f"{option} {text}: QEMU {'takes' if theirs else 'refuses'} it")
    assert not differing


@pytest.mark.guest
def test_differences_from_qemu_are_as_documented(tmp_path: Path, qemu: Qemu) -> None:
    """What vhost9p.virtfs says of the differences."""
    virtfs_base = VIRTFS.replace("{path}", str(tmp_path))
    throttled = f"{virtfs_base},{RATE}=100"
    assert we_take(throttled) and not qemu("-virtfs", throttled)
    for more in (",writeout=later", ",security_model=none,fmode=0600"):
        assert qemu("-virtfs", virtfs_base + more) and not we_take(virtfs_base + more)
    overflow = f"{BASE},id=t,{RATE}=1,{RATE}-max=2,{RATE}-max-length=4294967297"
    overflow = overflow.replace("{path}", str(tmp_path))
    assert qemu("-fsdev", overflow) and not we_take(overflow)
