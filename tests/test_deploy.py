"""What is deployed, as far as it can be looked at without a cluster: nothing runs as root, and each reader takes its file."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml
from queries import DEPLOY, RULE_FILES, find_program

from processor.__main__ import main as cli
from processor.settings import AlertsSettings, read_settings
from processor.watching import load_exemptions

CHART = DEPLOY / "helm" / "gapwatch"
KUBERNETES = "1.31"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yml").read_text())
FLEET = yaml.safe_load((DEPLOY / "compose.fleet.yml").read_text())
SERVICES = {**FLEET["services"], **COMPOSE["services"]}
OPERATOR_KINDS = {"PodMonitor": "podmonitors", "PrometheusRule": "prometheusrules", "ServiceMonitor": "servicemonitors"}
"""The Prometheus operator's, and their files in its Go module (example/prometheus-operator-crd), which .ci/run fetches."""


def find_helm() -> str:
    """Helm comes with Go only (go install helm.sh/helm/v3/cmd/helm@latest), and Debian's is too old for it: .ci/run says where it
    cannot be had, and everywhere else a missing one is a failure of CI."""
    helm = shutil.which("helm")
    if helm is None:
        if os.environ.get("CI") == "true" and "GAPWATCH_NO_HELM" not in os.environ:
            pytest.fail("helm must be there in CI: go install helm.sh/helm/v3/cmd/helm@latest")
        pytest.skip("helm is not here")
    return helm


