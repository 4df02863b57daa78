"""A log with any cells crashed, in any form, cut anywhere, never yields a figure in another cell."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from deploy.slurm.benchmark.cells import OK, Cell
from deploy.slurm.benchmark.log import decode, read_log
from tests.unit.benchmark.blocks import SETUP, cell, first_form, result, second_form, vllm_form

TRACEBACK = "Traceback (most recent call last):\n  File x.py, line 1\nValueError: Warmup failed\n"
NOISE = (
    "WARNING: Mean TTFT (ms):  no figure\n",
    "Mean TTFT (ms): 77.00 is what this line is not\n",
    "\x1b[31mconnection refused\x1b[0m\n",
    "\x1b[1A\r",
    "[FAILED] to load a plug-in\n",
    "  3%|▎         | 4/128 [00:01<00:40, 3.1it/s]",
    "++ echo '[RUNNING] prompts  isl 9 osl 9 con 9'\n",
    "caf\udce9 \udc85\n",
)
FORMS = (first_form, second_form, vllm_form)


@dataclass(frozen=True)
class Written:
    """A cell and what its benchmark wrote. `ttft_ms` marks its figures: no two cells share one."""

    asked: Cell
    ttft_ms: float
    text: str
    whole: bool


@st.composite
def sweeps(draw: st.DrawFn) -> list[Written]:
    form = draw(st.sampled_from(FORMS))
    shapes = st.tuples(st.sampled_from((128, 1024)), st.sampled_from((16, 100)), st.sampled_from((8, 64)))
    written = []
    for at, (isl, osl, concurrency) in enumerate(draw(st.lists(shapes, min_size=1, max_size=8, unique=True))):
        asked = cell(isl, osl, concurrency, prompts=2 * concurrency)
        completed = draw(st.integers(1, 2 * concurrency))
        block = result(concurrency, completed, ttft_ms=1000.0 + at)
        ending = draw(st.sampled_from(("well", "silent", "traceback", "cut")))
        output = {
            "well": block,
            "silent": "",
            "traceback": TRACEBACK,
            "cut": block[: draw(st.integers(0, len(block) - 52))],
        }[ending]
        output = "".join(
            line + draw(st.sampled_from(("", "", "", *NOISE))) for line in output.splitlines(keepends=True)
        )
        prompts = (
            draw(st.sampled_from(("", str(asked.prompts)))) if form is not vllm_form else str(asked.prompts)
        )
        written.append(Written(asked, 1000.0 + at, form(asked, prompts) + output, ending == "well"))
    return written


def bytes_of(sweep: list[Written], line_end: str) -> bytes:
    text = "".join(each.text if each.text.endswith("\n") else each.text + "\n" for each in sweep)
    return text.replace("\n", line_end).encode("utf-8", "surrogateescape")


@given(sweeps(), st.sampled_from(("\n", "\r\n")))
def test_a_figure_stands_in_its_own_cell_or_nowhere(sweep: list[Written], line_end: str) -> None:
    runs = read_log(decode(bytes_of(sweep, line_end)), SETUP).runs
    assert [run.cell.key for run in runs] == [each.asked.key for each in sweep]
    for run, each in zip(runs, sweep, strict=True):
        assert (run.outcome == OK) == each.whole
        assert run.figures.get("mean_ttft_ms", each.ttft_ms) == each.ttft_ms
        assert bool(run.figures) == each.whole


@given(sweeps(), st.data())
def test_a_log_that_ends_anywhere_has_whole_figures_or_none(
    sweep: list[Written], data: st.DataObject
) -> None:
    raw = bytes_of(sweep, "\n")
    whole = {run.cell.key: run for run in read_log(decode(raw), SETUP).runs}
    for run in read_log(decode(raw[: data.draw(st.integers(0, len(raw)))]), SETUP).runs:
        complete = whole.get(run.cell.key)
        assert not run.figures or (complete is not None and run.figures == complete.figures)


@given(sweeps(), st.data())
def test_a_lost_marker_gives_no_result_to_a_cell_of_another_concurrency(
    sweep: list[Written], data: st.DataObject
) -> None:
    lost = data.draw(st.integers(0, len(sweep) - 1))
    kept = [each.text.partition("\n")[2] if at == lost else each.text for at, each in enumerate(sweep)]
    text = "".join(part if part.endswith("\n") or not part else part + "\n" for part in kept)
    raw = text.encode("utf-8", "surrogateescape")
    concurrency = {each.ttft_ms: each.asked.concurrency for each in sweep}
    for run in read_log(decode(raw), SETUP).runs:
        if run.figures:
            assert concurrency[run.figures["mean_ttft_ms"]] == run.cell.concurrency
