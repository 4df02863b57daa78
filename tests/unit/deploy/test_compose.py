"""deploy/compose: the specification's schema takes it, and each service's command runs."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.settings_flags import read
from proxy.settings_loading import load
from tests.support.etcd import free_ports
from tests.support.proxies import eventually
from tests.unit.deploy.compose import ENGINES, FOLDER, Loopback, mounts, project, services
from tests.unit.deploy.needed import DEPLOY, ROOT, documents, done, module, program, promtool
from workers.settings import read_settings

EVERY = pytest.mark.parametrize("name", sorted(services()))
START_S = 60.0
UNITS = {"s": 1, "m": 60}


def seconds(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


def faults(given: Any) -> list[str]:
    """What the compose specification's own schema says against a file; check-jsonschema brings the schema."""
    package = module("check_jsonschema", "pip install check-jsonschema")
    schema = json.loads(
        resources.files(package).joinpath("builtin_schemas/vendor/compose-spec.json").read_text()
    )
    validators = module("jsonschema", "pip install jsonschema").validators
    return [error.message for error in validators.validator_for(schema)(schema).iter_errors(given)]


def test_the_specification_takes_the_file() -> None:
    assert faults(project()) == []


def test_a_misspelt_key_would_be_seen() -> None:
    wrong = copy.deepcopy(project())
    wrong["services"]["proxy"]["healtcheck"] = {}
    assert faults(wrong)


