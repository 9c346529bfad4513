"""The options that have parts of their own (exports, ids, attributes, limits): in a file and on the
command line they mean the same, and each mistake has its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.config_files import loader
from vhost9p import cli_device, cli_options
from vhost9p.config import (
    EXPORTS_MAX,
    DeviceConfig,
    ExportConfig,
    IdMap,
    IdRange,
    Limit,
    Quota,
    Throttling,
    XattrRule,
    XattrRules,
)
from vhost9p.config_schema import DEVICE
from vhost9p.config_tree import find_problems, make_device
from vhost9p.errors import Problems, UserError
from vhost9p.native.library import lib

Load = Callable[[str], DeviceConfig]
REST = 2**32 - 2
"""Guest ids above 0."""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Reads a file of these lines, with a socket as the first: one device."""
    read = loader(tmp_path)

    def write_and_read(text: str) -> DeviceConfig:
        (device,) = read(f"socket: s\n{text}\n").devices
        return device

    return write_and_read


def export(load: Load, text: str) -> ExportConfig:
    """The one export of a file with this besides."""
    (found,) = load(f"path: one\n{text}").exports
    return found


def from_options(*args: str) -> DeviceConfig:
    """What the command line says of a device. UserError where it is wrong."""
    found = Problems()
    options, wrong = cli_options.build_parser().read(list(args), found)
    tree = cli_device.device_tree(options, found, wrong)
    tree.setdefault("path", "/p")
    if "exports" in tree:
        del tree["path"]
    if not wrong:
        found.add(*map(str, find_problems(DEVICE, tree)))
    found.raise_all()
    return make_device(tree)


def one_from_options(*args: str) -> ExportConfig:
    (found,) = from_options(*args).exports
    return found


# ---- what is right -------------------------------------------------------------------------------

RIGHT: list[tuple[str, list[str], str, Any]] = [
    ("security_model: mapped", ["--security-model=mapped"], "security_model", "mapped-xattr"),
    ("security_model: mapped-file\nfmode: 0640",
     ["--security-model=mapped-file", "--fmode=0640"], "fmode", 0o640),
    ("security_model: mapped-file\ndmode: '0750'",
     ["--security-model=mapped-file", "--dmode=0o750"], "dmode", 0o750),
    ("security_model: mapped-file\nfmode: 0o7", ["--security-model=mapped", "--fmode=07"],
     "fmode", 7),
    ("security_model: mapped-file\nfmode: 0", ["--security-model=mapped", "--fmode=0"], "fmode", 0),
    ("writeout: immediate", ["--writeout=immediate"], "writeout", "immediate"),
    ("throttling: {bps-total: 10MiB, iops-read: 5, iops-read-max: 50, iops-read-max-length: 3, "
     "iops-size: 4KiB}",
     ["--throttling=bps-total=10M", "--throttling=iops-read=5", "--throttling=iops-read-max=50",
      "--throttling=iops-read-max-length=3", "--throttling=iops-size=4096"],
     "throttling",
     Throttling(bps_total=Limit(10 * 1024**2), iops_read=Limit(5, 50, 3), iops_size=4096)),
    ("throttling: {bps-write: 7, bps-write-max: 7}",
     ["--throttling=bps-write=7", "--throttling=bps-write-max=7"],
     "throttling", Throttling(bps_write=Limit(7, 7))),
    ("id_map: {uid: [{guest: 0, host: 1000}], gid: [{guest: 5, host: 7, count: 2}],\n"
     "  squash_to: {gid: 65534},\n"
     f"  forbid: {{uid: [{{guest: 1, count: {REST}}}], gid: [{{guest: 9}}]}}}}",
     ["--map-uid=0:1000:1", "--map-gid=5:7:2", "--squash-gid=65534", f"--forbid-uid=1:{REST}",
      "--forbid-gid=9:1"],
     "id_map",
     IdMap(uid=(IdRange(0, 1000, 1),), gid=(IdRange(5, 7, 2),), squash_gid=65534,
           forbid_uid=((1, REST),), forbid_gid=((9, 1),))),
    ("id_map: {squash_to: {uid: 1, gid: 2}}", ["--squash-uid=1", "--squash-gid=2"],
     "id_map", IdMap(squash_uid=1, squash_gid=2)),
    (f"id_map: {{uid: [{{guest: 0, host: 0, count: {REST + 1}}}], squash_to: {{gid: 0}}}}",
     [f"--map-uid=0:0:{REST + 1}", "--squash-gid=0"],
     "id_map", IdMap(uid=(IdRange(0, 0, REST + 1),), squash_gid=0)),
    ("xattrs: {rules: [{match: security., store: user.s.}, {match: trusted., refuse: true},\n"
     "  {match: user.a=b, keep: true}, {match: '', hide: true}]}",
     ["--xattr-rule=security.=store:user.s.", "--xattr-rule=trusted.=refuse",
      "--xattr-rule=user.a=b=keep", "--xattr-rule==hide"],
     "xattrs",
     XattrRules((XattrRule("security.", "store", "user.s."), XattrRule("trusted.", "refuse"),
                 XattrRule("user.a=b", "keep"), XattrRule("", "hide")))),
    ("xattrs: {max_value: 4KiB, max_names: 5, max_total: 1MiB}", [], "xattrs",
     XattrRules((), 4096, 5, 1024**2)),
    ("quota: {bytes: 10GiB, inodes: 1_000, error: EDQUOT, rescan: true}",
     ["--quota-bytes=10G", "--quota-inodes=1000", "--quota-error=EDQUOT", "--quota-rescan"],
     "quota", Quota(10 * 1024**3, 1000, "EDQUOT", True)),
    ("quota: {bytes: 1}", ["--quota-bytes=1"], "quota", Quota(1, None, "ENOSPC", False)),
]  # fmt: skip


