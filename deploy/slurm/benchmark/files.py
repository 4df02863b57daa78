"""What a sweep leaves behind: four files with one name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .cells import Setup
from .records import SUFFIX


@dataclass(frozen=True)
class Files:
    """The recipe's log, `benchmark_<job>_<stamp>_xP<x>_yD<y>_<model>_CONCURRENCY.log`, and its companions.

    The warm-ups have a log of their own: a result in the sweep's log is a cell's, whoever reads it.
    """

    log: Path

    @classmethod
    def named(cls, folder: Path, setup: Setup, stamp: str) -> Files:
        """The files of a sweep that begins now; makes the folder.

        Args:
            folder: Where.
            setup: The sweep's.
            stamp: YYYYmmdd_HHMMSS.

        Raises:
            OSError: the folder cannot be made, or is not writable.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = f"benchmark_{setup.job}_{stamp}_xP{setup.xp}_yD{setup.yd}_{setup.model}"
        files = cls(folder / f"{name}_CONCURRENCY.log")
        files.log.touch(exist_ok=False)
        return files

    @property
    def json(self) -> Path:
        """One attempt a line, with the cell it belongs to."""
        return self.log.with_suffix(SUFFIX)

    @property
    def csv(self) -> Path:
        """The table."""
        return self.log.with_suffix(".csv")

    @property
    def warm_up(self) -> Path:
        """The output of warm-ups."""
        return self.log.with_name(self.log.name.replace("_CONCURRENCY.log", "_WARMUP.log"))

    def note(self, line: str) -> None:
        """Adds a line of ours to the log, on a line of its own whatever the benchmark wrote last."""
        with open(self.log, "ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(line.encode() + b"\n")
