"""Suggestions for an unknown key or option.

A name of QEMU's or virtiofsd's is answered with our name for it, or with why there is none; any
other name with ours that is spelled most like it. Others' names appear only here; they are never
accepted, since their values differ.
"""

from collections.abc import Iterable

from vhost9p.config_values import guess

OURS = {
    # QEMU's -virtfs, -fsdev and -device
    "mount-tag": "tag",
    "fsdriver": "virtfs",
    "throttling-bps-total": "throttling",
    "throttling-iops-total": "throttling",
    "iothread": "threads",
    "queue-size": "ring",
    # virtiofsd's
    "shared-dir": "path",
    "source": "path",
    "thread-pool-size": "threads",
    "xattrmap": "xattr_rule",
    "uid-map": "map_uid",
    "gid-map": "map_gid",
    "translate-uid": "map_uid",
    "translate-gid": "map_gid",
    "announce-submounts": "multidevs",
    "no-announce-submounts": "multidevs",
    "socket-name": "socket",
}
"""Others' names, and our options for them."""

KEYS = {
    "map_uid": "id_map.uid",
    "map_gid": "id_map.gid",
    "xattr_rule": "xattrs.rules",
}
"""Options with another name in a file. (virtfs exists on the command line only.)"""

WORDS = {
    # QEMU's
    "fsdev": "QEMU connects its own options by it; leave it out",
    "id": "QEMU connects its own options by it; leave it out",
    "sock-fd": "QEMU's driver proxy has it; only local directories are served",
    # virtiofsd's
    "modcaps": "the daemon keeps the capabilities that it is started with",
    "cache": "the guest decides what it caches, by mount -o cache=none, mmap or loose",
    "allow-mmap": "the guest decides, by mount -o cache=mmap",
    "writeback": "the guest decides, by mount -o cache=loose",
    "timeout": "the guest decides what it caches, by mount -o cache=none, mmap or loose",
    "allow-direct-io": "leave it out; what the host caches is the host's",
    "xattr": "leave it out; extended attributes are served unless rules say otherwise",
    "posix-acl": "leave it out; ACLs are served unless rules for xattrs say otherwise",
    "security-label": "leave it out; security.* is served unless rules for xattrs say otherwise",
    "killpriv-v2": "leave it out; the host drops set-id bits",
    "inode-file-handles": "leave it out; file handles are used where the host allows them",
    "preserve-noatime": "leave it out; O_NOATIME of the guest is passed on",
    "rlimit-nofile": "leave it out; the soft limit is raised to the hard one (ulimit -Hn)",
    "syslog": "leave it out; the log goes to standard error, from where a service manager takes it",
    "daemonize": "leave it out; the daemon stays in the foreground",
    "verbose": "say log_level debug instead",
    "o": "every option has a name of its own here",
    # YAML's
    "<<": "merging (<<) is not supported; write the keys out",
}
"""Others' names without a counterpart here, and why."""


def for_option(word: str, known: Iterable[str]) -> tuple[str, str | None]:
    """Returns the end of a message about an unknown option, and the option that was probably
    meant."""
    name = word.lstrip("-").replace("_", "-")
    if ours := OURS.get(name):
        option = f"--{ours.replace('_', '-')}"
        return f"; it is called {option} here", option
    if words := WORDS.get(name):
        return f"; {words}", None
    hint = guess(f"--{name}", known)
    return hint, hint.split("'")[1] if hint else None


def for_key(key: str, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown key of a file. Suggests only keys that are
    valid in the same place."""
    name = key.replace("_", "-").replace(".", "-")
    ours = OURS.get(name, "")
    ours = KEYS.get(ours, ours)
    if ours and ours.partition(".")[0] in known:
        return f"; it is called {ours} here"
    if words := WORDS.get(name):
        return f"; {words}"
    return guess(key, known)
