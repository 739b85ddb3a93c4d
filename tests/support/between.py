"""Has others do something just in between, where a race would be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twinlens.shared.redis.client import Redis

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.client import Pipeline


def before_transaction(client: Redis, change: Callable[[], object]) -> None:
    """Has something happen once between what a transaction has read and what it writes."""
    _around(client, lambda pipeline: bool(pipeline.watching), before=change)


def before_pipeline(client: Redis, change: Callable[[], object]) -> None:
    """Has something happen once, just before a pipeline of a client is executed."""
    _around(client, lambda _: True, before=change)


def after_read(client: Redis, change: Callable[[], object]) -> None:
    """Has something happen once as soon as a pipeline of a client has been executed."""
    _around(client, lambda _: True, after=change)


def _around(
    client: Redis,
    is_meant: Callable[[Pipeline], bool],
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> None:
    make_pipeline = client.pipeline

    def pipeline(*args: Any, **options: Any) -> Pipeline:
        made = make_pipeline(*args, **options)
        really_execute = made.execute

        def execute(*args: Any, **options: Any) -> Any:
            if not is_meant(made):
                return really_execute(*args, **options)
            client.pipeline = make_pipeline  # type: ignore[method-assign]
            before()
            answers = really_execute(*args, **options)
            after()
            return answers

        made.execute = execute  # type: ignore[method-assign]
        return made

    client.pipeline = pipeline  # type: ignore[method-assign]


class BusyRedis(Redis):
    """A client before whose every command somebody else does something."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self.meanwhile()
        execute: Any = super().execute_command
        return execute(*args, **options)
