"""What events become in a guest's eyes."""

from __future__ import annotations

import os
import stat

import pytest

from vhost9p.changes.records import (
    ATTRIB,
    CREATE,
    DELETE,
    ITSELF,
    MODIFY,
    MOVED_FROM,
    MOVED_TO,
    ONDIR,
    RENAME,
    Entry,
    Event,
)
from vhost9p.changes.report import View, report

META_DIR, META_ROOT = b".virtfs_metadata", b".virtfs_metadata_root"
VIEW = View()
FILE = os.stat_result((stat.S_IFREG | 0o644, 1, 1, 1, 0, 0, 42, 0, 0, 0))
FOLDER = os.stat_result((stat.S_IFDIR | 0o755, 1, 1, 1, 0, 0, 4096, 0, 0, 0))
PIPE = os.stat_result((stat.S_IFIFO | 0o644, 1, 1, 1, 0, 0, 0, 0, 0, 0))


def happened(
    mask: int,
    name: bytes,
    where: bytes | None = b"",
    view: View = VIEW,
    found: os.stat_result | None = FILE,
) -> list[bytes]:
    event = Event(mask, 1, Entry(b"directory", name), None)
    return list(report(view, event, where, None, lambda _: found))


def renamed(
    old: bytes,
    new: bytes,
    where: bytes | None,
    to: bytes | None,
    view: View = VIEW,
    mask: int = 0,
    found: os.stat_result | None = None,
) -> list[bytes]:
    """`found` has the old name by now."""
    event = Event(RENAME | mask, 1, Entry(b"one", old), Entry(b"two", new))
    return list(report(view, event, where, to, lambda entry: found if entry.name == old else FILE))


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (MODIFY, [b"changed a/f 42\n"]),
        (ATTRIB, [b"attributes a/f\n"]),
        (MODIFY | ATTRIB, [b"changed a/f 42\n", b"attributes a/f\n"]),
        (CREATE, [b"created a/f\n"]),
        (MOVED_TO, [b"created a/f\n"]),
        (CREATE | MODIFY | ATTRIB, [b"created a/f\n"]),
        (CREATE | DELETE, [b"removed a/f\n", b"created a/f\n"]),
        (CREATE | ONDIR, [b"created a/f/\n"]),
    ],
)
def test_each_event_has_its_line(mask: int, expected: list[bytes]) -> None:
    assert happened(mask, b"f", b"a/") == expected
    assert happened(mask, b"f", None) == []


def test_what_is_gone() -> None:
    assert happened(MODIFY, b"f", found=None) == [b"changed f -\n"]
    for mask in (DELETE, MOVED_FROM, CREATE | DELETE):
        assert happened(mask, b"f", found=None) == [b"removed f\n"]
        assert happened(mask, b"f", None, found=None) == []
    assert happened(DELETE | ONDIR, b"d", found=None) == [b"removed d/\n"]


def test_what_has_a_name_again_is_there_after_the_line_that_takes_it_away() -> None:
    """Its own record may have been put together with an earlier one."""
    assert happened(DELETE, b"f") == [b"removed f\n", b"created f\n"]
    assert happened(DELETE, b"f", found=FOLDER) == [b"removed f\n", b"created f/\n"]
    assert happened(DELETE | ONDIR, b"f", found=FILE) == [b"removed f/\n", b"created f\n"]
    again = renamed(b"f", b"g", b"a/", b"", found=FILE)
    assert again == [b"renamed a/f g\n", b"created a/f\n"]
    again = renamed(b"d", b"e", b"", None, mask=ONDIR, found=FOLDER)
    assert again == [b"removed d/\n", b"created d/\n"]
    view = View(hides=lambda path: path.endswith(b".key"))
    assert renamed(b"f.key", b"f", b"", b"", view, found=FILE) == [b"created f\n"]


def test_what_passes_through_a_pipe_is_no_change() -> None:
    assert happened(MODIFY, b"f", found=PIPE) == []


def test_what_has_no_name() -> None:
    """The kernel calls it by its inode number, as anybody may call a file."""
    view = View(meta_dir=META_DIR, meta_root=META_ROOT)
    for mask in (MODIFY, ATTRIB, MODIFY | ATTRIB):
        assert happened(mask, b"#123", found=None) == []
        assert happened(mask, b"#123", META_DIR + b"/", view, found=None) == []
        assert happened(mask, b"#123a", found=None) != []
    assert happened(MODIFY, b"#123") == [b"changed #123 42\n"]
    assert happened(DELETE, b"#123", found=None) == [b"removed #123\n"]


