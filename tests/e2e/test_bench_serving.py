"""SGLang's own benchmark client, 0.5.2, at 512 at once: every request succeeds."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

from tests.e2e.test_openai_sdk import proxy_process
from tests.support.engines import start_engine_process

HERE = Path(__file__).parent
CACHE = HERE / ".cache"
PYTHON = CACHE / "venv" / "bin" / "python"
SCRIPT = CACHE / "sglang" / "bench_serving.py"
TOKENIZER = CACHE / "tokenizer"
REQUESTS, CONCURRENCY = 1024, 512
LIMIT_S = 400
MAKE_TOKENIZER = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
words = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(600))]
made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
made.pre_tokenizer = pre_tokenizers.Whitespace()
made.save(sys.argv[1])
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, timeout=LIMIT_S)


@pytest.fixture(scope="module")
def bench_serving() -> Path:
    """The script, with an environment and a tokenizer of its own; made once."""
    if not (CACHE / "ready").exists():
        venv.create(CACHE / "venv", with_pip=True)
        run(PYTHON, "-m", "pip", "install", "-q", "--require-hashes", "-r", HERE / "bench_serving.lock")
        wheel = [PYTHON, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
        run(*wheel, "-d", CACHE, "-r", HERE / "sglang.lock")
        with zipfile.ZipFile(next(CACHE.glob("sglang-*.whl"))) as archive:
            archive.extract("sglang/bench_serving.py", CACHE)
        TOKENIZER.mkdir(exist_ok=True)
        run(PYTHON, "-c", MAKE_TOKENIZER, TOKENIZER / "tokenizer.json")
        names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 100_000, **names}
        (TOKENIZER / "tokenizer_config.json").write_text(json.dumps(settings))
        (TOKENIZER / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 603}))
        (CACHE / "ready").touch()
    return SCRIPT


@pytest.mark.parametrize("backend", ["sglang", "sglang-oai"])
async def test_all_of_1024_requests_at_512_at_once_succeed(
    bench_serving: Path, backend: str, tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    async with (
        start_engine_process("prefill") as one,
        start_engine_process("prefill") as two,
        start_engine_process("decode") as three,
        start_engine_process("decode") as four,
        proxy_process(
            *("--prefill", one.url, str(one.bootstrap_port), "--prefill", two.url, str(two.bootstrap_port)),
            *("--decode", three.url, "--decode", four.url),
        ) as url,
    ):
        command = [str(PYTHON), str(bench_serving), "--backend", backend, "--base-url", url]
        command += ["--model", str(TOKENIZER), "--tokenizer", str(TOKENIZER), "--dataset-name", "random-ids"]
        command += ["--random-input-len", "64", "--random-output-len", "32", "--random-range-ratio", "0.5"]
        command += ["--num-prompts", str(REQUESTS), "--max-concurrency", str(CONCURRENCY)]
        command += ["--output-file", str(results), "--pd-separated"]
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
        assert process.returncode == 0, said.decode()[-3000:]
    result = json.loads(results.read_text().splitlines()[-1])
    assert result["completed"] == REQUESTS, said.decode()[-3000:]
