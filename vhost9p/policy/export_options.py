"""What an export's options ask for, installed in C, which applies it: rules and limits of extended
attributes (xattrs.py), maps of ids (idmap.py), and hidden paths (vhost9p/path_patterns.py)."""

import os
from collections.abc import Iterable

from vhost9p import path_patterns
from vhost9p.config import ExportConfig, IdRange, XattrRules
from vhost9p.native.export import GID, UID, Export
from vhost9p.native.hidden_paths import HiddenPaths
from vhost9p.policy import xattrs as xattr_rules
from vhost9p.policy.idmap import GuestId, HostId, Ids, Range
from vhost9p.policy.xattrs import MODELS, Limits, Rule, rules_of, rules_problem


def install(export: Export, config: ExportConfig) -> None:
    """Once, before the export is served. Raises OSError, and ValueError if `problem` finds one."""
    xattrs, id_map, model = config.xattrs, config.id_map, config.model
    if xattrs or model in MODELS:
        xattr_rules.install(export, xattr_rules_of(config), _limits(xattrs) if xattrs else None)
    if id_map:
        uids = Ids(_ranges(id_map.uid), _host_id(id_map.squash_uid), id_map.forbid_uid)
        gids = Ids(_ranges(id_map.gid), _host_id(id_map.squash_gid), id_map.forbid_gid)
        uids.install(export, UID)
        gids.install(export, GID)
    if config.hide:
        export.hide(hidden_paths(config))


def hidden_paths(config: ExportConfig) -> HiddenPaths:
    """Returns what an export hides, for C."""
    return HiddenPaths(path_patterns.parse(os.fsencode(each)) for each in config.hide)


def xattr_rules_of(config: ExportConfig) -> tuple[Rule, ...]:
    """Returns the rules for attributes: the export's and its model's."""
    return rules_of(config.model, _rules(config.xattrs) if config.xattrs else ())


def problem(config: ExportConfig) -> str | None:
    """Returns how the rules for attributes conflict; None if they do not."""
    if config.xattrs and (text := rules_problem(_rules(config.xattrs), config.model)):
        return f"xattrs: {text}"
    return None


def _rules(xattrs: XattrRules) -> tuple[Rule, ...]:
    return tuple(
        Rule(os.fsencode(rule.match), rule.action, os.fsencode(rule.store)) for rule in xattrs.rules
    )


def _limits(xattrs: XattrRules) -> Limits:
    return Limits(xattrs.max_value, xattrs.max_names, xattrs.max_total)


def _ranges(ranges: Iterable[IdRange]) -> list[Range]:
    return [Range(GuestId(each.guest), HostId(each.host), each.count) for each in ranges]


def _host_id(number: int | None) -> HostId | None:
    return None if number is None else HostId(number)
