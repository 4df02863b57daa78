# The images. docs/containers.md says how to build and run them.
#
#   docker build -t sglang_disagg_pd_image .       the worker: SGLang, with our package beside it
#   docker build -t pd-proxy --target proxy .      the proxy; simulated engines too
#   docker build -t pd-etcd --target etcd .        etcd alone
ARG PYTHON_IMAGE=python:3.13-slim-trixie
ARG WORKER_BASE=lmsysorg/sglang:v0.5.2rc1-rocm700-mi30x

# What is downloaded, each file by its SHA-256 (deploy/images/downloads.toml).
FROM ${PYTHON_IMAGE} AS downloads
# Stands for https://github.com.
ARG DOWNLOADS=
WORKDIR /build
COPY deploy/__init__.py deploy/
COPY deploy/images deploy/images
RUN --mount=type=secret,id=ca \
    python3 -m deploy.images.fetch etcd /downloads/etcd --mirror "${DOWNLOADS}" \
    && install -d -m 700 /downloads/data

FROM downloads AS interpreter
RUN --mount=type=secret,id=ca \
    python3 -m deploy.images.fetch python /downloads/python --mirror "${DOWNLOADS}"

FROM scratch AS etcd
ENV PATH=/usr/local/bin
COPY --from=downloads /downloads/etcd/etcd /downloads/etcd/etcdctl /usr/local/bin/
COPY --from=downloads --chown=65532:65532 /downloads/data /var/lib/etcd
LABEL org.opencontainers.image.title="pd-etcd" \
      org.opencontainers.image.description="etcd, the registry of pd-proxy's workers" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
EXPOSE 2379 2380
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["etcdctl", "endpoint", "health"]
ENTRYPOINT ["etcd"]

# The package in an environment of its own, /opt/pd/.venv, for the proxy: with the Python of its image.
FROM ${PYTHON_IMAGE} AS proxy-environment
WORKDIR /opt/pd
COPY requirements-runtime.lock deploy/images/install.sh ./
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    ./install.sh dependencies python3 && rm install.sh
COPY . .
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    deploy/images/install.sh project python3

FROM ${PYTHON_IMAGE} AS proxy
RUN groupadd --gid 65532 pd \
    && useradd --uid 65532 --gid pd --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pd \
    && install -d -o pd -g pd /var/lib/pd-proxy \
    && ln -s /opt/pd/.venv/bin/pd-proxy /opt/pd/.venv/bin/pd-worker /usr/local/bin/
COPY --from=proxy-environment /opt/pd /opt/pd
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pd-proxy" \
      org.opencontainers.image.description="Load balancer for SGLang in prefill/decode disaggregation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
EXPOSE 30000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["/opt/pd/.venv/bin/python", "-I", "-m", "deploy.images.healthy"]
ENTRYPOINT ["pd-proxy"]

# The same for the worker, with an interpreter of its own: the base's Python may be older, and is SGLang's.
FROM interpreter AS worker-environment
WORKDIR /opt/pd
COPY requirements-runtime.lock deploy/images/install.sh ./
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    mv /downloads/python python && ./install.sh dependencies python/bin/python3 && rm install.sh
COPY . .
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    mv /downloads/etcd etcd && deploy/images/install.sh project python/bin/python3

# The last one, so that a plain `docker build` makes it.
FROM ${WORKER_BASE} AS worker
COPY --from=worker-environment /opt/pd /opt/pd
RUN --mount=type=secret,id=apt /opt/pd/deploy/images/worker.sh
ARG REVISION=unknown
ARG WORKER_BASE
LABEL org.opencontainers.image.title="sglang_disagg_pd_image" \
      org.opencontainers.image.description="SGLang with pd-worker and pd-proxy beside it" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${WORKER_BASE}"
EXPOSE 30000 8998
CMD ["pd-worker", "--help"]
