"""docs/registry.md is what the contract says."""

from __future__ import annotations

import re
from pathlib import Path

from proxy.discovery import record
from proxy.discovery.record import Keys
from proxy.roster import Role, Worker

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "registry.md").read_text()


def test_the_page_lists_the_fields_of_a_value() -> None:
    table = PAGE.split("\n## The value\n")[1].split("\n## ")[0]
    told = re.findall(r"^\| `(\w+)` \| ", table, re.MULTILINE)
    assert told == list(dict.fromkeys(told))
    assert set(told) == set(record._Value.__struct_fields__)


def test_the_example_is_read_as_a_worker() -> None:
    (key, value) = re.findall(r"^etcdctl put --lease=\S+ (\S+) '(.*)'$", PAGE, re.MULTILINE)[0]
    worker = Keys("pd").read(key, value.encode())
    assert worker == Worker("decode-10.0.0.2-30000", "http://10.0.0.2:30000", Role.DECODE, model="Qwen3-32B")
    assert Keys("pd").worker(worker) == key
