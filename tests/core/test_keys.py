"""Step keys: the same on every replay, taken in order, one name space for each branch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.core.keys import Branch, branch_of, check_name, doubt_key, explicit_key, trunk_of
from relight.errors import InvalidArgument

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="#/[]?!", exclude_categories=("Cc", "Cs")), min_size=1, max_size=40
)


def test_ordinals_count_each_name_alone() -> None:
    branch = Branch()
    assert [branch.next_key(name) for name in ("a", "b", "a", "a", "b")] == ["a#0", "b#0", "a#1", "a#2", "b#1"]


def test_branches_are_numbered_per_creating_branch_in_order() -> None:
    root = Branch()
    first, second = root.child(), root.child()
    inner = second.child()
    assert [branch.next_key("s") for branch in (root, first, second, inner)] == ["s#0", "b0/s#0", "b1/s#0", "b1/b0/s#0"]
    assert root.child().path == "b2/"


def test_a_branch_does_not_disturb_the_ordinals_of_its_maker() -> None:
    root = Branch()
    root.next_key("s")
    child = root.child()
    child.next_key("s")
    assert root.next_key("s") == "s#1" and child.next_key("s") == "b0/s#1"


def test_an_explicit_key_is_the_same_in_every_branch() -> None:
    assert explicit_key("extract", "d-17") == "extract[d-17]"


@pytest.mark.parametrize("key", ["", "a\0b", "x" * 401])
def test_an_explicit_key_that_cannot_be_kept_is_refused(key: str) -> None:
    with pytest.raises(InvalidArgument, match="key"):
        explicit_key("extract", key)


@pytest.mark.parametrize(
    "key, branch",
    [
        ("fetch#0", ""),
        ("b0/fetch#0", "b0/"),
        ("b2/b10/fetch#3", "b2/b10/"),
        ("extract[d-17]", ""),
        ("extract[a/b]", ""),
        ("fetch#0?1", ""),
        ("b1/fetch#0?0", "b1/"),
    ],
)
def test_a_key_tells_its_branch(key: str, branch: str) -> None:
    assert branch_of(key) == branch


@given(st.lists(st.tuples(st.booleans(), NAMES), max_size=30))
def test_the_same_calls_in_the_same_order_give_the_same_keys_each_once(calls: list[tuple[bool, str]]) -> None:
    def walk() -> list[str]:
        branch = Branch()
        keys: list[str] = []
        for deeper, name in calls:
            keys.append(branch.next_key(name))
            if deeper:
                branch = branch.child()
        return keys

    keys = walk()
    assert keys == walk() and len(set(keys)) == len(keys)


@given(NAMES, st.integers(0, 5))
def test_a_key_of_any_allowed_name_tells_its_branch(name: str, depth: int) -> None:
    branch = Branch()
    for _ in range(depth):
        branch = branch.child()
    assert branch_of(branch.next_key(name)) == branch.path


def test_a_question_about_a_doubt_has_a_key_of_its_own() -> None:
    assert doubt_key("b0/send#1", 2) == "b0/send#1?2"


@pytest.mark.parametrize("name", ["fetch", "Mailer.send", "größe", "a b", "x" * 200, "term_exec", "-", "signal:go"])
def test_names_that_can_stand_in_a_key(name: str) -> None:
    assert check_name(name, "step") == name


@pytest.mark.parametrize(
    "name",
    ["", "a#0", "a/b", "a[0]", "a]", "why?", "a!", "a\nb", "a\0", "\ud800", "x" * 201, None, 5, b"bytes", "a\x1f"],
)
def test_names_that_cannot_are_refused(name: object) -> None:
    with pytest.raises(InvalidArgument, match="step"):
        check_name(name, "step")


@pytest.mark.parametrize(
    ("path", "trunk"),
    [("", ""), ("b0/", "b0/"), ("digest#0/", ""), ("b2/digest#1/fetch#0/", "b2/"), ("digest#0/b0/", "digest#0/b0/")],
)
def test_an_inline_workflow_has_the_line_of_its_caller(path: str, trunk: str) -> None:
    assert trunk_of(path) == trunk


def test_inline_calls_are_numbered_by_name_and_count_in_their_own_branch() -> None:
    line = Branch()
    assert [line.inline("digest").path, line.inline("digest").path, line.inline("other").path] == [
        "digest#0/",
        "digest#1/",
        "other#0/",
    ]
    inside = line.inline("digest")
    assert inside.next_key("fetch") == "digest#2/fetch#0"
    assert inside.child().path == "digest#2/b0/"
    assert line.child().path == "b0/"
