"""The smallest job: one workflow, one step."""

from relight import Engine, step, workflow


@step
def greet(name: str) -> str:
    return f"Hello, {name}"


@workflow
def hello(name: str) -> str:
    return greet(name)


if __name__ == "__main__":
    with Engine("hello.db", workflows=[hello]) as engine:
        job = engine.submit(hello, "Ada")
        print(job.result(timeout_seconds=10))
