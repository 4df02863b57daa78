"""Records what real servers answer, byte by byte: python -m tests.real.record FOLDER.

The simulated engine is held against these files (tests/contract/captures). PD_REAL_SGLANG names the
installation. Paths of this machine are replaced; what is random or a time stays as it came.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.real.fleet import Fleet, RealWorker, installed
from tests.real.raw_http import Exchange, ask, read_all, send
from tests.real.recorded import ANSWERS, CALL, CHAT, ENDS, GENERATE, PAIR_ANSWERS, TOOL, chat, generate
from tests.support.etcd import etcd_members, free_ports

# Makes the model say what it is told to: the parsers of tools and reasoning then have something to do.
SAYING = """
import json
from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

def to_hex():
    import dill
    dill.settings["recurse"] = True
    class Saying(CustomLogitProcessor):
        def __call__(self, logits, custom_param_list=None):
            for row, wish in enumerate(custom_param_list):
                said = len(wish["__req__"].output_ids)
                logits[row, :] = -1e9
                logits[row, wish["say"][min(said, len(wish["say"]) - 1)]] = 0
            return logits
    Saying.__module__ = "__main__"
    return json.dumps({"callable": dill.dumps(Saying, byref=False).hex()})

print(to_hex())
"""


class Recorder:
    """Writes captures."""

    def __init__(self, fleet: Fleet, target: Path) -> None:
        self._fleet = fleet
        self._target = target

    def keep(self, name: str, answer: bytes) -> None:
        """Writes one, without this machine's paths; nothing of a server that died without a word."""
        if not answer.partition(b"\r\n\r\n")[2]:
            print(name, "was not answered", flush=True)
            return
        site = next((self._fleet.root / "venv" / "lib").glob("python*")) / "site-packages"
        replaced = answer
        for path, instead in (
            (site, "/site-packages"),
            (self._fleet.root, "/sglang"),
            (self._fleet.folder, "/run"),
        ):
            replaced = replaced.replace(str(path).encode(), instead.encode())
        if replaced != answer:
            head, body = replaced.split(b"\r\n\r\n", 1)
            head = re.sub(rb"(?i)(content-length: )\d+", lambda m: m[1] + b"%d" % len(body), head)
            replaced = head + b"\r\n\r\n" + body
        (self._target / f"{name}.raw").write_bytes(replaced)
        print(name, replaced[9:12].decode(), len(replaced), flush=True)

    def record(self, name: str, worker: RealWorker, path: str, body: dict[str, Any] | bytes | None) -> None:
        """Asks, and keeps the answer."""
        self.keep(name, ask(worker.url, path, body))

    def pair(self, name: str, sides: Pair, path: str, body: dict[str, Any], **more: Any) -> None:
        """Asks both, and keeps both answers."""
        for side, answer in zip(("prefill", "decode"), sides.ask(path, body, **more), strict=True):
            self.keep(f"{side}_{name}", answer)


class Pair:
    """A prefill and a decode, asked as a proxy does."""

    def __init__(self, prefill: RealWorker, decode: RealWorker) -> None:
        self.prefill, self.decode = prefill, decode
        self._room = time.time_ns()

    def send(self, path: str, body: dict[str, Any], port: int | None = None) -> list[Exchange]:
        """The same body to both."""
        self._room += 1000
        port = self.prefill.bootstrap_port if port is None else port
        keys = {"bootstrap_host": "127.0.0.1", "bootstrap_port": port, "bootstrap_room": self._room}
        return [send(one.url, path, body | keys) for one in (self.prefill, self.decode)]

    def ask(self, path: str, body: dict[str, Any], **more: Any) -> list[bytes]:
        """Both answers."""
        return read_all(self.send(path, body, **more))


def plain(recorder: Recorder, worker: RealWorker) -> None:
    """A plain server's."""
    for name, (path, body) in ANSWERS.items():
        recorder.record(f"plain_{name}", worker, path, body)
    for name, (path, long) in ENDS.items():
        for streamed in (True, False):
            rid = f"rid-{name}-{streamed}"
            exchange = send(worker.url, path, {**long, "rid": rid, "stream": streamed})
            time.sleep(0.4)
            aborted = ask(worker.url, "/abort_request", {"rid": rid})
            recorder.keep(f"plain_{name}_aborted{'_stream' if streamed else ''}", *read_all([exchange]))
        recorder.keep("plain_abort_request", aborted)
    running = send(worker.url, GENERATE, generate(400, rid="twice"))
    time.sleep(0.2)
    recorder.record("plain_bad_rid_twice", worker, GENERATE, generate(rid="twice"))
    recorder.record("plain_v1_loads_running", worker, "/v1/loads?include=core,disagg,queues", None)
    recorder.record("plain_bad_flush_running", worker, "/flush_cache", {})
    read_all([running])
    recorder.record("plain_flush_cache", worker, "/flush_cache", {})


