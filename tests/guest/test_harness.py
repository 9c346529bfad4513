"""The harness itself, against the 9p server that is built into QEMU."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.channel import CommandFailed, CommandTimeout, GuestLost
from tests.guest.conftest import Boot
from tests.guest.fetch import Kernel
from tests.guest.vm import VM, Virtfs


@dataclass(frozen=True)
class Guest:
    """A booted guest and the host's side of what it may mount as "share"."""

    vm: VM
    share: Path


@pytest.fixture(scope="module")
def guest(boot_shared: Boot, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    share = tmp_path_factory.mktemp("share")
    return Guest(boot_shared.qemu("full", virtfs=[Virtfs(share, "share")]), share)


@pytest.fixture(scope="module")
def vm(guest: Guest) -> VM:
    return guest.vm


@pytest.mark.newest
def test_the_wanted_kernel_runs(vm: VM, kernel: Kernel) -> None:
    assert vm.run("uname -r").text == kernel.release == vm.channel.release
    assert vm.channel.boots == 1


@pytest.mark.newest
def test_a_command_gives_output_and_status(vm: VM) -> None:
    result = vm.run("echo out; echo err >&2; exit 3", check=False)
    assert (result.stdout, result.stderr, result.returncode) == (b"out\n", b"err\n", 3)
    with pytest.raises(CommandFailed, match="ended with 3") as caught:
        vm.run("exit 3")
    assert caught.value.result.returncode == 3
    assert vm.run("kill -TERM $$", check=False).returncode == -signal.SIGTERM
    assert vm.run(("no-such-program",), check=False).returncode == 127


def test_any_bytes_pass_through_a_command(vm: VM) -> None:
    every = bytes(range(1, 256))
    assert vm.run((b"printf", b"%s", every)).stdout == every
    large = bytes(range(256)) * 8192
    assert vm.run("cat", stdin=large).stdout == large


def test_a_command_gets_its_folder_and_environment(vm: VM) -> None:
    result = vm.run('pwd; echo "$COLOUR"', cwd="/usr", env={"COLOUR": "deep blue"})
    assert result.text == "/usr\ndeep blue"


def test_a_command_runs_as_its_user_and_groups(vm: VM) -> None:
    assert vm.run("id -u; id -g; id -G").text == "0\n0\n0"
    assert vm.run("id -u; id -g; id -G", uid=1000).text == "1000\n1000\n1000"
    shown = vm.run("id -u; id -g; id -G", uid=1001, gid=50, groups=(60, 70)).text
    assert shown == "1001\n50\n50 60 70"
    assert vm.run("cat /proc/self/status | grep CapEff", uid=1000).text.endswith("0" * 16)
    vm.run("touch /tmp/mine", uid=1000)
    assert vm.run("stat -c %u:%g /tmp/mine").text == "1000:1000"
    assert vm.run("rm /tmp/mine", uid=1001, check=False).returncode == 1


def test_commands_run_at_once_and_block_each_other(vm: VM) -> None:
    holder = vm.popen("flock /tmp/lock sh -c 'echo locked; read line; echo done'", stdin=None)
    holder.expect(b"locked")
    waiter = vm.popen("echo waiting; flock /tmp/lock echo mine")
    waiter.expect(b"waiting")
    assert vm.run("flock -n /tmp/lock true", check=False).returncode == 1
    assert waiter.poll() is None
    holder.write(b"go\n")
    assert holder.wait().text == "locked\ndone"
    assert waiter.wait().text == "waiting\nmine"


def test_many_commands_run_at_once(vm: VM) -> None:
    processes = [vm.popen(f"seq {i} {i + 20000}") for i in range(20)]
    for i, process in enumerate(processes):
        lines = process.wait().stdout.split()
        assert (len(lines), lines[0]) == (20001, b"%d" % i)


def test_a_late_command_is_killed_with_its_children(vm: VM) -> None:
    with pytest.raises(CommandTimeout, match=r"after 0\.5 s"):
        vm.run("sleep 54321; true", timeout=0.5)
    # The child says that it is there: dash forks with its signals blocked, and one that comes then
    # ends dash alone.
    process = vm.popen("sh -c 'echo started; exec sleep 54321'; true")
    process.expect(b"started")
    process.kill(signal.SIGTERM)
    assert process.wait(check=False).returncode == -signal.SIGTERM
    vm.run("while pgrep -f 'sleep 5432[1]'; do sleep 0.1; done", timeout=60)


def test_expect_fails_when_the_command_ends_first(vm: VM) -> None:
    with pytest.raises(CommandFailed, match="has not written b'never'"):
        vm.popen("echo something").expect(b"never")


def test_what_runs_on_in_the_background_holds_nobody_up(vm: VM) -> None:
    process = vm.run("sleep 1000 & echo $!")
    vm.run(f"kill -0 {process.text} && kill {process.text}")


@pytest.mark.newest
@pytest.mark.parametrize("cache", ["none", "mmap", "loose"])
def test_mount_and_both_sides_see_the_files(guest: Guest, cache: str) -> None:
    vm, name = guest.vm, f"from-host-{cache}"
    (guest.share / name).write_text("written on the host")
    vm.mount("share", "/mnt/share", cache=cache, msize=65536)
    assert vm.run(f"cat /mnt/share/{name}").text == "written on the host"
    vm.run(f"echo written in the guest > /mnt/share/from-guest-{cache}")
    assert "msize=65536" in vm.run("grep /mnt/share /proc/mounts").text
    vm.umount("/mnt/share")
    assert (guest.share / f"from-guest-{cache}").read_text() == "written in the guest\n"
    assert vm.run("ls -A /mnt/share").text == ""


def test_a_mount_that_fails_says_why(vm: VM) -> None:
    with pytest.raises(CommandFailed, match="no-such-tag"):
        vm.mount("no-such-tag", "/mnt/none")


def test_the_full_image_has_real_programs(vm: VM) -> None:
    programs = ("git", "sqlite3", "rsync", "tar", "setfattr", "setfacl", "setcap", "flock", "find")
    for program in programs:
        path = vm.run(f"command -v {program}").text
        assert path.startswith(("/usr/bin/", "/usr/sbin/")), program
    shown = vm.run(
        """set -e
        mkdir /tmp/real && cd /tmp/real
        git init -q repo && cd repo && echo hello > file && git add file
        git -c user.name=a -c user.email=a@b commit -qm first && git fsck && cd ..
        sqlite3 db 'create table t (x); insert into t values (42); select x from t'
        rsync -a repo/ copy/ && diff -r repo copy && tar cf repo.tar repo
        setfattr -n trusted.a -v b repo && getfattr --only-values -n trusted.a repo && echo
        setfacl -m u:1000:r repo && getfacl -c repo | grep user:
        cp /usr/bin/true . && setcap cap_chown+ep true && getcap true
        python3 -c 'import os, fcntl, mmap, struct, socket, threading; print(6 * 7)'
        rm -r /tmp/real"""
    ).text
    acl = ["user::rwx", "user:alice:r--"]
    assert shown.splitlines() == ["42", "b", *acl, "true cap_chown=ep", "42"]


@pytest.mark.newest
def test_the_kernel_loads_modules_when_it_needs_them(vm: VM) -> None:
    vm.run(
        """set -e
        mkdir -p /tmp/o/lower /tmp/o/upper /tmp/o/work /tmp/o/all /tmp/o/disk
        mount -t overlay -o lowerdir=/tmp/o/lower,upperdir=/tmp/o/upper,workdir=/tmp/o/work \
            overlay /tmp/o/all
        truncate -s 16M /tmp/o/image && mkfs.ext4 -q /tmp/o/image
        mount -o loop /tmp/o/image /tmp/o/disk
        touch /tmp/o/disk/file /tmp/o/all/file && test -e /tmp/o/upper/file
        umount /tmp/o/disk /tmp/o/all && rm -r /tmp/o"""
    )


def test_a_paused_guest_goes_on(vm: VM) -> None:
    process = vm.popen("read line; echo $line", stdin=None)
    vm.pause()
    process.write(b"hello\n")
    vm.resume()
    assert process.wait().text == "hello"


def test_extra_files_are_there_after_a_reboot(boot: Boot, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho a tool of the test\n")
    tool.chmod(0o755)
    share = tmp_path / "with,comma"
    share.mkdir()
    vm = boot.qemu("mini", virtfs=[Virtfs(share, "share")], extra={"/opt/test/tool": tool}, cpus=2)
    assert vm.run("nproc; /opt/test/tool").text == "2\na tool of the test"
    for boots in (2, 3):
        vm.mount("share", "/mnt")
        vm.run("echo once >> /mnt/count; touch /tmp/gone-after-reboot")
        lost = vm.popen("yes")
        lost.expect(b"y")
        vm.reboot()
        assert vm.channel.boots == boots
        with pytest.raises(GuestLost, match="booted again"):
            lost.wait()
        assert vm.run("ls /tmp; ls /mnt").text == ""
    vm.popen("reboot -f")
    vm.wait_boot(after=3)
    assert (share / "count").read_text() == "once\nonce\n"


def test_a_panic_ends_the_waiting(boot: Boot) -> None:
    vm = boot.qemu()
    process = vm.popen("read line; echo c > /proc/sysrq-trigger; sleep 1000", stdin=None)
    process.write(b"\n")
    with pytest.raises(GuestLost, match=r"Kernel panic|sysrq"):
        process.wait(timeout=600)
    with pytest.raises(GuestLost):
        vm.run("true")


def test_a_killed_qemu_ends_the_waiting(boot: Boot) -> None:
    vm = boot.qemu()
    process = vm.popen("sleep 1000")
    vm.kill()
    with pytest.raises(GuestLost, match="QEMU has ended with -9"):
        process.wait(timeout=600)


def test_a_qemu_that_does_not_start_says_why(boot: Boot, tmp_path: Path) -> None:
    with pytest.raises(GuestLost, match=r"absent\.sock"):
        boot.qemu(sockets=[tmp_path / "absent.sock"])
