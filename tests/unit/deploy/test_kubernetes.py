"""deploy/kubernetes: what schemas see, and what they do not: names, ports, times, rights."""

from __future__ import annotations

import copy
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.settings_flags import read
from proxy.settings_loading import load
from tests.support.etcd import etcd_binary
from tests.unit.deploy.manifests import (
    CUSTOM,
    OVERLAYS,
    Pods,
    manifests,
    matches,
    of_kind,
    rendered,
    workloads,
    written,
)
from tests.unit.deploy.needed import DEPLOY, done, module
from workers.settings import WorkerSettings, read_settings

VERSIONS = ("1.30.0", "1.37.0")
"""The oldest that has what we use (a preStop sleep without a feature gate), and the newest known here."""
EVERY = pytest.mark.parametrize("overlay", OVERLAYS)
MARGIN_S = 10
UNITS = {"Mi": 2**20, "Gi": 2**30}


def bytes_of(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def proxy_of(overlay: str) -> Pods:
    (found,) = [one for one in workloads(overlay) if one.app == "pd-proxy"]
    return found


def workers_of(overlay: str) -> list[Pods]:
    return [one for one in workloads(overlay) if one.app == "pd-worker"]


def proxy_settings(overlay: str, folder: Path) -> Any:
    pods = proxy_of(overlay)
    file = written(folder, overlay, pods)
    argv = [file if word == "/etc/pd-proxy/proxy.toml" else word for word in pods.container["args"]]
    assert pods.container["command"] == ["pd-proxy"]
    return load(read(argv), {}).settings


def worker_settings(overlay: str, pods: Pods, folder: Path) -> WorkerSettings:
    """With the values that Kubernetes and LeaderWorkerSet would put in."""
    file = written(folder, overlay, pods)
    known = {
        "POD_IP": "10.0.0.1",
        "NODE_NAME": "node-a",
        "ROLE": pods.labels["app.kubernetes.io/component"],
        "LWS_GROUP_SIZE": "2",
        "LWS_WORKER_INDEX": "1",
        "LWS_LEADER_ADDRESS": "leader",
    }
    ours = {variable["name"] for variable in pods.container["env"]}
    ours |= {name for name in known if name.startswith("LWS_") and pods.kind == "LeaderWorkerSet"}
    argv = []
    for word in pods.container["args"]:
        asked = re.findall(r"\$\((\w+)\)", word)
        assert set(asked) <= ours, f"{word}: no such variable"
        argv.append(re.sub(r"\$\((\w+)\)", lambda found: known[found[1]], word))
    assert pods.container["command"] == ["pd-worker"]
    return read_settings([file if word == "/etc/pd-worker/worker.toml" else word for word in argv])


@EVERY
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_own_schemas_hold_strictly(overlay: str, version: str) -> None:
    validate = module("kubernetes_validate", "pip install kubernetes-validate").validate
    ours = [one for one in manifests(overlay) if one["kind"] not in CUSTOM]
    assert len(ours) > 5
    for one in ours:
        validate(one, version, strict=True)


def test_a_misspelt_probe_would_be_seen() -> None:
    validator = module("kubernetes_validate", "pip install kubernetes-validate")
    (deployment,) = of_kind("base", "Deployment")
    wrong = copy.deepcopy(deployment)
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(validator.ValidationError):
        validator.validate(wrong, VERSIONS[0], strict=True)


@EVERY
def test_pods_of_custom_kinds_hold_to_the_schema_of_a_pod(overlay: str) -> None:
    validate = module("kubernetes_validate", "pip install kubernetes-validate").validate
    for pods in workloads(overlay):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pods.pod}
        validate(pod, VERSIONS[-1], strict=True)


@EVERY
def test_selectors_take_the_pods_they_are_for(overlay: str) -> None:
    pods = list(workloads(overlay))
    for one in pods:
        if "selector" in one.spec:
            taken = [other.name for other in pods if matches(one.spec["selector"], other.labels)]
            assert taken == [one.name]
    for service in of_kind(overlay, "Service"):
        chosen = [one for one in pods if matches({"matchLabels": service["spec"]["selector"]}, one.labels)]
        assert chosen, service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            assert all(port["targetPort"] in ports_of(one) for one in chosen)
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        taken = [one.name for one in pods if matches(budget["spec"]["selector"], one.labels)]
        assert taken == [budget["metadata"]["name"]]
    for monitor in of_kind(overlay, "ServiceMonitor"):
        (service,) = [
            one
            for one in of_kind(overlay, "Service")
            if matches(monitor["spec"]["selector"], one["metadata"]["labels"])
        ]
        named = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= named
        assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "pd-proxy"


