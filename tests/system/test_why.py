"""`vhost9p why`, as a person runs it: as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acls import GROUP, MASK, OTHERS, OWNER, OWNING_GROUP, set_acl
from tests.acls import USER as NAMED_USER
from tests.frontend.daemon import Daemon, run_cli
from tests.system.share import (
    AS_USER,
    IS_ROOT,
    UNSHARE,
    USER,
    USER_GROUP,
    needs_root,
    skip_without_namespaces,
)

ME = os.geteuid()


@dataclass
class Place:
    """An export, and the configuration that serves it."""

    folder: Path

    @property
    def export(self) -> Path:
        return self.folder / "export"

    def configure(self, text: str = "") -> Path:
        file = self.folder / "vm.yaml"
        path = "" if "exports:" in text else f"path: {self.export}\n"
        state = f"state_dir: {self.folder / 'state'}\n"
        file.write_text(f"socket: {self.folder / 'sock'}\n{path}{state}{text}")
        return file

    def ask(
        self, path: str, *options: str, config: str = "", wrapper: Sequence[str] = ()
    ) -> tuple[int, list[str]]:
        """The exit code and the lines that are printed."""
        done = run_cli("why", self.configure(config), path, *options, wrapper=wrapper)
        assert "Traceback" not in done.stderr
        return done.returncode, [*done.stdout.splitlines(), *done.stderr.splitlines()]

    def verdicts(self, path: str, *options: str, config: str = "") -> list[str]:
        """The lines that begin with what is done."""
        _, found = self.ask(path, *options, config=config)
        return [line for line in found if not line.startswith("'")]


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="v9-why-"))
    folder.chmod(0o755)
    export = folder / "export"
    (export / "dir").mkdir(parents=True)
    for path in (export, export / "dir"):
        path.chmod(0o755)
    (export / "file").write_bytes(b"data")
    (export / "file").chmod(0o640)
    yield Place(folder)
    shutil.rmtree(folder)


def test_all_that_root_may(place: Place) -> None:
    code, found = place.ask("/file", config="multidevs: remap\n")
    model = "passthrough" if IS_ROOT else "none"
    own = f"{ME}:{os.getegid()}"
    assert found == [
        f"'/': directory, {own} 0755; root of the export {place.export} ({model})",
        f"'/file': file, {own} 0640",
        "read: yes",
        "write: yes",
        "execute: does not apply: it is no program: nobody may execute it",
        "create: does not apply: no directory",
        "delete: yes",
    ]
    assert code == 0
    assert place.ask("/dir")[0] == 0


def test_a_program(place: Place) -> None:
    (place.export / "file").chmod(0o744)
    assert "execute: yes" in place.verdicts("file")
    code, found = place.ask("file", "--uid", "12345", "--gid", "12345")
    assert code == 1
    assert any(line.startswith("execute: no: the guest's user 12345 may") for line in found)


def test_a_file_that_the_guest_opens_without_the_daemon(place: Place) -> None:
    """Nothing but its kernel refuses it, also in an export that is read-only."""
    os.mkfifo(place.export / "fifo")
    (place.export / "fifo").chmod(0o600)
    own = "does not apply: a FIFO is the guest's own: its kernel never asks the daemon"
    code, found = place.ask("fifo")
    assert found[2:4] == [f"read: {own}", f"write: {own}"]
    assert code == 0
    assert place.verdicts("fifo", config="readonly: true\n")[:2] == [
        f"read: {own}",
        f"write: {own}",
    ]
    refused = place.verdicts("fifo", "--uid", "12345", "--gid", "12345")[0]
    assert refused.startswith("read: no: the guest's user 12345 may not read it")


def test_a_user_of_the_guest_by_what_the_guest_sees(place: Place) -> None:
    owner = f"owner {ME}:{os.getegid()}"
    who = "the guest's user 12345 may not"
    assert place.verdicts("file", "--uid", "12345", "--gid", "12345") == [
        f"read: no: {who} read it: {owner}, mode 0640, as the guest sees it",
        f"write: no: {who} write to it: {owner}, mode 0640, as the guest sees it",
        "execute: does not apply: it is no program: nobody may execute it",
        "create: does not apply: no directory",
        f"delete: no: {who} remove entries of the directory: {owner}, mode 0755, as the guest "
        "sees it",
    ]
    assert place.verdicts("file", "--uid", "12345", "--gid", str(os.getegid()))[0] == "read: yes"


def test_a_readonly_export(place: Place) -> None:
    assert place.verdicts("/dir", config="readonly: true\n") == [
        "read: yes",
        "write: does not apply: a directory",
        "search: yes",
        "create: no: readonly export",
        "delete: no: readonly export",
    ]


def test_a_missing_file_may_or_may_not_be_created(place: Place) -> None:
    start = "not reached: '/dir/new': No such file or directory; it may"
    assert place.verdicts("/dir/new") == [f"{start} be created"]
    assert place.verdicts("/dir/new", config="readonly: true\n") == [
        f"{start} not be created: readonly export"
    ]


def test_symlinks_are_followed_and_said(place: Place) -> None:
    (place.export / "link").symlink_to("dir/../file")
    (place.export / "out").symlink_to("/etc/passwd")
    (place.export / "loop").symlink_to("loop")
    _, found = place.ask("/link")
    assert found[1].endswith("; leads to 'dir/../file'")
    assert found[1].startswith("'/link': symlink")
    assert "read: yes" in found
    assert place.verdicts("/out") == [
        "not reached: the symlink leads to '/etc/passwd' of the guest's own tree: ask for that "
        "path, if it is in this mount"
    ]
    (place.export / "above").symlink_to("dir/../../file")
    for path in ("/above", "/dir/../../file"):
        assert place.verdicts(path) == [
            "not reached: the path leads out of the mount, to the guest's own tree"
        ]
    assert place.verdicts("/loop") == [
        "not reached: more than 40 symlinks (Too many levels of symbolic links)"
    ]


def test_id_map(place: Place) -> None:
    ids = f"[{{guest: 0, host: {ME}}}]"
    groups = f"[{{guest: 0, host: {os.getegid()}}}]"
    forbid = "{uid: [{guest: 1, count: 4294967294}], gid: [{guest: 1, count: 4294967294}]}"
    config = f"id_map: {{uid: {ids}, gid: {groups}, forbid: {forbid}}}\n"
    _, found = place.ask("/file", config=config)
    assert found[1].startswith("'/file': file, 0:0 0640")
    assert place.verdicts("/file", "--uid", "5", config=config) == [
        "not reached: user 5 may not enter the export: forbidden by id_map"
    ]
    assert "create: no: id 5 is forbidden by id_map" in place.verdicts(
        "/dir", "--gid", "5", config=config
    )


def test_names_that_are_hidden(place: Place) -> None:
    (place.export / ".virtfs_metadata").mkdir()
    assert place.verdicts("/.virtfs_metadata", config="security_model: mapped-file\n") == [
        "not reached: '/.virtfs_metadata': the name is hidden from the guest"
    ]


@pytest.mark.parametrize(
    ("path", "config"),
    [
        ("/.env", "hide: [.env]\n"),
        ("/dir/key", "hide: [dir/key]\n"),
        ("/.virtfs_metadata", "security_model: mapped-file\n"),
    ],
)
def test_a_hidden_name_may_not_be_created(place: Place, path: str, config: str) -> None:
    """There is no such file, and none can be made."""
    assert place.verdicts(path, config=config) == [
        f"not reached: '{path}': the name is hidden from the guest"
    ]


def test_a_mapped_model_shows_what_the_guest_sees(place: Place) -> None:
    for key, value in (("uid", 7), ("gid", 8), ("mode", 0o100600)):
        os.setxattr(place.export / "file", f"user.virtfs.{key}", value.to_bytes(4, "little"))
    _, found = place.ask("/file", "--uid", "7", config="security_model: mapped-xattr\n")
    own = f"{ME}:{os.getegid()}"
    assert found[1] == f"'/file': file, 7:8 0600 (on the host {own} 0640)"
    assert "read: yes" in found


def test_several_exports_and_devices(place: Place) -> None:
    exports = f"exports: [{{name: src, path: {place.export}, readonly: true}}]\n"
    code, found = place.ask("/src/file", config=exports)
    assert found[0].startswith("'/src': directory")
    assert found[0].endswith("; readonly export")
    assert "write: no: readonly export" in found
    assert place.ask("/other", config=exports) == (
        1,
        ["not reached: 'other' is no export of the device; it has src"],
    )
    assert place.ask("/", config=exports)[0] == 1
    assert place.ask("/../src", config=exports) == (
        1,
        ["not reached: the path leads out of the mount, to the guest's own tree"],
    )
    code, (line,) = place.ask("/file", "--tag", "x")
    assert (code, line) == (
        2,
        f"vhost9p: {place.folder}/vm.yaml: has no device with the tag 'x'; choose one by --tag: "
        "host0",
    )


def test_json_says_the_same(place: Place) -> None:
    code, found = place.ask("/file", "--json", config="readonly: true\n")
    said = json.loads("\n".join(found))
    assert (code, said["allowed"], said["tag"], said["path"]) == (1, False, "host0", "/file")
    assert said["verdicts"]["read"] == {"allowed": True, "reason": ""}
    assert said["verdicts"]["write"] == {"allowed": False, "reason": "readonly export"}
    assert [step["path"] for step in said["steps"]] == ["'/'", "'/file'"]
    assert said["steps"][1]["mode"] == 0o640


def test_bad_input_gets_one_line(place: Place) -> None:
    assert place.ask("/", config="multidev: x\n")[0] == 2
    code, (line,) = place.ask("/", "--uid", "-1")
    assert code == 2
    assert "--uid" in line


def test_a_name_that_is_no_utf8_can_be_asked_for_as_it_is_shown(place: Place) -> None:
    os.mkdir(os.fsencode(place.export) + b"/\xff'\\")
    shown = r"/\xff\x27\\"
    code, said = place.ask(shown)
    assert code == 0, said
    assert any(line.startswith(f"'{shown}': directory") for line in said)
    raw = os.fsdecode(b"/\xff\\x27\\\\")
    assert place.ask(raw) == (code, said)
    _, printed = place.ask(shown, "--json")
    assert json.loads("\n".join(printed))["steps"][-1]["path"] == f"'{shown}'"


def test_a_quota_that_a_daemon_counts(place: Place) -> None:
    quota = "quota: {inodes: 2}\nmultidevs: warn\n"
    (place.folder / "state").mkdir()
    before = place.verdicts("/dir", config=quota)
    assert before[3] == "create: yes", "the usage is not known yet"
    with (
        Daemon("--config", str(place.configure(quota)), socket=False) as daemon,
        Watching(daemon, place.folder / "sock"),
    ):
        assert place.verdicts("/dir", config=quota)[3] == (
            "create: no: quota of 2 inodes is used up"
        )


class Watching:
    """Lets Daemon check the socket that its configuration names."""

    def __init__(self, daemon: Daemon, socket: Path) -> None:
        daemon.socket = str(socket)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@needs_root
def test_an_ordinary_user_is_refused_by_the_host(place: Place) -> None:
    (place.export / "dir").chmod(0o700)
    (place.export / "dir" / "entry").write_bytes(b"")
    (place.export / "shared").mkdir()
    (place.export / "shared").chmod(0o1777)
    (place.export / "shared" / "entry").write_bytes(b"")
    (place.export / "shared" / "entry").chmod(0o666)

    def said(path: str) -> list[str]:
        _, found = place.ask(path, wrapper=AS_USER, config="multidevs: remap\n")
        return [line for line in found if not line.startswith("'")]

    who = f"the daemon's user {USER} may not"
    assert said("/file")[:2] == [
        f"read: no: {who} read it: owner 0:0, mode 0640",
        f"write: no: {who} write to it: owner 0:0, mode 0640",
    ]
    assert said("/file")[4] == (
        f"delete: no: {who} remove entries of the directory: owner 0:0, mode 0755"
    )
    assert said("/dir/entry") == [
        f"not reached: '/dir': {who} search the directory: owner 0:0, mode 0700"
    ]
    assert said("/shared/entry")[1] == "write: yes"
    assert said("/shared/entry")[4] == (
        "delete: no: the directory is sticky: only the owner of an entry may remove it, not the "
        f"daemon's user {USER}"
    )


def test_mounts_and_what_is_mounted_readonly(place: Place) -> None:
    skip_without_namespaces()
    mount = 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"'
    wrapper = [*UNSHARE, "sh", "-c", mount, str(place.export / "dir")]
    _, found = place.ask("/dir", wrapper=wrapper, config="multidevs: remap\n")
    assert "mount point (device " in found[1]
    assert "create: no: the host has it mounted read-only" in found
    _, found = place.ask("/dir", wrapper=wrapper, config="multidevs: forbid\n")
    assert found[-1] == (
        "not reached: '/dir': it is on another file system of the host (multidevs: forbid)"
    )


@needs_root
def test_what_is_immutable(place: Place) -> None:
    changed = subprocess.run(
        ["chattr", "+i", str(place.export / "file")], capture_output=True, text=True, check=False
    )
    if changed.returncode:
        pytest.skip(f"chattr: {changed.stderr.strip()}")
    try:
        found = place.verdicts("/file")
    finally:
        subprocess.run(["chattr", "-i", str(place.export / "file")], check=True)
    assert found[1] == "write: no: it is immutable on the host (chattr -i)"
    assert found[4] == "delete: no: it is immutable on the host (chattr -i)"


# ---- ACLs of the host ----------------------------------------------------------------------------


def asked_by_user(place: Place, path: str) -> list[str]:
    """What an ordinary user's daemon would say of guest root."""
    _, found = place.ask(path, wrapper=AS_USER, config="multidevs: remap\n")
    return found


