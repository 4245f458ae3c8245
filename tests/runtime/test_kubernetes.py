"""The Kubernetes manifests fit the gateway: roles, probes, names, and what each pod may do."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import load
from gateway.http.known_hosts import KnownHosts

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
ROLES = {"proxy": "StatefulSet", "admin": "Deployment", "worker": "Deployment"}
# What the processes of a pod take together a minute after the start, in MiB (docs/kubernetes.md), and the worker more
# while it writes Parquet.
MEASURED, PARQUET = {"proxy": 313, "admin": 195, "worker": 164}, 240
STOPPING_SECONDS = 12.2  # besides shutdown_delay and drain_timeout (docs/rollouts.md)
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"

Manifest = dict[str, Any]


def kustomization() -> Manifest:
    found: Manifest = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    return found


def manifests() -> Iterator[Manifest]:
    for name in (*kustomization()["resources"], "monitoring.yaml"):
        yield from yaml.safe_load_all((FOLDER / name).read_text())


def named(kind: str, name: str) -> Manifest:
    (found,) = (each for each in manifests() if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def pods() -> dict[str, Manifest]:
    """The templates of pods by component."""
    found = [each["spec"]["template"] for each in manifests() if "template" in each["spec"]]
    return {each["metadata"]["labels"][COMPONENT]: each for each in found}


def secrets_by_name() -> dict[str, dict[str, str]]:
    written = yaml.safe_load_all((FOLDER / "secrets.example.yaml").read_text())
    return {
        each["metadata"]["name"]: {
            name: value if "URL" in name else value[:1] * 32 for name, value in each["stringData"].items()
        }
        for each in written
    }


def secrets() -> dict[str, str]:
    return {name: value for each in secrets_by_name().values() for name, value in each.items()}


def test_every_role_runs_apart_and_the_schema_is_migrated() -> None:
    arguments = {component: pod["spec"]["containers"][0]["args"] for component, pod in pods().items()}
    assert arguments == {**{role: [role] for role in ROLES}, "migrate": ["migrate", "up"]}
    for role, kind in ROLES.items():
        labels = pods()[role]["metadata"]["labels"]
        assert named(kind, f"gateway-{role}")["spec"]["selector"]["matchLabels"] == labels
        assert labels[NAME] == "gateway"


def test_configuration_and_secrets_of_the_manifests_are_valid() -> None:
    config = load(FOLDER / "gateway.yaml", secrets(), persist_secrets=False)
    hosts = KnownHosts(config.server.admin_hosts)
    service, namespace = named("Service", "gateway-admin")["metadata"]["name"], kustomization()["namespace"]
    assert hosts.first_unknown([f"{service}:8081", f"{service}.{namespace}.svc:8081"]) is None


def test_pods_have_the_secrets_of_their_role_and_no_other() -> None:
    names: set[str] = set()
    for component, pod in pods().items():
        references = [each["secretRef"] for each in pod["spec"]["containers"][0]["envFrom"]]
        given = [secrets_by_name()[each["name"]] for each in references if not each.get("optional")]
        roles = () if component == "migrate" else (component,)
        config = load(
            FOLDER / "gateway.yaml", {name: value for each in given for name, value in each.items()}, roles=roles
        )
        has = {name for each in given for name in each if "URL" not in name}
        assert has == set(config.secrets.required)
        names |= {each["name"] for each in references}
    assert set(secrets_by_name()) < names
    assert all(name in (FOLDER / "secrets.example.yaml").read_text() for name in names)


def test_pods_are_probed_and_stopped_as_the_gateway_answers_and_stops() -> None:
    server = load(FOLDER / "gateway.yaml", secrets(), persist_secrets=False).server
    stopping = server.shutdown_delay_seconds + server.drain_timeout_seconds + STOPPING_SECONDS
    for role in ROLES:
        spec = pods()[role]["spec"]
        container = spec["containers"][0]
        assert spec["terminationGracePeriodSeconds"] > stopping
        assert {port["name"]: port["containerPort"] for port in container["ports"]}["health"] == 8082
        paths = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
        assert {name: probe["path"] for name, probe in paths.items()} == {
            "startup": "/livez",
            "liveness": "/livez",
            "readiness": "/readyz",
        }
        assert {probe["port"] for probe in paths.values()} == {"health"}


def test_pods_have_the_memory_that_their_processes_take() -> None:
    for role, taken in MEASURED.items():
        resources = pods()[role]["spec"]["containers"][0]["resources"]
        most = taken + (PARQUET if role == "worker" else 0)
        assert mebibytes(resources["requests"]["memory"]) >= 1.2 * taken, role
        assert mebibytes(resources["limits"]["memory"]) >= 1.4 * most, role


def mebibytes(written: str) -> int:
    return int(written[:-2]) * {"Mi": 1, "Gi": 1024}[written[-2:]]


def test_pods_may_do_no_more_than_they_need() -> None:
    for pod in pods().values():
        spec, container = pod["spec"], pod["spec"]["containers"][0]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/etc/gateway", "/var/lib/gateway"}


def test_proxies_scale_and_are_never_all_away_and_keep_their_spools() -> None:
    proxy, labels = named("StatefulSet", "gateway-proxy"), pods()["proxy"]["metadata"]["labels"]
    assert [claim["metadata"]["name"] for claim in proxy["spec"]["volumeClaimTemplates"]] == ["data"]
    budget = named("PodDisruptionBudget", "gateway-proxy")["spec"]
    assert (budget["maxUnavailable"], budget["selector"]["matchLabels"]) == (1, labels)
    scaler = named("HorizontalPodAutoscaler", "gateway-proxy")["spec"]
    assert (scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"]) == ("StatefulSet", "gateway-proxy")
    assert scaler["minReplicas"] >= 2
    assert "replicas" not in proxy["spec"]  # else each apply would undo the scaling


def test_policies_and_services_lead_to_ports_that_pods_have() -> None:
    for each in manifests():
        if each["kind"] == "NetworkPolicy":
            component = each["spec"]["podSelector"]["matchLabels"][COMPONENT]
            asked = {port["port"] for rule in each["spec"]["ingress"] for port in rule["ports"]}
        elif each["kind"] == "Service":
            component = each["spec"]["selector"][COMPONENT]
            asked = {port["targetPort"] for port in each["spec"]["ports"]}
        else:
            continue
        assert asked <= {port["name"] for port in pods()[component]["spec"]["containers"][0]["ports"]}
    policed = {each["metadata"]["name"] for each in manifests() if each["kind"] == "NetworkPolicy"}
    assert policed == {f"gateway-{role}" for role in ROLES}


def test_manifests_run_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert kustomization()["images"] == [{"name": "metering-gateway", "newTag": version}]
    written = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    used = {*kustomization()["resources"], "gateway.yaml", "secrets.example.yaml", "monitoring.yaml"}
    assert written == used


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed here")
def test_kustomize_renders_every_manifest() -> None:
    rendered = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True).stdout
    found = list(yaml.safe_load_all(rendered))
    wanted = {(each["kind"], each["metadata"]["name"]) for each in manifests() if each["kind"] != "PodMonitor"}
    assert {(each["kind"], each["metadata"]["name"]) for each in found if each["kind"] != "ConfigMap"} == wanted
    templates = [each["spec"]["template"] for each in found if "template" in each.get("spec", {})]
    images = {container["image"] for template in templates for container in template["spec"]["containers"]}
    (generated,) = (each["metadata"]["name"] for each in found if each["kind"] == "ConfigMap")
    assert images == {kustomization()["images"][0]["name"] + ":" + kustomization()["images"][0]["newTag"]}
    assert rendered.count(f"name: {generated}") == 1 + len(pods())
