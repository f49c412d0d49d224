"""Resources from every kind of factory, each typed as the open thing itself: none of them has to be annotated."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from types import TracebackType
from typing import Self, assert_type

from relight import Resource, step, workflow


class Model:
    def ask(self, question: str) -> str:
        return question.upper()


class Session:
    """A client that is its own context manager, as many are."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        pass


class AsyncSession:
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        pass


def load() -> Model:
    return Model()


@contextmanager
def lend() -> Iterator[Model]:
    yield Model()


@asynccontextmanager
async def connect() -> AsyncIterator[Model]:
    yield Model()


by_class = Resource(Model)
by_function = Resource(load, name="model")
by_lambda = Resource(lambda: Model())
by_context = Resource(lend)
by_async_context = Resource(connect, name="pool")
session = Resource(Session)
async_session = Resource(AsyncSession)
database = Resource(lambda: closing(sqlite3.connect("x.db")))


@step
def answer(question: str) -> str:
    assert_type(by_class(), Model)
    assert_type(by_function(), Model)
    assert_type(by_lambda(), Model)
    assert_type(by_context(), Model)
    assert_type(by_async_context(), Model)
    assert_type(session(), Session)
    assert_type(async_session(), AsyncSession)
    assert_type(database(), sqlite3.Connection)
    return by_context().ask(question)


@workflow
def chat(question: str) -> str:
    return answer(question)
