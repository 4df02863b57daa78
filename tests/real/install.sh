#!/usr/bin/env bash
# Usage: install.sh FOLDER
# Puts a real SGLang that runs on a CPU into FOLDER: 3 GB, some minutes, no root rights.
# Exits with 77 (skip) and the reason where this machine cannot have it. FOLDER/.ready-... is written last, and
# names this recipe: with another one all is made anew.
set -euo pipefail
root=$(mkdir -p "${1:?usage: install.sh FOLDER}" && cd "$1" && pwd)
ready=$root/.ready-$(sha256sum <"$0" | cut -c1-12)
[ -e "$ready" ] && exit 0

skip() {
    echo "no real SGLang here: $*" >&2
    exit 77
}

command -v python3.11 >/dev/null || skip "python3.11 is not on the PATH (the wheels below are for it)"
command -v apt-get >/dev/null || skip "the RDMA libraries are unpacked from Debian packages, and there is no apt-get"
[ "$(uname -m)" = x86_64 ] || skip "Mooncake's wheel is for x86_64"
[ "$(df --output=avail -m "$root" | tail -1)" -gt 4000 ] || skip "less than 4 GB free in $root"

# What is wiped below must be this script's own.
if [ ! -e "$root/.real-sglang" ] && [ -n "$(ls -A "$root")" ]; then
    echo "install.sh: $root is not empty, and was not made by this script: name another folder" >&2
    exit 2
fi
cd "$root"
touch .real-sglang
rm -rf venv sysroot debs .ready-*
python3.11 -m venv venv
# pip complains of what is left out on purpose; its words are shown where it fails.
fetch() {
    venv/bin/python -m pip install -q "$@" >pip.log 2>&1 && return
    tail -5 pip.log >&2
    skip "pip could not install $*"
}
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
    soundfile==0.13.1 llguidance datasets
mkdir -p debs sysroot
(cd debs && apt-get download -q libibverbs1 librdmacm1 libnuma1 libnl-3-200 libnl-route-3-200 libcurl4 2>/dev/null) ||
    skip "apt-get could not download the RDMA libraries"
for package in debs/*.deb; do dpkg -x "$package" sysroot; done
touch "$ready"