@pytest.mark.parametrize("text,args,key,value", RIGHT, ids=lambda each: str(each)[:30])
def test_right_parts_are_read(load: Load, text: str, args: list[str], key: str, value: Any) -> None:
    assert getattr(export(load, text), key) == value
    if args:
        assert getattr(one_from_options(*args), key) == value


def test_exports_inherit_from_their_device(load: Load, tmp_path: Path) -> None:
    """What the device says holds for each export that does not say otherwise."""
    device = load(
        "readonly: true\nquota: {bytes: 5}\nexports:\n"
        "- {name: src, path: one}\n"
        "- {name: out, path: two, readonly: false, quota: {inodes: 7}}"
    )
    where = f"{tmp_path}/vm.yaml"
    assert device.exports == (
        ExportConfig(
            f"{tmp_path}/one", "src", readonly=True, quota=Quota(5), origin=f"{where}:5:3: "
        ),
        ExportConfig(f"{tmp_path}/two", "out", quota=Quota(inodes=7), origin=f"{where}:6:3: "),
    )
    assert device.multidevs == "remap"
    assert device.origin == f"{where}:1:1: "
    assert load("multidevs: remap\nexports: [{name: a, path: one}]").multidevs == "remap"


def test_several_exports_on_the_command_line() -> None:
    device = from_options(
        "--readonly",
        "--export=name=src,path=/a,,b",
        "--export=name=out,path=/c,readonly=off,security_model=mapped,fmode=0640,"
        "throttling.bps-total=1M,quota.bytes=1GiB,quota.rescan=on",
    )
    assert device.exports == (
        ExportConfig("/a,b", "src", readonly=True),
        ExportConfig(
            "/c",
            "out",
            security_model="mapped-xattr",
            fmode=0o640,
            throttling=Throttling(bps_total=Limit(1024**2)),
            quota=Quota(1024**3, rescan=True),
        ),
    )


# ---- mistakes in a file --------------------------------------------------------------------------

ALL = f"{REST}, the last valid id"
SQUASH = "squash_to: {uid: 1, gid: 1}"