def test_directories_themselves() -> None:
    assert happened(ATTRIB | ONDIR, ITSELF) == [b"attributes ./\n"]
    assert happened(ATTRIB | ONDIR, ITSELF, b"a/") == [b"attributes a/\n"]
    assert happened(ATTRIB | ONDIR, ITSELF, view=View(b"one/")) == [b"attributes one/\n"]


def test_an_exports_name_comes_first() -> None:
    assert happened(CREATE, b"f", b"a/", View(b"one/")) == [b"created one/a/f\n"]


def test_renames() -> None:
    assert renamed(b"f", b"g", b"a/", b"") == [b"renamed a/f g\n"]
    assert renamed(b"f", b"g", b"a/", b"", mask=ONDIR) == [b"renamed a/f/ g/\n"]
    assert renamed(b"f", b"g", b"a/", None) == [b"removed a/f\n"]
    assert renamed(b"f", b"g", None, b"a/") == [b"created a/g\n"]
    assert renamed(b"f", b"g", None, None) == []


def test_hidden_paths_are_no_part_of_it() -> None:
    view = View(hides=lambda path: path.endswith(b".key") or path.startswith(b"private"))
    assert happened(MODIFY, b"a.key", view=view) == []
    assert happened(CREATE, b"f", b"private/", view=view) == []
    assert happened(CREATE | ONDIR, b"private", view=view) == []
    assert happened(ATTRIB | ONDIR, ITSELF, b"private/", view=view) == []
    assert renamed(b"f", b"f.key", b"", b"", view) == [b"removed f\n"]
    assert renamed(b"f.key", b"f", b"", b"", view) == [b"created f\n"]


def test_what_the_directory_of_notices_covers_is_no_part_of_it() -> None:
    view = View(meta_dir=META_DIR, meta_root=META_ROOT, notices=b".vhost9p")
    assert happened(CREATE | ONDIR, b".vhost9p", view=view) == []
    assert happened(CREATE, b"f", b".vhost9p/a/", view) == []
    assert happened(ATTRIB | ONDIR, ITSELF, b".vhost9p/", view) == []
    assert happened(MODIFY, b".vhost9p", META_DIR + b"/", view) == []
    assert happened(CREATE, b".vhost9p", b"a/", view) == [b"created a/.vhost9p\n"]
    assert happened(CREATE, b".vhost9p2", view=view) == [b"created .vhost9p2\n"]
    assert renamed(b"f", b"g", b".vhost9p/", b"", view) == [b"created g\n"]


def test_metadata_are_attributes_of_their_file() -> None:
    view = View(meta_dir=META_DIR, meta_root=META_ROOT)
    where = b"a/" + META_DIR + b"/"
    assert happened(MODIFY, b"f", where, view) == [b"attributes a/f\n"]
    assert happened(MODIFY, b"f", where, view, FOLDER) == [b"attributes a/f/\n"]
    assert happened(DELETE, b"f", META_DIR + b"/", view) == [b"attributes f\n"]
    assert happened(MODIFY, META_ROOT, b"", view) == [b"attributes ./\n"]
    assert happened(CREATE | ONDIR, META_DIR, b"a/", view) == []
    assert happened(ATTRIB | ONDIR, ITSELF, where, view) == []
    assert happened(MODIFY, META_ROOT, b"a/", view) == []
    assert happened(MODIFY, b"f", b"a" + META_DIR + b"/", view) == [
        b"changed a" + META_DIR + b"/f 42\n"
    ]
    assert renamed(b"f", b"g", where, where, view) == [b"attributes a/f\n", b"attributes a/g\n"]


def test_other_models_keep_no_metadata() -> None:
    assert happened(CREATE, b"f", META_DIR + b"/") == [b"created " + META_DIR + b"/f\n"]


def test_metadata_of_what_is_hidden_are_hidden() -> None:
    view = View(b"", lambda path: path == b"f", META_DIR, META_ROOT)
    assert happened(MODIFY, b"f", META_DIR + b"/", view) == []
