"""Nothing outside an export is read, changed or created by a guest, and no FIFO, socket or device
opened, while the host changes the export; whatever the security model, with the daemon confined and
by the file access code alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.frontend import wire
from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.machine import Machine
from tests.frontend.wire import T
from tests.system.host_attacks.naive import Mistake, Naive
from tests.system.host_attacks.requests import (
    FIRST,
    ROOT,
    Findings,
    Guest,
    Server,
    begin,
    play,
)
from tests.system.host_attacks.stage import Attack, Stage, compiled, staged
from tests.system.share import AS_USER, IS_ROOT, UNSHARE, USER, USER_GROUP, needs_root

FEW, MANY = 4_000, 100_000
"""Rounds of an attack."""
AT_MOST = 10 * MANY
DESCRIPTORS = 256
"""For the daemon, and files of the crowd."""
USERS = {"root": (0, 0), "user": (USER, USER_GROUP)}
MODELS = ("passthrough", "none", "mapped-xattr", "mapped-file")
BY_ALL = pytest.mark.parametrize(
    ("user", "model"),
    [
        pytest.param(user, model, marks=needs_root if user == "root" else ())
        for user in USERS
        for model in MODELS[user == "user" :]  # passthrough needs root
    ],
)
ONCE_IN_EACH_RUN = {("root", "passthrough"), ("user", "none"), ("root", "mapped-xattr")} | {
    ("user", "mapped-file")
}
"""Each model once, and each user: the full matrix has every model for every user."""
EACH_MODEL = pytest.mark.parametrize(
    ("user", "model"),
    [
        pytest.param(
            user,
            model,
            marks=[
                *([needs_root] if user == "root" else []),
                *([] if (user, model) in ONCE_IN_EACH_RUN else [pytest.mark.full]),
            ],
        )
        for user in USERS
        for model in MODELS[user == "user" :]
    ],
)
IN_A_SHARED_MOUNT = ("sh", "-c", 'mount --bind "$0" "$0" && mount --make-shared "$0" && exec "$@"')
"""What is mounted there appears in the daemon's mount namespace too."""


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    """The directory of the attacker and of the library that makes the daemon careless, which all
    may read."""
    with tempfile.TemporaryDirectory(prefix="v9-attack-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        compiled("attacker", folder)
        compiled("careless", folder, "-shared", "-fPIC")
        yield folder


@contextmanager
def served(
    stage: Stage, *args: str, preload: str = "", files: int = 0
) -> Iterator[tuple[Guest, list[str]]]:
    """A guest of a daemon that serves the stage, and what runs a command in the daemon's mounts."""
    other_user = AS_USER if stage.owner[0] else []
    wrapper = [*UNSHARE, *IN_A_SHARED_MOUNT, str(stage.top), *other_user] if IS_ROOT else []
    wrapper += ["prlimit", f"--nofile={files}"] if files else []
    path = ["--path", str(stage.export), "--security-model", stage.model]
    daemon = Daemon(*path, *args, wrapper=wrapper, env={"LD_PRELOAD": preload} if preload else {})
    if IS_ROOT:
        os.chown(daemon.directory, *stage.owner)
    with daemon, Machine(daemon.socket) as machine:
        client = Client(machine.boot())
        client.version()
        inside = ["nsenter", "--target", str(daemon.pid), "--mount", "--"] if IS_ROOT else []
        yield Guest(client), inside


def attacked(
    server: Server, stage: Stage, attacker: Path, wrapper: Sequence[str] = ()
) -> Generator[Findings, None, None]:
    """Plays under attack; yields as `play` does."""
    begin(server, stage)
    steps = [stage.renames(), *([stage.remounts()] if stage.mounts else [])]
    with Attack(attacker, steps, wrapper):
        yield from play(server, stage)


def loses(
    stage: Stage, attack: Generator[Findings, None, None], rounds: int, places: set[str]
) -> None:
    """Nothing is won in so many rounds, and in more until the guest has seen the attack of all
    places."""
    with closing(attack):
        for findings in attack:
            assert not findings.leaks
            assert not stage.won()
            assert findings.rounds < AT_MOST, f"the attack was seen in {findings.seen} only"
            if findings.rounds >= rounds and findings.seen >= places:
                break
    assert not stage.changes()


@pytest.mark.parametrize(
    ("rounds", "threads"), [(FEW, 4), pytest.param(MANY, 1, marks=[pytest.mark.full])]
)
@pytest.mark.parametrize("sandbox", ["namespace", "none"])
@BY_ALL
def test_no_attack_wins(
    user: str, model: str, sandbox: str, rounds: int, threads: int, built: Path
) -> None:
    with (
        staged(USERS[user], model, mounts=IS_ROOT) as stage,
        served(stage, "--sandbox", sandbox, "--threads", str(threads)) as (guest, inside),
    ):
        places = {"dir", "up", "root", "par", "swapped", *stage.attacked_otherwise}
        loses(stage, attacked(guest, stage, built / "attacker", inside), rounds, places)


@EACH_MODEL
def test_no_attack_wins_where_files_are_evicted(user: str, model: str, built: Path) -> None:
    """They are reopened by handles or by paths, amid the attack."""
    with (
        staged(USERS[user], model, mounts=IS_ROOT, crowd=DESCRIPTORS) as stage,
        served(stage, "--sandbox", "none", files=DESCRIPTORS) as (guest, inside),
    ):
        attack = attacked(guest, stage, built / "attacker", inside)
        loses(stage, attack, FEW, {"dir", "up", "root"})


# ---- the same attack wins ------------------------------------------------------------------------

LEAKS = {"opened", "read"}
CHANGES = {"changed", "attributes", "created", "removed"}


def wins(
    server: Server, stage: Stage, attacker: Path, wanted: set[str], inside: Sequence[str] = ()
) -> set[str]:
    """Plays under attack until it has won all that is wanted; returns what it has won."""
    won: set[str] = set()
    with closing(attacked(server, stage, attacker, inside)) as attack:
        for findings in attack:
            won |= {"shown"} if findings.leaks else set()
            won |= stage.won()
            if won >= wanted or findings.rounds > AT_MOST:
                break
    return won


@pytest.mark.parametrize(
    ("mistake", "wanted"),
    [
        (Mistake.FOLLOW, {"shown", "fifo", *LEAKS, *CHANGES, *({"device"} if IS_ROOT else ())}),
        (Mistake.LOOK_FIRST, {"shown", "fifo", *LEAKS}),
        (Mistake.CLIMB, {"shown", "opened"}),
    ],
)
def test_an_attack_wins_against_a_naive_server(
    mistake: Mistake, wanted: set[str], built: Path
) -> None:
    with staged((os.geteuid(), os.getegid())) as stage, Naive(str(stage.export), mistake) as naive:
        assert wins(naive, stage, built / "attacker", wanted) >= wanted


@pytest.mark.parametrize("model", MODELS if IS_ROOT else MODELS[1:])
def test_an_attack_wins_against_a_careless_daemon(model: str, built: Path) -> None:
    """Without the flags that keep it from following symlinks, which shows that the replies of a
    daemon would show it."""
    wanted = {"shown", *LEAKS, *CHANGES}
    with (
        staged((os.geteuid(), os.getegid()), model, mounts=IS_ROOT) as stage,
        served(stage, "--sandbox", "none", preload=str(built / "careless")) as (guest, inside),
    ):
        assert wins(guest, stage, built / "attacker", wanted, inside) >= wanted


def follows_symlinks(server: Server) -> bool:
    """Within the export."""
    reply, _ = server.play([(T.WALK, (ROOT, FIRST, (b"within", b"file"))), (T.CLUNK, (FIRST,))])
    return wire.decode(reply).type == T.WALK + 1 and len(wire.decode(reply).fields[0]) == 2


@BY_ALL
def test_confinement_alone_stops_an_attack(user: str, model: str, built: Path) -> None:
    """The daemon follows symlinks, and they lead nowhere."""
    with (
        staged(USERS[user], model, mounts=IS_ROOT) as stage,
        served(stage, "--sandbox", "namespace", preload=str(built / "careless")) as (guest, inside),
    ):
        attack = attacked(guest, stage, built / "attacker", inside)
        loses(stage, attack, FEW, {"dir", "up", "root"})
        assert follows_symlinks(guest)
