"""The catalogue, the alerts and the dashboard speak of the metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.samples import Sample

from daemon import metrics
from daemon.dicom.guard import Outcome

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = ROOT / "deploy" / "METRICS.md"
RULES = ROOT / "deploy" / "prometheus" / "triage.rules.yml"
RULES_TEST = RULES.with_suffix(".test.yml")
DASHBOARD = ROOT / "deploy" / "grafana" / "triage.json"
KINDS = {"counter", "gauge", "histogram"}
UNITS = ("_seconds", "_bytes", "_ratio", "_info", "_total")
# What neither is counted in a unit nor only ever grows: numbers of things, states, an index without dimension.
PLAIN = {
    "triage_database_up", "triage_child_up", "triage_audit_repository_up", "triage_sweeping",
    "triage_worklist_studies", "triage_studies_pending", "triage_studies_flagged",
    "triage_studies_overdue", "triage_studies_not_analysed", "triage_jobs_open",
    "triage_processes_alive", "triage_workers_without_network", "triage_score_drift_psi", "triage_score_drift_films",
    "triage_batch_films", "triage_pneumonia_probability",
}  # fmt: skip
# Of Prometheus itself, about a scrape.
OF_PROMETHEUS = {"up"}


def registered() -> dict[str, Metric]:
    """By the name that is asked for."""
    found = [*metrics.REGISTRY.collect(), *metrics.STATE.collect()]
    return {family.name + ("_total" if family.type == "counter" else ""): family for family in found}


def labels_of(name: str, registry: CollectorRegistry) -> tuple[str, ...]:
    """As declared; the library's own metrics have none."""
    collectors: dict[str, Any] = dict(registry._names_to_collectors)
    return tuple(getattr(collectors.get(name), "_labelnames", ()))


def catalogued() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and labels by name, from the tables of the page."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?)\| \S.* \|$", CATALOGUE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def names_in(expression: str) -> set[str]:
    """Names of series, without labels and words of the language; of a histogram its own."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|on|without) \([^)]*\)", "", expression)
    series = set(re.findall(r"\b(?:triage|process)_\w+|\bup\b", bare))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in series}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def expressions() -> dict[str, str]:
    """Of alerts and panels, by their names."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    of_panels = {f"{panel['title']} {t['refId']}": t["expr"] for panel in panels for t in panel.get("targets", ())}
    return {rule["alert"]: rule["expr"] for rule in rules()} | of_panels


def test_the_catalogue_holds_every_metric_with_its_type_and_labels_and_no_other() -> None:
    there = {
        name: (family.type, labels_of(family.name, metrics.REGISTRY) or labels_of(family.name, metrics.STATE))
        for name, family in registered().items()
    }
    assert catalogued() == there


def test_the_catalogue_names_every_end_of_an_association() -> None:
    (row,) = re.findall(r"^\| `triage_associations_total` .*$", CATALOGUE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == {"triage_associations_total", "outcome", *Outcome}


def test_names_carry_their_unit() -> None:
    assert {name for name in registered() if name.startswith("triage_") and not name.endswith(UNITS)} == PLAIN
    assert {family.type for family in registered().values()} <= KINDS
    assert all(family.documentation.endswith(".") for family in registered().values())


def test_every_metric_is_set_somewhere() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "daemon").rglob("*.py"))
    constants = re.findall(r"^([A-Z_]+) = _(?:counter|gauge|histogram|state)\(", code, re.MULTILINE)
    assert len(constants) > 40
    assert [
        name for name in constants if len(re.findall(rf"\b{name}\b\.(?:labels|inc|set|observe|time)", code)) == 0
    ] == []


def test_alerts_and_panels_ask_for_metrics_that_there_are() -> None:
    known = {family for name in registered() for family in (name, name.removesuffix("_total"))} | OF_PROMETHEUS
    asked = {where: names_in(expression) for where, expression in expressions().items()}
    assert all(asked.values())
    assert {where: names - known for where, names in asked.items() if names - known} == {}


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    shown = {name for panel in panels for t in panel.get("targets", ()) for name in names_in(t["expr"])}
    assert {name for name in registered() if name.startswith("triage_")} - shown == set()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_what_has_happened_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"Triage[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"deploy/RUNBOOK.md#{rule['alert'].lower()}"


def test_every_alert_is_seen_to_fire_in_its_test() -> None:
    tested = RULES_TEST.read_text(encoding="utf-8")
    fires = set(re.findall(r"exp_samples: \[\{labels: 'ALERTS\{alertname=\"(\w+)\"", tested))
    assert fires == {rule["alert"] for rule in rules()}


def test_labels_have_few_values_from_the_start() -> None:
    samples: list[Sample] = [sample for family in registered().values() for sample in family.samples]
    assert {name for sample in samples for name in sample.labels} <= {
        "version", "child", "outcome", "status", "code", "reason", "transfer_syntax", "weights", "device", "sweep",
        "method", "reading", "state", "kind", "le",
    }  # fmt: skip
