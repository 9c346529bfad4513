"""Databases in a guest, with several processes that write, in each cache mode.

    python -m tests.guest.databases [--kernel 6.12] [--cache none mmap loose] [NAME]…

prints the table of docs/databases.md: what each program said in the end. Belongs here: what is run,
and what has to be there after it. test_databases.py runs it as a test.

The programs that the guest image does not have (Redis, LMDB, PostgreSQL) lie in a second, read-only
9p mount of the host's unpacked packages.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.frontend.daemon import Daemon
from tests.guest import fetch
from tests.guest import guest as guests
from tests.guest.image import Image
from tests.guest.mounted import MOUNT, scratch_export
from tests.guest.vm import VM

CACHES = ("none", "mmap", "loose")
PROGRAMS = "/opt/programs"
TIMEOUT = 900.0

# Three processes that open the database, insert a row and close it, again and again. The host's
# page cache is not asked for durability here, only for what is read back.
SQLITE = """
import os, sqlite3, sys
mode, rounds = sys.argv[1], int(sys.argv[2])
def connect():
    return sqlite3.connect("db", timeout=300, isolation_level=None)
db = connect()
assert db.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode
db.execute("create table t(who, n)")
db.close()
def write(who):
    for n in range(rounds):
        db = connect()
        db.execute("begin immediate")
        db.execute("insert into t values(?, ?)", (who, n))
        db.execute("commit")
        db.close()
pids = []
for who in range(3):
    pid = os.fork()
    if not pid:
        try:
            write(who)
            os._exit(0)
        except Exception as error:
            print(type(error).__name__, error, getattr(error, "sqlite_errorname", ""), flush=True)
            os._exit(1)
    pids.append(pid)
failed = [pid for pid in pids if os.waitpid(pid, 0)[1]]
db = connect()
rows = db.execute("select count(*), count(distinct who * 1000 + n) from t").fetchone()
check = db.execute("pragma integrity_check").fetchone()[0]
sys.exit(f"{len(failed)} writers failed, {rows} rows, {check}"
         if failed or rows != (3 * rounds,) * 2 or check != "ok" else 0)
"""

SQLITE_WRITER = """
import sqlite3, sys
for n in range(int(sys.argv[1])):
    db = sqlite3.connect("db", timeout=300, isolation_level=None)
    db.execute("begin immediate")
    db.execute("insert into t values('one', ?)", (n,))
    db.execute("commit")
    db.close()
"""

# Three processes with one environment each: a transaction adds to a counter and to a list.
LMDB = """
import os, sys
import lmdb
writemap, rounds = sys.argv[1] == "writemap", int(sys.argv[2])
def write(who):
    env = lmdb.open("db", map_size=16 << 20, writemap=writemap)
    for n in range(rounds):
        with env.begin(write=True) as txn:
            count = int(txn.get(b"count", b"0"))
            txn.put(b"count", b"%d" % (count + 1))
            txn.put(b"%d-%d" % (who, n), b"x" * 1000)
    env.close()
pids = []
for who in range(3):
    pid = os.fork()
    if not pid:
        try:
            write(who)
            os._exit(0)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
    pids.append(pid)
failed = [pid for pid in pids if os.waitpid(pid, 0)[1]]
env = lmdb.open("db", map_size=16 << 20)
with env.begin() as txn:
    count, entries = int(txn.get(b"count", b"0")), txn.stat()["entries"]
sys.exit(f"{len(failed)} writers failed, counted {count}, {entries} entries"
         if failed or count != 3 * rounds or entries != 3 * rounds + 1 else 0)
"""

# Clients that increment, a rewrite of the append-only file under them, then a new server.
REDIS = """
start() {
    redis-server --port 0 --unixsocket /tmp/redis --dir "$PWD" --logfile "$PWD/log" \
        --appendonly yes --appendfsync always --daemonize yes > /dev/null || exit 1
    until redis-cli -s /tmp/redis ping 2> /dev/null | grep -q PONG; do
        sleep 0.2; i=$((i + 1)); [ $i -lt 300 ] || { cat log; exit 1; }
    done
}
redis() { redis-cli -s /tmp/redis "$@"; }
start
for who in a b c; do
    (for n in $(seq ROUNDS); do echo "incr count"; done | redis-cli -s /tmp/redis > /dev/null) &
    eval "p$who=$!"
done
redis bgrewriteaof > /dev/null
wait $pa $pb $pc
redis save | grep -q OK || { echo "save failed"; exit 1; }
redis shutdown
start
count=$(redis get count)
redis shutdown
[ "$count" = $((3 * ROUNDS)) ] || { echo "counted $count"; tail -3 log; exit 1; }
"""

# Sessions that update the same rows; then a crash of all of it, and what recovery finds.
POSTGRES = """
bin=/opt/programs/usr/lib/postgresql/17/bin
chown 1000:1000 . && chmod 700 .
as() { setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }
pg() { as $bin/pg_ctl -D "$PWD/data" -l /tmp/pg.log -w -t 300 -o "-k /tmp -h ''" "$@" > /dev/null; }
sql() { as $bin/psql -h /tmp -U postgres -Atq "$@"; }
fail() { echo "$*"; tail -3 /tmp/pg.log; exit 1; }
as $bin/initdb -D "$PWD/data" -U postgres -A trust -E UTF8 --locale=C > /tmp/initdb 2>&1 ||
    fail "initdb: $(tail -1 /tmp/initdb)"
