"""What a look at one film adds to the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon import metrics
from triage.study import Analysis, Finding, Priority

if TYPE_CHECKING:
    from daemon.line import Looked

# PS3.5 table A.4-1 and the uncompressed ones; whatever else comes is "other", so that senders cannot make labels.
_SYNTAXES = {
    "1.2.840.10008.1.2": "implicit_little_endian",
    "1.2.840.10008.1.2.1": "explicit_little_endian",
    "1.2.840.10008.1.2.5": "rle",
    "1.2.840.10008.1.2.4.50": "jpeg_baseline",
    "1.2.840.10008.1.2.4.51": "jpeg_extended",
    "1.2.840.10008.1.2.4.57": "jpeg_lossless",
    "1.2.840.10008.1.2.4.70": "jpeg_lossless_sv1",
    "1.2.840.10008.1.2.4.80": "jpeg_ls",
    "1.2.840.10008.1.2.4.81": "jpeg_ls_near_lossless",
    "1.2.840.10008.1.2.4.90": "jpeg_2000_lossless",
    "1.2.840.10008.1.2.4.91": "jpeg_2000",
    "1.2.840.10008.1.2.4.201": "htj2k_lossless",
    "1.2.840.10008.1.2.4.202": "htj2k_lossless_rpcl",
    "1.2.840.10008.1.2.4.203": "htj2k",
}


def count_look(looked: Looked, finding: Finding, priority: Priority | None, total_seconds: float) -> None:
    """``priority``: None where the job was put back. ``total_seconds`` since the film was queued."""
    header = looked.look.header
    syntax = _SYNTAXES.get(header.transfer_syntax_uid if header else "", "other")
    metrics.DECODE_SECONDS.labels(syntax).observe(looked.look.seconds)
    if finding.reason:
        metrics.NOT_ANALYSED.labels(finding.reason.value).inc()
    elif finding.p_pneumonia is not None:
        metrics.SCORES.observe(finding.p_pneumonia)
    if priority is None:
        metrics.JOBS.labels("put_back").inc()
        return
    metrics.JOBS.labels("not_analysed" if finding.reason else Analysis.ANALYSED.value).inc()
    metrics.RANKED_SECONDS.observe(total_seconds)