WRONG = [
    ("fmode: 0640", "3:1: fmode: is for security_model mapped-xattr and mapped-file only"),
    ("security_model: none\ndmode: 0700", "4:1: dmode: is for security_model mapped-xattr and"),
    ("fmode: 640", "3:8: fmode: '640' is no mode from 0 to 0777; write it in octal with a 0 in"),
    ("fmode: 01777", "3:8: fmode: '01777' is no mode"),
    ("fmode: 0x1ff", "3:8: fmode: '0x1ff' is no mode"),
    ("fmode: 0o888", "3:8: fmode: '0o888' is no mode"),
    ("fmode: 6.4", "3:8: fmode: '6.4' is taken for float by YAML"),
    ("fmode: true", "3:8: fmode: 'true' is no mode"),
    ("writeout: never", "3:11: writeout: 'never' is not one of immediate"),
    # throttling
    ("throttling: 5", "3:13: throttling: a throttling is a mapping of bps-total, bps-total-max, "),
    ("throttling: {bps-totl: 5}", "3:14: throttling: unknown key 'bps-totl'; valid are bps-total"),
    ("throttling: {bps_total: 5}", "; did you mean 'bps-total'?"),
    ("throttling: {bps-total: 1, bps-total: 2}", "3:28: throttling: bps-total: is in line 3 alr"),
    ("throttling: {bps-total: fast}", "3:25: throttling: bps-total: 'fast' is no size from 0 to"),
    ("throttling: {bps-total: 1000000000000001}", "is no size from 0 to 1000000000000000 bytes"),
    ("throttling: {iops-total: 4K}", "3:26: throttling: iops-total: '4K' is no whole number from"),
    ("throttling: {bps-total-max-length: 0}", "'0' is no whole number from 1 to 4294967295"),
    ("throttling: {bps-total: 1, bps-read: 1}",
     "3:14: throttling: bps-total: excludes bps-read: limit either the total, or reads and"),
    ("throttling: {iops-write: 1, iops-total: 1}", "throttling: iops-total: excludes iops-write"),
    ("throttling: {bps-read: 5, bps-read-max: 4}",
     "3:27: throttling: bps-read-max: 4 is lower than bps-read, which is 5"),
    ("throttling: {bps-read-max: 4}",
     "3:14: throttling: bps-read-max: needs bps-read, the rate that a burst may exceed"),
    ("throttling: {bps-read: 4, bps-read-max-length: 2}",
     "3:27: throttling: bps-read-max-length: needs bps-read-max, the rate of the burst"),
    ("throttling: {bps-read: 4, bps-read-max: 1000000000000000, bps-read-max-length: 2}",
     "bps-read-max-length: a burst of 1000000000000000 for 2 s is more than 1000000000000000"),
    ("throttling: {bps-read: 4, iops-size: 4}",
     "3:27: throttling: iops-size: needs iops-total, iops-read or iops-write"),
    # ids
    ("id_map: []", "3:9: id_map: an id_map is a mapping of uid, gid, squash_to, forbid"),
    ("id_map: {}", "3:1: id_map: is empty; give ranges, squash_to or forbid for uid and gid"),
    ("id_map: {squash_to: {uid: 1}}", "3:1: id_map: maps uid only; map gid, too"),
    ("id_map: {forbid: {gid: [{guest: 0, count: 4294967295}]}}", "3:1: id_map: maps gid only"),
    ("id_map: {uid: []}", "3:15: id_map: uid: a list of ranges is expected"),
    ("id_map: {uid: {guest: 0}}", "3:15: id_map: uid: a list of ranges is expected"),
    ("id_map: {uid: [5]}", "3:16: id_map: uid: a range of ids is a mapping of guest, host, count"),
    ("id_map: {uid: [{guest: 1}]}", "3:16: id_map: uid: host: is missing; a range of ids needs it"),
    ("id_map: {uid: [{guest: -1, host: 0}]}", "3:24: id_map: uid: guest: '-1' is no whole number"),
    ("id_map: {uid: [{guest: 4294967295, host: 0}]}", "is no whole number from 0 to 4294967294"),
    ("id_map: {uid: [{guest: 0, host: 0, count: 0}]}",
     "'0' is no whole number from 1 to 4294967295"),
    ("id_map: {uid: [{guest: 4294967294, host: 0, count: 2}]}",
     f"3:45: id_map: uid: count: 2 ids from guest 4294967294 on go beyond {ALL}"),
    ("id_map: {uid: [{guest: 0, host: 9, count: 4294967295}]}",
     f"id_map: uid: count: 4294967295 ids from host 9 on go beyond {ALL}"),
    ("id_map: {forbid: {uid: [{guest: 4294967294, count: 2}]}}",
     f"id_map: forbid: uid: count: 2 ids from guest 4294967294 on go beyond {ALL}"),
    ("id_map: {uid: [{guest: 5, host: 0, count: 5}, {guest: 0, host: 9, count: 6}], "
     + SQUASH + "}",
     "3:16: id_map: uid: guest ids 5 to 9 overlap 0 to 5; 5 would mean two things"),
    ("id_map: {gid: [{guest: 0, host: 0, count: 5}, {guest: 9, host: 4}], " + SQUASH + "}",
     "3:47: id_map: gid: host ids 4 overlap 0 to 4; 4 would mean two things"),
    ("id_map: {uid: [{guest: 3, host: 0}], forbid: {uid: [{guest: 0, count: 9}]}, " + SQUASH + "}",
     "3:16: id_map: uid: guest ids 3 overlap 0 to 8; 3 would mean two things"),
    ("id_map: {uid: [{guest: 0, host: 1000, count: 1}], squash_to: {gid: 1}}",
     "3:10: id_map: uid: guest ids 1 to 4294967294 are not mapped; add a range, squash_to "
     "or forbid"),
    ("id_map: {uid: [{guest: 2, host: 2}, {guest: 4, host: 4}, {guest: 6, host: 6}], "
     "squash_to: {gid: 1}}",
     "uid: guest ids 0 to 1, 3, 5 (and 1 more ranges) are not mapped"),
    # attributes
    ("xattrs: {rules: []}", "3:17: xattrs: rules: a list of rules is expected"),
    ("xattrs: {rules: [{store: user.}]}", "3:18: xattrs: rules: match: is missing; a rule needs"),
    ("xattrs: {rules: [{match: a}]}", "3:18: xattrs: rules: has no action; give one of stor"),
    ("xattrs: {rules: [{match: a, hide: true, keep: true}]}",
     "3:18: xattrs: rules: has hide and keep; give one of store, refuse, hide and keep"),
    ("xattrs: {rules: [{match: a, hide: false}]}",
     "3:35: xattrs: rules: hide: 'false' has no effect; write true, or leave the key out"),
    ("xattrs: {rules: [{match: a, store: ''}]}", "store: '' is no prefix of attributes' names, wh"),
    ("xattrs: {rules: [{match: %s, keep: true}]}" % ("a" * 256), "which has 0 to 255 bytes"),
    ("xattrs: {max_value: 0}", "3:21: xattrs: max_value: '0' is no size from 1 to 65536 bytes"),
    ("xattrs: {max_value: 65537}", "'65537' is no size from 1 to 65536 bytes"),
    ("xattrs: {max_names: 0}", "xattrs: max_names: '0' is no whole number from 1 to 65536"),
    ("xattrs: {max_total: 65MiB}", "xattrs: max_total: '65MiB' is no size from 1 to 67108864"),
    # quota
    ("quota: {}", "3:8: quota: bytes or inodes: is missing; a quota needs it"),
    ("quota: {error: ENOSPC}", "3:8: quota: bytes or inodes: is missing; a quota needs it"),
    ("quota: {bytes: 0}", "3:16: quota: bytes: '0' is no size from 1 to 4611686018427387904"),
    ("quota: {inodes: none}", "3:17: quota: inodes: 'none' is no whole number from 1 to"),
    ("quota: {bytes: 1, error: EIO}", "3:26: quota: error: 'EIO' is not one of ENOSPC, EDQUOT"),
    ("quota: {bytes: 1, rescan: 1}", "3:27: quota: rescan: '1' is neither true nor false"),
]  # fmt: skip


