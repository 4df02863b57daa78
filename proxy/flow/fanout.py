"""n > 1: as many single requests as answers are wanted, merged into one answer in order.

SGLang's PD mode cannot do it: its n internal requests would share one room. Each branch is
the client's whole request with n = 1, a batch included: answer j to prompt i has the index
i * n + j, as in SGLang.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from proxy.flow.events import (
    Members,
    as_array,
    as_object,
    decode_array,
    decode_object,
    encode,
    map_events,
    raw,
    whole_number,
)
from proxy.flow.farewell import DONE, NO_STREAM, as_events
from proxy.flow.recipient import Amend
from proxy.flow.request import Intake, Reply
from proxy.flow.trail import Trail
from proxy.telemetry.histogram import Histogram
from proxy.upstream.framing import ResponseHead
from proxy.upstream.outcome import Failure


def one_answer(intake: Intake, generate: bool) -> bytes:
    """The member that overrides n in a branch's body, with a comma before it."""
    if not generate:
        return b',"n":1'
    sampling = intake.sampling_params or b"{}"
    if sampling.lstrip()[:1] == b"[":
        items = [_with_n(item) for item in decode_array(sampling)]
        return b',"sampling_params":[%b]' % b",".join(items)
    return b',"sampling_params":%b' % _with_n(sampling)


def _with_n(sampling: bytes | msgspec.Raw) -> bytes:
    return encode({**decode_object(sampling), "n": 1})


