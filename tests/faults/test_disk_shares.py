"""SQLite on a network share is refused, and on nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon import share
from daemon.house import House
from daemon.settings import Settings
from daemon.share import refuse_share
from triage.errors import TriageError
from triage.policy import Policy

MOUNTS = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /srv rw,relatime shared:2 - {kind} nas:/films rw,vers=4.2
31 30 0:27 / /srv/local\040disk rw,relatime shared:3 - xfs /dev/vdb rw
32 30 0:28 / /srv/hidden rw,relatime - nfs4 nas:/hidden rw
33 30 0:29 / /srv/hidden rw,relatime - tmpfs tmpfs rw
"""


@pytest.mark.fault(84)
@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs"])
def test_a_share_is_named_and_refused(kind: str) -> None:
    with pytest.raises(TriageError, match=rf"network share \({kind}\).*PostgreSQL"):
        refuse_share(Path("/srv/triage/triage.db"), MOUNTS.format(kind=kind))


@pytest.mark.fault(84)
@pytest.mark.parametrize("place", ["/var/lib/triage", "/srv/local disk", "/srv/hidden", "/srvice"])
def test_a_disk_of_this_machine_is_not(place: str) -> None:
    refuse_share(Path(place) / "triage.db", MOUNTS.format(kind="nfs4"))
    refuse_share(Path("/srv/triage.db"), MOUNTS.format(kind="btrfs"))


@pytest.mark.fault(84)
def test_no_process_opens_a_database_on_a_share(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"30 22 0:26 / {tmp_path} rw - nfs4 nas:/films rw\n", encoding="ascii")
    monkeypatch.setattr(share, "_MOUNTS", mounts)
    with pytest.raises(TriageError, match="network share"):
        House(Settings(data_dir=tmp_path / "data", database_url=sqlite_url), Policy()).look_at_database()
    assert not (tmp_path / "triage.db").exists()
    monkeypatch.undo()
    House(Settings(data_dir=tmp_path / "data", database_url=sqlite_url), Policy()).look_at_database()
