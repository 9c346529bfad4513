"""Hidden paths, as a guest's tools meet them."""

import os
from collections.abc import Iterator

import pytest

from tests.guest.conftest import Boot
from tests.guest.mounted import Mounted, mounted

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]
HIDE = ("--hide", "**/.env", "--hide", ".git/config", "--hide", "*.key")


@pytest.fixture
def share(boot: Boot) -> Iterator[Mounted]:
    with mounted(boot, *HIDE) as share:
        for name in (".env", ".git/config", "app/.env", "app/site.key"):
            (share.export / name).parent.mkdir(exist_ok=True)
            (share.export / name).write_text("secret")
        for name in (".git/HEAD", "app/main"):
            (share.export / name).write_text("shown")
        yield share


def test_tools_find_no_hidden_file_and_make_none(share: Mounted) -> None:
    assert share.sh("find . | sort").split() == [
        ".",
        "./.git",
        "./.git/HEAD",
        "./app",
        "./app/main",
    ]
    share.sh("ln -s .git/config link; ln -s ../.env app/link; ln -s .git gitlink")
    ways = (".env", "app/../.git/config", "link", "app/link", "gitlink/config", ".git/../app/.env")
    for way in ways:
        assert "No such file or directory" in share.sh(f"cat {way} 2>&1", check=False)
    for command in (
        "echo mine > .env",
        "mkdir app/.env",
        "ln app/main app/other.key",
        "mv app/main .git/config",
        "echo mine > link",
        "mv .git git",
        "mv app .git2 && mv .git2/main .git2/x.key",
    ):
        assert "Permission denied" in share.sh(f"({command}) 2>&1", check=False), command
    share.sh("test ! -e .git2 || mv .git2 app")
    assert "not empty" in share.sh("rm .git/HEAD; rmdir .git 2>&1", check=False)
    for name in (".env", ".git/config", "app/.env", "app/site.key"):
        assert (share.export / name).read_text() == "secret"
    assert share.sh("cp -a app copy; cat copy/main; echo; ls -a copy; rm -r copy").split() == [
        *("shown", ".", "..", "link", "main"),
    ]
