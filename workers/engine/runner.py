"""Runs a job as its role does: prefill hands over, decode receives and goes on, regular does both."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.roster import Role
from workers.engine.config import EngineConfig
from workers.engine.jobs import Aborted, Failure, Job, LogprobWish
from workers.engine.kv import FAKE_HOST, Kv, Room, Rooms, decode_failure, prefill_failure
from workers.engine.kv_client import KvClient
from workers.engine.metrics import Totals
from workers.engine.oracle import EOS_ID, Context, Model, detokenize, logprob
from workers.engine.prefix_cache import PrefixCache
from workers.engine.scheduler import Scheduler

Emit = Callable[[Job], Awaitable[None]]
"""Called after every event's worth of tokens, and at the end, with the job as it then stands."""

# why: other tasks (aborts, new requests) must get a turn even when tokens cost no time.
_TOKENS_BETWEEN_TURNS = 16


@dataclass(slots=True)
class Runner:
    """What the running of a job needs."""

    config: EngineConfig
    clock: Clock
    scheduler: Scheduler
    rooms: Rooms
    kv_client: KvClient
    cache: PrefixCache
    model: Model
    totals: Totals

    async def run(self, job: Job, emit: Emit) -> None:
        """Runs `job` to its end; failures of its own end it with a finish reason."""
        try:
            if self.config.role is Role.REGULAR:
                await self._regular(job, emit)
            elif job.room is None:
                raise Failure(_no_room(job), 400)
            else:
                job.dp_rank = self._dp_rank(job)
                await (self._prefill if self.config.role is Role.PREFILL else self._decode)(job, emit)
        except Failure as failure:
            job.fail(failure)
        except Aborted:
            job.end({"type": "abort", "message": "Abort before prefill"})
        finally:
            self.scheduler.leave(job)
        job.finished_at = self.clock.time()
        self.totals.finished(job)
        await emit(job)

    def _dp_rank(self, job: Job) -> int | None:
        assert job.room is not None
        rank = job.room % self.config.dp_size
        if job.wanted_dp_rank not in (None, rank) and self.config.modern:
            raise Failure(
                f"routed_dp_rank={job.wanted_dp_rank} does not match bootstrap_room={job.room}", 400
            )
        return rank if self.config.dp_size > 1 else None

    async def _regular(self, job: Job, emit: Emit) -> None:
        await self.scheduler.enter(job)
        job.started_at = self.clock.time()
        context = await self._compute(job)
        await self._generate(job, context, None, emit)

    async def _prefill(self, job: Job, emit: Emit) -> None:
        if job.fault is not None and job.fault.kind == "kv_bootstrap":
            raise prefill_failure("bootstrap", job, job.fault.message or "Failed to get the decode's info")
        if job.bootstrap_host == FAKE_HOST:
            await self.scheduler.enter(job)
            job.started_at = self.clock.time()
            self._first_token(job, await self._compute(job))
            return
        room = self.rooms.enter(job)
        try:
            await self._await_decode(job, room)
            await self.scheduler.enter(job)
            job.started_at = self.clock.time()
            context = await self._compute(job)
            digest = context.digest().hex()
            token = self._first_token(job, context, end=False)
            await self._transfer(job, room, Kv(digest, token, job.cached_tokens))
            job.end({"type": "length", "length": 0})
        finally:
            self.rooms.leave(room)

    async def _await_decode(self, job: Job, room: Room) -> None:
        limit_s = self.config.bootstrap_timeout_s
        try:
            with job.interruptible():
                async with asyncio.timeout(limit_s):
                    await asyncio.shield(room.came)
        except TimeoutError:
            waited = f"timed out after {limit_s:.1f}s in KVPoll.Bootstrapping"
            raise prefill_failure("bootstrap", job, f"Request {job.room} {waited}") from None
        except Aborted:
            raise prefill_failure("bootstrap", job, "Aborted by AbortReq.") from None

    async def _compute(self, job: Job) -> Context:
        job.cached_tokens = self.cache.visit(job.ids)
        context = Context(job.ids)
        if job.logprobs is not None:
            _tell_input(job, job.logprobs, context.digest())
        if self.config.prefill_tokens_per_s:
            with job.interruptible():
                await asyncio.sleep((len(job.ids) - job.cached_tokens) / self.config.prefill_tokens_per_s)
        job.prefilled_at = self.clock.time()
        return context

    def _first_token(self, job: Job, context: Context, end: bool = True) -> int:
        token = self.model.next_token(context, may_end=job.sampling.min_new_tokens < 1)
        self._push(job, context, token)
        if end:
            job.end({"type": "length", "length": 0})
        return token

    async def _transfer(self, job: Job, room: Room, kv: Kv) -> None:
        session, now_s = room.decode_session or "", self.clock.monotonic()
        fault = job.fault if job.fault is not None and job.fault.kind == "kv_transfer" else None
        if fault is not None:
            reason = fault.message or f"Failed to send kv chunk of {job.room} to 127.0.0.1"
            if fault.session_dead:
                self.rooms.break_session(session, now_s)
            self.rooms.fail(room, reason)
        elif not self.rooms.session_alive(session, now_s):
            self.rooms.fail(
                room, f"Decode instance could be dead, remote mooncake session {session} is not alive"
            )
        else:
            self.rooms.deliver(room, kv)
        try:
            with job.interruptible():
                await asyncio.shield(room.done)
        except Aborted:
            raise prefill_failure("transfer", job, "Aborted by AbortReq.") from None
        if room.broken is not None:
            if fault is None:
                self.rooms.break_session(session, now_s)
            raise prefill_failure("transfer", job, room.broken)
        self.rooms.last_transfer_s = self.clock.monotonic() - now_s
        self.rooms.transferred_bytes += len(job.ids) * self.config.kv_bytes_per_token

    async def _decode(self, job: Job, emit: Emit) -> None:
        fault = job.fault
        if fault is not None and fault.kind == "kv_bootstrap":
            raise decode_failure("handshake", job, fault.message or "Aborted by AbortReq.")
        await self.scheduler.enter(job)
        if job.bootstrap_host == FAKE_HOST:
            context = Context(job.ids, damage=b"no kv")
            first = self.model.next_token(context)
        else:
            kv = await self.kv_client.receive(job)
            job.cached_tokens, first = kv.cached_tokens, kv.first_token
            context = Context(job.ids)
            if context.digest().hex() != kv.digest:
                context = Context(job.ids, damage=kv.digest.encode())
        if fault is not None and fault.kind == "kv_transfer":
            raise decode_failure(
                "transfer",
                job,
                fault.message or "Failed to get kvcache from prefill instance, it might be dead",
            )
        job.started_at = self.clock.time()
        await self._generate(job, context, first, emit)

    async def _generate(self, job: Job, context: Context, first: int | None, emit: Emit) -> None:
        """Tokens until something ends them; the caller emits the last event."""
        pace_s = self.config.decode_ms_per_token / 1e3
        due_s = self.clock.monotonic()
        while not self._ended(job):
            count = len(job.output_ids)
            if count:
                due_s += pace_s
                wait_s = due_s - self.clock.monotonic()
                if wait_s > 0 or count % _TOKENS_BETWEEN_TURNS == 0:
                    await asyncio.sleep(max(wait_s, 0))
            if job.aborted:
                job.end({"type": "abort", "message": "Aborted", "status_code": None, "err_type": None})
                return
            may_end = not job.sampling.ignore_eos and count >= job.sampling.min_new_tokens
            given = first if count == 0 else None
            token = self.model.next_token(context, may_end) if given is None else given
            self._push(job, context, token)
            if self._ended(job):
                return
            if count % self.config.stream_interval == 0:
                job.show()
                await emit(job)

    def _ended(self, job: Job) -> bool:
        if job.finish is None:
            reason = _reason_to_end(job)
            if isinstance(reason, Failure):
                job.fail(reason)
            elif reason is not None:
                job.end(reason)
                _trim_stop(job)
        return job.finish is not None

    def _push(self, job: Job, context: Context, token: int) -> None:
        now = self.clock.time()
        job.first_token_at = job.first_token_at or now
        if job.logprobs is not None:
            digest, with_text = context.digest(), job.logprobs.text
            job.output_logprobs.append(_entry(token, digest, with_text))
            if job.logprobs.top:
                job.output_top_logprobs.append(_tops(token, digest, job.logprobs))
        context.append(token)
        job.push(token)
        self.totals.generated_tokens += 1


