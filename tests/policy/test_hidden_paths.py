"""Patterns of hidden paths: C against a slow reference, which is a regular expression of the whole
path, and the patterns that are refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhost9p.native.hidden_paths import HiddenPaths
from vhost9p.path_patterns import COMPONENTS_MAX, SIZE_MAX, parse


def hidden(pattern: bytes, path: bytes) -> bool:
    return HiddenPaths([parse(pattern)]).hide(path)


# ---- the reference -------------------------------------------------------------------------------

BRACKETS = re.compile(rb"\[([!^]?)(\]?[^\]]*)\]")


def name_expression(text: bytes) -> bytes:
    """A regular expression of one component without backslashes."""
    found, at = b"", 0
    while at < len(text):
        brackets = BRACKETS.match(text, at)
        if brackets:
            negation, members = brackets.groups()
            members = re.sub(rb"([\[\]\\^&~|])", rb"\\\1", members)
            found += b"(?!/)[" + (b"^" if negation else b"") + members + b"]"
            at = brackets.end()
            continue
        byte = text[at : at + 1]
        found += {b"*": b"[^/]*", b"?": b"[^/]"}.get(byte, re.escape(byte))
        at += 1
    return found


def expression(pattern: bytes) -> re.Pattern[bytes]:
    """A regular expression of the paths that are hidden, with a slash behind each component."""
    if b"/" not in pattern:
        pattern = b"**/" + pattern
    texts = pattern.removeprefix(b"./").split(b"/")
    if texts[-1] == b"**":
        texts.append(b"*")
    parts = (b"(?:[^/]+/)*" if each == b"**" else name_expression(each) + b"/" for each in texts)
    return re.compile(b"".join(parts), re.DOTALL)


DOTS: tuple[bytes, ...] = (b".", b"..")
BYTE = st.sampled_from([b"a", b"b", b"c", b".", b"-", b"\xff", b"\xc3\xa4"])
NAME: st.SearchStrategy[bytes] = (
    st.lists(BYTE, min_size=1, max_size=4).map(b"".join).filter(lambda name: name not in DOTS)
)
GLOB = (
    st.lists(
        st.one_of(
            BYTE,
            st.sampled_from(
                [b"*", b"?", b"[ab]", b"[a-c]", b"[!a]", b"[^b-c]", b"[]a]", b"[\xff]"]
            ),
        ),
        min_size=1,
        max_size=4,
    )
    .map(b"".join)
    .filter(lambda text: text not in DOTS and b"**" not in text)
)
PATTERN = st.tuples(
    st.sampled_from([b"", b"./"]),
    st.lists(st.one_of(GLOB, GLOB, st.just(b"**")), min_size=1, max_size=4).map(b"/".join),
).map(b"".join)
PATH = st.lists(NAME, min_size=1, max_size=5).map(b"/".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(PATTERN, min_size=1, max_size=3), st.lists(PATH, min_size=1, max_size=8))
def test_what_is_hidden_is_what_the_whole_paths_match(
    patterns: list[bytes], paths: list[bytes]
) -> None:
    """All patterns of an export together, and all below a match with it."""
    compiled = HiddenPaths(map(parse, patterns))
    for path in paths:
        expected = any(expression(each).match(path + b"/") for each in patterns)
        assert compiled.hide(path) == bool(expected), (patterns, path)


@pytest.mark.parametrize(
    ("pattern", "shown", "not_shown"),
    [
        (b".env", [b"a.env", b".envs", b".ENV"], [b".env", b"a/.env", b".env/a"]),
        (b"**/.env", [b"a.env"], [b".env", b"a/.env", b"a/b/.env"]),
        (b".git/config", [b".git", b"config", b"a/.git/config"], [b".git/config"]),
        (b"**/.git/config", [b".git"], [b".git/config", b"a/b/.git/config/c"]),
        (b"./data", [b"a/data"], [b"data", b"data/a"]),
        (b"a/**", [b"a", b"b"], [b"a/b", b"a/b/c"]),
        (b"a/**/b", [b"a", b"b", b"a/c"], [b"a/b", b"a/c/b", b"a/c/d/b/e"]),
        (b"*.key", [b"key", b"a.keys"], [b".key", b"a.key", b"\xff\xfe.key", b"d/a.key"]),
        (b"?", [b"ab", "ä".encode()], [b"a", b"\xff"]),
        (rb"\*", [b"a"], [b"*"]),
        (rb"*\**", [b"a"], [b"*", b"a*b"]),
        (b"[**]", [b"a", b"**"], [b"*"]),
        (rb"\!a", [b"a"], [b"!a"]),
        (b"[]]", [b"a"], [b"]"]),
        (b"[a-]", [b"b"], [b"a", b"-"]),
        (rb"[\]x]", [b"\\"], [b"]", b"x"]),
        (b"*", [], [b"a", b".a"]),
    ],
)
def test_what_patterns_mean(pattern: bytes, shown: list[bytes], not_shown: list[bytes]) -> None:
    assert [path for path in shown if hidden(pattern, path)] == []
    assert [path for path in not_shown if not hidden(pattern, path)] == []


def test_a_name_that_nearly_matches_takes_no_time() -> None:
    """It would, by 2^60 ways to share the name among the stars."""
    assert not hidden(b"*a" * 60 + b"b", b"a" * 255)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        (b"", "is empty"),
        (b"/etc", "begins with a slash"),
        (b"a/", "ends with a slash"),
        (b"a//b", "two slashes in a row"),
        (b"../a", "has .. as a component"),
        (b"a/./b", "has . as a component"),
        (b".", "has . as a component"),
        (b"!a", "begins with !"),
        (b"a**", "has \\*\\* within a name"),
        (rb"\\**", "has \\*\\* within a name"),
        (b"[a", "has a \\[ without a \\]"),
        (b"[]", "has a \\[ without a \\]"),
        (b"[b-a]", "end is before its beginning"),
        (b"a\\", "a backslash at the end"),
        (b"a" * (SIZE_MAX + 1), f"has {SIZE_MAX + 1} bytes"),
        (b"/".join([b"a"] * (COMPONENTS_MAX + 1)), f"has {COMPONENTS_MAX + 1} components"),
    ],
)
def test_patterns_that_mean_nothing_are_refused(pattern: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(pattern)


def test_as_many_as_an_export_may_have() -> None:
    longest = b"/".join([b"a"] * (COMPONENTS_MAX - 1))
    found = HiddenPaths([parse(longest + b"/%d" % i) for i in range(256)])
    assert found.hide(longest + b"/255") and not found.hide(longest + b"/256")
    with pytest.raises(MemoryError):
        HiddenPaths([parse(b"a/%d" % i) for i in range(257)])