@needs_root
@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({(NAMED_USER, USER): 4}, "its ACL gives user 65534 r--"),
        (
            {(NAMED_USER, USER): 6, MASK: 4},
            "its ACL gives user 65534 rw-, its mask leaves at most r--",
        ),
        ({(GROUP, USER_GROUP): 4}, "its ACL gives group 65534 r--"),
        ({(GROUP, 7): 6, OTHERS: 4}, "its ACL gives others r--"),
    ],
)
def test_the_hosts_acl_refuses_the_daemon(
    place: Place, entries: dict[tuple[int, int], int], said: str
) -> None:
    """What it gives, it gives: reading is allowed although the mode alone would not let others."""
    file = place.export / "file"
    set_acl(file, {OWNER: 6, OWNING_GROUP: 4, MASK: 6, OTHERS: 0, **entries})
    mode = file.stat().st_mode & 0o777
    found = asked_by_user(place, "/file")
    assert "read: yes" in found
    refused = f"write: no: the daemon's user {USER} may not write to it"
    assert f"{refused}: owner 0:0, mode {mode:04o}, and {said}" in found


@needs_root
def test_an_acl_lets_who_is_in_several_of_its_groups_do_what_one_may(place: Place) -> None:
    file = place.export / "file"
    os.chown(file, 0, USER_GROUP)
    set_acl(file, {OWNER: 6, OWNING_GROUP: 0, (GROUP, USER_GROUP): 6, MASK: 6, OTHERS: 0})
    found = asked_by_user(place, "/file")
    assert "read: yes" in found and "write: yes" in found