@EVERY
def test_every_workload_has_a_disruption_budget_and_statefulsets_their_service(overlay: str) -> None:
    budgets = {one["metadata"]["name"] for one in of_kind(overlay, "PodDisruptionBudget")}
    services = {one["metadata"]["name"]: one["spec"] for one in of_kind(overlay, "Service")}
    for pods in workloads(overlay):
        assert pods.name in budgets
        if pods.kind == "StatefulSet":
            assert services[pods.spec["serviceName"]]["clusterIP"] == "None"


def ports_of(pods: Pods) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in pods.container["ports"]}


@EVERY
def test_probes_ask_ports_that_there_are(overlay: str) -> None:
    for pods in workloads(overlay):
        probes = [pods.container.get(f"{kind}Probe") for kind in ("startup", "readiness", "liveness")]
        assert probes[1] is not None
        assert probes[2] is not None
        for probe in filter(None, probes):
            assert probe["httpGet"]["port"] in ports_of(pods)
            assert probe["timeoutSeconds"] >= 3, "a machine under load answers late, and lives"


@EVERY
def test_a_rollout_of_the_proxy_leaves_nobody_without_one(overlay: str) -> None:
    spec = proxy_of(overlay).spec
    assert spec["replicas"] >= 2
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    probes = proxy_of(overlay).container
    assert probes["readinessProbe"]["httpGet"]["path"] == "/readiness"
    assert probes["livenessProbe"]["httpGet"]["path"] == "/liveness", (
        "a fleet without workers is no reason to die"
    )


@EVERY
def test_the_proxy_has_time_to_drain(overlay: str, tmp_path: Path) -> None:
    pods = proxy_of(overlay)
    pause_s = pods.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    readiness = pods.container["readinessProbe"]
    assert pause_s >= 2 * readiness["periodSeconds"]
    server = proxy_settings(overlay, tmp_path).server
    leaving_s = pause_s + server.lame_duck_s + server.drain_s
    assert pods.pod["terminationGracePeriodSeconds"] >= leaving_s + MARGIN_S


@EVERY
def test_a_worker_has_time_to_drain(overlay: str, tmp_path: Path) -> None:
    for pods in workers_of(overlay):
        settings = worker_settings(overlay, pods, tmp_path)
        leaving_s = settings.drain_limit_s + settings.interrupt_limit_s + settings.terminate_limit_s
        if settings.engine == "simulated":
            leaving_s = settings.drain_timeout_s
        assert pods.pod["terminationGracePeriodSeconds"] >= leaving_s + MARGIN_S


@EVERY
def test_the_proxy_listens_where_it_is_asked_and_holds_what_fits(overlay: str, tmp_path: Path) -> None:
    pods, settings = proxy_of(overlay), proxy_settings(overlay, tmp_path)
    assert ports_of(pods)["http"] == settings.server.port
    assert bytes_of(pods.container["resources"]["limits"]["memory"]) >= 2 * settings.limits.held_bytes
    mounted = {mount["mountPath"] for mount in pods.container["volumeMounts"] if not mount.get("readOnly")}
    assert str(settings.discovery.snapshot_path.parent) in mounted


@EVERY
def test_a_worker_listens_where_it_is_asked(overlay: str, tmp_path: Path) -> None:
    roles = []
    for pods in workers_of(overlay):
        settings = worker_settings(overlay, pods, tmp_path)
        roles.append(str(settings.role))
        assert ports_of(pods)["http"] == settings.port
        if settings.engine == "sglang":
            launch = settings.launch()
            assert launch.advertise_host == "10.0.0.1"
            assert ports_of(pods)["control"] == settings.control_port
        if settings.role == "prefill":
            assert ports_of(pods)["bootstrap"] == (settings.bootstrap_port or 8998)
        assert str(settings.role) == pods.labels["app.kubernetes.io/component"]
    assert sorted(roles) == ["decode", "prefill"]


