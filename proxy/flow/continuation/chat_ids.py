"""Whether workers take the prompt of a chat as token ids, asked once of each engine version.

0.5.23 does (`input_ids` beside `messages`); a version that does not know the member ignores it, and would
answer the messages anew. So it must be known before.
"""

from __future__ import annotations

from proxy.errors import UpstreamFailure
from proxy.routing.group import Group
from proxy.routing.member import Member
from proxy.upstream.inquiries import Inquiries

_ANSWER_S = 2.0  # why: the client waits; a refusal takes no more than a millisecond
_MOST_VERSIONS = 64
# A chat that no version can take, for it has no messages. One that knows `input_ids` says of it, too, that
# it is no list; nothing else in the question could be one.
_QUESTION = {"input_ids": 0}
_KNOWN = b"valid list"


class ChatIds:
    """Asks, and remembers what each version said."""

    def __init__(self, inquiries: Inquiries) -> None:
        self._inquiries = inquiries
        self._taken: dict[str, bool] = {}

    async def taken(self, group: Group) -> bool:
        """Whether every worker of a group takes them: whichever pair is chosen must."""
        asked: set[str] = set()
        for member in list(group.members.values()):
            version = member.worker.engine_version
            if version is None:
                return False
            if version in asked:
                continue
            asked.add(version)
            if not await self._version_takes(version, member):
                return False
        return bool(asked)

    async def _version_takes(self, version: str, member: Member) -> bool:
        taken = self._taken.get(version)
        if taken is None:
            try:
                answer = await self._inquiries.ask(
                    member.worker, "POST", "/v1/chat/completions", _ANSWER_S, body=_QUESTION
                )
            except UpstreamFailure:
                return False  # it is asked again next time
            taken = answer.status in (400, 422) and _KNOWN in answer.body
            if len(self._taken) < _MOST_VERSIONS:
                self._taken[version] = taken
        return taken
