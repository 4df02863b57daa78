"""Pieces of logs, as the benchmarks write them."""

from __future__ import annotations

from deploy.slurm.benchmark.cells import Cell, Setup

SETUP = Setup("Qwen3-32B", 1, 1, "7")


def cell(isl: int = 1024, osl: int = 1024, concurrency: int = 64, prompts: int | None = 128) -> Cell:
    return Cell(isl, osl, concurrency, prompts, SETUP)


def result(concurrency: int, completed: int, ttft_ms: float) -> str:
    """A result block of SGLang's. `ttft_ms` tells one block from another."""
    lines = [
        f"\n{' Serving Benchmark Result ':=^50}",
        f"{'Max request concurrency:':<40} {concurrency:<10}",
        f"{'Successful requests:':<40} {completed:<10}",
        f"{'Benchmark duration (s):':<40} {10.0:<10.2f}",
        f"{'Total input tokens:':<40} {completed * 8:<10}",
        f"{'Output token throughput (tok/s):':<40} {200.0:<10.2f}",
        f"{'Mean TTFT (ms):':<40} {ttft_ms:<10.2f}",
        "=" * 50,
    ]
    return "\n".join(lines) + "\n"


def first_form(asked: Cell, prompts: str = "") -> str:
    return (
        f"[RUNNING] prompts {prompts} isl {asked.isl} osl {asked.osl} con {asked.concurrency} "
        "model Qwen3-32B xP=1 yD=1 job=7\n"
    )


def second_form(asked: Cell, prompts: str = "") -> str:
    return f"RUNNING: prompts {prompts} isl {asked.isl} osl {asked.osl} con {asked.concurrency}\n"


def vllm_form(asked: Cell, prompts: str = "") -> str:
    return f"[RUNNING] isl={asked.isl} osl={asked.osl} con={asked.concurrency} warmups=2 prompts={prompts}\n"