def read_operator_schema(kind: str) -> Any:
    """The operator's own schema of a kind, closed: a field that it does not know is an error, as for a strict kubectl."""
    folder = os.environ.get("GAPWATCH_OPERATOR_CRDS", "")
    path = Path(folder, f"monitoring.coreos.com_{OPERATOR_KINDS[kind]}.yaml")
    if not folder or not path.is_file():
        pytest.skip("the Prometheus operator's definitions are not here (GAPWATCH_OPERATOR_CRDS: see .ci/run)")
    (version,) = yaml.safe_load(path.read_text())["spec"]["versions"]
    assert version["name"] == "v1"
    schema = close_objects(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def close_objects(schema: Any) -> Any:
    if isinstance(schema, list):
        return [close_objects(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: close_objects(each) for name, each in schema.items()}
    if closed.get("type") == "object" and isinstance(closed.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


def render_chart(*values: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [find_helm(), "template", "watch", CHART, "--kube-version", f"{KUBERNETES}.0", *values],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return [found for found in yaml.safe_load_all(done.stdout) if found]


EVERYTHING = ("--set", "autoscaling.enabled=true,serviceMonitor.enabled=true")
MODES = pytest.mark.parametrize(
    "mode", [(), ("--set", "fleet.enabled=true,fleet.passwordSecretName=kafka")], ids=["one process", "fleet"]
)


@MODES
def test_the_chart_has_every_part_and_kubernetes_takes_it(mode: tuple[str, ...]) -> None:
    parts = render_chart(*EVERYTHING, *mode)
    assert {part["kind"] for part in parts} == {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor",
        "PrometheusRule", "Service", "ServiceAccount", "ServiceMonitor",
    }  # fmt: skip
    for part in parts:
        if part["kind"] not in OPERATOR_KINDS:
            kubernetes_validate.validate(part, KUBERNETES, strict=True)
    names = [(part["kind"], part["metadata"]["name"]) for part in parts]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", sorted(OPERATOR_KINDS))
def test_the_prometheus_operator_takes_its_kinds(kind: str) -> None:
    validator = jsonschema.Draft7Validator(read_operator_schema(kind))
    found = [part for part in render_chart(*EVERYTHING) if part["kind"] == kind]
    assert found
    for part in found:
        assert part["apiVersion"] == "monitoring.coreos.com/v1"
        assert [error.message for error in validator.iter_errors(part)] == []
    assert list(validator.iter_errors({**found[0], "spec": {**found[0]["spec"], "unheardOf": 1}}))


def test_helm_finds_nothing_to_complain_of() -> None:
    done = subprocess.run([find_helm(), "lint", "--strict", CHART], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout.decode()


@MODES
def test_pods_run_as_nobody_on_a_read_only_root(mode: tuple[str, ...], tmp_path: Path) -> None:
    (inventory := tmp_path / "iam.json").touch()
    roles = {}
    for deployment in (part for part in render_chart(*mode) if part["kind"] == "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
            # A password in the address is nobody's who may only read the deployment.
            redis, *kafka = container["env"]
            secret = {"secretKeyRef": {"name": "gapwatch-redis", "key": "url"}}
            assert redis == {"name": "GAPWATCH_REDIS", "valueFrom": secret}
            assert [each["name"] for each in kafka] == (
                ["GAPWATCH_KAFKA_BROKERS", "GAPWATCH_KAFKA_PASSWORD"] if mode else []
            )
            roles[container["args"][0]] = deployment["spec"].get("replicas")
            given = {"GAPWATCH_REDIS": "redis://redis", "GAPWATCH_KAFKA_BROKERS": "kafka:9092"}
            parse_command([arg.replace("/inventory/iam.json", str(inventory)) for arg in container["args"]], given)
    assert roles == ({"topics": 2, "intake": 2, "ledger": 3, "page": 1} if mode else {"run": 2})


def test_more_ledgers_come_with_lag_and_the_page_has_a_service_of_its_own() -> None:
    parts = render_chart(*EVERYTHING, "--set", "fleet.enabled=true")
    (scaler,) = (part for part in parts if part["kind"] == "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == "watch-gapwatch-ledger"
    assert scaler["spec"]["minReplicas"] == 3
    services = {part["metadata"]["name"]: part["spec"]["selector"] for part in parts if part["kind"] == "Service"}
    assert services["watch-gapwatch-page"]["app.kubernetes.io/component"] == "page"
    (monitor,) = (part for part in parts if part["kind"] == "ServiceMonitor")
    labels = monitor["spec"]["selector"]["matchLabels"].items()
    scraped = [part for part in parts if part["kind"] == "Service" and labels <= part["metadata"]["labels"].items()]
    assert [part["metadata"]["name"] for part in scraped] == ["watch-gapwatch"]


def parse_command(words: list[str], environment: dict[str, str]) -> None:
    """Fails where gapwatch has no such command or option."""
    command: click.Command | None = cli
    rest = list(words)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        while isinstance(command, click.Group):
            command = command.get_command(click.Context(command), rest.pop(0))
            assert command is not None, words
        command.make_context(words[0], rest)


def test_the_chart_carries_the_rules_and_dashboards_of_this_repository(tmp_path: Path) -> None:
    parts = render_chart()
    promtool = find_program("promtool", "prometheus")
    rules = {part["metadata"]["name"]: part["spec"] for part in parts if part["kind"] == "PrometheusRule"}
    assert len(rules) == len(RULE_FILES)
    for path in RULE_FILES:
        assert rules[f"watch-gapwatch-{path.stem}"] == yaml.safe_load(path.read_text())
        (tmp_path / path.name).write_text(yaml.safe_dump(rules[f"watch-gapwatch-{path.stem}"]))
        checked = subprocess.run([promtool, "check", "rules", tmp_path / path.name], capture_output=True, check=False)
        assert checked.returncode == 0, checked.stdout.decode()
    boards = {
        name: json.loads(text)
        for part in parts
        if "grafana_dashboard" in part["metadata"]["labels"]
        for name, text in part["data"].items()
    }
    folder = DEPLOY.parent / "dashboards"
    assert boards == {f"gapwatch-{path.name}": json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_the_chart_is_scraped_under_the_job_that_the_rules_name() -> None:
    (monitor,) = (part for part in render_chart() if part["kind"] == "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "gapwatch"}]
    assert endpoint["interval"] == "5s"
    assert 'job="gapwatch"' in (DEPLOY / "prometheus" / "rules" / "pipeline.yml").read_text()


def test_the_links_to_rules_and_dashboards_lead_into_this_repository() -> None:
    for name, target in (("rules", DEPLOY / "prometheus" / "rules"), ("dashboards", DEPLOY.parent / "dashboards")):
        assert (CHART / "files" / name).resolve() == target.resolve()
        assert not (CHART / "files" / name).readlink().is_absolute()


def test_settings_of_the_chart_and_of_the_example_are_taken(tmp_path: Path) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for text in (values["settings"], (DEPLOY / "example" / "gapwatch.toml").read_text()):
        (tmp_path / "gapwatch.toml").write_text(text)
        settings = read_settings(str(tmp_path / "gapwatch.toml"), {})
        assert settings.alerts != AlertsSettings()
        assert settings.alerts.exemptions == "/etc/gapwatch/exemptions.toml"
        # Beyond loopback the page is served to those with its token, or not at all.
        assert settings.run.host == "0.0.0.0"  # noqa: S104 - of a container
        assert settings.page.serve == (settings.page.token_file == "/run/secrets/page")
    (tmp_path / "exemptions.toml").write_text(values["exemptions"])
    assert load_exemptions(str(tmp_path / "exemptions.toml")).listed == ()
    assert len(load_exemptions(str(DEPLOY / "example" / "exemptions.toml")).listed) == 1


def test_compose_gives_the_page_its_token() -> None:
    settings = read_settings(str(DEPLOY / "example" / "gapwatch.toml"), {})
    (secret,) = COMPOSE["services"]["gapwatch"]["secrets"]
    assert settings.page.token_file == f"/run/secrets/{secret}"
    assert COMPOSE["secrets"].keys() == {secret}


# --- compose and the image --------------------------------------------------------------------------------------------


def test_compose_takes_the_file() -> None:
    """Of Debian, or Docker's own plugin; neither needs a daemon to read a file."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and not subprocess.run([*command, "version"], capture_output=True, check=False).returncode
        ):
            fleet = ["--file", DEPLOY / "compose.fleet.yml", "--profile", "notify"]
            for more in ([], fleet):
                done = subprocess.run(
                    [*command, "--file", DEPLOY / "compose.yml", *more, "config"],
                    capture_output=True, check=False, timeout=60,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr.decode()
            return
    find_program("docker-compose", "docker-compose")


@pytest.mark.parametrize("file", [COMPOSE, FLEET], ids=["one process", "fleet"])
def test_gapwatch_takes_the_commands_of_compose(file: dict[str, Any], tmp_path: Path) -> None:
    inventory = tmp_path / "iam.json"
    inventory.touch()
    found = [
        service["command"] for service in file["services"].values() if service.get("image", "gapwatch") == "gapwatch"
    ]
    assert found
    for words in found:
        parse_command([word.replace("/inventory/iam.json", str(inventory)) for word in words], {})


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_services_are_pinned_and_on_loopback_only(name: str) -> None:
    service = SERVICES[name]
    assert service["image"] == "gapwatch" or re.search(r":v?\d+\.\d+", service["image"]), service["image"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")
    for volume in service.get("volumes", ()):
        source = volume.partition(":")[0]
        if source.startswith("."):
            assert (DEPLOY / source).is_dir()
            assert volume.endswith(":ro")
    if name != "kafka":
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_redis_keeps_what_it_acknowledged_and_evicts_nothing() -> None:
    command = " ".join(COMPOSE["services"]["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_grafana_is_given_the_datasource_and_the_dashboards() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "gapwatch.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"])
    assert mounts["../dashboards"] == provider["options"]["path"]


def test_the_image_runs_as_nobody_and_writes_below_tmp_only() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    user = next(line for line in lines if line.startswith("USER "))
    assert int(user.removeprefix("USER ").partition(":")[0]) > 10_000
    assert any("NUMBA_CACHE_DIR=/tmp/" in line for line in lines)
    assert not any("--no-compile" in line for line in lines)  # Bytecode made at each start took two seconds.
    assert lines.index(user) < next(at for at, line in enumerate(lines) if line.startswith("ENTRYPOINT"))
    copied = {
        part for line in lines if line.startswith("COPY ") and "--from" not in line for part in line.split()[1:-1]
    }
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert {each.removeprefix("!") for each in ignored if each.startswith("!")} == copied
    for part in copied:
        assert (DEPLOY.parent / part).exists()
