"""A charge that must not happen twice, through a gateway whose answer gets lost.

The first try charges the card and then loses the connection: nobody knows whether it happened. Before the second try
Relight calls ``already_charged``, which finds the charge under the step's idempotency key. The card is charged once.
"""

from dataclasses import dataclass

from relight import Done, Engine, NotDone, Resource, Retry, current_step, step, workflow


@dataclass(frozen=True)
class Order:
    id: str
    cents: int
    email: str


@dataclass
class CardDeclined(Exception):
    reason: str


class Gateway:
    """Stands in for a payment provider: charges are kept under the key that they were asked for with."""

    def __init__(self) -> None:
        self.charges: dict[str, tuple[int, str]] = {}
        self.lost_answers = 1

    def find(self, key: str, cents: int) -> str | None:
        charged, receipt = self.charges.get(key, (0, ""))
        return receipt if charged == cents else None

    def charge(self, cents: int, key: str) -> str:
        if cents > 100_000:
            raise CardDeclined("over the limit")
        self.charges.setdefault(key, (cents, f"receipt-{len(self.charges) + 1}"))
        if self.lost_answers:
            self.lost_answers -= 1
            raise ConnectionError("connection reset by peer")
        return self.charges[key][1]


# begin charge
gateway = Resource(Gateway)


def already_charged(order: Order) -> Done[str] | NotDone:
    receipt = gateway().find(current_step().idempotency_key, order.cents)
    return Done(receipt) if receipt else NotDone()


@step(in_doubt=already_charged, retry=Retry(4, first_seconds=0.1), timeout_seconds=30, raises=(CardDeclined,))
def charge(order: Order) -> str:
    return gateway().charge(order.cents, current_step().idempotency_key)


@step(in_doubt="ask")
def send_receipt(email: str, receipt: str) -> None:
    print(f"to {email}: {receipt}")


@workflow
def checkout(order: Order) -> str:
    try:
        receipt = charge(order)
    except CardDeclined as declined:
        return f"declined: {declined.reason}"
    send_receipt(order.email, receipt)
    return receipt


# end charge


if __name__ == "__main__":
    fake = Gateway()
    with Engine("payment.db", workflows=[checkout], resources={gateway: fake}) as engine:
        paid = engine.submit(checkout, Order("o-17", 1200, "ada@example.com"), idempotency_key="o-17")
        print(paid.result(timeout_seconds=10), f"({len(fake.charges)} charge)")
        for event in paid.events():
            if event.type in ("step_in_doubt", "step_reconciled"):
                print(f"{event.type} {event.step_key}: {dict(event.payload)}")
        dear = engine.submit(checkout, Order("o-18", 500_000, "ben@example.com"))
        print(dear.result(timeout_seconds=10))
