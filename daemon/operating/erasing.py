"""Erasure at request: what this installation holds of a study, or of a patient.

Not reached from here, and told so: backups and copies of the database, the PACS, and lines of the log, where a study is
a salted hash.
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon.accounts import noted
from daemon.complaint import DatabaseUnavailableError, complaint
from daemon.house import House
from triage.errors import ConflictError
from triage.records.erasure import Erasure, Held, Loose
from triage.records.store import DatabaseError

_SMALL_BYTES = 256 * 2**20


def refuse_waited_for(held: Sequence[Held], *, force: bool) -> None:
    """Raise ConflictError: somebody may need them who does not know of the request."""
    waiting = [each.study_instance_uid for each in held if each.is_waited_for]
    if waiting and not force:
        raise ConflictError(
            f"{len(waiting)} of {len(held)} studies have not been read, or their analysis is still to come "
            f"({waiting[0]} ...): read them first, or say --force"
        )


def erase(house: House, uid: str) -> int:
    """One study; how many files. Raise TriageError, OSError: what is left then can be erased by the same again."""
    erasure = Erasure(house.store)
    with noted(house, "purge", uid):
        before = erasure.files(uid)
        _delete(house, before)
        after = erasure.erase(uid)
        _delete(house, set(after).difference(before))
    return len(set(before).union(after))


def _delete(house: House, files: Sequence[str] | set[str]) -> None:
    for sha256 in files:
        house.spool.kept.delete(sha256)
        house.spool.kept.delete(sha256, quarantined=True)


def compact(house: House, *, always: bool) -> bool:
    """Of a large file only if asked: whoever writes waits meanwhile. Whether nothing is left in it.

    Raise DatabaseUnavailableError if somebody is in the way for so long that traces are left.
    """
    file = house.settings.sqlite_file
    if file is not None and file.stat().st_size > _SMALL_BYTES and not always:
        return False
    try:
        Erasure(house.store).compact()
    except DatabaseError as error:
        words = (
            f"traces may still lie in the database's files ({complaint(error)}): `triage purge --compact` again later"
        )
        raise DatabaseUnavailableError(words) from None
    return True


def erase_loose(house: House, patient_id: str) -> Loose:
    """Orders and refused messages of a patient that belong to no study."""
    with noted(house, "purge_orders"):
        return Erasure(house.store).erase_loose(patient_id)
