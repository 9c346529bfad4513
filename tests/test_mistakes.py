"""A table of mistakes: what is printed for each, and the exit code.

One that is made alone is one line. All of a kind have one exit code: 2 for what is wrong in the
options, the configuration or what they name on the host; 1 for what is right and cannot be had now.
`@` stands for a directory that has an export `share`, another `other` and a `file` in it.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhost9p import cli, errors
from vhost9p.policy import rights, state_dir

HELP = " (vhost9p --help lists the options)"
FORCE = "or force it (--force; in a file, force: true)"
ALIASES = "anchors (&name) and aliases (*name) are not supported; write the value out"
HERE = ["--socket", "@/s"]
SERVE = [*HERE, "--path", "@/share", "--security-model", "none"]

OPTIONS: list[tuple[list[str], list[str]]] = [
    # ---- the words
    (["--sokcet", "@/s"], [f"unknown option --sokcet; did you mean '--socket'?{HELP}"]),
    ([*SERVE, "--read-only"], [f"unknown option --read-only; did you mean '--readonly'?{HELP}"]),
    ([*SERVE, "--threads=x"],
     [f"argument --threads: 'x' is no whole number from 1 to 32{HELP}"]),
    ([*SERVE, "--readonly=yes"],
     [f"argument --readonly: ignored explicit argument 'yes'{HELP}"]),
    ([*SERVE, "--tag"], [f"argument --tag: expected one argument{HELP}"]),
    ([*SERVE, "more"], [f"'more' belongs to no option{HELP}"]),
    ([*SERVE, "--zzz=1"], [f"unknown option --zzz{HELP}"]),
    # ---- others' words
    ([*HERE, "--shared-dir", "@/share"],
     [f"unknown option --shared-dir; it is called --path here{HELP}"]),
    ([*SERVE, "--thread-pool-size=4"],
     [f"unknown option --thread-pool-size; it is called --threads here{HELP}"]),
    ([*SERVE, "--sandbox", "jail"],
     [f"argument --sandbox: 'jail' is not one of auto, namespace, chroot, none{HELP}"]),
    ([*SERVE, "--cache", "auto"],
     ["unknown option --cache; the guest decides what it caches, by mount -o cache=none, mmap or "
      f"loose{HELP}"]),
    ([*SERVE, "--announce-submounts"],
     [f"unknown option --announce-submounts; it is called --multidevs here{HELP}"]),
    ([*SERVE, "--translate-uid", "map:0:1:1"],
     [f"unknown option --translate-uid; it is called --map-uid here{HELP}"]),
    ([*SERVE, "--mount-tag=x"],
     [f"unknown option --mount-tag; it is called --tag here{HELP}"]),
    ([*SERVE, "--fsdev", "local"],
     [f"unknown option --fsdev; QEMU connects its own options by it; leave it out{HELP}"]),
    ([*SERVE, "-o", "source=/x"],
     [f"unknown option -o; every option has a name of its own here{HELP}"]),
    # ---- values
    (["--socket", "", "--path", "@/share"],
     [f"argument --socket/--socket-path: '' is no path{HELP}"]),
    ([*SERVE, "--socket-mode", "660"],
     ["argument --socket-mode: '660' is no mode from 0 to 0777; write it in octal with a 0 in "
      f"front, as 0640{HELP}"]),
    ([*SERVE, "--socket-group=nogruop"],
     ["argument --socket-group: 'nogruop' is no group of this host; did you mean 'nogroup'?"
      + HELP]),
    ([*SERVE, "--socket-owner=nobdy"],
     ["argument --socket-owner: 'nobdy' is no user of this host; did you mean 'nobody'?" + HELP]),
    ([*SERVE, "--socket-owner=99999999999"],
     ["argument --socket-owner: '99999999999' is no whole number from 0 to 4294967294" + HELP]),
    ([*HERE, "--virtfs", "local,path=@/share,mount_tag=t,security_modle=none,tag=x,readonly=1"],
     [f"argument --virtfs: '{{virtfs}}': {text}{HELP}" for text in (
         "unknown key 'security_modle'; valid are path, mount_tag, security_model, multidevs, "
         "readonly, fmode, dmode, writeout, max_xattr, id, fsdev, throttling.bps-total, and so on; "
         "did you mean 'security_model'?",
         "unknown key 'tag'; valid are path, mount_tag, security_model, multidevs, readonly, "
         "fmode, dmode, writeout, max_xattr, id, fsdev, throttling.bps-total, and so on",
         "readonly: '1' is neither on nor off",
         "security_model is missing; QEMU requires it, too")]),
    # ---- what goes together
    (["--path", "@/share"],
     ["name a --socket to listen on, an --fd, or a --config (vhost9p --help)"]),
    ([*SERVE, "--fmode", "0600"],
     ["fmode: is for security_model mapped-xattr and mapped-file only"]),
    ([*SERVE, "--throttling", "bps-total-max=5"],
     ["throttling: bps-total-max: needs bps-total, the rate that a burst may exceed"]),
    ([*SERVE, "--map-uid", "0:0:4294967295"],
     ["id_map: maps uid only; map gid, too"]),
    (["--config", "@/none.yaml", "--socket-mode", "0660"],
     ["@/none.yaml: cannot be read: No such file or directory"]),
    # ---- the host
    ([*HERE, "--path", "@/none"],
     ["@/none cannot be exported: No such file or directory; it must be a readable directory"]),
    ([*HERE, "--path", "@/file"],
     ["@/file cannot be exported: Not a directory; it must be a readable directory"]),
    (["--socket", "@/none/s", "--path", "@/share"],
     ["@/none/s: there is no directory @/none to create the socket in"]),
    (["--socket", "@/file", "--path", "@/share"], ["@/file exists and is not a socket"]),
    (["--socket", "@/other", "--path", "@/share"], ["@/other exists and is not a socket"]),
    (["--fd", "999", "--path", "@/share"], ["--fd 999: Bad file descriptor"]),
    (["--fd", "{plain}", "--path", "@/share"], ["--fd {plain} is not a socket"]),
    (["--fd", "{fresh}", "--path", "@/share"], ["--fd {fresh} neither listens nor is connected"]),
    (["--fd", "{listening}", "--path", "@/share", "--socket-mode=0660"],
     ["socket_mode: is set by the creator of the --fd socket; leave it out"]),
    ([*SERVE, "--multidevs=remap", "--state-dir", "@/file"],
     ["the state directory @/file (--state-dir; in a file, state_dir) cannot be used: @/file is "
      "not a directory"]),
    ([*SERVE, "--quota-inodes=5", "--state-dir", "@/file/below"],
     ["the state directory @/file/below (--state-dir; in a file, state_dir) cannot be used: @/file "
      "is not a directory"]),
    ([*HERE, "--export", "name=a,path=@/share", "--export", "name=b,path=@/share/in"],
     ["@/share/in and @/share: the exports overlap, and one file would be two to the guest, which "
      f"trusts what it has cached of each; make one read-only, {FORCE}"]),
    (["--socket", "@/share/s", "--path", "@/share"],
     ["@/share: the export contains the daemon's socket @/share/s, which no guest should reach; "
      f"move the one or the other, {FORCE}"]),
    # ---- several at once
    (["--sokcet=@/s", "--pth", "@/share", "--threads", "0", "--tag", "a/b", "--multidevs", "x"],
     [f"unknown option --sokcet; did you mean '--socket'?{HELP}",
      f"unknown option --pth; did you mean '--path'?{HELP}",
      f"argument --threads: '0' is no whole number from 1 to 32{HELP}",
      f"argument --tag: 'a/b' is no mount tag, which has 1 to 254 bytes and no /{HELP}",
      f"argument --multidevs: 'x' is not one of warn, forbid, remap{HELP}"]),
    (["--socket", "@/none/s", "--path", "@/none", "--map-uid=0:0", "--quota-error=EIO",
      "--state-dir=@/file", "--multidevs=remap"],
     [f"argument --map-uid: '0:0' is not of the form GUEST:HOST:COUNT{HELP}",
      f"argument --quota-error: 'EIO' is not one of ENOSPC, EDQUOT{HELP}",
      "@/none/s: there is no directory @/none to create the socket in",
      "the state directory @/file (--state-dir; in a file, state_dir) cannot be used: @/file is "
      "not a directory",
      "@/none cannot be exported: No such file or directory; it must be a readable directory"]),
    ([*SERVE, "--thraeds=4", "--cache=none", "--fmode=0600", "--quota-error=EIO", "--fd=x",
      "--map-uid=0:0:1"],
     [f"unknown option --thraeds; did you mean '--threads'?{HELP}",
      "unknown option --cache; the guest decides what it caches, by mount -o cache=none, mmap or "
      f"loose{HELP}",
      f"argument --quota-error: 'EIO' is not one of ENOSPC, EDQUOT{HELP}",
      f"argument --fd: 'x' is no inherited descriptor: a number from 3{HELP}",
      "id_map: uid: guest ids 1 to 4294967294 are not mapped; add a range, squash_to or "
      "forbid",
      "id_map: maps uid only; map gid, too",
      "fmode: is for security_model mapped-xattr and mapped-file only"]),
    ([*SERVE, "--hide", "/etc", "--hide", "a**"],
     ["argument --hide: '/etc' begins with a slash, but patterns are below the export's root; "
      f"write ./NAME for a name in the root itself{HELP}",
      "argument --hide: 'a**' has ** within a name; it stands alone between slashes, * within a "
      f"name{HELP}"]),
    ([*HERE, "--export", "name=a,path=@/share,security_model=none,hide=.env,hide=a/"],
     ["argument --export: 'name=a,path=@/share,security_model=none,hide=.env,hide=a/': hide: 'a/' "
      f"ends with a slash; leave it out: a directory is hidden with all below it{HELP}"]),
    ([*HERE, "--fd=999", "--config", "@/none.yaml", "--tag=x"],
     ["--fd and --socket exclude each other: name one",
      "--config excludes --tag: set it in the file. Allowed with --config are --socket, --fd, "
      "--socket-mode, --socket-owner, --socket-group, --once, --force, --state-dir, "
      "--sandbox, --seccomp, --log-level, --log-format, --log-time, --log-failures, "
      "--control-socket and --metrics",
      "@/none.yaml: cannot be read: No such file or directory"]),
]  # fmt: skip

BASE = "socket: s\npath: share\n"
FILES: list[tuple[str, list[str]]] = [
    (BASE + "mount_tag: x\n", ["3:1: unknown key 'mount_tag'; valid …; it is called tag here"]),
    (BASE + "shared_dir: x\n", ["3:1: unknown key 'shared_dir'; valid …; it is called path here"]),
    (BASE + "thread_pool_size: 5\n",
     ["3:1: unknown key 'thread_pool_size'; valid …; it is called threads here"]),
    (BASE + "translate_uid: x\n",
     ["3:1: unknown key 'translate_uid'; valid …; it is called id_map.uid here"]),
    (BASE + "xattrmap: x\n",
     ["3:1: unknown key 'xattrmap'; valid …; it is called xattrs.rules here"]),
    (BASE + "fsdev: x\n",
     ["3:1: unknown key 'fsdev'; valid …; QEMU connects its own options by it; leave it out"]),
    (BASE + "cache: auto\n", ["3:1: unknown key 'cache'; valid …; the guest decides what it "
                              "caches, by mount -o cache=none, mmap or loose"]),
    (BASE + "throttling.bps-total: 5\n",
     ["3:1: unknown key 'throttling.bps-total'; valid …; it is called throttling here"]),
    (BASE + "hide: .env\n", ["3:7: hide: a list of patterns is expected"]),
    (BASE + "hide:\n- .env\n- ../a\n- '!b'\n- '[c'\n",
     ["5:3: hide: '../a' has .. as a component, which is the name of no file",
      "6:3: hide: '!b' begins with !, but what is hidden cannot be shown again; write \\! for a "
      "name that begins so",
      "7:3: hide: '[c' has a [ without a ]; write \\[ for the bracket itself"]),
    (BASE + "hide: [" + "a, " * 257 + "]\n",
     ["3:1: hide: has 257 patterns; an export has at most 256"]),
    (BASE + "tag: *t\n", [f"3:6: tag: '*t' is an alias: {ALIASES}"]),
    (BASE + "tag: &t x\n", [f"3:6: {ALIASES}"]),
    (BASE + "socket_mode: 0o1777\n",
     ["3:14: socket_mode: '0o1777' is no mode from 0 to 0777; write it in octal with a 0 in front, "
      "as 0640"]),
    (BASE + "socket_group: true\n",
     ["3:15: socket_group: 'true' is neither the name nor the number of a group"]),
    (BASE + "socket_owner: -1\n", ["3:15: socket_owner: '-1' is no user of this host"]),
    (BASE + "fmode: 0600\nquota: {}\nmount_tag: x\nthreads: 0\n",
     ["3:1: fmode: is for security_model mapped-xattr and mapped-file only",
      "4:8: quota: bytes or inodes: is missing; a quota needs it",
      "5:1: unknown key 'mount_tag'; valid …; it is called tag here",
      "6:10: threads: '0' is no whole number from 1 to 32"]),
    (BASE + "fmode: 0600\nsecurty_model: mapped\n",  # which may have made it right
     ["4:1: unknown key 'securty_model'; valid …; did you mean 'security_model'?"]),
    # Beside the file's own mistakes, what the host says of the rest of it.
    ("devices:\n- {socket: none/s, path: share, threads: 0}\n"
     "- {socket: t, path: share/in, tag: b, cpus: all}\n- {socket: file, path: gone, tag: b}\n",
     ["2:42: threads: '0' is no whole number from 1 to 32",
      "3:45: cpus: 'all' is no list of CPUs; write it as 0,4-7, with numbers below 1024",
      "4:24: path: @/gone cannot be exported: No such file or directory; it must be a readable "
      "directory",
      "4:30: tag: 'b' is in line 3 already; each device needs a tag of its own",
      "2:3: @/none/s: there is no directory @/none to create the socket in",
      "4:3: @/file exists and is not a socket",
      "3:3: @/share/in and @/share: the exports overlap, and both guests could write there while "
      f"each trusts what it has cached; make one read-only, {FORCE}"]),
    ("socket: none/s\nexports:\n- {name: a, path: share, quota: {byts: 5}}\n"
     "- {name: b, path: share/in, id_map: {uid: [{guest: 0}]}}\n- {name: c, path: gone}\n- *d\n",
     ["3:33: exports: quota: bytes or inodes: is missing; a quota needs it",
      "3:34: exports: quota: unknown key 'byts'; valid …; did you mean 'bytes'?",
      "4:44: exports: id_map: uid: host: is missing; a range of ids needs it",
      "5:19: exports: path: @/gone cannot be exported: No such file or directory; it must be a "
      "readable directory",
      f"6:3: exports: '*d' is an alias: {ALIASES}",
      "1:1: @/none/s: there is no directory @/none to create the socket in",
      "4:3: @/share/in and @/share: the exports overlap, and one file would be two to the guest, "
      f"which trusts what it has cached of each; make one read-only, {FORCE}"]),
]  # fmt: skip


class Bench:
    """The directory, and descriptors of several kinds."""

    def __init__(self, top: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.top = top
        for name in ("share/in", "other"):
            (top / name).mkdir(parents=True)
        (top / "file").touch()
        self.plain = (top / "file").open("rb")
        self.fresh, self.listening = (socket.socket(socket.AF_UNIX) for _ in range(2))
        self.listening.bind(f"\0v9-mistakes-{os.getpid()}")
        self.listening.listen()

    def close(self) -> None:
        for each in (self.plain, self.fresh, self.listening):
            each.close()

    def fill(self, text: str) -> str:
        """What stands for the directory and the descriptors."""
        for name in ("plain", "fresh", "listening"):
            text = text.replace(f"{{{name}}}", str(getattr(self, name).fileno()))
        return text.replace("@", str(self.top))

    def said(self, args: list[str]) -> list[str]:
        """The lines that are printed; the exit code is that of a mistake."""
        code = cli.main(args)
        out, err = self._capsys.readouterr()
        assert (code, out) == (errors.EXIT_USAGE, ""), err
        lines = err.splitlines()
        assert all(line.startswith("vhost9p: ") for line in lines), err
        return [line.removeprefix("vhost9p: ") for line in lines]


@pytest.fixture
def bench(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    bench = Bench(tmp_path, capsys)
    monkeypatch.chdir(tmp_path / "other")
    yield bench
    bench.close()


@pytest.mark.parametrize("args,lines", OPTIONS, ids=lambda each: " ".join(each)[:60])
def test_mistakes_on_the_command_line_are_reported(
    bench: Bench, args: list[str], lines: list[str]
) -> None:
    filled = [bench.fill(each) for each in args]
    virtfs = filled[filled.index("--virtfs") + 1] if "--virtfs" in filled else ""
    expected = [bench.fill(each).replace("{virtfs}", virtfs) for each in lines]
    assert bench.said(filled) == expected
    assert sorted(os.listdir(bench.top)) == ["file", "other", "share"]


@pytest.mark.parametrize("text,lines", FILES, ids=lambda each: str(each)[:60])
def test_mistakes_in_a_file_are_reported_with_their_lines(
    bench: Bench, text: str, lines: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text(text)
    said = bench.said(["--config", str(file)])
    assert len(said) == len(lines), "\n".join(said)
    for line, expected in zip(said, lines, strict=True):
        start, _, end = f"{file}:{bench.fill(expected)}".partition("…")
        assert line.startswith(start) and line.endswith(end), f"{line}\nis not\n{start}…{end}"
        assert end or line == start


def test_there_are_enough() -> None:
    assert len(OPTIONS) + len(FILES) >= 40


def test_an_ordinary_user_sees_all_mistakes_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside one another: what it may not do, and what is spelled wrong."""
    monkeypatch.setattr(rights, "lacking_capabilities", lambda: ["CAP_CHOWN"])
    monkeypatch.setattr(os, "access", lambda path, *args, **named: False)
    args = [*HERE, "--path=@/share", "--security-model=passthrough", "--multidevs=remap"]
    said = bench.said([bench.fill(each) for each in (*args, "--state-dir=@/other", "--tga=x")])
    top, own = bench.top, f"{os.geteuid()}:{os.getegid()}"
    assert said == [
        f"unknown option --tga; did you mean '--tag'?{HELP}",
        f"{top}/s: the daemon may not write in {top}, where the socket is to be created",
        f"the state directory {top}/other (--state-dir; in a file, state_dir) cannot be used: the "
        f"daemon may not write in {top}/other",
        f"{top}/share: the guest cannot change it: it belongs to {own} with mode 0o755, "
        f"and the daemon runs as {own}; make it read-only (--readonly; in a file, readonly: true), "
        f"change the directory, {FORCE}",
        "security_model: passthrough gives files the guest's owners on the host, but the daemon "
        "lacks CAP_CHOWN; choose none (what the daemon may not give away belongs to its own user), "
        "mapped-xattr or mapped-file (the guest's owners are kept beside the files), or run it as "
        "root",
    ]


