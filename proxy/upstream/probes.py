"""Health probes: cheap questions to every worker, and what is learned of it on the way."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.errors import UpstreamFailure, UpstreamTimeout
from proxy.roster import Change, Role, Worker
from proxy.routing.member import Member
from proxy.routing.pool import Pool
from proxy.upstream.facts import Facts, read_facts
from proxy.upstream.inquiries import Answer, Inquiries

_log = logging.getLogger(__name__)

_READY = "/ready"
_CHEAP = "/get_model_info"
"""Answered by the HTTP process alone. Not /health: that generates a token, takes seconds, and on a busy
prefill waits behind everybody's prompts."""
_TICK_S = 0.5  # why: how late a worker that joins unannounced gets its first probe
_CONCURRENCY = 64
_ANSWERS_S = 15.0  # why: a lease's TTL; a worker silent for longer is no better known than its key


@dataclass(frozen=True, slots=True)
class ProbeRules:
    """How often, and how many answers make a verdict."""

    interval_s: float = 5.0
    timeout_s: float = 5.0
    failures: int = 3
    successes: int = 1
    path: str | None = None
    """None: /ready where there is one, else /get_model_info."""
    grace_s: float = 30.0
    """A late probe does not count while the worker has answered anything within this time."""
    busy_grace_s: float = 120.0
    """The same while requests are in flight there: a long prefill holds its server's threads."""


class _Watched:
    """What the probes remember of one process."""

    def __init__(self, worker: Worker) -> None:
        self.process = _process(worker)
        self.due_at = float("-inf")
        self.under_way = False
        self.failures = 0
        self.successes = 0
        self.has_ready = True
        """Until it answers 404 to /ready."""
        self.bootstrap_answered = False
        self.facts: Facts | None = None
        self.answered_at = float("-inf")


