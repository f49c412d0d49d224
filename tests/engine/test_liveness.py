"""Promise P3, proof and not guess: the judge's table on made observations; ``test_liveness_processes.py`` has real ones."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.clock import rfc3339
from relight.engine.liveness import Judge, Observation, Subject
from relight.ids import EngineId
from relight.model import EngineRecord, EngineState, GateState, Role, Verdict
from relight.proof.lockfile import NOT_FOUND, LockInfo, Probe
from relight.proof.procfs import Host, ProcessId, ProcessView

ENGINE = "0199aaaa-0000-7000-8000-000000000001"
NONCE = "0123456789abcdef" * 2
LEASE = 30_000
PERIOD = LEASE // 3
HOUR = 3_600_000
NOW = 1_700_000_000_000
BOOT = "11111111-1111-1111-1111-111111111111"
OTHER_BOOT = "22222222-2222-2222-2222-222222222222"
HOST = Host(host_id="aaaa-1", boot_id=BOOT, pid_ns=77, name="here")
PROCESS = ProcessId(pid=4711, start_ticks=900, pid_ns=77, boot_id=BOOT)


def a_subject(**changes: object) -> Subject:
    row = Subject(ENGINE, NONCE, LEASE, NOW + LEASE, NOW, host_id="aaaa-1", boot_id=BOOT, pid=4711)
    return replace(row, **changes)  # type: ignore[arg-type]


def an_info(**changes: object) -> LockInfo:
    return replace(LockInfo(NONCE, PROCESS, "here", NOW, 1_000, 1_000), **changes)  # type: ignore[arg-type]


def a_lock(locked: bool, **changes: object) -> Probe:
    return Probe(found=True, nonce_matches=True, locked=locked, info=an_info(**changes))


def a_view(state: str = "S", cpu_ticks: int = 50, tracer_pid: int = 0) -> ProcessView:
    return ProcessView(4711, state, cpu_ticks, start_ticks=900, threads=3, tracer_pid=tracer_pid)


def seen(
    probe: Probe, process: ProcessView | None = None, *, gone: bool = False, at: int = 0, now: int = NOW
) -> Observation:
    return Observation(probe, process, gone, mono_ms=at, store_now_ms=now)


def a_judge(time_is_proof: bool = False) -> Judge:
    return Judge(HOST, time_is_proof=time_is_proof, period_ms=PERIOD)


# ---------------------------------------------------------------- the lock is free


@pytest.mark.parametrize("time_is_proof", [True, False])
@pytest.mark.parametrize("process", [None, a_view(), a_view("T"), a_view("t")])
def test_a_free_lock_is_death_whatever_the_last_beat(time_is_proof: bool, process: ProcessView | None) -> None:
    judge = a_judge(time_is_proof)
    for beat in (NOW, NOW - 1, NOW + HOUR, NOW - 1000 * HOUR, 0):
        free = seen(a_lock(False, beat_ms=beat), process)
        assert judge.judge(a_subject(beat_at=beat, lease_until=beat + LEASE), free).verdict is Verdict.DEAD


def test_a_free_lock_needs_no_grace_after_a_gap_of_the_judge() -> None:
    judge = a_judge()
    judge.note_gap(0)
    assert judge.judge(a_subject(), seen(a_lock(False), at=0)).verdict is Verdict.DEAD


def test_evidence_of_a_death_is_small_readable_and_storable() -> None:
    judged = a_judge().judge(a_subject(), seen(a_lock(False), gone=True, now=NOW + 1_500))
    assert json.loads(json.dumps(judged.evidence)) == {
        "reason": "lock_free",
        "lock": "free",
        "pid": 4711,
        "pid_gone": True,
        "last_beat": rfc3339(NOW),
        "beat_age_ms": 1_500,
        "boot_id": BOOT,
        "host": "here",
    }
    assert judged.reason == "lock_free"
    assert judged.last_beat_ms == NOW


def test_the_last_beat_is_the_later_of_row_and_file() -> None:
    judge = a_judge()
    assert judge.judge(a_subject(beat_at=NOW + 5), seen(a_lock(False))).last_beat_ms == NOW + 5
    assert judge.judge(a_subject(beat_at=NOW - 5), seen(a_lock(False))).last_beat_ms == NOW
    never = judge.judge(a_subject(beat_at=0), seen(a_lock(False, beat_ms=0)))
    assert (never.last_beat_ms, never.evidence["last_beat"], never.evidence["beat_age_ms"]) == (0, None, None)


@pytest.mark.parametrize("ms", [2**62, -(2**62)])
def test_a_damaged_time_is_shown_as_it_is(ms: int) -> None:
    judged = a_judge(True).judge(a_subject(beat_at=ms, lease_until=ms), seen(a_lock(False, beat_ms=ms)))
    assert judged.evidence["last_beat"] == str(ms)


# ---------------------------------------------------------------- the lock is held


@pytest.mark.parametrize("time_is_proof", [True, False])
def test_a_held_lock_is_life_however_old_beat_and_lease_are(time_is_proof: bool) -> None:
    old = a_subject(beat_at=NOW - 100 * HOUR, lease_until=NOW - 99 * HOUR)
    held = seen(a_lock(True, beat_ms=NOW - 100 * HOUR), a_view())
    judged = a_judge(time_is_proof).judge(old, held, at_start=True)
    assert (judged.verdict, judged.evidence["lock"]) == (Verdict.ALIVE, "held")


def test_a_stopped_owner_is_silent_at_once_although_its_beat_is_fresh() -> None:
    judged = a_judge().judge(a_subject(beat_at=NOW), seen(a_lock(True), a_view("T")))
    assert (judged.verdict, judged.reason) == (Verdict.SILENT, "process_stopped")
    assert judged.evidence["process"] == "T"


def test_a_continued_owner_is_alive_again() -> None:
    judge = a_judge()
    assert judge.judge(a_subject(), seen(a_lock(True), a_view("T"), at=0)).verdict is Verdict.SILENT
    assert judge.judge(a_subject(), seen(a_lock(True), a_view("S"), at=1)).verdict is Verdict.ALIVE


@pytest.mark.parametrize(("watched", "verdict"), [(LEASE - 1, Verdict.ALIVE), (LEASE, Verdict.SILENT)])
def test_an_owner_without_advance_is_silent_after_exactly_one_lease_of_watching(watched: int, verdict: Verdict) -> None:
    judge = a_judge()
    assert judge.judge(a_subject(), seen(a_lock(True), a_view(), at=500)).verdict is Verdict.ALIVE
    judged = judge.judge(a_subject(), seen(a_lock(True), a_view(), at=500 + watched))
    assert judged.verdict is verdict
    assert judged.evidence["unchanged_ms"] == watched


def test_it_is_the_owners_lease_that_counts() -> None:
    judge = a_judge()
    patient = a_subject(lease_ms=10 * LEASE)
    judge.judge(patient, seen(a_lock(True), a_view(), at=0))
    assert judge.judge(patient, seen(a_lock(True), a_view(), at=10 * LEASE - 1)).verdict is Verdict.ALIVE


@pytest.mark.parametrize("sign", ["cpu_ticks", "beat_ms", "loop_ms", "journal_ms"])
def test_any_one_sign_of_life_starts_the_watch_anew(sign: str) -> None:
    judge = a_judge()
    for look_number in range(10):
        figure = 1 + look_number
        lock = a_lock(True) if sign == "cpu_ticks" else a_lock(True, **{sign: figure})
        view = a_view(cpu_ticks=figure) if sign == "cpu_ticks" else a_view()
        judged = judge.judge(a_subject(), seen(lock, view, at=look_number * LEASE))
        assert judged.verdict is Verdict.ALIVE
    assert judge.judge(a_subject(), seen(lock, view, at=10 * LEASE)).verdict is Verdict.SILENT


def test_a_process_that_hogs_the_gil_is_alive_for_as_long_as_it_burns_cpu() -> None:
    judge = a_judge()
    for n in range(100):
        busy = seen(a_lock(True), a_view("R", cpu_ticks=n), at=n * LEASE)
        assert judge.judge(a_subject(beat_at=NOW - HOUR), busy).verdict is Verdict.ALIVE


def test_the_rows_beat_is_no_sign_of_life_of_a_lock_that_can_be_tried() -> None:
    judge = a_judge()
    judge.judge(a_subject(beat_at=NOW), seen(a_lock(True), a_view(), at=0))
    kept_by_a_keeper = a_subject(beat_at=NOW + LEASE, lease_until=NOW + 2 * LEASE)
    assert judge.judge(kept_by_a_keeper, seen(a_lock(True), a_view(), at=LEASE)).verdict is Verdict.SILENT


def test_a_traced_process_that_goes_on_is_alive_and_one_held_for_a_period_is_silent() -> None:
    judge = a_judge()
    for n in range(5):  # strace: caught in its tracer's stop at every look, yet it advances
        strace = seen(a_lock(True, beat_ms=NOW + n), a_view("t", tracer_pid=9), at=n * PERIOD)
        assert judge.judge(a_subject(), strace).verdict is Verdict.ALIVE
    early = judge.judge(a_subject(), seen(a_lock(True, beat_ms=NOW + 4), a_view("t", tracer_pid=9), at=5 * PERIOD - 1))
    judged = judge.judge(a_subject(), seen(a_lock(True, beat_ms=NOW + 4), a_view("t", tracer_pid=9), at=5 * PERIOD))
    assert early.verdict is Verdict.ALIVE
    assert (judged.verdict, judged.reason, judged.evidence["tracer_pid"]) == (Verdict.SILENT, "process_traced", 9)


def test_a_tracer_alone_is_no_stop() -> None:
    judge = a_judge()
    judge.judge(a_subject(), seen(a_lock(True), a_view("S", tracer_pid=9), at=0))
    assert (
        judge.judge(a_subject(), seen(a_lock(True), a_view("S", tracer_pid=9), at=LEASE - 1)).verdict is Verdict.ALIVE
    )


def test_an_owner_that_cannot_be_seen_stays_alive_because_it_may_be_busy() -> None:
    judge = a_judge()
    for at in (0, LEASE, 100 * LEASE):
        judged = judge.judge(a_subject(), seen(a_lock(True), None, at=at))
        assert (judged.verdict, judged.evidence["process"]) == (Verdict.ALIVE, "not visible")


def test_a_lock_held_by_an_heir_of_a_gone_process_is_silent_after_a_lease_not_dead() -> None:
    judge = a_judge()
    assert judge.judge(a_subject(), seen(a_lock(True), gone=True, at=0)).verdict is Verdict.ALIVE
    judged = judge.judge(a_subject(), seen(a_lock(True), gone=True, at=LEASE))
    assert (judged.verdict, judged.reason) == (Verdict.SILENT, "process_gone_lock_held")


def test_engines_are_watched_one_by_one_and_can_be_forgotten() -> None:
    judge, one, two = a_judge(), a_subject(), a_subject(engine_id="two")
    still = seen(a_lock(True), a_view(), at=0)
    later = replace(still, mono_ms=LEASE)
    judge.judge(one, still)
    assert judge.judge(two, later).verdict is Verdict.ALIVE
    assert judge.judge(one, later).verdict is Verdict.SILENT
    judge.forget(ENGINE)
    assert judge.judge(one, later).verdict is Verdict.ALIVE


# ---------------------------------------------------------------- the judge was away itself


def test_nobody_is_silent_or_expired_right_after_a_gap_of_the_judge() -> None:
    judge, far = a_judge(True), a_subject(engine_id="far")
    judge.judge(a_subject(), seen(a_lock(True), a_view(), at=0))
    judge.judge(far, seen(NOT_FOUND, at=0, now=NOW + HOUR))
    judge.note_gap(HOUR)
    assert judge.judge(a_subject(), seen(a_lock(True), a_view(), at=HOUR)).verdict is Verdict.ALIVE
    assert judge.judge(far, seen(NOT_FOUND, at=HOUR, now=NOW + HOUR)).verdict is Verdict.ALIVE
    assert judge.judge(a_subject(), seen(a_lock(True), a_view(), at=HOUR + LEASE)).verdict is Verdict.SILENT
    assert judge.judge(far, seen(NOT_FOUND, at=HOUR + LEASE, now=NOW + HOUR)).verdict is Verdict.LEASE_EXPIRED


def test_the_first_to_wake_after_ctrl_z_of_a_process_group_does_not_judge_the_others() -> None:
    judge = a_judge()
    judge.tick(0)
    assert judge.tick(HOUR)
    assert judge.judge(a_subject(), seen(a_lock(True), a_view("T"), at=HOUR)).verdict is Verdict.ALIVE
    assert judge.judge(a_subject(), seen(a_lock(True), a_view("T"), at=HOUR + PERIOD - 1)).verdict is Verdict.ALIVE
    assert judge.judge(a_subject(), seen(a_lock(True), a_view("T"), at=HOUR + PERIOD)).verdict is Verdict.SILENT


@pytest.mark.parametrize(("pause", "is_gap"), [(2 * PERIOD, False), (2 * PERIOD + 1, True)])
def test_a_pause_above_two_periods_is_a_gap(pause: int, is_gap: bool) -> None:
    judge = a_judge()
    assert not judge.tick(7)
    assert judge.tick(7 + pause) is is_gap


def test_a_stop_of_the_judge_between_its_tick_and_its_look_is_noticed() -> None:
    judge = a_judge()
    judge.tick(0)
    judge.judge(a_subject(), seen(a_lock(True), a_view(), at=0))
    judge.tick(PERIOD)
    assert judge.judge(a_subject(), seen(a_lock(True), a_view(), at=PERIOD + HOUR)).verdict is Verdict.ALIVE


def test_a_judge_that_ticks_each_period_finds_the_silent_after_one_lease() -> None:
    judge, verdicts = a_judge(), []
    for n in range(5):
        judge.tick(n * PERIOD)
        verdicts.append(judge.judge(a_subject(), seen(a_lock(True), a_view(), at=n * PERIOD + 3)).verdict)
    assert verdicts == [Verdict.ALIVE] * 3 + [Verdict.SILENT] * 2


# ---------------------------------------------------------------- another host: the lease


@pytest.mark.parametrize(
    ("over", "watched", "verdict"),
    [
        (1, LEASE, Verdict.LEASE_EXPIRED),
        (0, LEASE, Verdict.ALIVE),
        (1, LEASE - 1, Verdict.ALIVE),
        (-1, 100 * LEASE, Verdict.ALIVE),
        (100 * LEASE, LEASE - 1, Verdict.ALIVE),
    ],
)
def test_another_hosts_lease_must_be_over_and_its_beat_watched_for_one_lease(
    over: int, watched: int, verdict: Verdict
) -> None:
    judge, subject = a_judge(True), a_subject(boot_id=OTHER_BOOT, host_id="bbbb-2")
    judge.judge(subject, seen(NOT_FOUND, at=0))
    assert judge.judge(subject, seen(NOT_FOUND, at=watched, now=subject.lease_until + over)).verdict is verdict


def test_another_hosts_new_beat_starts_the_watch_anew() -> None:
    judge, at = a_judge(True), 0
    for n in range(20):
        late = a_subject(beat_at=NOW + n, lease_until=NOW + n + LEASE)
        judged = judge.judge(late, seen(NOT_FOUND, at=at, now=NOW + HOUR))
        assert judged.verdict is Verdict.ALIVE
        at += LEASE - 1
    assert judged.reason == "lease_over_not_watched_yet"


@pytest.mark.parametrize(("over", "verdict"), [(2 * LEASE, Verdict.ALIVE), (2 * LEASE + 1, Verdict.LEASE_EXPIRED)])
def test_at_start_a_lease_over_for_more_than_two_leases_suffices(over: int, verdict: Verdict) -> None:
    subject = a_subject()
    first_look = seen(NOT_FOUND, now=subject.lease_until + over)
    assert a_judge(True).judge(subject, first_look, at_start=True).verdict is verdict
    assert a_judge(True).judge(subject, first_look).verdict is Verdict.ALIVE


def test_a_gap_takes_the_shortcut_of_the_start_away() -> None:
    judge, subject = a_judge(True), a_subject()
    judge.note_gap(0)
    long_over = seen(NOT_FOUND, at=1, now=subject.lease_until + HOUR)
    assert judge.judge(subject, long_over, at_start=True).verdict is Verdict.ALIVE


def test_a_free_lock_of_another_host_on_a_shared_file_system_decides_nothing() -> None:
    elsewhere = a_lock(False, process=replace(PROCESS, boot_id=OTHER_BOOT), host="there")
    assert a_judge(True).judge(a_subject(boot_id=OTHER_BOOT), seen(elsewhere)).verdict is Verdict.ALIVE
    rebooted = a_lock(False, process=replace(PROCESS, boot_id=OTHER_BOOT), host="here")
    assert a_judge(True).judge(a_subject(boot_id=OTHER_BOOT), seen(rebooted)).verdict is Verdict.DEAD


# ---------------------------------------------------------------- SQLite without a provable lock file

UNPROVABLE = [
    NOT_FOUND,
    Probe(True, False, False, None, "permission denied"),
    Probe(True, False, False, None, "not a lock file of this version"),
    Probe(True, False, False, an_info(nonce="f" * 32), "another engine's nonce"),
]


@pytest.mark.parametrize("probe", UNPROVABLE)
def test_time_is_never_proof_on_one_host(probe: Probe) -> None:
    judge, old = a_judge(), a_subject(beat_at=NOW - 1000 * HOUR, lease_until=NOW - 999 * HOUR)
    for at in (0, LEASE, 1000 * LEASE):
        judged = judge.judge(old, seen(probe, at=at), at_start=True)
        assert (judged.verdict, judged.reason) == (Verdict.ALIVE, "lock_not_provable")
        assert judged.evidence["lock"] == (f"not provable: {probe.problem}" if probe.problem else "lock file missing")


@pytest.mark.parametrize("probe", UNPROVABLE)
def test_without_a_lock_file_another_boot_or_a_gone_process_is_proof(probe: Probe) -> None:
    other_boot = a_judge().judge(a_subject(boot_id=OTHER_BOOT), seen(probe))
    assert (other_boot.verdict, other_boot.reason) == (Verdict.DEAD, "other_boot")
    gone = a_judge().judge(a_subject(), seen(probe, gone=True))
    assert (gone.verdict, gone.reason) == (Verdict.DEAD, "pid_gone")


def test_a_gone_process_of_another_host_or_of_an_unknown_boot_is_no_proof() -> None:
    for row in (a_subject(host_id="bbbb-2"), a_subject(boot_id=""), a_subject(host_id="", boot_id="")):
        assert a_judge().judge(row, seen(NOT_FOUND, gone=True)).verdict is Verdict.ALIVE
    nowhere = Judge(replace(HOST, boot_id=""), time_is_proof=False, period_ms=PERIOD)
    assert nowhere.judge(a_subject(boot_id=""), seen(NOT_FOUND, gone=True)).verdict is Verdict.ALIVE
    assert nowhere.judge(a_subject(boot_id=OTHER_BOOT), seen(NOT_FOUND)).verdict is Verdict.ALIVE


# ---------------------------------------------------------------- clocks that jump

LOOKS = st.lists(
    st.tuples(
        st.booleans(),  # is the lock file here?
        st.booleans(),  # held?
        st.sampled_from(["S", "R", "T", "t", None]),
        st.integers(0, 1),  # CPU time since the last look
        st.integers(0, LEASE),  # milliseconds since the last look
        st.sampled_from([-24 * HOUR, -HOUR, 0, HOUR, 24 * HOUR]),  # how wrong the wall clock is
    ),
    min_size=1,
    max_size=30,
)


def verdicts_of(looks: list[tuple[bool, bool, str | None, int, int, int]], jumps: bool) -> list[Verdict]:
    """Run one history on one host; with ``jumps`` every wall clock, also the owner's, is set wrong at each look."""
    judge, at, cpu, verdicts = a_judge(), 0, 0, []
    for number, (here, held, state, ticks, passed, jump) in enumerate(looks):
        at, cpu, wrong = at + passed, cpu + ticks, jump if jumps else 0
        lock = a_lock(held, beat_ms=NOW + number // 3) if here else NOT_FOUND
        row = a_subject(beat_at=NOW + wrong, lease_until=NOW + LEASE + wrong)
        view = a_view(state, cpu) if state else None
        verdicts.append(judge.judge(row, seen(lock, view, at=at, now=NOW + at + wrong)).verdict)
    return verdicts


@given(LOOKS)
def test_a_wall_clock_set_wrong_changes_no_verdict_on_one_host(
    looks: list[tuple[bool, bool, str | None, int, int, int]],
) -> None:
    assert verdicts_of(looks, jumps=True) == verdicts_of(looks, jumps=False)


@given(LOOKS)
def test_dead_is_said_exactly_when_the_lock_was_seen_free(
    looks: list[tuple[bool, bool, str | None, int, int, int]],
) -> None:
    dead = [verdict is Verdict.DEAD for verdict in verdicts_of(looks, jumps=True)]
    assert dead == [here and not held for here, held, *_ in looks]


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_living_engine_of_another_host_survives_a_jump_of_the_stores_clock(jump: int) -> None:
    judge, beat, at = a_judge(True), NOW, 0
    for n in range(40):
        wrong = jump if n >= 10 else 0
        if n % 2 == 0:  # it beats by the same clock, each sixth of its lease
            beat = NOW + at + wrong
        judge.tick(at)
        row = a_subject(beat_at=beat, lease_until=beat + LEASE)
        assert judge.judge(row, seen(NOT_FOUND, at=at, now=NOW + at + wrong)).verdict is Verdict.ALIVE
        at += LEASE // 12


def test_a_subject_is_what_the_engines_row_says() -> None:
    row = EngineRecord(
        engine_id=EngineId(ENGINE),
        role=Role.ENGINE,
        name="e",
        state=EngineState.LIVE,
        gate=GateState.OPEN,
        nonce=NONCE,
        host_id="aaaa-1",
        boot_id=BOOT,
        pid=4711,
        lease_ms=LEASE,
        lease_until=NOW + LEASE,
        beat_at=NOW,
    )
    assert Subject.of(row) == a_subject()
