"""The part of sgl_kernel that the plain CPU path needs, and one flag of Mooncake's sender. By `install`."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch

_SENDERS = ("sglang.srt.disaggregation.mooncake.conn", "sglang.srt.disaggregation.common.conn")


class _Kernel(types.ModuleType):
    """Has every operator; those that are not made here raise, by their name, when they are called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: object, **__: object) -> None:
            raise RuntimeError(f"sgl_kernel.{name} has no stand-in for the CPU")

        return missing


def _assign_req_to_token_pool(
    requests: torch.Tensor,
    pool: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    places: torch.Tensor,
    _: int,
) -> None:
    at = 0
    for request, start, end in zip(requests.tolist(), starts.tolist(), ends.tolist(), strict=True):
        pool[request, start:end] = places[at : at + end - start].to(pool.dtype)
        at += end - start


class _AfterImport:
    """A finder that lets the others find, and touches some modules when they have been run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _SENDERS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_touch(module: types.ModuleType) -> None:
            run(module)
            _use_plain_indices(module)

        spec.loader.exec_module = run_and_touch  # type: ignore[method-assign]
        return spec


def _use_plain_indices(module: types.ModuleType) -> None:
    """The other way copies page indices through pinned memory and a CUDA event."""
    for value in vars(module).values():
        if isinstance(value, type) and "supports_host_tensor_indices" in vars(value):
            value.supports_host_tensor_indices = False  # type: ignore[attr-defined]


def install() -> None:
    """Before anything of SGLang is imported."""
    kernel = _Kernel("sgl_kernel")
    kernel.__version__ = "0.0.0+cpu.stand-in"  # type: ignore[attr-defined]
    kernel.__path__ = []
    kernel.__spec__ = importlib.machinery.ModuleSpec("sgl_kernel", None, is_package=True)
    kernel.assign_req_to_token_pool_cpu = _assign_req_to_token_pool  # type: ignore[attr-defined]
    sys.modules["sgl_kernel"] = kernel
    sys.meta_path.insert(0, _AfterImport())
