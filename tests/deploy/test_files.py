"""What is written for other programs: compose, Kubernetes, Prometheus and Grafana files say what they mean."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mild_service.config import Settings
from mild_service.observability import Telemetry
from mild_service.web.problems import catalogue

COMPOSE = Path("docker-compose.yml")
EXAMPLE = Path(".env.example")
KUBERNETES = sorted(path for path in Path("deploy/kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
OPERATIONS = Path("docs/operations.md").read_text()
_VARIABLE = re.compile(r"\$\{(\w+)")


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def manifests() -> Iterator[dict[str, Any]]:
    for path in KUBERNETES:
        yield from yaml.safe_load_all(path.read_text())


def variables() -> set[str]:
    passed = {
        name
        for part in compose()["services"].values()
        for name, value in (part.get("environment") or {}).items()
        if value is None
    }
    return passed | set(_VARIABLE.findall(COMPOSE.read_text()))


def test_every_variable_of_compose_is_explained_and_no_other() -> None:
    explained = set(re.findall(r"^(\w+)=", EXAMPLE.read_text(), re.MULTILINE))
    assert explained == variables()
    for block in re.findall(r"(?:^.*\n)(?=^\w+=)", EXAMPLE.read_text(), re.MULTILINE):
        assert block.startswith("#") or re.match(r"\w+=", block), f"no comment above a variable: {block!r}"


def test_the_example_says_the_defaults_of_the_service() -> None:
    fields = Settings.model_fields
    for name, value in re.findall(r"^MILD_(\w+)=(.+)$", EXAMPLE.read_text(), re.MULTILINE):
        if name.lower() in fields and name not in ("STORE_URL", "METRICS_ACCESS"):
            assert str(fields[name.lower()].default).removesuffix(".0") == value, name
    in_compose = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text()))
    said = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))
    assert {name: said[name] for name in in_compose} == in_compose


def test_images_are_pinned() -> None:
    images = [part["image"] for part in compose()["services"].values() if "build" not in part]
    images += re.findall(r"^ARG \w+=(\S+)", Path("Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 5
    assert all(re.search(r":v?\d+\.\d+", image) for image in images)


@pytest.mark.parametrize("name", ["service", "store", "prometheus", "grafana", "proxy"])
def test_containers_gain_no_privileges_and_have_a_limit(name: str) -> None:
    part = compose()["services"][name]
    assert part["security_opt"] == ["no-new-privileges:true"]
    assert part["restart"] == "unless-stopped"
    assert "mem_limit" in part


def test_the_store_loses_nothing_and_is_reached_by_the_service_alone() -> None:
    store = compose()["services"]["store"]
    command = " ".join(store["command"])
    assert "--appendonly yes --appendfsync always" in command
    assert "--maxmemory-policy noeviction" in command
    assert store["networks"] == ["inside"]
    assert "ports" not in store
    assert compose()["networks"]["inside"]["internal"] is True


def test_manifests_are_valid() -> None:
    kinds = []
    for manifest in manifests():
        kubernetes_validate.validate(manifest, "1.33", strict=True)
        kinds.append(manifest["kind"])
    assert set(kinds) >= {"Deployment", "StatefulSet", "Service", "NetworkPolicy", "PodDisruptionBudget"}
    listed = yaml.safe_load(Path("deploy/kubernetes/kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [path.name for path in KUBERNETES]


def test_a_broken_manifest_is_told() -> None:
    deployment = next(manifest for manifest in manifests() if manifest["kind"] == "Deployment")
    deployment["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.33", strict=True)


def test_pods_are_restricted_and_selected() -> None:
    labels = []
    for manifest in manifests():
        if manifest["kind"] not in ("Deployment", "StatefulSet"):
            continue
        template = manifest["spec"]["template"]
        labels.append(template["metadata"]["labels"])
        assert manifest["spec"]["selector"]["matchLabels"] == labels[-1]
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in template["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
    policies = [manifest["spec"] for manifest in manifests() if manifest["kind"] == "NetworkPolicy"]
    assert [policy["podSelector"]["matchLabels"] for policy in policies] == [{"app": "mild"}, {"app": "store"}]
    assert {"app": "mild"} in labels
    assert {"app": "store"} in labels


def expressions() -> list[str]:
    rules = yaml.safe_load(Path("deploy/monitoring/alerts.yml").read_text())["groups"][0]["rules"]
    board = json.loads(Path("deploy/monitoring/grafana/boards/selection.json").read_text())
    return [rule["expr"] for rule in rules] + [
        target["expr"] for panel in board["panels"] for target in panel["targets"]
    ]


def test_alerts_and_board_ask_for_metrics_and_problems_that_there_are() -> None:
    known = {sample for metric in Telemetry().registry.collect() for sample in (metric.name, f"{metric.name}_total")}
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "sum", "count")}
    for expression in expressions():
        assert set(re.findall(r"\bmild_\w+", expression)) <= known, expression
        assert set(re.findall(r'code="([^"]+)"', expression)) <= set(catalogue()), expression


def test_every_alert_has_its_remedy() -> None:
    rules = yaml.safe_load(Path("deploy/monitoring/alerts.yml").read_text())["groups"][0]["rules"]
    assert len(rules) >= 6
    for rule in rules:
        assert f"`{rule['alert']}`" in OPERATIONS, rule["alert"]
