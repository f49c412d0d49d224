"""Periodic digest and delayed jobs, from cron(8) until there are schedules."""

from datetime import UTC, date, datetime, timedelta

from relight import Client, Job, now, sleep_until, step, workflow


@step
def collect(day: date) -> list[str]:
    return [f"what happened on {day}"]


@step(in_doubt="ask")
def mail(lines: list[str]) -> None: ...


@workflow
def digest(day: date) -> int:
    lines = collect(day)
    mail(lines)
    return len(lines)


@workflow
def reminder(text: str, at: datetime) -> None:
    sleep_until(at)
    mail([text, f"at {now():%H:%M}"])


if __name__ == "__main__":
    with Client("jobs.db", workflows=[digest]) as client:
        today = datetime.now(UTC).date()
        client.submit(digest, today, idempotency_key=f"digest-{today}")
        client.submit(digest, today, run_at=datetime.now(UTC) + timedelta(hours=2))
        client.submit(digest, today, delay_seconds=7200)
        new_year = datetime(2127, 1, 1, tzinfo=UTC)
        reminders: list[Job[None]] = client.submit_many(
            reminder.bind(text, new_year).options(idempotency_key=text) for text in ("a", "b")
        )
        print(*(job.created for job in reminders))
