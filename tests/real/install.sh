#!/usr/bin/env bash
# Usage: install.sh FOLDER
# Puts a real SGLang that runs on a CPU into FOLDER, with a tiny model: 2.6 GB, some minutes, no root rights.
# Exits with 77 (skip) and the reason where this machine cannot have it. FOLDER/.ready is written last.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(mkdir -p "${1:?usage: install.sh FOLDER}" && cd "$1" && pwd)
ready=$root/.ready-0.5.23
[ -e "$ready" ] && exit 0

skip() {
    echo "no real SGLang here: $*" >&2
    exit 77
}

command -v python3.11 >/dev/null || skip "python3.11 is not on the PATH (the wheels below are for it)"
command -v apt-get >/dev/null || skip "the RDMA libraries are unpacked from Debian packages, and there is no apt-get"
[ "$(uname -m)" = x86_64 ] || skip "Mooncake's wheel is for x86_64"
[ "$(df --output=avail -m "$root" | tail -1)" -gt 4000 ] || skip "less than 4 GB free in $root"

cd "$root"
rm -rf venv sysroot debs
python3.11 -m venv venv
fetch() { venv/bin/python -m pip install -q "$@" || skip "pip could not install $*"; }
# torchvision: its Python part only, the C part wants CUDA; triton is only imported. The rest is what SGLang
# imports on this path: all its dependencies would bring CUDA. Where the index has no CPU build of torch, say one
# that has with PIP_EXTRA_INDEX_URL.
fetch torch==2.13.0
fetch --no-deps torchvision==0.28.0 triton==3.7.1 sglang==0.5.23 \
    mooncake-transfer-engine-non-cuda==0.3.13.post1 xgrammar==0.2.7 outlines==0.1.11 apache-tvm-ffi==0.1.11
fetch "numpy<2.4" aiohttp msgpack fastapi "uvicorn>=0.51" uvloop orjson pyzmq requests transformers==5.19.0 \
    tokenizers==0.23.2 einops msgspec psutil pybase64 pydantic python-multipart setproctitle \
    sentencepiece==0.2.1 prometheus-client packaging pillow interegular partial_json_parser tqdm gguf scipy \
    IPython xxhash zstandard watchfiles regex distro easydict "python-dateutil<3" tiktoken \
    compressed-tensors==0.18.0 openai==2.8.0 openai-harmony==0.0.4 nvidia-ml-py ninja dill jsonschema \
    soundfile==0.13.1 llguidance
mkdir -p debs sysroot
(cd debs && apt-get download -q libibverbs1 librdmacm1 libnuma1 libnl-3-200 libnl-route-3-200 libcurl4 2>/dev/null) ||
    skip "apt-get could not download the RDMA libraries"
for package in debs/*.deb; do dpkg -x "$package" sysroot; done
venv/bin/python "$here/tiny_model.py" model
touch "$ready"
