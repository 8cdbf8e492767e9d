"""Studies by the hundred thousand, straight into the tables: each with its instance, job and finding."""

from __future__ import annotations

from sqlalchemy import Connection, text

# By dialect: numbers from :first to :last, a time so many seconds ago, 64 random hexadecimal digits.
_NUMBERS = {
    "postgresql": "generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS g(n)",
    "sqlite": (
        "(WITH RECURSIVE g(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM g WHERE n < :last) SELECT n FROM g) AS g"
    ),
}
_AGO = {
    "postgresql": "(statement_timestamp() - make_interval(secs => {seconds}))",
    "sqlite": "(strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || ({seconds}) || ' seconds') || '000')",
}
_DIGEST = {
    "postgresql": "md5(n::text) || md5((n + 1)::text)",
    "sqlite": "lower(hex(randomblob(32)))",
}
_PRIORITY = "analysis, flagged, words, policy_version"
_STUDIES = """
INSERT INTO studies (study_instance_uid, workitem_uid, accession_number, patient_id, patient_name, modality, study_date,
    received_at,
    waiting_since, overdue_at, waiting_limit_minutes, clinical_priority, episode, status, changed_while_reading,
    analysis, flagged, words, policy_version, identity_conflict, tier, p_pneumonia)
SELECT '1.2.826.0.1.3680043.10.1.' || n, '2.25.' || n, 'A' || n, 'P' || (n / 3),
    'Invented^Patient ' || n, 'CR', '20260105', {ago},
    {ago}, {ago}, 240, CASE WHEN n % 50 = 0 THEN 0 WHEN n % 7 = 0 THEN 1 ELSE 2 END, 0, :status, false,
    :analysis, n % 4 = 0, 'not flagged: pneumonia unlikely', 'default-1', false, 'unlikely', 0.1
FROM {numbers}"""
_INSTANCES = """
INSERT INTO instances (instance_id, study_instance_uid, series_instance_uid, sop_instance_uid, sop_class_uid,
    transfer_syntax_uid, sha256, size_bytes, calling_ae, received_at, identity_conflict, episode, quarantined,
    pixels_deleted_at)
SELECT n, '1.2.826.0.1.3680043.10.1.' || n, '1.2.826.0.1.3680043.10.2.' || n, '1.2.826.0.1.3680043.10.3.' || n,
    '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', {digest}, 8400000, 'PACS', {ago}, false, 0, false,
    CASE WHEN n % 100 > 0 AND :status = 'read' THEN {ago} END
FROM {numbers}"""
_JOBS = """
INSERT INTO jobs (job_id, instance_id, state, attempts, available_at, worker, token, created_at, finished_at)
SELECT n, n, :state, 1, {ago}, 'host/worker-1', '0123456789abcdef', {ago}, {ago} FROM {numbers}"""
_FINDINGS = """
INSERT INTO findings (instance_id, weights_sha256, p_normal, p_bacterial, p_viral, found_at, analysis, flagged, words,
    policy_version, tier, p_pneumonia)
SELECT n, :weights, 0.9, 0.05, 0.05, {ago}, 'analysed', false, 'not flagged: pneumonia unlikely', 'default-1',
    'unlikely', 0.1
FROM {numbers}"""


def fill(connection: Connection, first: int, last: int, *, read: bool) -> None:
    """Studies ``first`` to ``last``, each a second older than the next: read and analysed, or waiting for it."""
    dialect = connection.dialect.name
    ago = _AGO[dialect].format(seconds="2000000 - n")
    words = {"ago": ago, "numbers": _NUMBERS[dialect], "digest": _DIGEST[dialect]}
    values = {
        "first": first,
        "last": last,
        "status": "read" if read else "unread",
        "analysis": "analysed" if read else "pending",
        "state": "done" if read else "queued",
        "weights": "f" * 64,
    }
    for statement in (_STUDIES, _INSTANCES, _JOBS) + ((_FINDINGS,) if read else ()):
        named = {name: value for name, value in values.items() if f":{name}" in statement + words["numbers"]}
        connection.execute(text(statement.format(**words)), named)
    if dialect == "postgresql":  # or the next that comes would get a number that is taken
        for table, key in (("instances", "instance_id"), ("jobs", "job_id")):
            after = f"(SELECT max({key}) FROM {table})"
            connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', '{key}'), {after})"))
