"""Settings that are each sound and together senseless, or dangerous."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from daemon.notation import is_loopback
from daemon.operating.verdict import Area, Verdict, fail, ok, warn
from daemon.settings import Settings
from triage.card import read_card
from triage.errors import CardMismatchError, SettingsError
from triage.policy import Policy, thresholds

_DAY_MINUTES = 24 * 60
_MIB = 2**20


def look_at_settings(settings: Settings, policy: Policy) -> Iterator[Verdict]:
    """One verdict for each contradiction, or one that there is none."""
    sensed = (
        _times(settings, policy),
        _addresses(settings),
        _load(settings),
        _policy(settings, policy),
    )
    found = [verdict for part in sensed for verdict in part]
    yield from found or [ok(Area.SETTINGS, f"no contradiction; policy {policy.version}")]


def _times(settings: Settings, policy: Policy) -> Iterator[Verdict]:
    if settings.retention_days * _DAY_MINUTES < policy.waiting_limit_minutes:
        words = f"films are deleted after {settings.retention_days:g} days, before their studies are overdue"
        yield warn(Area.SETTINGS, words, "raise retention_days, or lower [policy] waiting_limit_minutes")
    if settings.lease_seconds > settings.job_seconds:
        words = f"lease_seconds {settings.lease_seconds:g} is more than job_seconds {settings.job_seconds:g}"
        yield warn(Area.SETTINGS, words, "a worker that hangs is noticed late: lower lease_seconds")
    if settings.pending_seconds < settings.job_seconds:
        words = f"studies show a time-out after {settings.pending_seconds:g} s, while a job may take longer"
        yield warn(Area.SETTINGS, words, "raise pending_seconds above job_seconds")
    if settings.session_idle_minutes > settings.session_hours * 60:
        words = "session_idle_minutes is more than session_hours: it never counts"
        yield warn(Area.SETTINGS, words, "lower session_idle_minutes")


def _addresses(settings: Settings) -> Iterator[Verdict]:
    named = {name: getattr(settings, name) for name in ("dicom_port", "http_port", "hl7_port", "metrics_port")}
    counts = Counter(port for port in named.values() if port)
    for port in (port for port, count in counts.items() if count > 1):
        names = " and ".join(name for name, value in named.items() if value == port)
        yield fail(Area.SETTINGS, f"{names} are both {port}", "give each a port of its own")
    if not settings.dicom_peers and not is_loopback(settings.dicom_host):
        words = "dicom_peers is empty: programs on this machine alone may send"
        yield warn(Area.SETTINGS, words, "list the PACS in dicom_peers, e.g. PACS@10.1.0.0/16")
    if settings.hl7_peers and settings.hl7_port and is_loopback(settings.hl7_host):
        words = f"hl7_peers are listed, but hl7_host {settings.hl7_host} is reached from this machine alone"
        yield warn(Area.SETTINGS, words, "set hl7_host to an address that they reach")
    if settings.hl7_port and not settings.hl7_peers and not is_loopback(settings.hl7_host):
        words = f"hl7_host {settings.hl7_host} is reached from elsewhere, but hl7_peers is empty: all are refused"
        yield warn(Area.SETTINGS, words, "list who may send orders in hl7_peers")
    if settings.hl7_peers and not settings.hl7_port:
        yield warn(Area.SETTINGS, "hl7_peers are listed, but hl7_port is 0: no orders are taken", "set hl7_port")
    if settings.pixel_store_endpoint and not settings.pixel_store:
        words = "pixel_store_endpoint is set, but pixel_store is not: films are kept in the data folder"
        yield warn(Area.SETTINGS, words, "set pixel_store, or leave the endpoint out")


def _load(settings: Settings) -> Iterator[Verdict]:
    cores = os.cpu_count() or 1
    threads = settings.workers * (settings.torch_threads or max(1, cores - 1))
    if settings.workers > 1 and threads > 2 * cores:
        words = f"{settings.workers} workers with {threads} threads in all share {cores} cores"
        yield warn(Area.SETTINGS, words, "set torch_threads, or fewer workers")
    decoders = settings.workers * (settings.decoders or max(2, cores))
    wanted_mib = decoders * settings.decode_mib
    memory_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB
    if wanted_mib > 4 * memory_mib:
        words = f"{decoders} decoders may take {wanted_mib} MiB, the machine has {memory_mib}"
        yield warn(Area.SETTINGS, words, "lower decode_mib, decoders or workers")


def _policy(settings: Settings, policy: Policy) -> Iterator[Verdict]:
    try:
        thresholds(read_card(settings.weights_card), policy)
    except SettingsError as error:
        yield fail(Area.SETTINGS, str(error), "choose again with `triage budget` and `triage settings`")
    except CardMismatchError:
        return  # told of the network