pg start || fail "no start"
sql -c "create table t(n int); insert into t values (0); create table l(who text, n int)"
for who in a b c; do
    (for n in $(seq ROUNDS); do
        echo "begin; update t set n = n + 1; insert into l values ('$who', $n); commit;"
    done | sql -v ON_ERROR_STOP=1) & eval "p$who=$!"
done
for p in $pa $pb $pc; do wait $p || fail "a session failed"; done
pg stop -m immediate
pg start || fail "no recovery"
found=$(sql -c "select n, (select count(*) from l) from t")
pg stop -m fast
[ "$found" = "$((3 * ROUNDS))|$((3 * ROUNDS))" ] || fail "found $found"
"""


@dataclass(frozen=True)
class Database:
    """What is run in an empty directory of the mount; ROUNDS in it are the changes that each of
    its three writers makes."""

    title: str
    command: tuple[str, ...]
    rounds: int = 60

    def words(self) -> list[str]:
        """The command."""
        return [word.replace("ROUNDS", str(self.rounds)) for word in self.command]


def _python(source: str, *words: str) -> tuple[str, ...]:
    return ("python3", "-c", source, *words, "ROUNDS")


DATABASES = {
    "sqlite-delete": Database("SQLite, rollback journal", _python(SQLITE, "delete")),
    "sqlite-wal": Database("SQLite, WAL", _python(SQLITE, "wal")),
    "lmdb": Database("LMDB", _python(LMDB, "")),
    "lmdb-writemap": Database("LMDB with `MDB_WRITEMAP`", _python(LMDB, "writemap")),
    "redis": Database("Redis, append-only file and RDB", ("sh", "-c", REDIS)),
    "postgres": Database("PostgreSQL", ("sh", "-c", POSTGRES)),
}


class Guest:
    """A guest with an export, and the databases' programs beside it."""

    def __init__(self, vm: guests.Guest, export: Path) -> None:
        self.vm = vm
        self.export = export
        vm.run(("mkdir", "-p", MOUNT, "/tmp"))
        vm.run(("chmod", "1777", "/tmp"))
        vm.mount("programs", PROGRAMS, cache="loose")

    def run(self, database: Database, cache: str) -> str:
        """Runs a database in a mount of its own; what went wrong, or ""."""
        env = {
            "LC_ALL": "C",
            "LD_LIBRARY_PATH": f"{PROGRAMS}/usr/lib/x86_64-linux-gnu",
            "PATH": f"/usr/bin:/usr/sbin:/usr/lib/busybox:{PROGRAMS}/usr/bin",
            "PYTHONPATH": f"{PROGRAMS}/usr/lib/python3/dist-packages",
        }
        self.start(cache)
        try:
            done = self.vm.run(
                database.words(), cwd=f"{MOUNT}/work", env=env, timeout=TIMEOUT, check=False
            )
        finally:
            self.stop()
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        return "" if done.returncode == 0 else said or f"ended with {done.returncode}"

    def start(self, cache: str) -> None:
        """Mounts the export, with an empty directory in it."""
        self.vm.mount("host0", MOUNT, cache=cache)
        self.vm.run("rm -rf work; mkdir work", cwd=MOUNT)

    def stop(self) -> None:
        """Unmounts it."""
        self.vm.umount(MOUNT)


@contextmanager
def guest(start: Callable[..., guests.Guest]) -> Iterator[Guest]:
    """Starts a guest by what starts VMs from sockets."""
    programs = fetch.databases()
    with (
        scratch_export() as export,
        Daemon("--path", str(export), "--multidevs", "remap") as daemon,
        Daemon("--path", str(programs), "--readonly", "--tag", "programs") as other,
    ):
        vm = start([Path(daemon.socket), Path(other.socket)])
        yield Guest(vm, export)
        vm.kill()


def table(vm: Guest, names: Sequence[str], caches: Sequence[str]) -> Iterator[str]:
    """The lines of a table, as they become known."""
    yield f"| | {' | '.join(f'`cache={cache}`' for cache in caches)} |"
    yield "|---" * (len(caches) + 1) + "|"
    for name in names:
        found = [vm.run(DATABASES[name], cache) for cache in caches]
        cells = [said.splitlines()[-1] if said else "right" for said in found]
        yield f"| {DATABASES[name].title} | {' | '.join(cells)} |"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Runs databases in a guest.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(DATABASES)} (all)")
    parser.add_argument("--kernel", default="6.12", choices=fetch.KERNELS)
    parser.add_argument("--cache", nargs="+", default=CACHES, metavar="MODE")
    options = parser.parse_args()
    unknown = set(options.names) - set(DATABASES)
    if unknown:
        parser.error(f"no database {', '.join(sorted(unknown))}; there are {', '.join(DATABASES)}")
    image = Image.build(fetch.kernel(options.kernel), "full")
    with ExitStack() as stack:
        vm = stack.enter_context(
            guest(lambda sockets: stack.enter_context(VM(image, sockets, memory="2G", cpus=2)))
        )
        for line in table(vm, options.names or list(DATABASES), options.cache):
            print(line, flush=True)


if __name__ == "__main__":
    main()
