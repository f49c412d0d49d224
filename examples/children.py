"""Child jobs: each has a handle, a state and a ``why`` of its own, and any engine on the store may run it.

Steps run in the engine that owns the job; work spreads over engines as child jobs.
"""

from relight import Engine, Queue, Retry, start, step, workflow
from relight.errors import JobFailed

narrow = Queue("narrow", slots=2)


@step(retry=Retry(tries=2, first_seconds=0.05))
def measure(name: str) -> int:
    if name == "broken":
        raise ValueError("no such page")
    return len(name)


@workflow(queue=narrow)
def index_one(name: str) -> int:
    return measure(name)


@workflow
def index_all(names: list[str]) -> dict[str, int]:
    children = start(index_one.bind(name) for name in names)  # one transaction for all of them
    sizes = {}
    for name, child in zip(names, children, strict=True):
        try:
            sizes[name] = child.result()
        except JobFailed as error:
            print(f"{name} failed: {error.fields['message']}")
            sizes[name] = -1
    return sizes


if __name__ == "__main__":
    with Engine("children.db", workflows=[index_all, index_one], queues=[narrow]) as engine:
        job = engine.submit(index_all, ["home", "broken", "about us"])
        print(job.result(timeout_seconds=20))
        print(sorted(f"{each.kind} {each.state}" for each in engine.jobs()))
