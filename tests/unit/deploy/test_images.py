"""The Dockerfile and what it uses, as far as that is seen without building; tests/images builds it."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from deploy.images import fetch, healthy
from deploy.images.fetch import FetchError
from tests.unit.deploy.needed import DEPLOY, ROOT, documents

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_a_plain_build_makes_the_worker() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert stages[-1] == ("${WORKER_BASE}", "worker")
    assert {"etcd", "proxy"} <= {name for _, name in stages}
    assert "ARG WORKER_BASE=lmsysorg/sglang:v0.5.2rc1-rocm700-mi30x\n" in DOCKERFILE


def test_an_image_holds_what_was_tested() -> None:
    """The runtime's lock is a part of the one that tests install, with the same hashes."""
    tested, shipped = (
        dict(
            re.findall(
                r"^([\w.-]+==\S+)(.*?)(?=^[a-z]|\Z)", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE
            )
        )
        for name in ("requirements.lock", "requirements-runtime.lock")
    )
    assert len(shipped) > 10
    assert {
        pin: hashes for pin, hashes in shipped.items() if _hashes(tested.get(pin, "")) != _hashes(hashes)
    } == {}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {pin.partition("==")[0] for pin in shipped}
    assert {re.match(r"[\w-]+", line)[0] for line in wanted} <= names  # type: ignore[index]
    assert "pytest" not in names


def _hashes(text: str) -> set[str]:
    return set(re.findall(r"sha256:\w{64}", text))


def test_the_build_backend_is_found_in_the_lock() -> None:
    script = (DEPLOY / "images/install.sh").read_text()
    assert "/^setuptools==/" in script
    assert re.search(
        r"^setuptools==\S+ \\\n    --hash", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    )


def test_every_download_has_a_checksum_for_both_kinds_of_machine() -> None:
    listed = tomllib.loads((DEPLOY / "images/downloads.toml").read_text())
    assert set(listed) == {"python", "etcd"}
    for name, machines in listed.items():
        assert set(machines) == {"x86_64", "aarch64"}
        for machine in machines:
            url, sha256 = fetch.entry(name, machine)
            assert url.startswith("https://github.com/")
            assert re.fullmatch(r"[0-9a-f]{64}", sha256)
    with pytest.raises(FetchError, match="riscv64"):
        fetch.entry("etcd", "riscv64")


def test_images_are_what_kubernetes_runs() -> None:
    """User, commands and the folder that is written to."""
    assert DOCKERFILE.count("USER 65532:65532") == 2
    for name in ("proxy", "etcd"):
        pod = documents(DEPLOY / f"kubernetes/base/{name}.yaml")[0]["spec"]["template"]["spec"]
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (65532, 65532)
        (container,) = pod["containers"]
        assert f'ENTRYPOINT ["{container["command"][0]}"]' in DOCKERFILE
        for mount in container["volumeMounts"]:
            assert mount.get("readOnly") or f" {mount['mountPath']}" in DOCKERFILE


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """A mirror on loopback that serves the folder `mirror`."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    server: HTTPServer = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def archive(*names: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 2
            tar.addfile(entry, io.BytesIO(b"ok"))
    return made.getvalue()


def test_a_mirror_takes_the_place_of_the_host(served: str, tmp_path: Path) -> None:
    content = archive("etcd-v1/etcd", "etcd-v1/docs/x")
    place = tmp_path / "mirror/etcd-io/etcd"
    place.mkdir(parents=True)
    (place / "etcd-v1.tar.gz").write_bytes(content)
    url = fetch.through(f"{served}/", "https://github.com/etcd-io/etcd/etcd-v1.tar.gz")
    brought = io.BytesIO()
    fetch.bring(url, hashlib.sha256(content).hexdigest(), brought)
    brought.seek(0)
    fetch.unpack(brought, tmp_path / "made/etcd")
    assert (tmp_path / "made/etcd/etcd").read_text() == "ok"
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["etcd"]


def test_another_checksum_is_refused(served: str, tmp_path: Path) -> None:
    (tmp_path / "mirror/x.tar.gz").write_bytes(b"other")
    with pytest.raises(FetchError, match="SHA-256"):
        fetch.bring(f"{served}/x.tar.gz", "0" * 64, io.BytesIO())


def test_a_file_that_is_not_there_says_what_to_do(served: str) -> None:
    with pytest.raises(FetchError, match=r"404.*DOWNLOADS=URL"):
        fetch.bring(f"{served}/none.tar.gz", "0" * 64, io.BytesIO())


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="a Python before 3.11.4")
def test_nothing_is_unpacked_beside_the_folder(tmp_path: Path) -> None:
    with pytest.raises(tarfile.OutsideDestinationError):
        fetch.unpack(io.BytesIO(archive("etcd-v1/../../escaped")), tmp_path / "made/etcd")
    assert not (tmp_path / "escaped").exists()


def test_a_health_check_tells_well_from_ill(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["healthy", f"{served}/"])
    healthy.main()
    for url, told in ((f"{served}/none", "404"), ("http://127.0.0.1:9/", "refused")):
        monkeypatch.setattr("sys.argv", ["healthy", url])
        with pytest.raises(SystemExit, match=told):
            healthy.main()
