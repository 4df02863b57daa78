"""docs/kubernetes.md: its overlay is rendered, its commands name what is there, its rules are our rules."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.unit.deploy.manifests import OVERLAYS
from tests.unit.deploy.needed import DEPLOY, ROOT, documents, done, module, program, promtool

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()


def block(language: str, word: str) -> str:
    """The block of code that has this word in it."""
    (found,) = [
        each
        for each in re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        if word in each
    ]
    return str(found)


def test_the_overlay_of_ones_own_is_rendered_with_its_images_and_its_model(tmp_path: Path) -> None:
    kubectl = program("kubectl", "the newest kubectl; `kubectl kustomize` needs no cluster")
    yaml = module("yaml", "pip install pyyaml")
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    mine = tmp_path / "kubernetes" / "overlays" / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(block("yaml", "../amd"))
    settings = (DEPLOY / "kubernetes" / "base" / "worker.toml").read_text().replace("Qwen3-32B", "my-model")
    (mine / "worker.toml").write_text(settings)
    made = [one for one in yaml.safe_load_all(done([kubectl, "kustomize", str(mine)])) if one]
    pods = [one["spec"]["template"]["spec"] for one in made if one["kind"] in ("Deployment", "StatefulSet")]
    images = [container["image"] for one in pods for container in one["containers"]]
    assert len(images) == 4
    assert all(image.startswith("registry.example.com/") for image in images)
    told = [one["data"]["worker.toml"] for one in made if "worker.toml" in one.get("data", {})]
    assert len(told) == 1
    assert 'model = "my-model"' in told[0]
    assert {one["kind"] for one in made} >= {"ServiceMonitor", "ScrapeConfig"}


def test_the_rules_for_the_operator_are_those_of_prometheus(tmp_path: Path) -> None:
    yaml = module("yaml", "pip install pyyaml")
    make = (
        block("bash", "PrometheusRule").split("kubectl ")[0].replace("pd-rules.yaml", str(tmp_path / "rules"))
    )
    done(["bash", "-euc", make], ROOT)
    (made,) = documents(tmp_path / "rules")
    assert (made["apiVersion"], made["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    files = sorted((DEPLOY / "prometheus").glob("*.rules.yml"))
    assert made["spec"]["groups"] == [group for path in files for group in documents(path)[0]["groups"]]
    (tmp_path / "groups.yml").write_text(yaml.safe_dump(made["spec"]))
    done([promtool(), "check", "rules", str(tmp_path / "groups.yml")])


def test_every_overlay_is_in_the_table() -> None:
    told = set(re.findall(r"`([\w-]+)`", PAGE.split("## Which overlay")[1].split("\n\nThe base")[0]))
    assert {name.partition("/")[2] for name in OVERLAYS} - {""} <= told


def test_what_is_named_in_the_commands_is_in_the_manifests() -> None:
    text = "".join(path.read_text() for path in (DEPLOY / "kubernetes").rglob("*.yaml"))
    for kind, name in re.findall(r"(deployment|statefulset|service)/([\w-]+)", PAGE):
        assert re.search(rf"kind: {kind}\nmetadata:\n  name: {name}\n", text, re.IGNORECASE), (kind, name)
