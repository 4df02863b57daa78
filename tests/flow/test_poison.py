"""A request that kills the workers that take it ends with the second; others do not suffer by the rule."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.flow.scripted import (
    ANSWER,
    EVENT_HEAD,
    Script,
    Scripted,
    Visit,
    post,
    read_frame,
    start_worker,
    whole,
)
from tests.support.proxies import Proxy, start_proxy

QUICK = {"initial_backoff_s": 0.001, "max_backoff_s": 0.002}
POISON = b'{"text":"poison"}'

Dying = Callable[[Scripted, Visit], Any]


async def at_once(worker: Scripted, visit: Visit) -> None:
    worker.die()


async def after_a_head(worker: Scripted, visit: Visit) -> None:
    await visit.say(EVENT_HEAD)
    worker.die()


async def wait_for_prefill(visit: Visit) -> None:
    """As decode does: of a request whose prefill dies it has nothing to say."""
    await (visit.gone() if b"poison" in visit.body else visit.say(whole(ANSWER)))


def killed_by_poison(worker: Scripted, dying: Dying) -> Script:
    async def script(visit: Visit) -> None:
        if b"poison" in visit.body:
            await dying(worker, visit)
        else:
            await visit.say(whole(ANSWER))

    return script


@asynccontextmanager
async def four_and_four(victims: str, dying: Dying) -> AsyncIterator[tuple[Proxy, list[Scripted]]]:
    """A proxy before four pairs; and those of the role that poison kills."""
    async with AsyncExitStack() as stack:
        workers: dict[str, list[Scripted]] = {"prefill": [], "decode": []}
        for role, started in workers.items():
            for _ in range(4):
                started.append(await stack.enter_async_context(start_worker(role, wait_for_prefill)))
        for worker in workers[victims]:
            worker.script = killed_by_poison(worker, dying)
        proxy = await stack.enter_async_context(
            start_proxy(workers["prefill"], workers["decode"], retries=QUICK)
        )
        yield proxy, workers[victims]


async def ask(proxy: Proxy, body: bytes = b'{"text":"hello"}') -> tuple[int, bytes]:
    reader, writer = await proxy.connect()
    writer.write(post(body))
    frame = await read_frame(reader)
    writer.close()
    return frame.status, frame.body


def dead(workers: list[Scripted]) -> int:
    return sum(worker.server is not None and not worker.server.is_serving() for worker in workers)


@pytest.mark.parametrize("victims", ["prefill", "decode"])
@pytest.mark.parametrize("dying", [at_once, after_a_head])
@pytest.mark.parametrize("warm", [False, True], ids=["new", "reused"])
async def test_a_request_that_kills_is_given_up_with_the_second_worker(
    victims: str, dying: Dying, warm: bool
) -> None:
    async with four_and_four(victims, dying) as (proxy, workers):
        for _ in range(8 * warm):  # connections to be used again
            assert (await ask(proxy))[0] == 200
        status, body = await ask(proxy, POISON)
        assert status == 502
        assert b"2 workers died with this request in hand" in body
        assert dead(workers) == 2
        for _ in range(8):
            assert (await ask(proxy))[0] == 200


async def test_a_worker_that_drops_a_request_and_lives_is_no_victim() -> None:
    async def drops(worker: Scripted, visit: Visit) -> None:
        visit.reset()

    async with four_and_four("decode", drops) as (proxy, workers):
        status, body = await ask(proxy, POISON)
        assert status == 502
        assert b"died" not in body
        assert sum(len(worker.visits) for worker in workers) == 5, "all attempts were made"
