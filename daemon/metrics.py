"""What is counted, for Prometheus; `deploy/METRICS.md` says what each means. `daemon/exposition.py` shows them.

Labels have few values, all from the code: never a UID, a name, an address or an AE title.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.registry import Collector

from triage.errors import Reason

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
# What the database says: shown by the one scheduler that holds the turn, so that hosts can be added up.
STATE = CollectorRegistry()

STATUSES = ("0000", "A700", "A900", "C000", "C001")
OUTCOMES = ("analysed", "not_analysed", "put_back", "lease_lost", "record_failed")
_ANSWERED = ("answered", "failed")
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60)
_LONG_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
_TENTHS = tuple(number / 10 for number in range(1, 11))


def _counter(name: str, meaning: str, label: str = "", values: Iterable[str] = ()) -> Counter:
    """``values`` are shown from the start: else the first of a kind would be no increase."""
    counter = Counter(f"triage_{name}", meaning, [label] if label else [], registry=REGISTRY)
    for each in values:
        counter.labels(each)
    return counter


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    """Not a number, and not shown, until it is set: most processes have nothing to say of it."""
    gauge = Gauge(f"triage_{name}", meaning, labels, registry=REGISTRY)
    if not labels:
        gauge.set(math.nan)
    return gauge


def _histogram(name: str, meaning: str, *labels: str, buckets: Iterable[float] = _SECONDS) -> Histogram:
    return Histogram(f"triage_{name}", meaning, labels, buckets=tuple(buckets), registry=REGISTRY)


def _state(name: str, meaning: str, *labels: str) -> Gauge:
    return Gauge(f"triage_{name}", meaning, labels, registry=STATE)


# -- every process -------------------------------------------------------------------------------------------------

ProcessCollector(registry=REGISTRY)
BUILD = _gauge("build_info", "1, with the version that runs.", "version")
BUILD.labels(version("worklist-triage")).set(1)
DATABASE_UP = _gauge("database_up", "Whether this process had an answer from the database when it last asked.")
DISK_FREE = _gauge("disk_free_bytes", "Free space where data_dir lies; once a scraped address.")
CHILD_UP = _gauge("child_up", "Whether a process of `triage serve` lives and gets on.", "child")
CHILD_STARTS = _counter("child_starts_total", "Starts of the processes of `triage serve`.", "child")
CHILD_HANGS = _counter("child_hangs_total", "Processes that `triage serve` killed because they hung.", "child")
RELOADS = _counter(
    "policy_reloads_total", "Policies read anew at SIGHUP, by outcome.", "outcome", ("adopted", "refused")
)

# -- reception -----------------------------------------------------------------------------------------------------

ASSOCIATIONS = _counter("associations_total", "DICOM connections that ended, by outcome.", "outcome")
INSTANCES = _counter(
    "instances_received_total", "C-STORE requests answered, by status (four hex digits).", "status", STATUSES
)
DEFERRED = _counter("instances_deferred_total", "Instances received while the database was away.")
RECEIVED_BYTES = _counter("received_bytes_total", "Bytes received over DICOM.")
RECEIVE_SECONDS = _histogram("receive_seconds", "From the first byte of an instance to Success.")
ORDER_MESSAGES = _counter(
    "order_messages_total", "HL7 messages answered, by acknowledgement code.", "code", ("AA", "AE", "AR")
)
ORDER_ENQUIRIES = _counter(
    "order_enquiries_total", "Questions to the modality worklist, by outcome.", "outcome", _ANSWERED
)

# -- analysis ------------------------------------------------------------------------------------------------------

JOBS = _counter("jobs_total", "Looks at one film, by outcome.", "outcome", OUTCOMES)
NOT_ANALYSED = _counter("films_not_analysed_total", "Films that were not analysed, by reason code.", "reason", Reason)
DECODE_SECONDS = _histogram("decode_seconds", "Decoding of one film, by transfer syntax.", "transfer_syntax")
NETWORK_SECONDS = _histogram("network_seconds", "One pass through the network.")
BATCH = _histogram("batch_films", "Films in one pass through the network.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
RANKED_SECONDS = _histogram(
    "success_to_ranked_seconds", "From Success to a film's result on the worklist.", buckets=_LONG_SECONDS
)
SCORES = _histogram("pneumonia_probability", "Calibrated P(pneumonia) of analysed films.", buckets=_TENTHS)
MODEL = _gauge("model_info", "1, with the network in use: first digits of its weights' sha256.", "weights", "device")

# -- sweeps --------------------------------------------------------------------------------------------------------

LEASES_EXPIRED = _counter(
    "leases_expired_total", "Leases taken back, by what became of the job.", "outcome", ("queued", "buried")
)
TIMED_OUT = _counter("pending_timed_out_total", "Studies that showed timeout after pending_seconds.")
SWEEP_FAILURES = _counter("sweep_failures_total", "Sweeps that failed, by name.", "sweep")
SWEEPING = _gauge("sweeping", "1 in the scheduler that holds the turn.")

# -- deliveries ----------------------------------------------------------------------------------------------------

HTTP_REQUESTS = Counter(
    "triage_http_requests_total",
    "HTTP requests answered, by method and status.",
    ("method", "status"),
    registry=REGISTRY,
)
HTTP_SECONDS = _histogram("http_request_seconds", "From an HTTP request to the beginning of its answer.", "method")
UPS_REPORTS = _counter(
    "ups_reports_total", "State reports to UPS subscribers, by outcome.", "outcome", ("delivered", "failed")
)
ACCESSES = _counter(
    "accesses_entered_total", "Batches of accesses for the audit, by outcome.", "outcome", ("entered", "failed")
)
ACCESSES_LOST = _counter("accesses_lost_total", "Accesses that found no room and are missing in the audit.")
AUDIT_REPOSITORY_UP = _gauge(
    "audit_repository_up", "Whether the audit repository took what it was last told; said by who tells it."
)
AUDIT_GIVEN_UP = _counter("audit_given_up_total", "Accesses that the audit repository will never be told of.")

# -- what the database says ----------------------------------------------------------------------------------------

WORKLIST = _state("worklist_studies", "Studies on the worklist, by reading: unread or reading.", "reading")
PENDING = _state("studies_pending", "Studies on the worklist that await their analysis.")
PENDING_SECONDS = _state("pending_oldest_seconds", "Age of the oldest job that is not done.")
FLAGGED = _state("studies_flagged", "Studies on the worklist that are flagged.")
OVERDUE = _state("studies_overdue", "Studies on the worklist that waited longer than the policy's limit.")
SHOWN_NOT_ANALYSED = _state("studies_not_analysed", "Studies on the worklist, not analysed, by reason code.", "reason")
OPEN_JOBS = _state("jobs_open", "Jobs that wait or are in hand.", "state")
DUE_SECONDS = _state("job_due_oldest_seconds", "How long the first job that is due has waited for a worker.")
RECEIVED_AT = _state("last_received_timestamp_seconds", "When the last instance was received, Unix time; 0: never.")
ALIVE = _state("processes_alive", "Processes that were heard of in the last seconds, by kind.", "kind")
WITHOUT_NETWORK = _state("workers_without_network", "Living workers that could not load the network.")
DRIFT = _state("score_drift_psi", "Population stability index of the last films' scores against the card's.")
DRIFT_PREVALENCE = _state(
    "score_drift_prevalence_ratio", "Share of pneumonias that the card's scores were weighted with for it."
)
DRIFT_FILMS = _state("score_drift_films", "Films that it stands on.")
STATE_AT = _state("state_timestamp_seconds", "When these were last read from the database, Unix time.")


class State(Collector):
    """Shows what `STATE` holds while somebody says that it is true."""

    def __init__(self) -> None:
        self.is_known = False

    def collect(self) -> Iterable[Metric]:
        return STATE.collect() if self.is_known else ()


state = State()
REGISTRY.register(state)