def parsing(recorder: Recorder, worker: RealWorker, fleet: Fleet) -> None:
    """Reasoning and tool calls, said by a model that is told what to say."""
    processor = fleet.run_python(SAYING).strip().splitlines()[-1]

    def saying(text: str, **more: Any) -> dict[str, Any]:
        answer = ask(worker.url, "/tokenize", {"prompt": text}).split(b"\r\n\r\n", 1)[1]
        ids = json.loads(answer)["tokens"]
        forced = {"custom_logit_processor": processor, "custom_params": {"say": ids}}
        return chat(len(ids), **forced, **more)

    spoken = {
        "tool": saying(CALL, tools=[TOOL], separate_reasoning=False),
        "text_then_tool": saying("hello world\n" + CALL, tools=[TOOL], separate_reasoning=False),
        "two_tools": saying(CALL + "\n" + CALL, tools=[TOOL], separate_reasoning=False),
        "half_tool": saying(CALL[:50], tools=[TOOL], separate_reasoning=False),
        "tool_unused": saying("hello world", tools=[TOOL], separate_reasoning=False),
        "reasoning": saying("the quick brown fox</think>hello world"),
        "reasoning_only": saying("the quick brown fox"),
        "reasoning_then_tool": saying("the quick fox</think>" + CALL, tools=[TOOL]),
    }
    for name, body in spoken.items():
        recorder.record(f"parsing_chat_{name}", worker, CHAT, body)
        recorder.record(f"parsing_chat_{name}_stream", worker, CHAT, {**body, "stream": True})


def narrow(recorder: Recorder, worker: RealWorker) -> None:
    """A server whose queue holds one request: one runs, one waits, the next is refused."""
    for streamed in (False, True):
        for name, (path, body) in ENDS.items():
            full = [send(worker.url, GENERATE, generate(1500)) for _ in range(2)]
            time.sleep(0.5)
            ending = "_stream" if streamed else ""
            recorder.record(f"narrow_{name}_queue_full{ending}", worker, path, {**body, "stream": streamed})
            for one in full:
                one.close()
            ask(worker.url, "/abort_request", {"rid": "", "abort_all": True})
            time.sleep(1)


def pairs(recorder: Recorder, both: Pair) -> None:
    """What a pair answers, and how it fails."""
    recorder.record("prefill_server_info", both.prefill, "/server_info", None)
    recorder.record("decode_server_info", both.decode, "/server_info", None)
    for name, (path, body) in PAIR_ANSWERS.items():
        recorder.pair(name, both, path, body)
    (nobody,) = free_ports(1)
    for name, (path, body) in ENDS.items():
        for ending, asked in (("", body), ("_stream", {**body, "stream": True})):
            recorder.pair(f"{name}_wrong_port{ending}", both, path, asked, port=nobody)
    recorder.record("decode_bad_no_room", both.decode, GENERATE, generate())
    recorder.record("decode_bad_no_room_stream", both.decode, GENERATE, generate(stream=True))
    both.prefill.freeze()
    waiting = {name: both.send(path, {**body, "stream": True}) for name, (path, body) in ENDS.items()}
    waiting["generate_whole"] = both.send(GENERATE, generate())
    time.sleep(2)
    both.prefill.kill_engine()
    for name, exchanges in waiting.items():
        for side, answer in zip(("prefill", "decode"), read_all(exchanges), strict=True):
            recorder.keep(f"{side}_{name}_prefill_killed", answer)


@contextmanager
def running(fleet: Fleet, role: str, *flags: str, **env: str) -> Iterator[RealWorker]:
    """A worker for some recordings."""
    worker = fleet.worker(role, flags=flags, env=env)
    worker.wait_ready()
    yield worker
    worker.process.kill()
    worker.process.wait(30)


def main() -> None:
    """Starts servers one after the other, and records all."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        (etcd,) = stack.enter_context(etcd_members(1))
        fleet = Fleet(installed(), Path(folder), etcd, stack)
        fleet.make_model()
        recorder = Recorder(fleet, target)
        with running(fleet, "regular") as worker:
            plain(recorder, worker)
        parsers = ("--tool-call-parser", "qwen25", "--reasoning-parser", "deepseek-r1")
        with running(fleet, "regular", "--enable-custom-logit-processor", *parsers) as worker:
            parsing(recorder, worker, fleet)
        with running(fleet, "regular", "--max-queued-requests", "1", "--max-running-requests", "1") as worker:
            narrow(recorder, worker)
        short = {"SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT": "8", "SGLANG_DISAGGREGATION_WAITING_TIMEOUT": "8"}
        with running(fleet, "prefill", **short) as prefill, running(fleet, "decode", **short) as decode:
            pairs(recorder, Pair(prefill, decode))


if __name__ == "__main__":
    main()