class Probes:
    """Asks, judges by thresholds, and tells the pool."""

    def __init__(
        self, rules: ProbeRules, pool: Pool, inquiries: Inquiries, clock: Clock, rng: random.Random
    ) -> None:
        self._rules = rules
        self._pool = pool
        self._inquiries = inquiries
        self._now = clock.monotonic
        self._rng = rng
        self._watched: dict[str, _Watched] = {}
        self._gate = asyncio.Semaphore(_CONCURRENCY)
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Probes for ever; ends by cancellation only."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._start_due(group)
                self._wake.clear()
                try:
                    async with asyncio.timeout(_TICK_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    def wake(self) -> None:
        """Somebody has joined: probe at once, not at the next tick."""
        self._wake.set()

    def answers(self, worker_id: str) -> bool:
        """Whether a probe or real traffic saw the worker well within the last 15 s."""
        watched, member = self._watched.get(worker_id), self._pool.get(worker_id)
        last = max(
            watched.answered_at if watched is not None else float("-inf"),
            member.last_ok_at if member is not None else float("-inf"),
        )
        return self._now() - last <= _ANSWERS_S

    def _start_due(self, group: asyncio.TaskGroup) -> None:
        now = self._now()
        members = {member.worker.worker_id: member for member in self._pool.members()}
        for worker_id in self._watched.keys() - members.keys():
            del self._watched[worker_id]
        for worker_id, member in members.items():
            watched = self._watched.get(worker_id)
            if watched is None or watched.process != _process(member.worker):
                watched = self._watched[worker_id] = _Watched(member.worker)
            if now >= watched.due_at and not watched.under_way:
                watched.under_way = True
                group.create_task(self._guarded(watched, member))

    async def _guarded(self, watched: _Watched, member: Member) -> None:
        """One probe's outermost frame: nothing escapes into the group."""
        try:
            async with self._gate:
                await self._probe(watched, member)
        except Exception:  # noqa: BLE001
            _log.exception("probe of %s failed in an unforeseen way", member.worker.worker_id)
        finally:
            watched.under_way = False
            # Jitter, so that the probes of a fleet that came at once spread out.
            watched.due_at = self._now() + self._rules.interval_s * self._rng.uniform(0.8, 1.2)

    async def _probe(self, watched: _Watched, member: Member) -> None:
        worker = member.worker
        try:
            await self._ask_worker(watched, worker)
            await self._ask_bootstrap(watched, worker)
        except UpstreamTimeout as error:
            if not self._current(watched, worker.worker_id) or self._excused(worker.worker_id):
                return
            self._failed(watched, worker.worker_id, error.message)
        except UpstreamFailure as error:
            if self._current(watched, worker.worker_id):
                self._failed(watched, worker.worker_id, error.message)
        else:
            await self._succeeded(watched, worker.worker_id)

    async def _ask_worker(self, watched: _Watched, worker: Worker) -> None:
        if self._rules.path is None and watched.has_ready:
            answer = await self._get(worker, _READY)
            # 405 is said by servers that know the path for another method only.
            if answer.status not in (404, 405):
                return _check(answer, worker, _READY)
            watched.has_ready = False
        path = self._rules.path or _CHEAP
        return _check(await self._get(worker, path), worker, path)

    async def _ask_bootstrap(self, watched: _Watched, worker: Worker) -> None:
        """The bootstrap server's health, which counts only once it has answered: before that it may
        be that we cannot reach it, though the decodes can.
        """
        if worker.role is not Role.PREFILL or worker.bootstrap_port is None:
            return
        host = worker.bootstrap_host or worker.host
        bare = f"[{host}]" if ":" in host and not host.startswith("[") else host
        url = f"http://{bare}:{worker.bootstrap_port}/health"
        try:
            answer = await self._inquiries.ask_url(url, "GET", self._rules.timeout_s)
            _check(answer, worker, url)
        except UpstreamFailure as error:
            if watched.bootstrap_answered:
                raise type(error)(f"bootstrap server: {error.message}") from error
        else:
            watched.bootstrap_answered = True

    async def _get(self, worker: Worker, path: str) -> Answer:
        return await self._inquiries.ask(worker, "GET", path, self._rules.timeout_s)

    async def _succeeded(self, watched: _Watched, worker_id: str) -> None:
        member = self._pool.get(worker_id)
        if member is None:
            return
        if watched.facts is None or watched.facts.contradicts(member.worker):
            # Asked again while it contradicts: a server may switch its role in place.
            watched.facts = await self._learn(member.worker)
        if not self._current(watched, worker_id):
            return
        self._apply_facts(watched.facts, worker_id)
        watched.answered_at = self._now()
        member = self._pool.get(worker_id)
        if member is None:
            return
        contradiction = watched.facts.contradicts(member.worker)
        if contradiction is not None:
            if member.probe_ok is not False:
                _log.error("worker %s refused: %s", worker_id, contradiction)
            self._pool.probed(worker_id, False, contradiction)
            return
        watched.failures = 0
        watched.successes += 1
        if member.probe_ok is not False or watched.successes >= self._rules.successes:
            if member.probe_ok is False:
                _log.warning("worker %s is healthy again", worker_id)
            self._pool.probed(worker_id, True)

    def _failed(self, watched: _Watched, worker_id: str, reason: str) -> None:
        watched.successes = 0
        watched.failures += 1
        member = self._pool.get(worker_id)
        if member is None or watched.failures < self._rules.failures:
            return
        if member.probe_ok is not False:
            _log.warning("worker %s is unhealthy: %s", worker_id, reason)
        self._pool.probed(worker_id, False, reason)

    def _excused(self, worker_id: str) -> bool:
        """Whether a late answer proves nothing, since the worker was seen to work."""
        member = self._pool.get(worker_id)
        if member is None:
            return True
        grace_s = self._rules.busy_grace_s if member.in_flight else self._rules.grace_s
        return self._now() - member.last_ok_at <= grace_s

    async def _learn(self, worker: Worker) -> Facts:
        """Once a process; one that tells nothing stays unknown, and perfectly usable."""
        for path in ("/server_info", "/get_server_info"):
            try:
                info = await self._inquiries.get_json(worker, path, self._rules.timeout_s)
            except UpstreamTimeout:
                break
            except UpstreamFailure:
                continue
            facts = read_facts(info)
            if facts != Facts():
                return facts
        return Facts()

    def _apply_facts(self, facts: Facts, worker_id: str) -> None:
        """Every time anew: the registry's next word on the worker is again without them."""
        member = self._pool.get(worker_id)
        if member is None or facts.contradicts(member.worker):
            return
        filled = facts.fill(member.worker)
        if filled != member.worker:
            self._warn_of_models(facts, member.worker)
            self._pool.apply([Change(worker_id, filled)])

    def _warn_of_models(self, facts: Facts, worker: Worker) -> None:
        named = {
            watched.facts.model
            for other in self._pool.members()
            if other.worker.model == worker.model
            and (watched := self._watched.get(other.worker.worker_id)) is not None
            and watched.facts is not None
            and watched.facts.model is not None
        }
        if facts.model is not None and named - {facts.model}:
            _log.warning(
                "worker %s serves model %r, others of its pool serve %s: they are paired all the same, "
                "for none was registered under a model",
                worker.worker_id,
                facts.model,
                sorted(named - {facts.model}),
            )

    def _current(self, watched: _Watched, worker_id: str) -> bool:
        """Whether the worker is still the process that was asked: an answer of its predecessor is void."""
        member = self._pool.get(worker_id)
        return member is not None and _process(member.worker) == watched.process


def _process(worker: Worker) -> tuple[str, str | None, Role]:
    return worker.url, worker.instance, worker.role


def _check(answer: Answer, worker: Worker, path: str) -> None:
    """Any answer below 500 comes from a server that lives: old ones lack paths, others want a key."""
    if answer.status >= 500:
        raise UpstreamFailure(f"{worker.worker_id} answered {answer.status} to {path}")