@EVERY
def test_a_service_may_do_no_more_than_it_must(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "network_mode" not in service
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "published on this machine only"


@EVERY
def test_a_service_comes_back_says_how_it_is_and_fills_no_disk(name: str) -> None:
    service = services()[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert seconds(service["healthcheck"]["timeout"]) > 4, "the probe's own limit is 4 s, and says more"
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@EVERY
def test_images_are_named_without_a_host_and_with_a_version(name: str) -> None:
    image = services()[name]["image"]
    assert "." not in image.split("/")[0].split(":")[0]
    assert "build" in services()[name] or re.search(r":v?\d+\.\d+\.\d+$", image)


@EVERY
def test_what_is_mounted_is_there(name: str) -> None:
    for inside, outside in mounts(services()[name]).items():
        assert inside.startswith("/")
        if outside.startswith("."):
            assert (FOLDER / outside).is_file(), outside
            assert f"{outside}:{inside}:ro" in services()[name]["volumes"], "files are read only"
        else:
            assert outside in project()["volumes"]


def test_every_volume_is_used() -> None:
    used = {outside for service in services().values() for outside in mounts(service).values()}
    assert set(project()["volumes"]) <= used


@EVERY
def test_what_is_built_is_a_target_of_the_dockerfile(name: str) -> None:
    build = services()[name].get("build")
    if build is not None:
        assert (FOLDER / build["context"]).resolve() == ROOT
        assert re.search(rf"^FROM .* AS {build['target']}$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_a_service_has_time_to_drain() -> None:
    server = load(read(services()["proxy"]["command"]), {}).settings.server
    grace_s = seconds(services()["proxy"]["stop_grace_period"])
    assert grace_s >= server.lame_duck_s + server.drain_s + 10
    for name in ENGINES:
        engine = read_settings(services()[name]["command"])
        assert seconds(services()[name]["stop_grace_period"]) >= engine.drain_timeout_s + 10


def test_an_engine_is_reached_under_the_name_it_listens_on() -> None:
    for name in ENGINES:
        settings = read_settings(services()[name]["command"])
        assert settings.host == services()[name]["hostname"] == name
        assert str(settings.role) == name.partition("-")[0]


def test_prometheus_scrapes_as_deploy_prometheus_says() -> None:
    (ours,), (theirs,) = documents(FOLDER / "prometheus.yml"), documents(DEPLOY / "prometheus/prometheus.yml")
    assert ours["rule_files"] == theirs["rule_files"]
    assert set(ours["global"]["external_labels"]) == set(theirs["global"]["external_labels"])
    jobs = [job for job in theirs["scrape_configs"] if job["job_name"] != "pd-worker"]
    text = json.dumps(jobs).replace("127.0.0.1:30000", "proxy:30000").replace('"15s"', '"5s"')
    assert ours["scrape_configs"] == json.loads(text)
    inside = mounts(services()["prometheus"])
    assert {f"/etc/prometheus/{file}" for file in ours["rule_files"]} <= set(inside)


def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    for inside, outside in mounts(services()["prometheus"]).items():
        if outside.startswith("."):
            (tmp_path / Path(inside).name).write_text((FOLDER / outside).read_text())
    done([promtool(), "check", "config", str(tmp_path / "prometheus.yml")])


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    grafana = services()["grafana"]
    inside = mounts(grafana)
    (sources,) = documents(FOLDER / "grafana/datasources.yaml")
    (source,) = sources["datasources"]
    assert sources["apiVersion"] == 1
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert source["url"] == "http://prometheus:9090"
    assert "--web.listen-address=0.0.0.0:9090" in services()["prometheus"]["command"]
    assert inside["/etc/grafana/provisioning/datasources/pd-proxy.yaml"] == "./grafana/datasources.yaml"
    (dashboards,) = documents(FOLDER / "grafana/dashboards.yaml")
    (provider,) = dashboards["providers"]
    assert inside["/etc/grafana/provisioning/dashboards/pd-proxy.yaml"] == "./grafana/dashboards.yaml"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert str(Path(home).parent) == provider["options"]["path"]
    assert (FOLDER / inside[home]).resolve() == DEPLOY / "grafana/dashboard.json"
    asked = json.loads((DEPLOY / "grafana/dashboard.json").read_text())["templating"]["list"][0]
    assert (asked["type"], asked["query"]) == ("datasource", source["type"])


@asynccontextmanager
async def running(loopback: Loopback, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A service as its command says, until its health check finds it well; ended with the block."""
    log = loopback.folder / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *loopback.command(name), cwd=ROOT, stdout=output, stderr=output
        )

    async def well() -> bool:
        assert process.returncode is None, log.read_text()[-3000:]
        probe = await asyncio.create_subprocess_exec(
            *loopback.probe(name), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        await probe.communicate()
        return probe.returncode == 0

    try:
        await eventually(well, START_S, lambda: f"{name} is not well: {log.read_text()[-3000:]}")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.timeout(150)
async def test_every_service_of_ours_runs_and_they_serve_together(tmp_path: Path) -> None:
    loopback = Loopback(free_ports(20), tmp_path)
    async with AsyncExitStack() as stack:
        for name in ("etcd", *ENGINES, "proxy"):
            process = await stack.enter_async_context(running(loopback, name))
        url = f"http://127.0.0.1:{loopback.port('proxy', 30000)}"
        body = {"text": "hello", "sampling_params": {"max_new_tokens": 4}}
        async with aiohttp.ClientSession(url) as http:
            async with http.get("/workers") as answer:
                assert len((await answer.json())["workers"]) == len(ENGINES)
            async with http.post("/generate", json=body) as answer:
                assert answer.status == 200
        process.terminate()
        assert await asyncio.wait_for(process.wait(), START_S) == 0
        assert (tmp_path / "proxy/var/lib/pd-proxy/workers.json").is_file(), (
            "the last known workers are kept in the volume"
        )


@pytest.mark.timeout(150)
async def test_prometheus_runs_as_its_command_says(tmp_path: Path) -> None:
    binary = program("prometheus", "apt-get install --no-install-recommends prometheus")
    loopback = Loopback(free_ports(20), tmp_path)
    words = [loopback.here("prometheus", word) for word in services()["prometheus"]["command"]]
    log = tmp_path / "prometheus.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(binary, *words, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{loopback.port('prometheus', 9090)}"
    try:
        async with aiohttp.ClientSession(url) as http:

            async def ready() -> bool:
                assert process.returncode is None, log.read_text()[-3000:]
                try:
                    async with http.get("/-/ready") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await eventually(ready, START_S)
            async with http.get("/api/v1/status/config") as answer:
                assert "proxy:30000" in (await answer.json())["data"]["yaml"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
