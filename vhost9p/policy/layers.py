"""What an export's options ask for: rules and limits of extended attributes (xattrs.py), which C
applies, and a layer for ids (idmap.py)."""

import os
from collections.abc import Iterable

from vhost9p.config import ExportConfig, IdRange, XattrRules
from vhost9p.fs.driver import Driver
from vhost9p.native.export import Export
from vhost9p.policy.idmap import GuestId, HostId, IdLayer, Ids, Range
from vhost9p.policy.xattrs import (
    MODELS,
    Limits,
    Rule,
    install,
    rules_of,
    rules_problem,
)


def layered(driver: Driver, export: Export, config: ExportConfig) -> Driver:
    """Installs what an export's options ask for, and returns the driver with the layers for them in
    front. Raises OSError, and ValueError if `problem` finds one."""
    xattrs, id_map, model = config.xattrs, config.id_map, config.model
    if xattrs or model in MODELS:
        rules = rules_of(model, _rules(xattrs) if xattrs else ())
        install(export, rules, _limits(xattrs) if xattrs else None)
    if id_map:
        uids = Ids(_ranges(id_map.uid), _host_id(id_map.squash_uid), id_map.forbid_uid)
        gids = Ids(_ranges(id_map.gid), _host_id(id_map.squash_gid), id_map.forbid_gid)
        driver = IdLayer(driver, export, uids, gids)
    return driver


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
