"""The manifests: valid, confined, and naming only what exists. No cluster runs here."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from kubernetes_validate import utils

from daemon.environment import read_settings
from named import DEPLOY, SETTINGS, commands, documents

FOLDER = DEPLOY / "kubernetes"
OVERLAYS = ("base", "overlays/gpu", "overlays/orders")
VERSIONS = ("1.29", "1.34")
WORKLOADS = ("Deployment", "StatefulSet")


def built(overlay: str) -> list[dict[str, Any]]:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([program, "kustomize", str(FOLDER / overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def plain() -> list[dict[str, Any]]:
    """As they are written, whether kustomize is there or not."""
    paths = [path for path in sorted(FOLDER.rglob("*.yaml")) if path.name != "kustomization.yaml"]
    found = [document for path in paths for document in documents(path.read_text(encoding="utf-8"))]
    return [document for document in found if "containers" not in str(document) or "selector" in document["spec"]]


def workloads(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each["spec"] for each in found if each["kind"] in WORKLOADS}


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    pod = spec["template"]["spec"]
    return [*pod["initContainers"], *pod["containers"]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kustomize_makes_of_it_is_valid(overlay: str, version: str) -> None:
    for document in built(overlay):
        utils.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_written_is_valid(version: str) -> None:
    for document in plain():
        utils.validate(document, version, strict=True)


def test_receivers_workers_scheduler_and_web_are_scaled_apart() -> None:
    found = plain()
    started = {name: spec["template"]["spec"]["containers"][0]["args"] for name, spec in workloads(found).items()}
    assert started == {
        "triage-receiver": ["receive"],
        "triage-worker": ["work"],
        "triage-scheduler": ["schedule"],
        "triage-web": ["web"],
        "triage-orders": ["orders"],
    }
    assert {name for (name,) in started.values()} <= commands()
    spared = {each["metadata"]["name"] for each in found if each["kind"] == "PodDisruptionBudget"}
    assert spared == started.keys() - {"triage-orders"}


def test_every_pod_keeps_to_the_restricted_standard() -> None:
    for spec in workloads(plain()).values():
        pod = spec["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "configMap", "secret"}


def test_no_service_becomes_a_setting() -> None:
    """Kubernetes would tell each pod of the Service triage-dicom as TRIAGE_DICOM_PORT=tcp://..."""
    assert all(spec["template"]["spec"]["enableServiceLinks"] is False for spec in workloads(plain()).values())


def test_what_it_sets_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in workloads(plain()).values():
        for container in spec["template"]["spec"]["containers"]:
            assert {pair["name"] for pair in container["env"]} <= SETTINGS
    text = (FOLDER / "base" / "triage.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["database_password_file"] == "/run/secrets/triage/database-password"
    (tmp_path / "triage.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("TRIAGE_CONFIG_FILE", str(tmp_path / "triage.toml"))
    assert read_settings()[0].pixel_store


def test_the_senders_own_address_reaches_the_receiver() -> None:
    services = {each["metadata"]["name"]: each["spec"] for each in plain() if each["kind"] == "Service"}
    for name in ("triage-dicom", "triage-hl7"):
        assert services[name]["externalTrafficPolicy"] == "Local"


def test_everything_that_comes_in_or_goes_out_is_listed() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in plain() if each["kind"] == "NetworkPolicy"}
    everybody = policies.pop("triage")
    assert everybody["podSelector"] == {}
    assert everybody["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in everybody
    assert all(rule.get("from") for policy in policies.values() for rule in policy["ingress"])


def test_workers_of_the_gpu_overlay_have_one() -> None:
    worker = workloads(built("overlays/gpu"))["triage-worker"]["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    variables = {pair["name"]: pair.get("value") for pair in worker["env"]}
    assert variables["TRIAGE_DEVICE"] == "cuda"
    assert variables.keys() <= SETTINGS
    assert variables["TRIAGE_DATA_DIR"]  # what the base says is still there
