"""The hash chain: every change to a writer's story is found, and an auditor needs nothing of ours to find it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.core import events as ev
from relight.core.chain import GENESIS, START, EventRow, Finding, Flaw, Head, canonical, check, link
from relight.core.events import Draft, draft
from relight.model import Actor

WRITER = "0190a0b0-1111-7222-8333-444455556666"


def drafts(n: int, *, seed: int = 0) -> list[Draft]:
    return [
        draft(
            ev.SignalSent(signal_id=f"s{seed}-{i}", name='é\n"\\漢', payload_hash="h"),
            event_id=f"e{seed}-{i}",
            ts=1_700_000_000_000 + i,
            actor=list(Actor)[i % 3],
            actor_id="bob",
            trace_id="t",
            job_id=None if i % 2 else f"j{i}",
            step_key="fetch#0" if i % 3 else None,
        )
        for i in range(n)
    ]


def chain(n: int, *, writer_id: str = WRITER, seed: int = 0) -> tuple[list[EventRow], Head]:
    return link(START, drafts(n, seed=seed), writer_id=writer_id, engine_id=writer_id)


def rehashed(rows: list[EventRow], start: int) -> list[EventRow]:
    """What somebody does who knows the format: places and hashes made anew from ``start`` on."""
    done = rows[:start]
    for row in rows[start:]:
        seq, prev = (done[-1].writer_seq, done[-1].hash) if done else START
        row = msgspec.structs.replace(row, writer_seq=seq + 1, prev_hash=prev)
        digest = hashlib.sha256(bytes.fromhex(prev) + canonical(row)).hexdigest()
        done.append(msgspec.structs.replace(row, hash=digest))
    return done


def test_an_untouched_chain_is_clean() -> None:
    rows, head = chain(10)

    assert list(check(rows, until=head)) == []
    assert [row.writer_seq for row in rows] == list(range(1, 11))
    assert rows[0].prev_hash == GENESIS == "0" * 64
    assert head == Head(10, rows[-1].hash)


def test_no_events_leave_the_head_where_it_is() -> None:
    assert link(START, [], writer_id=WRITER, engine_id=None) == ([], START)
    assert list(check([], until=START)) == []


@given(st.integers(0, 12), st.integers(0, 12))
def test_a_chain_made_in_pieces_is_the_chain_made_at_once(n: int, cut: int) -> None:
    whole, head = chain(n)
    some = drafts(n)

    first, middle = link(START, some[:cut], writer_id=WRITER, engine_id=WRITER)
    second, end = link(middle, some[cut:], writer_id=WRITER, engine_id=WRITER)

    assert (first + second, end) == (whole, head)
    assert list(check(second, middle, until=end)) == []


def test_a_commit_that_failed_takes_nothing_but_the_old_head_to_be_made_again() -> None:
    _, head = chain(3)

    lost = link(head, drafts(2, seed=1), writer_id=WRITER, engine_id=WRITER)

    assert link(head, drafts(2, seed=1), writer_id=WRITER, engine_id=WRITER) == lost


def test_a_row_is_its_draft_with_a_place() -> None:
    made = drafts(1)[0]
    row = link(START, [made], writer_id="w", engine_id="e")[0][0]

    assert EventRow.__struct_fields__ == (
        *(
            [
                "event_id",
                "type",
                "ts",
                "actor",
                "actor_id",
                "trace_id",
                "job_id",
                "run_id",
                "step_key",
                "model_id",
                "engine_id",
                "payload",
            ]
        ),
        *(["writer_id", "writer_seq", "prev_hash", "hash"]),
    )
    assert (row.event_id, row.type, row.ts, row.actor, row.actor_id) == (
        made.event_id,
        made.type,
        made.ts,
        "human",
        "bob",
    )
    assert (row.job_id, row.payload, row.writer_id, row.engine_id) == ("j0", made.payload.decode(), "w", "e")
    assert type(row.actor) is str
    assert link(START, [made], writer_id="w", engine_id=None)[0][0].engine_id is None
    assert json.loads(msgspec.json.encode(row))[:2] == [made.event_id, "signal_sent"]


def test_an_auditor_needs_only_json_and_sha256() -> None:
    rows, _ = chain(5)
    prev = bytes(32)
    for row in rows:
        array = json.loads(msgspec.json.encode(row))[:-2]
        text = json.dumps(array, ensure_ascii=False, separators=(",", ":")).encode()
        prev = hashlib.sha256(prev + text).digest()
        assert row.hash == prev.hex()


def test_the_format_never_changes() -> None:
    row = EventRow("e", "job_retried", 1, "human", "b", "t", "j", None, None, None, None, "{}", "w", 1, GENESIS, "")

    assert canonical(row) == b'["e","job_retried",1,"human","b","t","j",null,null,null,null,"{}","w",1]'
    assert hashlib.sha256(bytes(32) + canonical(row)).hexdigest() == GOLDEN


GOLDEN = "600bf549e71cd8c2fa7da77656a13ef2648f027634f2af27e01695677ead7e3e"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_canonical_text_is_as_json_has_it(text: str) -> None:
    row = msgspec.structs.replace(chain(1)[0][0], payload=text, actor_id=text)

    array = [getattr(row, name) for name in EventRow.__struct_fields__[:-2]]
    assert canonical(row) == json.dumps(array, ensure_ascii=False, separators=(",", ":")).encode()


# An auditor is tested by sabotage: every one of these must be found.

FIELDS = EventRow.__struct_fields__


def other(value: Any) -> Any:
    """Return another value of the same type."""
    if value is None:
        return ""
    if isinstance(value, int):
        return value + 1
    return value[:-1] + ("1" if value[-1:] != "1" else "2")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_change_of_any_field_of_any_event_is_found(field: str, at: int) -> None:
    rows, head = chain(8)
    rows[at] = msgspec.structs.replace(rows[at], **{field: other(getattr(rows[at], field))})

    found = list(check(rows, until=head))

    assert found and {f.writer_seq for f in found} <= {at + 1, at + 2, at + 3, head.seq}
    assert len(found) <= 3


@given(st.data())
def test_sabotage_is_always_found(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    rows, head = chain(n)
    at = data.draw(st.integers(0, n - 1))
    act = data.draw(st.sampled_from(["flip", "delete", "swap", "insert", "double", "cut", "foreign", "move"]))
    spoiled = list(rows)
    if act == "flip":
        field = data.draw(st.sampled_from(FIELDS))
        spoiled[at] = msgspec.structs.replace(rows[at], **{field: other(getattr(rows[at], field))})
    elif act == "delete":
        del spoiled[at]
    elif act == "cut":
        del spoiled[at:]
    elif act == "double":
        spoiled.insert(at, rows[at])
    elif act in ("insert", "foreign"):
        writer = WRITER if act == "insert" else "another"
        spoiled.insert(at, data.draw(st.sampled_from(chain(n, writer_id=writer, seed=1)[0])))
    else:
        to = data.draw(st.integers(0, n - 1).filter(lambda i: i != at)) if n > 1 else None
        if to is None:
            return
        if act == "swap":
            spoiled[at], spoiled[to] = spoiled[to], spoiled[at]
        else:
            spoiled.insert(to, spoiled.pop(at))

    assert list(check(spoiled, until=head))
    # and so it is by somebody who makes all later hashes anew, or only the row's own
    if spoiled != rows and act != "flip":
        assert list(check(rehashed(spoiled, min(at, len(spoiled))), until=head))
    if act == "flip" and field not in ("hash", "prev_hash", "writer_seq"):
        assert list(check(rehashed(spoiled, at), until=head))
        own = [*spoiled[:at], rehashed(spoiled, at)[at], *rows[at + 1 :]]
        assert list(check(own, until=head))


def test_a_cut_tail_shows_only_against_a_head() -> None:
    rows, head = chain(5)

    assert list(check(rows[:3])) == []
    assert [f.flaw for f in check(rows[:3], until=head)] == [Flaw.WRONG_HEAD]
    assert [f.flaw for f in check([], until=head)] == [Flaw.WRONG_HEAD]


def test_a_finding_says_what_is_wrong_and_where() -> None:
    rows, head = chain(4)

    gap = list(check([rows[0], rows[2], rows[3]], until=head))
    altered = list(check([rows[0], msgspec.structs.replace(rows[1], ts=0), *rows[2:]], until=head))
    broken = list(
        check([rows[0], *rehashed([rows[0], msgspec.structs.replace(rows[1], ts=0)], 1)[1:], *rows[2:]], until=head)
    )

    assert gap == [Finding(Flaw.GAP, 3, "e0-2", "3 stands where 2 should")]
    assert [(f.flaw, f.writer_seq, f.event_id) for f in altered] == [(Flaw.ALTERED, 2, "e0-1")]
    assert [(f.flaw, f.writer_seq, f.event_id) for f in broken] == [(Flaw.BROKEN_LINK, 3, "e0-2")]


def test_one_change_is_not_told_for_every_later_event() -> None:
    rows, head = chain(100)
    rows[10] = msgspec.structs.replace(rows[10], hash="f" * 64)

    assert len(list(check(rows, until=head))) == 2


@pytest.mark.parametrize("bad", [None, 5, 1.5, b"\xff", "\ud800", [], {"a": object()}, object(), 2**80, "zz", "é" * 64])
@pytest.mark.parametrize("field", FIELDS)
def test_no_content_makes_the_auditor_raise(field: str, bad: Any) -> None:
    rows, head = chain(3)
    if getattr(rows[1], field) == bad:
        return
    rows[1] = msgspec.structs.replace(rows[1], **{field: bad})

    assert list(check(rows, until=head))


def test_two_different_events_never_have_the_same_bytes() -> None:
    row = chain(1)[0][0]
    texts = ["", ",", '","', "a", 'a","b', "\\", '\\"', "null"]
    made = {
        canonical(msgspec.structs.replace(row, actor_id=a, trace_id=b, job_id=c))
        for a in texts
        for b in texts
        for c in (*texts, None)
    }

    assert len(made) == len(texts) ** 2 * (len(texts) + 1)