def _reason_to_end(job: Job) -> dict[str, object] | Failure | None:
    count, sampling, fault = len(job.output_ids), job.sampling, job.fault
    if fault is not None:
        if fault.kind == "length_zero" and not count:
            return {"type": "length", "length": 0}
        if fault.kind in ("abort", "role_then_abort") and count >= fault.after_events:
            return Failure(fault.message or "Aborted", fault.status)
    if count and count >= sampling.min_new_tokens:
        last = job.output_ids[-1]
        if last in sampling.stop_token_ids or (last == EOS_ID and not sampling.ignore_eos):
            job.matched_stop = last
            return {"type": "stop", "matched": last}
        found = next((stop for stop in sampling.stop if stop and stop in job.text), None)
        if found is not None:
            job.matched_stop = found
            return {"type": "stop", "matched": found}
    if count >= sampling.max_new_tokens:
        return {"type": "length", "length": sampling.max_new_tokens}
    return None


def _trim_stop(job: Job) -> None:
    matched = job.matched_stop
    if job.sampling.no_stop_trim or matched is None:
        return
    if isinstance(matched, str):
        job.text = job.text[: job.text.index(matched)]
    elif matched != EOS_ID:
        job.text = job.text.removesuffix(detokenize([matched]))


def _no_room(job: Job) -> str:
    return f"Invalid request: Disaggregated request received without bootstrap room id. req.rid={job.rid!r}"


def _entry(token: int, digest: bytes, with_text: bool, rank: int = 0) -> list[object]:
    return [logprob(token, digest, rank), token, detokenize([token]) if with_text else None]


def _tops(token: int, digest: bytes, wish: LogprobWish) -> list[object]:
    dice = random.Random(digest)
    others = [dice.randrange(256, EOS_ID) for _ in range(wish.top - 1)]
    return [_entry(other, digest, wish.text, rank) for rank, other in enumerate([token, *others])]


def _tell_input(job: Job, wish: LogprobWish, digest: bytes) -> None:
    """The first told position has no value: nothing stands before it."""
    start = wish.start if 0 <= wish.start < len(job.ids) else len(job.ids) - 1
    told = job.ids[start:]
    job.input_logprobs = [_entry(token, digest, wish.text) for token in told]
    if job.input_logprobs:
        job.input_logprobs[0][0] = None
    if wish.top:
        job.input_top_logprobs = [None, *(_tops(token, digest, wish) for token in told[1:])]
