"""`sglang.launch_server` for a machine with neither a GPU nor sgl-kernel: `python -m sglang_on_cpu FLAGS`.

What stands at module level is done in every process: SGLang starts its scheduler and detokenizer by
multiprocessing's "spawn", which imports this module again in each.
"""

from __future__ import annotations

import os
import sys

import sgl_kernel_stand_in
from torch import library

# torchvision's wheel is a CUDA build whose C part does not load here; its Python part wants these two.
_torchvision = library.Library("torchvision", "DEF")
_torchvision.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_torchvision.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

sgl_kernel_stand_in.install()


def main() -> None:
    """As sglang.launch_server does it."""
    sys.argv[0] = "sglang.launch_server"
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    load_plugins()
    try:
        run_server(prepare_server_args(sys.argv[1:]))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":
    main()
