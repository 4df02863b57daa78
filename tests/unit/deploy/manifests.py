"""What kustomize makes of deploy/kubernetes, and what is where in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.unit.deploy.needed import DEPLOY, done, module, program

FOLDER = DEPLOY / "kubernetes"
OVERLAYS = ("base", *(f"overlays/{path.name}" for path in sorted((FOLDER / "overlays").iterdir())))
CUSTOM = {"ServiceMonitor", "ScrapeConfig", "LeaderWorkerSet"}
"""Kinds that are not Kubernetes' own."""

Manifest = dict[str, Any]


@cache
def rendered(overlay: str) -> str:
    """The YAML that `kubectl apply -k` would send."""
    kubectl = program("kubectl", "the newest kubectl; `kubectl kustomize` needs no cluster")
    return done([kubectl, "kustomize", str(FOLDER / overlay)])


@cache
def manifests(overlay: str) -> tuple[Manifest, ...]:
    yaml = module("yaml", "pip install pyyaml")
    return tuple(yaml.safe_load_all(rendered(overlay)))


@dataclass(frozen=True)
class Pods:
    """A workload: what makes pods, and what they look like."""

    name: str
    kind: str
    spec: Manifest
    labels: dict[str, str]
    pod: Manifest

    @property
    def container(self) -> Manifest:
        """The only one."""
        (found,) = self.pod["containers"]
        return dict(found)

    @property
    def app(self) -> str:
        return self.labels["app.kubernetes.io/name"]


def workloads(overlay: str) -> Iterator[Pods]:
    for one in manifests(overlay):
        spec = one.get("spec", {})
        template = spec.get("template") or spec.get("leaderWorkerTemplate", {}).get("workerTemplate")
        if template:
            labels = template["metadata"]["labels"]
            yield Pods(one["metadata"]["name"], one["kind"], spec, labels, template["spec"])


def of_kind(overlay: str, kind: str) -> list[Manifest]:
    return [one for one in manifests(overlay) if one["kind"] == kind]


def config(overlay: str, pods: Pods) -> dict[str, str]:
    """The files of the one ConfigMap that a workload mounts."""
    (name,) = [volume["configMap"]["name"] for volume in pods.pod["volumes"] if "configMap" in volume]
    (found,) = [one for one in of_kind(overlay, "ConfigMap") if one["metadata"]["name"] == name]
    return dict(found["data"])


def written(folder: Path, overlay: str, pods: Pods) -> str:
    """The path of that file, for our own programs to read."""
    ((name, text),) = config(overlay, pods).items()
    (folder / name).write_text(text)
    return str(folder / name)


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a LabelSelector takes a pod with these labels."""
    for want in selector.get("matchExpressions", []):
        assert want["operator"] == "In"
        if labels.get(want["key"]) not in want["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
