"""The device that the options of the command line describe.

Options fill the same plain tree as a configuration file (config_schema.py), and pass the same
checks.
"""

import argparse
from collections.abc import Collection

from vhost9p import virtfs
from vhost9p.cli_options import fill
from vhost9p.config_checks import Tree
from vhost9p.config_export import QUOTA, THROTTLING
from vhost9p.errors import Problems

PLAIN = (
    *("path", "exports", "tag", "multidevs", "msize_max", "max_fids", "max_xattr"),
    *("max_guest_memory", "threads", "cpus", "poll_us", "ring"),
    *("notify", "notify_name", "notify_listed"),
    *("security_model", "readonly", "fmode", "dmode", "writeout", "hide"),
)
QUOTA_OPTIONS = tuple(f"quota_{key}" for key in QUOTA.keys)
ID_OPTIONS = tuple(
    f"{what}_{kind}" for kind in ("uid", "gid") for what in ("map", "squash", "forbid")
)
WHAT = ("virtfs", *PLAIN, "xattr_rule", *ID_OPTIONS, "throttling", *QUOTA_OPTIONS)
"""Options that describe the device, and so exclude --config."""
PLACE = ("socket", "fd", "socket_mode", "socket_owner", "socket_group")
"""Options for where the VMM connects; also allowed with --config."""
PARTS = {
    "id_map": ID_OPTIONS,
    "quota": QUOTA_OPTIONS,
    "throttling": ("throttling",),
    "xattrs": ("xattr_rule",),
}
"""Keys that several options fill together."""


def given(options: argparse.Namespace, keys: tuple[str, ...] = WHAT) -> Tree:
    """Returns the options that are given, with their values."""
    return {key: value for key in keys if (value := getattr(options, key)) is not None}


def option(key: str) -> str:
    """Returns the option of a key, as it is written on the command line."""
    return "--" + {"exports": "export"}.get(key, key).replace("_", "-")


def device_tree(
    options: argparse.Namespace, problems: Problems, wrong: Collection[str] = ()
) -> Tree:
    """Returns the device that the options describe, unchecked. Leaves out parts with a `wrong`
    option."""
    tree = given(options, PLAIN)
    if pairs := options.throttling:
        tree["throttling"] = _throttling(pairs, problems)
    if ids := given(options, ID_OPTIONS):
        tree["id_map"] = _id_map(ids)
    if options.xattr_rule:
        tree["xattrs"] = {"rules": options.xattr_rule}
    if quota := given(options, QUOTA_OPTIONS):
        tree["quota"] = {key.removeprefix("quota_"): value for key, value in quota.items()}
    for part, keys in PARTS.items():
        if any(key in wrong for key in keys):
            tree.pop(part, None)
    return tree if options.virtfs is None else _with_virtfs(options.virtfs, tree, problems, wrong)


def _with_virtfs(said: Tree, tree: Tree, problems: Problems, wrong: Collection[str]) -> Tree:
    """Combines QEMU's string and the options beside it."""
    theirs = {virtfs.NAMES.get(key, key).partition(".")[0] for key in virtfs.KEYS}
    if twice := [option(key) for key in tree if key in theirs - {"tag"} or key == "exports"]:
        problems.add(f"--virtfs excludes {', '.join(twice)}: set it in --virtfs")
    if "tag" in said and "tag" in tree:
        problems.add("--virtfs has a mount_tag, so --tag is not allowed")
    if "tag" not in said and "tag" not in tree and "tag" not in wrong:
        problems.add("--virtfs has no mount_tag; add it, or a --tag beside --virtfs")
    return {**said, **tree}


def _throttling(pairs: list[tuple[str, str]], problems: Problems) -> Tree:
    tree: Tree = {}
    for key, value in pairs:
        try:
            fill(tree, THROTTLING, key, value)
        except ValueError as error:
            problems.add(f"--throttling: {error}")
    return tree


def _id_map(ids: Tree) -> Tree:
    tree: Tree = {}
    for key, value in ids.items():
        what, kind = key.split("_")
        part = tree
        if what != "map":
            part = tree.setdefault({"squash": "squash_to", "forbid": "forbid"}[what], {})
        part[kind] = value
    return tree
