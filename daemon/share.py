"""Where SQLite must not lie: on a disk that other machines reach over a network (https://www.sqlite.org/wal.html)."""

from __future__ import annotations

import re
from pathlib import Path

from triage.errors import TriageError

_MOUNTS = Path("/proc/self/mountinfo")
_SHARED = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.glusterfs"}
)
_OCTAL = re.compile(r"\\([0-7]{3})")


def refuse_share(file: Path, mounts: str | None = None) -> None:
    """Raise TriageError if it lies on one, or would. ``mounts``: as proc_pid_mountinfo(5) tells them."""
    try:
        told = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape") if mounts is None else mounts
    except OSError:
        return  # no Linux; nobody can say
    kind = _kind(file.resolve(), told)
    if kind in _SHARED:
        raise TriageError(
            f"{file} lies on a network share ({kind}), where SQLite loses what it was given: set database_url to a "
            "PostgreSQL, or keep the file on a disk of this machine"
        )


def _kind(file: Path, mounts: str) -> str:
    """Type of the file system that holds it; of two mounted at one place the later hides the earlier."""
    found, deepest = "", -1
    for line in mounts.splitlines():
        about, _, told = line.partition(" - ")
        point = Path(_OCTAL.sub(lambda code: chr(int(code[1], 8)), about.split()[4]))
        if (file == point or point in file.parents) and len(point.parts) >= deepest:
            found, deepest = told.split()[0], len(point.parts)
    return found