@pytest.mark.parametrize("code", ["EPERM", "EINVAL", "EOVERFLOW"])
def test_a_file_system_without_owners(
    bench: Bench, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Squashed root, a mount whose ids are mapped: there no rights of the daemon help."""
    number = getattr(errno, code)

    def refuse(fd: int, uid: int, gid: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(rights, "lacking_capabilities", list)
    monkeypatch.setattr(rights, "namespace", lambda kind: [(0, 2**32 - 2)])
    monkeypatch.setattr(os, "fchown", refuse)
    (said,) = bench.said(
        [bench.fill(each) for each in (*HERE, "--path=@/share", "--security-model=passthrough")]
    )
    assert f"the file system of {bench.top}/share does not let it set owners (" in said


def test_a_state_directory_that_can_be_made(tmp_path: Path) -> None:
    assert state_dir.state_problem(f"{tmp_path}/new/state") is None
    assert not os.path.exists(tmp_path / "new")


def test_a_state_directory_that_only_its_making_shows_to_be_wrong(tmp_path: Path) -> None:
    """/proc takes no directory, though root may write in it."""
    command = [sys.executable, "-m", "vhost9p", f"--socket={tmp_path}/s", f"--path={tmp_path}"]
    done = subprocess.run(
        [*command, "--force", "--multidevs=remap", "--state-dir=/proc/vhost9p"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == errors.EXIT_USAGE, done.stderr
    assert "the state directory /proc/vhost9p (--state-dir; in a file, state_dir) cannot " in (
        done.stderr
    )
