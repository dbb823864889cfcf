"""What is written for other programs: compose, Kubernetes, Prometheus and Grafana files say what they mean."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml

from mild_service.config import Settings
from mild_service.observability import Telemetry
from mild_service.web.problems import describe_problems
from mild_trainer import cli

COMPOSE = Path("docker-compose.yml")
EXAMPLE = Path(".env.example")
TRAINER = Path("deploy/trainer/Dockerfile")
GPU = Path("deploy/trainer/gpu.yml")
DASK = Path("deploy/dask/docker-compose.yml")
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
    return passed | set(_VARIABLE.findall(COMPOSE.read_text() + GPU.read_text()))


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
    in_compose = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text() + GPU.read_text()))
    said = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))
    assert {name: said[name] for name in in_compose} == in_compose


def test_images_are_pinned() -> None:
    images = [part["image"] for part in compose()["services"].values() if "build" not in part]
    images += re.findall(r"^ARG PYTHON=(\S+)", Path("Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 5
    assert all(re.search(r":v?\d+\.\d+", image) for image in images)


@pytest.mark.parametrize("name", ["service", "store", "prometheus", "grafana", "proxy"])
def test_containers_gain_no_privileges_and_have_a_limit(name: str) -> None:
    part = compose()["services"][name]
    assert part["security_opt"] == ["no-new-privileges:true"]
    assert part["restart"] == "unless-stopped"
    assert "mem_limit" in part


def test_the_dask_cluster_is_reached_by_the_service_alone_and_has_its_image() -> None:
    cluster = yaml.safe_load(DASK.read_text())["services"]
    service = cluster.pop("service")
    Settings(executor=service["environment"]["MILD_EXECUTOR"])
    assert "dask" in service["build"]["args"]["EXTRAS"].split(",")
    assert re.search(r"^ARG EXTRAS=service,formats,cli$", Path("Dockerfile").read_text(), re.MULTILINE)
    assert set(cluster) == {"dask-scheduler", "dask-worker"}
    for part in cluster.values():
        assert part["image"] == service["image"]
        assert part["networks"] == ["inside"]
        assert "ports" not in part
        assert part["security_opt"] == ["no-new-privileges:true"]
        assert part["restart"] == "unless-stopped"
        assert "mem_limit" in part
    assert compose()["networks"]["inside"] == {"internal": True}


def test_the_trainer_is_no_part_of_up_and_trains_against_the_service_that_is_well() -> None:
    trainer = compose()["services"]["trainer"]
    assert trainer["profiles"] == ["trainer"]
    assert trainer["environment"]["MILD_URL"] == "http://service:8000"
    assert set(trainer["networks"]) & set(compose()["services"]["service"]["networks"])
    assert trainer["depends_on"] == {"service": {"condition": "service_healthy"}}
    assert "restart" not in trainer
    # Everything that it is told by variables is an option of `mild train`.
    options = {str(option.envvar) for option in typer.main.get_group(cli.app).commands["train"].params}
    assert set(trainer["environment"]) <= options


def test_the_trainer_gains_no_privileges_but_to_become_the_owner_of_its_results() -> None:
    trainer = compose()["services"]["trainer"]
    assert trainer["cap_drop"] == ["ALL"]
    assert trainer["cap_add"] == ["CHOWN", "SETUID", "SETGID"]
    assert trainer["security_opt"] == ["no-new-privileges:true"]
    assert trainer["read_only"] is True
    assert trainer["volumes"] == ["${TRAINER_RUNS:-./runs}:/work/runs"]
    assert re.findall(r"^(?:USER|ENTRYPOINT) .*", TRAINER.read_text(), re.MULTILINE) == [
        "USER mild",
        'ENTRYPOINT ["run-as-owner", "mild"]',
    ]


def test_gpus_are_given_to_the_trainer_alone_in_an_image_of_its_own() -> None:
    services = yaml.safe_load(GPU.read_text())["services"]
    assert list(services) == ["trainer"]
    part = services["trainer"]
    assert part["image"] != compose()["services"]["trainer"]["image"]
    (device,) = part["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert set(part["build"]["args"]) <= set(compose()["services"]["trainer"]["build"]["args"])


def test_both_images_have_the_same_python_and_the_same_default_of_torch() -> None:
    def arguments(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^ARG (\w+)=(.*)$", path.read_text(), re.MULTILINE))

    trainer = arguments(TRAINER)
    assert arguments(Path("Dockerfile"))["PYTHON"] == trainer.pop("PYTHON")
    in_compose = compose()["services"]["trainer"]["build"]["args"]
    assert {name: f"${{{name}:-{value}}}" for name, value in trainer.items()} == in_compose


def test_what_the_images_copy_is_not_ignored() -> None:
    kept = {line[1:] for line in Path(".dockerignore").read_text().splitlines() if line.startswith("!")}
    for path in (Path("Dockerfile"), TRAINER):
        copied = re.findall(r"^COPY (?!--)(.*) \S+$", path.read_text(), re.MULTILINE)
        for source in " ".join(copied).replace("[s]", "s").split():
            assert any(source == name or source.startswith(f"{name}/") for name in kept), f"{path}: {source}"


def run_as_owner(folder: Path, user: int, owner: int, host_root: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the entry point on `folder`/runs with stubs of the tools that ask for users or change them.

    `user` runs it, `owner` owns the folder, and `host_root` is the host's user behind the container's root.
    """
    stubs = {
        "id": f"echo {user}",
        "stat": f"cat {folder}/owner",
        "awk": f"echo {host_root}",
        "chown": f"echo chown $1; echo 10001 > {folder}/owner",
        "setpriv": 'echo setpriv "$1" "$2"',
    }
    tools = folder / "tools"
    tools.mkdir()
    for name, body in stubs.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    (folder / "owner").write_text(str(owner))
    script = Path("deploy/trainer/run-as-owner").read_text().replace("runs=/work/runs", f"runs={folder / 'runs'}")
    return subprocess.run(
        ["sh", "-s", "echo", "trained"],
        input=script,
        env={"PATH": f"{tools}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("user", "owner", "host_root", "output"),
    [
        (0, 1234, 0, "setpriv --reuid 1234\n"),
        (0, 0, 0, "chown mild:mild\nsetpriv --reuid 10001\n"),
        (0, 0, 1000, "trained\n"),  # a rootless engine
        (10001, 10001, 0, "trained\n"),
    ],
)
def test_the_trainer_runs_as_the_owner_of_its_results_and_never_as_the_hosts_root(
    user: int, owner: int, host_root: int, output: str, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    result = run_as_owner(tmp_path, user, owner, host_root)
    assert (result.returncode, result.stdout, result.stderr) == (0, output, "")


def test_results_that_cannot_be_written_are_one_line_with_the_remedy(tmp_path: Path) -> None:
    result = run_as_owner(tmp_path, 10001, 1234)  # without the folder: to root every folder is writable
    assert result.returncode == 2
    message = r"error: \S*/runs cannot be written by user 10001, it belongs to user 1234; mount it .*\n"
    assert re.fullmatch(message, result.stderr)


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
        assert set(re.findall(r'code="([^"]+)"', expression)) <= set(describe_problems()), expression


def test_every_alert_has_its_remedy() -> None:
    rules = yaml.safe_load(Path("deploy/monitoring/alerts.yml").read_text())["groups"][0]["rules"]
    assert len(rules) >= 6
    for rule in rules:
        assert f"`{rule['alert']}`" in OPERATIONS, rule["alert"]
