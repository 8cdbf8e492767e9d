"""The daemon as it runs: a film comes, its workitem is found, watched, claimed on the page, and the receiver killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import chests
import httpx
from pydicom import Dataset
from running import Daemon, associated, wait_for
from sending import send

from watching import Watcher

PUSH, WATCH, PULL = (f"1.2.840.10008.5.1.4.34.6.{number}" for number in (1, 2, 3))
ALL = "1.2.840.10008.5.1.4.34.5"
IMPLICIT = "1.2.840.10008.1.2"


def found(daemon: Daemon, study: str) -> list[str]:
    keys = Dataset()
    keys.StudyInstanceUID, keys.ProcedureStepState, keys.PatientName = study, "", ""
    with associated(daemon.dicom_port, [(PULL, IMPLICIT)]) as association:
        return [str(each.SOPInstanceUID) for _, each in association.send_c_find(keys, PULL) if each is not None]


def act(daemon: Daemon, model: str, action: int, uid: str, **values: str) -> int:
    information = Dataset()
    for keyword, value in values.items():
        setattr(information, keyword, value)
    with associated(daemon.dicom_port, [(model, IMPLICIT)]) as association:
        return int(association.send_n_action(information, action, PUSH, uid, meta_uid=model)[0].Status)


def test_a_subscription_outlives_the_receiver_that_took_it(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    watcher = Watcher()
    daemon = make_daemon(ups_subscribers=f"WATCHER@127.0.0.1:{watcher.port}").serve()
    site = f"http://127.0.0.1:{daemon.http_port}"
    assert act(daemon, WATCH, 3, ALL, ReceivingAE="WATCHER", DeletionLock="FALSE") == 0
    daemon.kill("receive")
    daemon.wait_until_up()
    film = chests.chest(tmp_path, PatientName="CANARY^NAME", PatientID="CANARY-ID")
    assert send(daemon, film.dataset) == [0]
    (uid,) = found(daemon, film.study)
    with watcher.listening():
        wait_for(lambda: (uid, "SCHEDULED") in watcher.told, 30)
        started = httpx.post(
            f"http://127.0.0.1:{daemon.http_port}/api/studies/{film.study}/start", json={"reader": "A"}
        )
        assert started.status_code == 204
        wait_for(lambda: (uid, "IN PROGRESS") in watcher.told, 30)
    assert act(daemon, PULL, 1, uid, ProcedureStepState="IN PROGRESS", TransactionUID="1.2.3") == 0xC301
    told = httpx.get(f"{site}/dicom-web/workitems/{uid}").json()[0]
    assert told["00741000"]["Value"] == ["IN PROGRESS"]
    assert "CANARY" not in daemon.log()
    assert film.study not in daemon.log()
