"""Payment and e-mail: reconcile, declared errors, a person's answer."""

from dataclasses import dataclass

from relight import Done, NotDone, Resource, Retry, current_step, step, workflow
from relight.errors import StepFailed


@dataclass(frozen=True)
class Order:
    id: str
    amount_cents: int
    email: str


@dataclass
class CardDeclined(Exception):
    reason: str


class Stripe:
    """Stands in for a payment provider."""

    def find(self, key: str) -> str | None:
        raise NotImplementedError

    def charge(self, cents: int, key: str) -> str:
        raise NotImplementedError


stripe: Resource[Stripe] = Resource(Stripe)


def already_charged(order: Order) -> Done[str] | NotDone:
    found = stripe().find(current_step().idempotency_key)
    return Done(found) if found else NotDone()


@step(in_doubt=already_charged, retry=Retry(tries=4, first_seconds=0.05), timeout_seconds=30, raises=(CardDeclined,))
def charge(order: Order) -> str:
    return stripe().charge(order.amount_cents, current_step().idempotency_key)


@step(in_doubt="ask")
def send_receipt(to: str, receipt: str) -> None: ...


@workflow(on_stall="resume")
def checkout(order: Order) -> str:
    try:
        receipt = charge(order)
    except CardDeclined as declined:
        return f"declined: {declined.reason}"
    try:
        send_receipt(order.email, receipt)
    except StepFailed as error:
        return f"{receipt} (mail failed: {error.message})"
    return receipt
