"""Hello: one workflow, one step, a key."""

from relight import Engine, Job, step, workflow


@step
def greet(name: str) -> str:
    return f"Hello, {name}"


@workflow
def hello(name: str) -> str:
    return greet(name)


if __name__ == "__main__":
    with Engine("hello.db", workflows=[hello]) as engine:
        job: Job[str] = engine.submit(hello, "Ada", idempotency_key="ada")
        print(job.id, job.result(timeout_seconds=10).upper())
