"""What one association has brought, study by study: told once, not for each instance."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

# Then it is told although the association goes on.
_STUDIES_MAX = 200
_SECONDS_MAX = 300.0


@dataclass
class Transfers:
    """For the thread of one association. ``studies``: instances of each SOP class; ``failed``: of any study."""

    studies: dict[str, Counter[str]] = field(default_factory=dict, repr=False)
    failed: int = 0
    _since: float = field(default_factory=time.monotonic)

    def add(self, study_instance_uid: str, sop_class_uid: str) -> None:
        if not self.studies:
            self._since = time.monotonic()
        self.studies.setdefault(study_instance_uid, Counter())[sop_class_uid] += 1

    @property
    def is_due(self) -> bool:
        return len(self.studies) >= _STUDIES_MAX or time.monotonic() - self._since > _SECONDS_MAX

    def take(self) -> tuple[dict[str, Counter[str]], int]:
        """Studies and failures since the last time."""
        taken = self.studies, self.failed
        self.studies, self.failed = {}, 0
        return taken
