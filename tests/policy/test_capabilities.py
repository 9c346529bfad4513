"""Which capabilities a worker keeps for its exports."""

from vhost9p.config import ExportConfig, SecurityModel, XattrRule, XattrRules
from vhost9p.policy import rights

OWN_NAMES = XattrRules(
    (XattrRule("security.", "store", "user.s."), XattrRule("trusted.", "refuse"))
)


def of(model: SecurityModel, *, readonly: bool = False, rules: bool = True) -> frozenset[int]:
    xattrs = OWN_NAMES if rules else None
    export = ExportConfig("/srv", security_model=model, readonly=readonly, xattrs=xattrs)
    return rights.capabilities([export])


def test_models_keep_what_they_use() -> None:
    assert of("mapped-xattr", rules=False) == of("mapped-file", rules=False) == rights.CHANGING
    assert of("passthrough") == of("none") == rights.OWNING
    assert of("passthrough", readonly=True) == rights.READING


def test_privileged_attributes_take_more() -> None:
    more = {rights.CAP_SYS_ADMIN, rights.CAP_SETFCAP}
    assert of("passthrough", rules=False) == rights.OWNING | more
    assert of("passthrough", rules=False, readonly=True) == rights.READING | {rights.CAP_SYS_ADMIN}


def test_exports_of_one_worker_share_them() -> None:
    both = [ExportConfig("/a", security_model=model) for model in ("passthrough", "mapped-file")]
    assert rights.capabilities(both) >= rights.OWNING
