"""Rules for attributes' names: what leads where, what can never meet, what is refused."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policy.test_idmap import export_of
from vhost9p.native.xattr_names import XattrNames
from vhost9p.policy.idmap import Ids
from vhost9p.policy.xattrs import CAPABILITY, MAPPED, Rule, install, rules_of, rules_problem

SECURITY = Rule(b"security.", "store", b"user.guest.security.")

# Few letters, so that prefixes meet.
_NAMES = st.lists(st.sampled_from([b"a.", b"b.", b"ab", b"user.", b"c"]), max_size=4).map(b"".join)
_RULES = st.lists(
    st.one_of(
        st.builds(Rule, _NAMES, st.sampled_from(["keep", "refuse", "hide"]), st.just(b"")),
        st.builds(Rule, _NAMES, st.just("store"), _NAMES.map(lambda name: b"user." + name)),
    ),
    max_size=4,
).filter(lambda rules: rules_problem(rules) is None)


def host(names: XattrNames, name: bytes) -> bytes | None:
    """The host's name, if the guest may have the attribute."""
    try:
        return names.host(name, errno.EPERM)
    except OSError:
        return None


def guest(names: XattrNames, name: bytes) -> bytes | None:
    """The guest's name of a host's attribute, if the guest sees it."""
    try:
        return names.guest(name)
    except OSError as error:
        assert error.errno == errno.ENODATA
        return None


@given(_RULES, st.lists(_NAMES, max_size=30, unique=True))
def test_two_names_are_never_one_attribute(rules: list[Rule], asked: list[bytes]) -> None:
    names = XattrNames(rules)
    there = {name: found for name in asked if (found := host(names, name)) is not None}
    assert len(set(there.values())) == len(there)
    for name, found in there.items():
        assert guest(names, found) == name


@given(_RULES, _NAMES)
def test_what_is_shown_can_be_had(rules: list[Rule], name: bytes) -> None:
    names = XattrNames(rules)
    shown = guest(names, name)
    assert shown is None or host(names, shown) == name


@given(_RULES, _NAMES)
def test_what_is_stored_has_no_other_name(rules: list[Rule], name: bytes) -> None:
    names = XattrNames(rules)
    found = host(names, name)
    for rule in rules:
        if rule.action == "store" and found is not None and found.startswith(rule.store):
            assert name.startswith(rule.match)


def test_a_rule_has_no_nul() -> None:
    """C would read the text up to it, and `rules_problem` all of it."""
    for rule in (Rule(b"user.a\0b", "hide"), Rule(b"user.", "store", b"user.g.\0")):
        with pytest.raises(ValueError, match="NUL"):
            XattrNames([rule])


def test_the_first_rule_counts() -> None:
    names = XattrNames([Rule(b"security.x", "keep"), SECURITY, Rule(b"security.", "refuse")])
    assert names.host(b"security.xy", errno.EPERM) == b"security.xy"
    assert names.host(b"security.y", errno.EPERM) == b"user.guest.security.y"
    assert names.host(b"trusted.y", errno.EPERM) == b"trusted.y"
    assert guest(names, b"security.xy") == b"security.xy"
    assert guest(names, b"security.y") is None  # the host's own, which the guest's is not
    assert guest(names, b"user.guest.security.y") == b"security.y"
    assert guest(names, b"user.guest.security.xy") is None  # the guest has that one elsewhere


@pytest.mark.parametrize(
    ("action", "code"), [("refuse", errno.ENODATA), ("hide", errno.EOPNOTSUPP)]
)
def test_what_may_not_be_had(action: str, code: int) -> None:
    names = XattrNames([Rule(b"security.", action)])  # type: ignore[arg-type]
    with pytest.raises(OSError) as refused:
        names.host(b"security.x", errno.ENODATA)
    assert refused.value.errno == code
    assert guest(names, b"security.x") is None


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([SECURITY, Rule(b"trusted.", "store", b"user.guest.security.")], "become one"),
        ([SECURITY, Rule(b"trusted.", "store", b"user.guest.")], "become one"),
        ([Rule(b"trusted.", "store", b"user.guest."), SECURITY], "become one"),
        ([Rule(b"trusted.", "store", b"guest")], "in no namespace"),
        ([Rule(b"trusted.", "store", b"")], "in no namespace"),
    ],
)
def test_rules_that_let_names_meet_are_refused(rules: list[Rule], words: str) -> None:
    assert words in (rules_problem(rules) or "")
    with export_of(Ids([])) as export, pytest.raises(ValueError, match=words):
        install(export, rules, None)


def test_the_mapped_models_own_names() -> None:
    """As QEMU stores access lists under mapped-xattr; owners and modes are out of reach."""
    names = XattrNames(rules_of("mapped-xattr", [Rule(b"user.", "keep")]))
    for name in (b"system.posix_acl_access", b"system.posix_acl_default", CAPABILITY, b"trusted.x"):
        assert names.host(name, errno.EPERM) == b"user.virtfs." + name
    for name in (b"user.virtfs.uid", b"user.virtfs.security.capability"):
        assert host(names, name) is None
    assert guest(names, b"user.virtfs.uid") is None
    assert rules_problem(MAPPED) is None
    for store in (b"user.", b"user.virtfs.", b"user.virtfs.x."):
        rule = Rule(b"x.", "store", store)
        for model in ("mapped-xattr", "mapped-file"):
            assert f"{model} keeps owners" in (rules_problem([rule], model) or "")
        assert rules_problem([rule], "passthrough") is None