@EVERY
def test_proxies_and_workers_meet_in_the_same_etcd(overlay: str, tmp_path: Path) -> None:
    discovery = proxy_settings(overlay, tmp_path).discovery
    asked = sorted(str(url).rstrip("/") for url in discovery.etcd_endpoints)
    for pods in workers_of(overlay):
        settings = worker_settings(overlay, pods, tmp_path)
        assert sorted(url.rstrip("/") for url in settings.etcd_endpoints) == asked
        assert settings.registry_root == discovery.root
    etcd = [one for one in workloads(overlay) if one.app == "pd-etcd"]
    if etcd:
        peers = etcd[0].spec["serviceName"]
        members = [f"{etcd[0].name}-{number}" for number in range(etcd[0].spec["replicas"])]
        assert asked == [f"http://{member}.{peers}:2379" for member in members]
        cluster = ",".join(f"{member}=http://{member}.{peers}:2380" for member in members)
        assert f"--initial-cluster={cluster}" in etcd[0].container["args"]


def test_etcd_knows_its_flags() -> None:
    (etcd,) = [one for one in workloads("base") if one.app == "pd-etcd"]
    known = done([etcd_binary(), "--help"])
    flags = {word.partition("=")[0] for word in etcd.container["args"]}
    assert [flag for flag in flags if f"{flag} " not in known] == []


@EVERY
def test_a_pod_may_do_no_more_than_it_must(overlay: str) -> None:
    for pods in workloads(overlay):
        pod, container = pods.pod, pods.container
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume]
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert not rights.get("privileged")
        assert rights["capabilities"]["drop"] == ["ALL"]
        if pods.app == "pd-worker" and overlay != "overlays/simulated":
            assert rights["capabilities"]["add"] == ["IPC_LOCK"]
        else:
            assert "add" not in rights["capabilities"]
            assert rights["readOnlyRootFilesystem"] is True
            assert pod["securityContext"]["runAsNonRoot"] is True


