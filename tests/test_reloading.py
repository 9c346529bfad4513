"""The change of a VM whose keeper is away at a bad moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vhost9p.birth import Failed
from vhost9p.config import Config
from vhost9p.reload import Plan
from vhost9p.reloading import Reloading


def test_without_a_keeper_at_the_end_the_next_one_has_the_old_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The keeper with the new one has died, and nobody serves before the time is up."""
    old, new = Config((), log_level="info"), Config((), log_level="debug")
    vm: Any = SimpleNamespace(
        config=old, pid=1, pidfd=-1, stopped_at=None, why_left_out="", serves_anew=True,
        read_entered=lambda: SimpleNamespace(level=None),
        trace=SimpleNamespace(renew=lambda: None), take_over=lambda: None,
        facts=SimpleNamespace(states=()),
    )  # fmt: skip

    def around(replace: Any) -> None:
        assert vm.pid, "nobody watches a keeper that there is not"
        vm.serves_anew = False

    monkeypatch.setattr("vhost9p.reloading.SERVE_PATIENCE_S", 0)
    change = Reloading(vm, Plan(new, ("log_level",)), [], -1, around)
    assert not change.go_on()
    assert vm.config is new
    vm.pid = 0
    with pytest.raises(Failed, match="not served with it"):
        change.go_on()
    assert vm.config is old