class Merger:
    """Collects the branches' answers and writes one."""

    def __init__(self, reply: Reply, n: int, generate: bool, itl: Histogram, trail: Trail | None) -> None:
        """Makes one.

        Args:
            reply: where the answer goes.
            n: how many branches there are.
            generate: whether the route is /generate.
            itl: observes the time between reads of each branch, s.
            trail: whose attempts the client is told of, those of all branches; None: it is not.
        """
        self._reply = reply
        self.itl = itl
        self._trail = trail
        self._n = n
        self._generate = generate
        self._wholes: list[bytes | None] = [None] * n
        self._ended = 0
        self._usages: list[Members] = []
        self._usage_chunk: Members | None = None
        self._identity: dict[str, msgspec.Raw] = {}
        self._pauses: dict[int, Callable[[], None]] = {}
        self._resumes: dict[int, Callable[[], None]] = {}
        reply.on_pause = self._pause
        reply.on_resume = self._resume

    def _pause(self) -> None:
        for pause in self._pauses.values():
            pause()

    def _resume(self) -> None:
        for resume in self._resumes.values():
            resume()

    def branch(self, number: int) -> Branch:
        """The recipient of the branch `number`, from 0."""
        return Branch(self, number)

    def _tell_attempts(self) -> None:
        if self._trail is not None:
            self._reply.extra_headers += self._trail.attempts_line()

    # --- streams

    def opened(self, head: ResponseHead) -> None:
        """A branch begins to stream; the first one opens the answer."""
        if not self._reply.opened:
            self._tell_attempts()
            self._reply.open(head.status_line, head.passed_on)

    def read_from(self, number: int, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """A branch's events come from now on from where `pause` and `resume` stop and go on with them."""
        self._pauses[number] = pause
        self._resumes[number] = resume
        if self._reply.paused:
            pause()

    def events(self, number: int, events: bytes) -> None:
        """Events of a branch: re-numbered, and without its end."""
        if self._reply.ended:
            return  # another branch broke off, and this one does not know yet
        out = map_events(events.replace(DONE, b""), lambda data: self._renumber(number, data))
        # A usage chunk is kept back: there is one for all, at the end.
        out = out.replace(b"data: \n\n", b"")
        if out:
            self._reply.payload(out)

    def _renumber(self, number: int, data: bytes) -> bytes:
        event = decode_object(data)
        if self._generate:
            event["index"] = raw(whole_number(event.get("index")) * self._n + number)
            return encode(event)
        choices = as_array(event.get("choices"))
        usage = as_object(event.get("usage"))
        self._share_identity(event)
        if usage is not None and not choices:
            self._usages.append(usage)
            self._usage_chunk = event
            return b""
        event["choices"] = raw([self._renumbered(choice, number) for choice in choices])
        return encode(event)

    def _renumbered(self, choice: msgspec.Raw, number: int) -> Members:
        members = decode_object(choice)
        members["index"] = raw(whole_number(members.get("index")) * self._n + number)
        return members

    def _share_identity(self, event: Members) -> None:
        """One answer has one id and one time, those of the branch that spoke first."""
        for key in ("id", "created"):
            if key in event:
                event[key] = self._identity.setdefault(key, event[key])

    def ended(self) -> None:
        """A branch has ended; the last one ends the answer."""
        self._ended += 1
        if self._ended < self._n or self._reply.ended:
            return
        if None not in self._wholes:
            self._reply.end()
            return
        if self._usage_chunk is not None:
            self._usage_chunk["usage"] = self._usage()
            self._reply.payload(b"data: %b\n\n" % encode(self._usage_chunk))
        self._reply.payload(DONE)
        self._reply.end()

    def broken(self, failure: Failure) -> None:
        """A branch broke off: no answer can be whole any more."""
        if not self._reply.ended:
            self._reply.payload(as_events(failure))
            self._reply.end()

    def behind(self) -> bool:
        """Whether the client is slow."""
        return self._reply.paused

    async def caught_up(self) -> None:
        """Waits for a slow client."""
        await self._reply.drained()

    # --- whole answers

    def took_whole(self, number: int, head: ResponseHead, body: bytes) -> None:
        """A branch has answered; the last one makes the answer."""
        self._wholes[number] = body
        bodies = [whole for whole in self._wholes if whole is not None]
        if len(bodies) < self._n:
            return
        if self._reply.opened:
            self.broken(NO_STREAM)
            return
        merged = self._merge_generated(bodies) if self._generate else self._merge_completed(bodies)
        self._tell_attempts()
        self._reply.whole(head.status_line, head.passed_on, merged)

    def _merge_generated(self, bodies: list[bytes]) -> bytes:
        columns = [decode_array(b) if b.lstrip()[:1] == b"[" else [msgspec.Raw(b)] for b in bodies]
        return encode([item for row in zip(*columns, strict=False) for item in row])

    def _merge_completed(self, bodies: list[bytes]) -> bytes:
        answers = [decode_object(body) for body in bodies]
        choices = [
            self._renumbered(choice, number)
            for number, answer in enumerate(answers)
            for choice in as_array(answer.get("choices"))
        ]
        choices.sort(key=lambda choice: whole_number(choice["index"]))
        self._usages = [usage for answer in answers if (usage := as_object(answer.get("usage"))) is not None]
        merged = answers[0]
        merged["choices"] = raw(choices)
        if self._usages:
            merged["usage"] = self._usage()
        return encode(merged)

    def _usage(self) -> msgspec.Raw:
        """The prompt is counted once, the completions all."""
        usage = dict(self._usages[0])
        completion = sum(whole_number(one.get("completion_tokens")) for one in self._usages)
        usage["completion_tokens"] = raw(completion)
        usage["total_tokens"] = raw(whole_number(usage.get("prompt_tokens")) + completion)
        return raw(usage)


class Branch:
    """The recipient of one branch."""

    takes_oversize = False
    __slots__ = ("_amend", "_merger", "_number", "itl")

    def __init__(self, merger: Merger, number: int) -> None:
        self._merger = merger
        self._number = number
        self.itl = merger.itl
        self._amend: Amend | None = None

    def amend_with(self, amend: Amend | None) -> None:
        """Sets what is changed in the branch's answer."""
        self._amend = amend

    def whole(self, head: ResponseHead, body: bytes) -> None:
        """Takes the branch's answer."""
        self._merger.took_whole(self._number, head, body if self._amend is None else self._amend(body))

    def behind(self) -> bool:
        """Whether the client is slow; the answer is written when its last branch has come."""
        return self._merger.behind()

    async def caught_up(self) -> None:
        """Waits for a slow client."""
        await self._merger.caught_up()

    def open(self, head: ResponseHead, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """The branch's stream begins."""
        self._merger.opened(head)
        self.goes_on(pause, resume)

    def goes_on(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """From now on the events come from another worker."""
        self._merger.read_from(self._number, pause, resume)

    @property
    def straight(self) -> Branch:
        """Itself, that is nobody."""
        return self

    def raw(self, data: bytes) -> None:
        """Never: a branch's order asks for payload."""
        raise AssertionError("a branch cannot take a worker's own chunks")

    def payload(self, data: bytes) -> None:
        """Events of the branch."""
        self._merger.events(self._number, data if self._amend is None else self._amend(data))

    def end(self) -> None:
        """The branch's answer has ended."""
        self._merger.ended()

    def broken(self, failure: Failure) -> None:
        """The branch's stream broke off."""
        self._merger.broken(failure)
