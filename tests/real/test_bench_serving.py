"""SGLang's own benchmark client, of the very version that serves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.real.fleet import Fleet

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

REQUESTS, CONCURRENCY, LIMIT_S = 96, 32, 600
# The stand-in first: without it SGLang cannot be imported here.
RUN = "import runpy, sglang_on_cpu; runpy.run_module('sglang.bench_serving', run_name='__main__')"


@pytest.mark.parametrize("backend", ["sglang", "sglang-oai", "sglang-oai-chat"])
async def test_bench_serving_counts_every_request_as_a_success(
    backend: str, fleet: Fleet, tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    command = [str(fleet.python), "-c", RUN, "--backend", backend, "--base-url", fleet.proxy]
    command += ["--model", str(fleet.model), "--tokenizer", str(fleet.model), "--dataset-name", "random-ids"]
    command += ["--random-input-len", "64", "--random-output-len", "32", "--random-range-ratio", "0.5"]
    command += ["--num-prompts", str(REQUESTS), "--max-concurrency", str(CONCURRENCY)]
    command += ["--output-file", str(results), "--pd-separated"]
    process = await asyncio.create_subprocess_exec(
        *command, env=fleet.environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert process.returncode == 0, said.decode()[-3000:]
    result = json.loads(results.read_text().splitlines()[-1])
    assert result["completed"] == REQUESTS, said.decode()[-3000:]
    assert not any(result.get("errors") or []), result["errors"]
