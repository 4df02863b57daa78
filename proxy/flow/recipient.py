"""Who takes the answer of a successful attempt: the client, or one branch of a fan-out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from proxy.flow.farewell import NO_STREAM
from proxy.flow.request import Reply
from proxy.flow.trail import Trail
from proxy.telemetry.histogram import Histogram
from proxy.upstream.decode_leg import Sink
from proxy.upstream.framing import ResponseHead
from proxy.upstream.outcome import Failure

Amend = Callable[[bytes], bytes]
"""Changes whole events, or a whole answer, before they go on."""


class Recipient(Sink, Protocol):
    """Takes one answer, whole or streamed."""

    takes_oversize: bool
    """Whether an answer that is no stream, and too large to hold, may come in pieces."""
    itl: Histogram
    """Observes the time between reads of a stream, s."""

    @property
    def straight(self) -> Sink:
        """Who takes a worker's own chunks: the path of every token ends there, with nothing between."""
        ...

    def amend_with(self, amend: Amend | None) -> None:
        """Sets what is changed in the answer; before all of it."""

    def whole(self, head: ResponseHead, body: bytes) -> None:
        """Takes an answer that is no stream; `caught_up` and `end` follow."""

    def behind(self) -> bool:
        """Whether the client is slow to take what it was given."""
        ...

    async def caught_up(self) -> None:
        """Waits for such a client."""

    def open(self, head: ResponseHead, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """A stream begins; `pause` and `resume` stop and go on with its reading."""

    def goes_on(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """The stream broke off and goes on from elsewhere: `pause` and `resume` are now of there."""

    def end(self) -> None:
        """The answer has ended well."""

    def broken(self, failure: Failure) -> None:
        """The stream broke off."""


class Direct(msgspec.Struct, eq=False):
    """The client itself."""

    takes_oversize = True

    reply: Reply
    """Where the answer goes."""
    farewell: Callable[[Failure], bytes]
    """Makes the events that end a broken stream in the route's own form."""
    itl: Histogram
    """Observes the time between reads, s."""
    trail: Trail | None
    """Whose attempts the client is told of; None: it is not."""
    amend: Amend | None = None
    streams_events: bool = False

    def amend_with(self, amend: Amend | None) -> None:
        """Sets what is changed in the answer."""
        self.amend = amend

    def whole(self, head: ResponseHead, body: bytes) -> None:
        """Answers."""
        reply = self.reply
        if reply.opened:
            # Its head has been sent early, for a stream; now no worker makes it one.
            reply.payload(self.farewell(NO_STREAM))
            return
        if self.amend is not None:
            body = self.amend(body)
        if self.trail is not None:
            reply.extra_headers += self.trail.attempts_line()
        reply.whole(head.status_line, head.passed_on, body)

    def behind(self) -> bool:
        """Whether the client is slow."""
        return self.reply.paused

    async def caught_up(self) -> None:
        """Waits for a slow client."""
        await self.reply.drained()

    def open(self, head: ResponseHead, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Opens the answer."""
        self.streams_events = head.event_stream
        if not self.reply.opened:
            if self.trail is not None:
                self.reply.extra_headers += self.trail.attempts_line()
            self.reply.open(head.status_line, head.passed_on)
        self.goes_on(pause, resume)

    def goes_on(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """From now on another worker waits for a slow client."""
        self.reply.on_pause = pause
        self.reply.on_resume = resume
        if self.reply.paused:
            pause()  # what was written so far was too much for the client

    @property
    def straight(self) -> Sink:
        """The client's reply itself."""
        return self.reply

    def raw(self, data: bytes) -> None:
        """What comes from here all the same."""
        self.reply.raw(data)

    def payload(self, data: bytes) -> None:
        """What is changed on its way, or comes in other pieces."""
        self.reply.payload(data if self.amend is None else self.amend(data))

    def end(self) -> None:
        """The proper end."""
        self.reply.end()

    def broken(self, failure: Failure) -> None:
        """An error in the route's own form and still the proper end; what is no stream can only be cut."""
        if not self.streams_events:
            self.reply.break_off()
            return
        self.reply.payload(self.farewell(failure))
        self.reply.end()
