"""Words that run a command as an ordinary user where the tests are root's.

The command is often this Python with this project, and root may have put either below a directory
that is closed to everybody else: /root has mode 0700 on many machines. So the words before such a
command make a mount namespace in which a closed directory shows what the command needs, and nothing
else. Outside of it nothing changes. Where nothing is closed, there is no namespace.
"""

import os
import shlex
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = (ROOT, Path(sys.prefix), Path(sys.base_prefix))

# What is mounted on the host later appears in the namespace and in those that are made from it, as
# in namespaces of systemd's services.
_UNSHARE = ("unshare", "--mount", "--propagation", "slave")
_SHARE = "mount --make-rshared /"


def _closed_above(path: Path) -> Path | None:
    """The topmost directory above a path that others may not search."""
    above = reversed(path.parents)
    return next((each for each in above if not each.stat().st_mode & stat.S_IXOTH), None)


def opening(needed: Iterable[Path] = NEEDED) -> list[str]:
    """Returns words that run the command behind them where every user reaches the `needed`
    directories. It is still this user's, and the process that executes the words."""
    closed: dict[Path, set[Path]] = {}
    for path in map(Path.resolve, needed):
        if above := _closed_above(path):
            closed.setdefault(above, set()).add(path)
    if not closed:
        return []
    steps = ["cd /"]
    for above, paths in closed.items():
        outermost = sorted(path for path in paths if not paths.intersection(path.parents))
        files = list(enumerate(map(shlex.quote, map(str, outermost)), 3))
        steps += [f"exec {fd}<{name}" for fd, name in files]
        steps += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(above))}"]
        for fd, name in files:
            steps += [f"mkdir -p {name}", f"mount -c --bind /proc/self/fd/{fd} {name}"]
            steps += [f"exec {fd}<&-"]
    steps += [_SHARE, 'cd "$OLDPWD"', 'exec "$@"']
    return [*_UNSHARE, "sh", "-c", " && ".join(steps), "sh"]


def as_ordinary_user(uid: int, gid: int, *more: str) -> list[str]:
    """Returns words that run the command behind them as this user, in no other group and without
    capabilities; `more` are further options of setpriv(1). They are none where the tests are an
    ordinary user's themselves."""
    if os.geteuid():
        return []
    user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *more]
    return [*opening(), *user]