@needs_root
def test_an_acl_with_an_empty_mask_does_not_count(place: Place) -> None:
    """Then the kernel goes by the mode, even for a user whom the ACL names."""
    file = place.export / "file"
    set_acl(file, {OWNER: 6, (NAMED_USER, USER): 6, OWNING_GROUP: 0, MASK: 0, OTHERS: 4})
    found = asked_by_user(place, "/file")
    assert "read: yes" in found
    assert (
        f"write: no: the daemon's user {USER} may not write to it: owner 0:0, mode 0604, and its "
        "ACL does not count, since its mask is ---"
    ) in found


@needs_root
def test_a_directorys_acl_decides_about_its_entries(place: Place) -> None:
    set_acl(
        place.export / "dir", {OWNER: 7, (NAMED_USER, USER): 0, OWNING_GROUP: 5, MASK: 5, OTHERS: 5}
    )
    (place.export / "dir" / "entry").write_bytes(b"")
    assert asked_by_user(place, "/dir/entry")[-1] == (
        f"not reached: '/dir': the daemon's user {USER} may not search the directory: owner 0:0, "
        f"mode 0755, and its ACL gives user {USER} ---"
    )


def test_acls_are_shown_with_the_files_that_have_them(place: Place) -> None:
    entries = {OWNER: 7, (NAMED_USER, 12): 5, OWNING_GROUP: 5, MASK: 5, OTHERS: 0}
    set_acl(place.export / "dir", entries)
    set_acl(place.export / "dir", {**entries, MASK: 1}, default=True)
    _, found = place.ask("/dir")
    assert found[1].endswith(
        "; ACL owner rwx, user 12 r-x, owning group r-x, mask r-x, others ---; default ACL, which "
        "new files get: owner rwx, user 12 r-x, owning group r-x, mask --x, others ---"
    )


def test_a_guest_with_posixacl_goes_by_the_acl(place: Place) -> None:
    set_acl(
        place.export / "file", {OWNER: 6, (NAMED_USER, 12): 6, OWNING_GROUP: 0, MASK: 4, OTHERS: 0}
    )
    refused = "the guest's user 12 may not {}: owner {}:{}, mode 0640, as the guest sees it"
    own = ME, os.getegid()
    read, write = place.verdicts("/file", "--uid", "12", "--gid", "99999")[:2]
    assert read == "read: no: " + refused.format("read it", *own) + (
        "; its ACL gives user 12 rw-, its mask leaves at most r--, if the guest mounts with "
        "posixacl"
    )
    assert write == "write: no: " + refused.format("write to it", *own)


def test_an_attribute_that_is_no_acl_is_not_shown(place: Place) -> None:
    _, found = place.ask("/file")
    assert "ACL" not in found[1]
