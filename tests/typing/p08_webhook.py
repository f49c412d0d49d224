"""Webhook from outside, with a time-out and heartbeats; polling when nobody calls back; their id instead of our token."""

from dataclasses import dataclass

from relight import AsyncClient, Client, External, external, issue, log, poll, publish, step, wait_signal, workflow
from relight.errors import WaitTimeout


@dataclass
class Scan:
    clean: bool
    report: str


@step
def order_scan(file: str, callback: str) -> str:
    return f"{file} is scanned for {callback}"


@step
def check_status(state: str) -> str:
    return "done" if state == "asked" else "asked"


@workflow
def scan_upload(file: str, patience_seconds: float = 3600) -> Scan:
    answer: External[Scan] = external("virus-scan", type=Scan, timeout_seconds=patience_seconds, heartbeat_seconds=300)
    order_scan(file, f"https://app.example/hooks/{answer.token}")
    publish("token", answer.token)
    try:
        return answer.wait()
    except WaitTimeout as error:
        log.warning("no answer: %s", error.summary)
        issue("no_callback", error.summary)
        last = poll(check_status, "unknown", until=lambda s: s == "done", every_seconds=0.01, timeout_seconds=1800)
        return Scan(last == "done", "by polling")


@workflow
async def either() -> str:
    got = await wait_signal.aio("paid", "cancelled", timeout_seconds=60)
    return f"{got.name} by {got.by}: {got.payload(str)}"


async def hook(token: str, body: Scan, client: AsyncClient) -> int:
    return 200 if (await client.complete(token, body)).counted else 208


def failed_hook(token: str, client: Client) -> None:
    client.heartbeat(token, "still at it")
    client.fail(token, "no licence")


async def provider(event: dict[str, str], client: AsyncClient) -> None:  # their id, not our token
    job = client.job(kind="checkout", idempotency_key=event["order"])
    await job.signal("paid", event, by="provider", idempotency_key=event["id"])
    scan: Scan = await job.published("scan", type=Scan, timeout_seconds=1)
    print(scan.report.upper())
