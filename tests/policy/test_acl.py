"""What ACLs say, as far as no file is needed: tests/system/test_why.py asks the host's kernel."""

from hypothesis import given
from hypothesis import strategies as st

from tests.acls import GROUP, MASK, OTHERS, OWNER, OWNING_GROUP, USER, acl_value
from vhost9p.policy import acl

FULL = {OWNER: 6, (USER, 5): 4, OWNING_GROUP: 0, (GROUP, 7): 3, MASK: 5, OTHERS: 1}


def test_all_entries_are_read() -> None:
    found = acl.parse(acl_value(FULL))
    assert found
    assert acl.words(found) == (
        "owner rw-, user 5 r--, owning group ---, group 7 -wx, mask r-x, others --x"
    )


def test_what_is_no_acl_is_none() -> None:
    good = acl_value(FULL)
    for bad in (b"", good[:3], good[:-1], b"\3" + good[1:], good[:4] + b"\x40" + good[5:]):
        assert acl.parse(bad) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_an_acl_or_none(value: bytes) -> None:
    found = acl.parse(value)
    assert found is None or len(found) * 8 + 4 == len(value)


def test_who_is_in_several_groups_may_do_what_one_of_them_may() -> None:
    """Each by itself: what takes two permissions, one of them has to give both."""
    found = acl.parse(acl_value({**FULL, (GROUP, 8): 4, MASK: 7}))
    assert found
    deciding = acl.applying(found, (0, 0), 99, frozenset({7, 8}))
    assert acl.allows(found, deciding, 3) and acl.allows(found, deciding, 4)
    assert not acl.allows(found, deciding, 6)
    assert acl.gives(found, deciding) == "gives group 7 -wx and group 8 r--"
