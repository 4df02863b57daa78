#!/bin/sh
# Adds to an SGLang image what a worker needs and the image may lack: RDMA in user space, etcd, our commands.
# SGLang, its Python and its packages stay as they are.
set -eu

# The library of verbs, the one that makes connections, and the driver of ConnectX.
has_rdma() {
    for library in libibverbs.so.1 librdmacm.so.1 libmlx5.so.1; do
        ldconfig -p | grep -q "$library" || return 1
    done
}

apt() {
    # The build secret `apt`: a sources.list of your own, instead of the image's.
    if [ -f /run/secrets/apt ]; then
        set -- -o Dir::Etc::SourceList=/run/secrets/apt -o Dir::Etc::SourceParts=/dev/null "$@"
    fi
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o APT::Update::Error-Mode=any "$@"
}

if ! has_rdma; then
    apt update
    apt install --yes --no-install-recommends libibverbs1 librdmacm1 ibverbs-providers ibverbs-utils
    apt clean
    rm -rf /var/lib/apt/lists/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log
fi
for program in etcd etcdctl; do
    command -v "$program" >/dev/null || ln -s "/opt/pd/etcd/$program" "/usr/local/bin/$program"
done
ln -sf /opt/pd/.venv/bin/pd-proxy /opt/pd/.venv/bin/pd-worker /usr/local/bin/
# Both start here, or the image is not made.
pd-proxy --version
pd-worker --help >/dev/null
etcd --version
