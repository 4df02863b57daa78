"""What the doctor says of one thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is. Only a failure makes the doctor's exit code 1."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    level: Level
    said: str
    """What was found."""
    advice: str = ""
    """What to do about it; empty where all is well."""

    def line(self) -> str:
        """As it is printed."""
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{self.level.value:<8}{self.check}: {self.said}{advice}"


def ok(check: str, said: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, said)


def warning(check: str, said: str, advice: str) -> Finding:
    """It may work, badly."""
    return Finding(check, Level.WARNING, said, advice)


def failure(check: str, said: str, advice: str) -> Finding:
    """It will not work."""
    return Finding(check, Level.FAILURE, said, advice)


def exit_code(findings: Sequence[Finding]) -> int:
    """1 if anything will not work."""
    return int(any(finding.level is Level.FAILURE for finding in findings))
