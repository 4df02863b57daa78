"""Pictures: drawn where matplotlib is, refused in plain words where not."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from deploy.slurm.benchmark.cells import Run
from deploy.slurm.benchmark.parser import main, read_sweep
from deploy.slurm.benchmark.plot import PlotError, draw
from tests.unit.benchmark.blocks import cell

DROPS = Path(__file__).parent / "logs" / "benchmark_101_20250917_101500_xP1_yD1_Qwen3-32B_CONCURRENCY.log"


@pytest.mark.parametrize(("name", "magic"), [("x.png", b"\x89PNG"), ("x.svg", b"<?xml")])
def test_a_picture_is_drawn(name: str, magic: bytes, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main([str(DROPS), "--no-screen", "--plot", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_without_matplotlib_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real_import = builtins.__import__

    def without_matplotlib(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    assert main([str(DROPS), "--no-screen", "--plot", str(tmp_path / "x.png")]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlotError, match=r"\.png, \.svg, \.pdf"):
        draw(read_sweep(DROPS).runs, tmp_path / "x.gif")


def test_a_sweep_without_a_result_gives_no_picture(tmp_path: Path) -> None:
    with pytest.raises(PlotError, match="nothing to draw"):
        draw([Run(cell(), {}, "exit code 1")], tmp_path / "x.png")
