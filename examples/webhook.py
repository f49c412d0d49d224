"""Wait for a message from outside: what a webhook handler calls when a payment provider reports back.

The provider knows its own order id and not ours, so the handler finds the job by kind and key. Providers deliver twice:
the same ``idempotency_key`` makes the second delivery do nothing.
"""

from dataclasses import dataclass

from relight import Client, Engine, step, wait_signal, workflow
from relight.errors import WaitTimeout


@dataclass
class Paid:
    cents: int
    reference: str


@step
def reserve(order_id: str) -> str:
    return f"shelf-{order_id}"


@step
def ship(place: str, reference: str) -> str:
    return f"shipped from {place} for {reference}"


@workflow
def fulfil(order_id: str) -> str:
    place = reserve(order_id)
    try:
        paid = wait_signal("paid", type=Paid, timeout_seconds=3 * 86_400)
    except WaitTimeout:
        return "never paid"
    return ship(place, paid.reference)


def on_webhook(store: str, order_id: str, event_id: str, cents: int) -> None:
    """What the HTTP handler does; it may run in another process than the engine."""
    with Client(store, workflows=[fulfil]) as client:
        job = client.job(kind="fulfil", idempotency_key=order_id)
        job.signal("paid", Paid(cents, event_id), by="provider", idempotency_key=event_id)


if __name__ == "__main__":
    with Engine("webhook.db", workflows=[fulfil]) as engine:
        job = engine.submit(fulfil, "o-17", idempotency_key="o-17")
        on_webhook("webhook.db", "o-17", "evt-1", 1200)
        on_webhook("webhook.db", "o-17", "evt-1", 1200)  # delivered again
        print(job.result(timeout_seconds=10))
        print(sum(event.type == "signal_sent" for event in job.events()), "signal")