def problems(load: Load, text: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(text)
    assert all("\n" not in each for each in caught.value.problems)
    return [each.partition("vm.yaml:")[2] for each in caught.value.problems]


@pytest.mark.parametrize("text,said", WRONG, ids=lambda each: each[:50])
def test_wrong_parts_are_reported_with_their_line(load: Load, text: str, said: str) -> None:
    (problem,) = problems(load, f"path: one\n{text}")
    assert problem[0] in "34", problem
    assert said in problem


EXPORTS = [
    ("exports: []", ["2:10: exports: a list of exports is expected"]),
    ("exports: [one]", ["2:11: exports: an export is a mapping of name, path, security_model, "]),
    ("exports: [{path: one}]", ["2:11: exports: name: is missing; an export needs it"]),
    ("exports: [{name: a}]", ["2:11: exports: path: is missing; an export needs it"]),
    ("exports: [{name: a, path: gone}]", ["2:27: exports: path: /"]),
    ("exports: [{name: a, path: one, tag: x}]", ["2:32: exports: unknown key 'tag'; valid are na"]),
    ("path: one\nexports: [{name: a, path: one}]",
     ["2:1: path: goes with each of the exports; the device itself has none"]),
    ("multidevs: warn\nexports: [{name: a, path: one}]",
     ["2:1: multidevs: must be remap with exports, since files of several exports need "]),
    ("exports: [{name: a, path: one}, {name: a, path: two}]",
     ["2:34: exports: name: 'a' is another export's already"]),
    *((f"exports: [{{name: {name}, path: one}}]",
       [f"2:18: exports: name: '{shown}' is no name for a directory"])
      for name, shown in (("''", ""), (".", "."), ("..", ".."), ("a/b", "a/b"),
                          (".virtfs_metadata", ".virtfs_metadata"), ("b" * 256, "b" * 80 + "…"))),
    ("fmode: 0600\nexports: [{name: a, path: one}]",
     ["2:1: fmode: is for security_model mapped-xattr and mapped-file only"]),
    ("security_model: mapped\nfmode: 0600\n"
     "exports: [{name: a, path: one, security_model: none, dmode: 0700}, {name: b, path: two}]",
     ["4:54: exports: dmode: is for security_model mapped-xattr and mapped-file only"]),
    ("exports:\n- {name: a, path: one, throttling: {iops-size: 5}}\n"
     "- {name: b, path: two, id_map: {squash_to: {uid: 0}}}",
     ["3:37: exports: throttling: iops-size: needs iops-total",
      "4:24: exports: id_map: maps uid only"]),
]  # fmt: skip


@pytest.mark.parametrize("text,said", EXPORTS, ids=lambda each: str(each)[:50])
def test_wrong_exports_are_reported(load: Load, text: str, said: list[str]) -> None:
    found = problems(load, text)
    assert len(found) == len(said), found
    for problem, start in zip(found, said, strict=True):
        assert problem.startswith(start), problem


def test_the_number_of_exports_is_bounded(load: Load) -> None:
    """As many as C has room for, beside the directory that they appear in, and that of notices."""
    entries = [f"{{name: e{i}, path: one}}" for i in range(EXPORTS_MAX + 1)]
    assert len(load(f"exports: [{', '.join(entries[1:])}]").exports) == lib.V9_NOTICES - 1
    (problem,) = problems(load, f"exports: [{', '.join(entries)}]")
    assert problem == "2:1: exports: has 256; a device has at most 255"


def test_the_devices_modes_are_for_its_mapped_exports(load: Load) -> None:
    device = load(
        "fmode: 0640\nexports: [{name: a, path: one, security_model: mapped}, {name: b, path: two}]"
    )
    assert device.exports[0].fmode == 0o640


# ---- mistakes on the command line ----------------------------------------------------------------

OPTIONS = [
    (["--fmode=600"], "argument --fmode: '600' is no mode from 0 to 0777; write it in octal with"),
    (["--fmode=0600"], "fmode: is for security_model mapped-xattr and mapped-file only"),
    (["--throttling=bps-total"], "argument --throttling: 'bps-total': is not of the form KEY"),
    (["--throttling=bps=1"], "'bps=1': unknown key 'bps'; valid are bps-total, bps-total-max"),
    (["--throttling=bps-total=x"], "'bps-total=x': bps-total: 'x' is no size from 0 to"),
    (["--throttling=bps-total=1", "--throttling=bps-total=2"], "--throttling: bps-total: is given"),
    (["--throttling=bps-total-max=1"], "throttling: bps-total-max: needs bps-total, the rate"),
    (["--map-uid=0:0"], "argument --map-uid: '0:0' is not of the form GUEST:HOST:COUNT"),
    (["--map-uid=0:a:1"], "argument --map-uid: '0:a:1' host: 'a' is no whole number from 0 to"),
    (["--map-gid=0:0:0"], "'0:0:0' count: '0' is no whole number from 1 to 4294967295"),
    (["--forbid-uid=5"], "argument --forbid-uid: '5' is not of the form GUEST:COUNT"),
    (["--squash-uid=-1"], "argument --squash-uid: '-1' is no whole number from 0 to 4294967294"),
    (["--map-uid=0:0:1", "--squash-gid=0"], "id_map: uid: guest ids 1 to 4294967294 are not map"),
    (["--map-uid=0:0:4294967295"], "id_map: maps uid only; map gid, too"),
    (["--xattr-rule=a"], "argument --xattr-rule: 'a' is not of the form MATCH=ACTION, with stor"),
    (["--xattr-rule=a=keeep"], "'a=keeep' is not of the form MATCH=ACTION"),
    (["--xattr-rule=a=store"], "is no rule: store needs a prefix, as in security.=store:user"),
    (["--xattr-rule=a=keep:b"], "is no rule: store needs a prefix"),
    (["--quota-error=EDQUOT"], "quota: bytes or inodes: is missing; a quota needs it"),
    (["--quota-bytes=-1"], "argument --quota-bytes: '-1' is no size from 1 to"),
    (["--quota-inodes=1K"], "argument --quota-inodes: '1K' is no whole number from 1 to"),
    (["--export=one"], "argument --export: 'one': contains 'one', where key=value is expected"),
    (["--export=name=a"], "exports: path: is missing; an export needs it"),
    (["--export=path=a"], "exports: name: is missing; an export needs it"),
    (["--export=name=a,path=b,x=c"], "unknown key 'x'; valid are name, path, security_model"),
    (["--export=name=a,path=b,id_map.uid=c"], "unknown key 'id_map.uid'; valid are "),
    (["--export=name=a,path=b,quota.byts=1"], "; did you mean 'quota.bytes'?"),
    (["--export=name=a,name=b,path=c"], "name: is given twice"),
    (["--export=name=a,path=b,readonly=1"], "readonly: '1' is neither on nor off"),
    (["--export=name=a,path=b", "--multidevs=warn"], "multidevs: must be remap with exports"),
    (["--export=name=a,path=b", "--export=name=a,path=c"], "'a' is another export's already"),
    (["--virtfs=proxy"], "argument --virtfs: 'proxy': 'proxy' is another of QEMU's drivers; only"),
    (["--virtfs=local,path=/x,security_model=none"], "--virtfs has no mount_tag; add it, or a --t"),
    (["--virtfs=local,path=/x,security_model=none,mount_tag=t", "--tag=u"],
     "--virtfs has a mount_tag, so --tag is not allowed"),
    (["--virtfs=local,path=/x,security_model=none,mount_tag=t", "--path=/y", "--readonly",
      "--throttling=bps-total=1", "--export=name=a,path=b"],
     "--virtfs excludes --path, --export, --readonly, --throttling: set it in --virtfs"),
]  # fmt: skip


@pytest.mark.parametrize("args,said", OPTIONS, ids=lambda each: str(each)[:50])
def test_wrong_options_are_reported(args: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        from_options(*args)
    (problem,) = caught.value.problems
    assert said in problem
    assert "\n" not in problem


def test_options_may_stand_beside_qemus_string() -> None:
    device = from_options(
        "--virtfs=local,path=/x,security_model=none,id=fs0,multidevs=remap",
        "--tag=work",
        "--quota-inodes=5",
        "--threads=3",
    )
    assert device == DeviceConfig(
        (ExportConfig("/x", security_model="none", quota=Quota(inodes=5)),),
        tag="work",
        multidevs="remap",
        threads=3,
    )
