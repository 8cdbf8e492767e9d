"""UPS-RS as independent clients use it: httpx and websockets, against the web server as it is run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from listening import wait_for
from sqlalchemy import Engine
from wards import ALL, Ward, keys, ward
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from daemon.web.channel import Channels
from daemon.web.server import Wings, build_app
from daemon.web.ups_rs import Steps
from making import POLICY, received
from ports import free_port, served
from triage.errors import ConflictError
from triage.records.queue import Queue
from triage.records.workitems import Workitems
from triage.study import Status, workitem_uid
from triage.workitem import Verdict

ONE = workitem_uid("1.2.1", 0)
T1, T2 = "1.2.3.4.1", "1.2.3.4.2"
DICOM_JSON = {"content-type": "application/dicom+json"}


class Client:
    """A program that speaks UPS-RS."""

    def __init__(self, ward: Ward, port: int) -> None:
        self.ward, self.port = ward, port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}/dicom-web", timeout=20, verify=False)

    def search(self, **asked: str) -> list[dict[str, Any]]:
        answer = self.http.get("/workitems", params=asked, headers={"accept": "application/dicom+json"})
        if answer.status_code == 204:
            return []
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/dicom+json"
        found: list[dict[str, Any]] = answer.json()
        return found

    def state(self, uid: str) -> str:
        return str(self.http.get(f"/workitems/{uid}").json()[0]["00741000"]["Value"][0])

    def change(self, uid: str, state: str, transaction_uid: str | None) -> httpx.Response:
        said: dict[str, Any] = {"00741000": {"vr": "CS", "Value": [state]}}
        if transaction_uid:
            said["00081195"] = {"vr": "UI", "Value": [transaction_uid]}
        return self.http.put(f"/workitems/{uid}/state", content=json.dumps(said), headers=DICOM_JSON)

    def update(self, uid: str, transaction_uid: str, progress: str = "50") -> httpx.Response:
        item = {"00741006": {"vr": "ST", "Value": [progress]}}
        body = json.dumps([{"00741002": {"vr": "SQ", "Value": [item]}}])
        return self.http.post(f"/workitems/{uid}?{transaction_uid}", content=body, headers=DICOM_JSON)

    @contextmanager
    def channel(self, ae_title: str, **more: Any) -> Iterator[Any]:
        with connect(f"ws://127.0.0.1:{self.port}/dicom-web/subscribers/{ae_title}", **more) as channel:
            yield channel


@pytest.fixture
def client(engine: Engine, tmp_path: Path) -> Iterator[Client]:
    with ward(engine, tmp_path, most=3) as made:
        steps = Steps(
            workitems=made.workitems,
            subscriptions=made.subscriptions,
            finding=made.finding,
            channels=Channels(subscriptions=made.subscriptions),
        )
        app = build_app(
            made.reading,
            Queue(made.store, POLICY),
            [],
            lambda: {"ready": True, "missing": []},
            wings=Wings(steps=steps),
        )
        port = free_port()
        asking = Client(made, port)
        with served(app, port), asking.http:
            yield asking


def studies(found: list[dict[str, Any]]) -> list[str]:
    return [each["0020000D"]["Value"][0] for each in found]


def test_a_search_tells_the_first_of_the_worklist_and_that_there_are_more(client: Client) -> None:
    answer = client.http.get("/workitems")
    assert studies(answer.json()) == ["1.2.3", "1.2.2", "1.2.1"]
    assert "additional results" in answer.headers["warning"]
    assert studies(client.search(offset="3")) == ["1.2.4"]
    assert studies(client.search(limit="1")) == ["1.2.3"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"PatientID": "P2"}, ["1.2.2"]),
        ({"00100020": "P2"}, ["1.2.2"]),
        ({"PatientName": "invented*4"}, ["1.2.4"]),
        ({"ScheduledProcedureStepPriority": "HIGH"}, ["1.2.3"]),
        ({"ReferencedRequestSequence.AccessionNumber": "A2"}, ["1.2.2"]),
        ({"0040A370.00080050": "A2"}, ["1.2.2"]),
        ({"ProcedureStepState": "COMPLETED"}, []),
        ({"SOPInstanceUID": f"{ONE},1.9"}, ["1.2.1"]),
    ],
)
def test_a_search_chooses(client: Client, query: dict[str, str], found: list[str]) -> None:
    assert studies(client.search(**query)) == found


@pytest.mark.parametrize(
    "query", ["?Nonsense=1", "?limit=-1", "?limit=x", "?PatientID.PatientName=a", "?" + "&".join(["PatientID=1"] * 99)]
)
def test_what_is_no_query_is_refused_in_words_that_repeat_nothing(client: Client, query: str) -> None:
    answer = client.http.get(f"/workitems{query}")
    assert answer.status_code == 400
    assert "Nonsense" not in answer.text


def test_a_reading_from_claim_to_completion(client: Client) -> None:
    assert client.change(ONE, "IN PROGRESS", T1).status_code == 200
    assert client.state(ONE) == "IN PROGRESS"
    assert client.ward.reading.study("1.2.1")["reader"] == "UPS-RS 127.0.0.1"
    assert client.update(ONE, T1).status_code == 200
    told = client.http.get(f"/workitems/{ONE}").json()[0]
    assert told["00741002"]["Value"][0]["00741006"]["Value"] == ["50"]
    assert "00081195" not in told
    assert client.change(ONE, "COMPLETED", T1).status_code == 200
    again = client.change(ONE, "COMPLETED", T1)
    assert (again.status_code, "already in the requested state of COMPLETED" in again.headers["warning"]) == (200, True)
    assert client.ward.reading.study("1.2.1")["status"] == Status.READ


@pytest.mark.parametrize(
    "item",
    [
        '"00741006":{"vr":"ST","Value":[2]}',
        '"00741004":{"vr":"DS","Value":[NaN]}',
        '"00280010":{"vr":"US","Value":[70000]}',
        '"00741006":{"vr":"ZZ","Value":["x"]}',
        '"00741008":{"vr":"SL","Value":[1099511627776]}',
    ],
)
def test_progress_that_nobody_could_be_told_is_refused(client: Client, item: str) -> None:
    """Else it would stand in the way of all that a subscriber is told, and of answers to queries."""
    assert client.change(ONE, "IN PROGRESS", T1).status_code == 200
    body = '[{"00741002":{"vr":"SQ","Value":[{' + item + "}]}}]"
    assert client.http.post(f"/workitems/{ONE}?{T1}", content=body, headers=DICOM_JSON).status_code == 400
    with client.ward.peer() as peer:
        wanted = keys(ProcedureStepState="", SOPInstanceUID="", ProcedureStepProgressInformationSequence=[])
        assert len(peer.ask(wanted)[1]) == 3


def test_who_filters_by_what_has_no_effect_is_told_so_on_each_page(client: Client) -> None:
    answer = client.http.get("/workitems?Modality=CR&limit=1")
    said = answer.headers.get_list("warning")
    assert ["ignored" in said[0], "additional results" in said[1]] == [True, True]


def test_another_parameter_of_an_update_is_no_transaction_uid(client: Client) -> None:
    assert client.change(ONE, "IN PROGRESS", T1).status_code == 200
    body = json.dumps([{"00081195": {"vr": "UI", "Value": [T1]}, "00741002": {"vr": "SQ", "Value": [{}]}}])
    assert client.http.post(f"/workitems/{ONE}?trace=1", content=body, headers=DICOM_JSON).status_code == 200


def test_attributes_come_in_the_order_of_their_tags(client: Client) -> None:
    def in_order(told: dict[str, Any]) -> bool:
        items = [item for each in told.values() if each["vr"] == "SQ" for item in each.get("Value", [])]
        return list(told) == sorted(told) and all(in_order(item) for item in items)

    assert all(in_order(told) for told in client.http.get("/workitems").json())
    assert in_order(client.http.get(f"/workitems/{ONE}").json()[0])


def test_refusals_have_the_status_of_the_standard_and_change_nothing(client: Client) -> None:
    assert client.http.get("/workitems/1.2.99").status_code == 404
    assert client.change("1.2.99", "IN PROGRESS", T1).status_code == 404
    assert client.change(ONE, "IN PROGRESS", None).status_code == 400
    assert client.change(ONE, "NONSENSE", T1).status_code == 400
    assert client.change(ONE, "SCHEDULED", T1).status_code == 400
    assert client.change(ONE, "COMPLETED", T1).status_code == 409
    assert client.update(ONE, T1).status_code == 409
    assert client.http.post(f"/workitems/{ONE}/cancelrequest").status_code == 409
    creation = client.http.post("/workitems", content="[{}]", headers=DICOM_JSON)
    assert (creation.status_code, creation.headers["allow"]) == (405, "GET")
    assert client.http.get("/workitems", headers={"accept": "text/html"}).status_code == 406
    assert client.http.put(f"/workitems/{ONE}/state", content="x", headers={"content-type": "a/b"}).status_code == 415
    for body in ("x", "[]", "[1]", '{"00741000": 1}', "[" * 10_000):
        answer = client.http.put(f"/workitems/{ONE}/state", content=body, headers=DICOM_JSON)
        assert answer.status_code == 400, body[:20]
    assert client.state(ONE) == "SCHEDULED"
    assert client.change(ONE, "IN PROGRESS", T1).status_code == 200
    assert client.change(ONE, "IN PROGRESS", T2).status_code == 409
    assert client.update(ONE, T2).status_code == 409
    wrong = client.change(ONE, "COMPLETED", T2)
    assert (wrong.status_code, wrong.headers["warning"]) == (409, '299 triage: "The Transaction UID is incorrect."')
    assert client.http.post(f"/workitems/{ONE}/cancelrequest").status_code == 409
    assert client.state(ONE) == "IN PROGRESS"


def test_claims_over_http_the_page_and_dicom_exclude_each_other(client: Client) -> None:
    with client.ward.peer() as peer:
        assert client.change(ONE, "IN PROGRESS", T1).status_code == 200
        assert peer.change(ONE, "IN PROGRESS", T2) == 0xC301
        two = workitem_uid("1.2.2", 0)
        assert peer.change(two, "IN PROGRESS", T2) == 0
        assert client.change(two, "IN PROGRESS", T1).status_code == 409
    for uid in ("1.2.1", "1.2.2"):
        with pytest.raises(ConflictError):
            client.ward.reading.start_reading(uid, "Dr Adler")


def test_of_two_words_of_progress_at_once_neither_is_lost(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Workitems.update

    def overtaken(*arguments: Any) -> Verdict:
        monkeypatch.undo()
        performed = '{"00741216":{"vr":"SQ","Value":[{"00404050":{"vr":"DT","Value":["20260101"]}}]}}'
        assert update(client.ward.workitems, ONE, T1, performed) is Verdict.DONE
        return update(*arguments)

    client.change(ONE, "IN PROGRESS", T1)
    monkeypatch.setattr(Workitems, "update", overtaken)
    assert client.update(ONE, T1).status_code == 200
    (found,) = client.http.get(f"/workitems/{ONE}").json()
    assert len(found["00741216"]["Value"]) == len(found["00741002"]["Value"]) == 1


def told(channel: Any, seconds: float = 10) -> tuple[str, str]:
    """Workitem and state of the next report."""
    said = json.loads(channel.recv(timeout=seconds))
    assert said["00001002"]["Value"] == [1]
    return said["00001000"]["Value"][0], said["00741000"]["Value"][0]


def test_a_subscriber_is_told_what_there_is_and_what_happens(client: Client) -> None:
    answer = client.http.post(f"/workitems/{ALL}/subscribers/BOARD?deletionlock=true")
    where = f"ws://127.0.0.1:{client.port}/dicom-web/subscribers/BOARD"
    assert (answer.status_code, answer.headers["content-location"]) == (201, where)
    assert "lock is not granted" in answer.headers["warning"]
    with client.channel("BOARD") as channel:
        assert {told(channel) for _ in range(4)} == {(workitem_uid(f"1.2.{n}", 0), "SCHEDULED") for n in (1, 2, 3, 4)}
        client.change(ONE, "IN PROGRESS", T1)
        assert told(channel) == (ONE, "IN PROGRESS")
        client.change(ONE, "COMPLETED", T1)
        assert told(channel) == (ONE, "COMPLETED")
        client.ward.intake.receive(received(9))
        assert told(channel) == (workitem_uid("1.2.9", 0), "SCHEDULED")


def test_a_request_to_cancel_reaches_who_performs_it(client: Client) -> None:
    client.http.post(f"/workitems/{ONE}/subscribers/BOARD")
    client.change(ONE, "IN PROGRESS", T1)
    with client.channel("BOARD") as channel:
        assert told(channel) == (ONE, "IN PROGRESS")
        body = json.dumps([{"00741238": {"vr": "LT", "Value": ["wrong patient"]}}])
        asked = f"/workitems/{ONE}/cancelrequest"
        assert client.http.post(asked, content=body, headers=DICOM_JSON).status_code == 202
        said = json.loads(channel.recv(timeout=10))
        while said["00001002"]["Value"] == [1]:  # the state may be told twice
            said = json.loads(channel.recv(timeout=10))
        assert (said["00001002"]["Value"], said["00001000"]["Value"]) == ([2], [ONE])
        assert said["00741238"]["Value"] == ["wrong patient"]
        assert said["00741236"]["Value"] == ["UPS-RS 127.0.0.1"]
        assert client.state(ONE) == "IN PROGRESS"
        assert client.http.post(asked, content="x", headers=DICOM_JSON).status_code == 400
        client.change(ONE, "COMPLETED", T1)
        assert client.http.post(asked).status_code == 409


def test_a_filtered_subscription_is_refused(client: Client) -> None:
    answer = client.http.post("/workitems/1.2.840.10008.5.1.4.34.5.1/subscribers/BOARD?filter=PatientID=1")
    assert (answer.status_code, "no filtered" in answer.headers["warning"]) == (403, True)
    assert client.ward.subscriptions.subscribed() == []


def test_who_was_away_is_told_what_it_has_missed(client: Client) -> None:
    client.http.post(f"/workitems/{ONE}/subscribers/BOARD")
    with client.channel("BOARD") as channel:
        assert told(channel) == (ONE, "SCHEDULED")
        assert wait_for(lambda: client.ward.subscriptions.due("BOARD") is None)
    client.ward.reading.start_reading("1.2.1", "Dr Adler")
    client.ward.reading.start_reading("1.2.2", "Dr Adler")  # not subscribed to
    client.ward.reading.close("1.2.1", "Dr Adler")
    with client.channel("BOARD") as channel:
        assert [told(channel), told(channel)] == [(ONE, "IN PROGRESS"), (ONE, "COMPLETED")]


def test_subscriptions_are_suspended_and_ended(client: Client) -> None:
    client.http.post(f"/workitems/{ALL}/subscribers/BOARD")
    with client.channel("BOARD") as channel:
        for _ in range(4):
            told(channel)
        assert client.http.post(f"/workitems/{ALL}/subscribers/BOARD/suspend").status_code == 200
        assert client.http.delete(f"/workitems/{ONE}/subscribers/BOARD").status_code == 200
        client.ward.intake.receive(received(9))  # came later
        client.change(ONE, "IN PROGRESS", T1)  # is excluded
        client.change(workitem_uid("1.2.2", 0), "IN PROGRESS", T1)
        assert told(channel) == (workitem_uid("1.2.2", 0), "IN PROGRESS")
        assert client.http.delete(f"/workitems/{ALL}/subscribers/BOARD").status_code == 200
        client.change(workitem_uid("1.2.2", 0), "COMPLETED", T1)
        with pytest.raises(TimeoutError):
            channel.recv(timeout=2)


def test_no_page_of_another_site_opens_a_channel_or_speaks_over_one(client: Client) -> None:
    with pytest.raises(InvalidStatus), client.channel("BOARD", origin="https://evil.example"):
        pass
    with client.channel("BOARD") as channel:
        channel.send("x" * 10_000)
        with pytest.raises(ConnectionClosed):
            channel.recv(timeout=10)


def test_progress_may_be_as_long_as_it_may_be_over_dicom(client: Client) -> None:
    assert client.change(ONE, "IN PROGRESS", T1).status_code == 200
    assert client.update(ONE, T1, "x" * 60_000).status_code == 200
    assert client.update(ONE, T1, "x" * 66_000).status_code == 413
    assert client.update(ONE, T1, "x" * 140_000).status_code == 413