@EVERY
def test_nobody_talks_to_kubernetes(overlay: str) -> None:
    kinds = {one["kind"] for one in manifests(overlay)}
    assert not {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount"} & kinds


@EVERY
def test_volumes_that_are_mounted_are_there(overlay: str) -> None:
    for pods in workloads(overlay):
        there = {volume["name"] for volume in pods.pod.get("volumes", [])}
        there |= {claim["metadata"]["name"] for claim in pods.spec.get("volumeClaimTemplates", [])}
        assert {mount["name"] for mount in pods.container["volumeMounts"]} == there


def allowed(overlay: str, direction: str, pods: Pods, other: Pods, port: str) -> bool:
    """Whether the policies of `pods` allow ingress from `other`, or egress to it; `port` is the target's."""
    target = pods if direction == "ingress" else other
    number = ports_of(target)[port]
    for policy in of_kind(overlay, "NetworkPolicy"):
        if not matches(policy["spec"]["podSelector"], pods.labels):
            continue
        for rule in policy["spec"].get(direction, []):
            peers = rule.get("from" if direction == "ingress" else "to")
            who = peers is None or any(
                "podSelector" in peer
                and "namespaceSelector" not in peer
                and matches(peer["podSelector"], other.labels)
                for peer in peers
            )
            ports = rule.get("ports")
            if who and (ports is None or any(each["port"] in (port, number) for each in ports)):
                return True
    return False


@EVERY
def test_who_must_talk_may_and_nobody_else(overlay: str) -> None:
    pods = {one.name: one for one in workloads(overlay)}
    needed = {("pd-proxy", worker, "http") for worker in ("pd-prefill", "pd-decode")}
    needed |= {("pd-decode", "pd-prefill", "bootstrap")}
    if "pd-etcd" in pods:
        needed |= {(one, "pd-etcd", "client") for one in pods}
        needed |= {("pd-etcd", "pd-etcd", "peer")}
    for source, target, port in needed:
        assert allowed(overlay, "egress", pods[source], pods[target], port), (source, target, port)
        assert allowed(overlay, "ingress", pods[target], pods[source], port), (source, target, port)
    assert not allowed(overlay, "ingress", pods["pd-prefill"], pods["pd-proxy"], "control")
    if "pd-etcd" in pods:
        assert not allowed(overlay, "ingress", pods["pd-etcd"], pods["pd-proxy"], "peer")
    for one in pods.values():
        policies = of_kind(overlay, "NetworkPolicy")
        (nothing,) = [policy for policy in policies if policy["metadata"]["name"] == "pd-nothing"]
        assert matches(nothing["spec"]["podSelector"], one.labels)


def test_an_etcd_of_ones_own_takes_ours_away_and_may_be_reached(tmp_path: Path) -> None:
    overlay = "overlays/production"
    assert "pd-etcd" not in rendered(overlay)
    endpoints = proxy_settings(overlay, tmp_path).discovery.etcd_endpoints
    policies = {
        one["metadata"]["name"]: one["spec"].get("egress", []) for one in of_kind(overlay, "NetworkPolicy")
    }
    for name in ("pd-proxy", "pd-worker"):
        (rule,) = [rule for rule in policies[name] if "ipBlock" in rule["to"][0]]
        network = ip_network(rule["to"][0]["ipBlock"]["cidr"])
        addresses = [urlsplit(str(url)) for url in endpoints]
        assert all(ip_address(str(url.hostname)) in network for url in addresses)
        assert {port["port"] for port in rule["ports"]} == {url.port for url in addresses}


def test_a_worker_of_two_nodes_is_one_worker(tmp_path: Path) -> None:
    prefill, decode = sorted(workers_of("overlays/multinode"), key=lambda pods: pods.name, reverse=True)
    for pods in (prefill, decode):
        launch = worker_settings("overlays/multinode", pods, tmp_path).launch()
        assert (launch.nnodes, launch.node_rank, launch.dist_init_addr) == (2, 1, "leader:20000")
        gpus = int(pods.container["resources"]["limits"]["amd.com/gpu"])
        assert launch.tp_size == pods.spec["leaderWorkerTemplate"]["size"] * gpus
    assert str(prefill.pod).replace("prefill", "decode").replace(
        "{'name': 'bootstrap', 'containerPort': 8998}", ""
    ).replace("{'containerPort': 8998, 'name': 'bootstrap'}, ", "") == str(decode.pod)


def test_a_setting_that_changes_is_a_rollout() -> None:
    for pods in (proxy_of("base"), *workers_of("base"), *workers_of("overlays/multinode")):
        (name,) = [volume["configMap"]["name"] for volume in pods.pod["volumes"] if "configMap" in volume]
        assert re.fullmatch(r"pd-(proxy|worker)-[a-z0-9]{10}", name)


def test_prometheus_scrapes_here_as_it_does_elsewhere() -> None:
    yaml = module("yaml", "pip install pyyaml")
    elsewhere = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    jobs = {job["job_name"]: job for job in elsewhere}
    here = of_kind("overlays/production", "ScrapeConfig")
    assert {one["metadata"]["name"] for one in here} == {"pd-sglang", "pd-worker"}
    for one in here:
        job = "sglang" if one["metadata"]["name"] == "pd-sglang" else "pd-worker"
        relabelled = [_plain(step) for step in one["spec"]["relabelings"]]
        assert relabelled.pop() == {"target_label": "job", "replacement": job}, (
            "whatever the operator calls it"
        )
        assert relabelled == jobs[job]["relabel_configs"]


def _plain(step: dict[str, Any]) -> dict[str, Any]:
    """The operator's spelling, as Prometheus spells it."""
    snake = {
        re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), key): value for key, value in step.items()
    }
    if (action := snake.pop("action").lower()) != "replace":
        snake["action"] = action
    return snake


def test_a_member_of_etcd_without_a_quorum_is_left_alive() -> None:
    (etcd,) = [one for one in workloads("base") if one.app == "pd-etcd"]
    version = tuple(map(int, etcd.container["image"].rpartition(":v")[2].split(".")))
    assert version >= (3, 5, 11), "older ones have neither path"
    paths = {
        kind: etcd.container[f"{kind}Probe"]["httpGet"]["path"]
        for kind in ("startup", "liveness", "readiness")
    }
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
