"""No patient data and no UID where they do not belong: logs, file names, temporary files, answers to errors.

They do belong into the database, the kept files and the worklist: that they are found there proves that the search
searches for what was sent.
"""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import chests
import httpx
import pytest
from pydicom import Dataset
from pydicom.dataset import PrivateBlock
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless, generate_uid
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from running import Daemon, free_port, wait_for
from sending import associated, send, send_as

import hl7_orders
from canaries import Search
from planted import plant

# The films are meant to be odd; pydicom says so while the test makes them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
# One string for each kind of text; none of them could occur by chance.
CANARIES = {
    "PatientName": "Kanarienvogel^Zwitschi",
    "PatientID": "KANARI-4711",
    "OtherPatientIDs": "KANARI-4712",
    "PatientBirthDate": "20211203",
    "PatientAddress": "Vogelweide 7 Kanarienhausen",
    "PatientTelephoneNumbers": "0815-4713-4714",
    "PatientMotherBirthName": "Wellensittich",
    "PatientComments": "zwitschert morgens laut",
    "EthnicGroup": "Serinus",
    "Occupation": "Saenger im Kaefig",
    "AdditionalPatientHistory": "federt seit Dienstag",
    "AccessionNumber": "KANARI-ACC-99",
    "StudyID": "KANARI-STUDY",
    "StudyDescription": "Thorax Kanarienvogel",
    "SeriesDescription": "Kanarienserie",
    "ProtocolName": "Kanarienprotokoll",
    "ImageComments": "Schnabel links oben",
    "InstitutionName": "Vogelklinik Sittichheim",
    "InstitutionAddress": "Am Futternapf 3",
    "StationName": "KAEFIG-ZWO",
    "ReferringPhysicianName": "Ornithologe^Adlerhorst",
    "PerformingPhysicianName": "Falkner^Bussard",
    "OperatorsName": "Pfleger^Hirsekorn",
    "RequestingPhysician": "Taubenzuechter^Kropf",
    "DeviceSerialNumber": "KANARI-SERIAL-1",
}
PRIVATE_TEXT = "privates Gezwitscher"
NESTED_TEXT = "verschachtelter Kanari"
STRICT = [text for text in CANARIES.values() if len(text) > 5]


def marked(dataset: Dataset, **changes: str) -> Dataset:
    for keyword, value in {**CANARIES, **changes}.items():
        setattr(dataset, keyword, value)
    block: PrivateBlock = dataset.private_block(0x0011, "KANARI CREATOR", create=True)
    block.add_new(0x01, "LO", PRIVATE_TEXT)
    step = Dataset()
    step.RequestedProcedureDescription = NESTED_TEXT
    dataset.RequestAttributesSequence = Sequence([step])
    return dataset


def strange_films(folder: Path) -> Iterator[Dataset]:
    """Marked films, each with something that makes software complain."""
    yield marked(chests.chest(folder).dataset)
    for syntax in (JPEGLosslessSV1, JPEG2000Lossless, RLELossless):  # text where a decoder expects a code stream
        broken = marked(chests.chest(folder).dataset)
        chests.synthetic.compressed(broken, b"\xff\xd8Kanarienvogel^Zwitschi" * 9, syntax)
        yield broken
    short = marked(chests.chest(folder).dataset)
    short.PixelData = short.PixelData[:1001] + b"\0"
    yield short
    for charset in ("ISO 2022 IR 87", "KANARI-ACC-99", "ISO_IR 192\\ISO 2022 IR 6"):
        odd = chests.chest(folder).dataset
        odd.SpecificCharacterSet = "ISO_IR 100"
        marked(odd)
        odd.add_new("PatientName", "PN", "Kanarienvogel^Zwitschi=\x1b$B\xff\xfe".encode("latin_1"))
        odd.add_new("SpecificCharacterSet", "CS", charset.split("\\"))
        yield odd
    wrong = marked(chests.chest(folder, PatientAge="XYZY", ViewPosition="Schnabel").dataset)
    wrong.add_new("Rows", "US", 7)
    yield wrong
    ct = marked(chests.bare(chests.CT, "CT"))
    yield ct


def everything_that_can_go_wrong(daemon: Daemon, folder: Path) -> list[Dataset]:
    made = list(strange_films(folder))
    assert send(daemon, *made) == [0] * len(made)
    assert send(daemon, made[0]) == [0]  # the same again
    conflicting = marked(chests.chest(folder, SOPInstanceUID=made[0].SOPInstanceUID).dataset)
    assert send(daemon, conflicting) == [0]
    contradictory = marked(chests.chest(folder).dataset)
    assert send_as(daemon, contradictory, sop_instance_uid=generate_uid(entropy_srcs=["KANARI"])) == 0xA900
    assert send_as(daemon, contradictory, whole=b"KANARI-4711 Kanarienvogel^Zwitschi" * 20) is not None
    no_study = marked(chests.chest(folder).dataset)
    no_study.add_new("StudyInstanceUID", "UI", "Kanarienvogel^Zwitschi")
    assert send(daemon, no_study) == [0]
    abort_in_the_middle(daemon, made[0])
    last = marked(chests.chest(folder).dataset)
    assert send(daemon, last) == [0]
    daemon.kill("work")
    daemon.kill("receive")
    return [*made, conflicting, contradictory, last]


def abort_in_the_middle(daemon: Daemon, dataset: Dataset) -> None:
    with associated(daemon, dataset) as association:
        association.abort()
    with socket.create_connection(("127.0.0.1", daemon.dicom_port), 5) as peer:  # half a PDU, full of names
        peer.sendall(struct.pack(">BxL", 1, 4000) + b"Kanarienvogel^Zwitschi KANARI-4711")
    with socket.create_connection(("127.0.0.1", daemon.dicom_port), 5) as peer:  # AE titles are not for names either
        peer.sendall(struct.pack(">BxL", 4, 40) + b"Kanarienvogel^Zwitschi KANARI-4711      ")


def errors_over_http(daemon: Daemon, study: str) -> list[httpx.Response]:
    base = f"http://127.0.0.1:{daemon.http_port}"
    unknown = generate_uid()
    return [
        httpx.get(f"{base}/api/studies/{unknown}"),
        httpx.get(f"{base}/api/studies/KANARI-4711"),
        httpx.get(f"{base}/api/worklist?limit=KANARI-4711"),
        httpx.post(f"{base}/api/studies/{study}/start", json={"reader": "KANARI-4711" * 20}),
        httpx.post(f"{base}/api/studies/{study}/start", content=b"KANARI-4711"),
        httpx.post(f"{base}/api/studies/{study}/KANARI-4711"),
        httpx.get(f"{base}/KANARI-4711"),
        httpx.get(base, headers={"Host": "kanari-4711.example"}),
    ]


def forbidden(made: list[Dataset]) -> list[str]:
    uids = [uid for each in made for uid in (each.StudyInstanceUID, each.SOPInstanceUID, each.SeriesInstanceUID)]
    words = [word for text in STRICT for word in {text, *text.split("^")} if len(word) > 5]
    return [*words, PRIVATE_TEXT, NESTED_TEXT, "anarienvogel", "KANARI", *uids]


def found(needles: list[str], text: str) -> list[str]:
    folded = text.casefold()
    return [needle for needle in needles if needle.casefold() in folded]


@pytest.mark.fault(135)
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("log_format", "log_level"), [("json", "debug"), ("console", "info")])
def test_patient_data_stays_where_it_belongs(
    make_daemon: Callable[..., Daemon], tmp_path: Path, log_format: str, log_level: str
) -> None:
    system_temp = set(Path("/tmp").iterdir()) | set(Path("/dev/shm").iterdir())
    daemon = make_daemon(log_format=log_format, log_level=log_level, attempts_max=2).serve()
    made = everything_that_can_go_wrong(daemon, tmp_path / "films")
    daemon.wait_until_up()
    wait_for(lambda: not any(entry["analysis"] == "pending" for entry in daemon.worklist()), 120)
    needles = forbidden(made)
    assert_present_where_it_belongs(daemon, made)
    errors = errors_over_http(daemon, made[0].StudyInstanceUID)
    closed = daemon.run("close", generate_uid(entropy_srcs=["KANARI"]))
    daemon.terminate()
    assert closed.returncode == 2
    assert not found(needles, closed.stdout + closed.stderr)
    log = daemon.log()
    assert log.count("instance_received") >= len(made)  # it does say something
    assert not found(needles, log)
    assert all(error.is_client_error for error in errors)
    assert not found(needles, "".join(error.text for error in errors))
    assert not found(needles, "".join(str(path) for path in daemon.home.rglob("*")))
    assert not list(daemon.scratch.rglob("*"))
    new = (set(Path("/tmp").iterdir()) | set(Path("/dev/shm").iterdir())) - system_temp
    assert not found(needles, "".join(path.name for path in new))


def assert_present_where_it_belongs(daemon: Daemon, made: list[Dataset]) -> None:
    listed = str(daemon.worklist())
    for text in ("Kanarienvogel^Zwitschi", "KANARI-4711", "KANARI-ACC-99", "Thorax Kanarienvogel"):
        assert text in listed
        assert text in daemon.run("worklist", "--json").stdout
    assert {each.StudyInstanceUID for each in made} <= {entry["study_instance_uid"] for entry in daemon.worklist()}
    kept = b"".join(path.read_bytes() for path in daemon.files("instances") + daemon.files("quarantine"))
    for text in (*STRICT, PRIVATE_TEXT, NESTED_TEXT):
        assert text.encode() in kept, text
    assert daemon.rows("SELECT count(*) FROM studies WHERE patient_id = 'KANARI-4711'")[0][0] >= len(made) - 2


@pytest.mark.fault(135)
def test_no_traceback_tells_values(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """An error nobody foresaw, with a name in its text, in the receiver's own thread."""
    daemon = make_daemon()
    broken = "import daemon.telemetry as t; t.configure('json', 'debug', 'x'); raise ValueError('Kanarienvogel')"
    ended = subprocess.run(
        [sys.executable, "-c", broken],
        env=daemon.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert "ValueError" in ended.stderr
    assert "Kanarienvogel" not in ended.stderr + ended.stdout
    assert ended.returncode != -signal.SIGABRT


# Of each film, what stays as it was, so that it gets further than the one before: read, judged by its age, looked at.
SPARED = ((), ("CS", "IS", "DS"), ("CS", "IS", "DS", "AS", "PatientBirthDate"))


@pytest.mark.fault(135)
def test_nothing_of_any_element_is_told_by_log_metrics_or_bundle(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    port = free_port()
    daemon = make_daemon(log_level="debug", metrics_port=port).serve()
    films = [chests.chest(tmp_path / "films").dataset for _ in SPARED]
    words = {word for film, spared in zip(films, SPARED, strict=True) for word in plant(film, spared)}
    assert send(daemon, *films) == [0] * len(films)
    last = daemon.settled(films[-1].StudyInstanceUID)
    wait_for(lambda: not any(entry["analysis"] == "pending" for entry in daemon.worklist()))
    assert last["analysis"] == "analysed"
    kept = b"".join(path.read_bytes() for path in daemon.files("instances"))
    assert {word for word in words if word.encode() not in kept and "-" not in word} == set()
    wait_for(lambda: 'outcome="analysed"' in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text)
    bundle = tmp_path / "support.tar.gz"
    made = daemon.run("support-bundle", str(bundle), "--quick", "--log", str(daemon.log_path("serve")))
    assert made.returncode == 0, made.stderr

    search = Search(words)
    search.text("metrics", httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text)
    search.text("log", daemon.log())
    search.text("command", made.stdout + made.stderr)
    search.files("bundle", bundle)
    search.names("data folder", daemon.data_dir)
    assert search.found == []


# -- every other way in, and the database failing underneath -------------------------------------------------------


PASSWORD = "correct horse battery"
STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"
UPS_PULL, UPS_PUSH = "1.2.840.10008.5.1.4.34.6.3", "1.2.840.10008.5.1.4.34.6.1"


@contextmanager
def broken_database(daemon: Daemon) -> Iterator[None]:
    """Its complaints hold the statement and every value in it."""
    daemon.change("ALTER TABLE instances RENAME TO instances_aside")
    daemon.change("ALTER TABLE orders RENAME TO orders_aside")
    try:
        yield
    finally:
        daemon.change("ALTER TABLE instances_aside RENAME TO instances")
        daemon.change("ALTER TABLE orders_aside RENAME TO orders")


def asked_over_dicom(daemon: Daemon) -> None:
    """Questions that name patients, by a peer that says who it is in the association request, too."""
    ae = AE("PACS")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 120  # other work may stand beside it
    for model in (STUDY_ROOT, UPS_PULL):
        ae.add_requested_context(model, "1.2.840.10008.1.2")
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field = 2, b"Kanarienvogel^Zwitschi"
    identity.secondary_field = b"KANARI-4711"
    association = ae.associate("127.0.0.1", daemon.dicom_port, ae_title="TRIAGE", ext_neg=[identity])
    assert association.is_established
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.PatientName, keys.PatientID = "STUDY", "Kanarienvogel*", "KANARI-4711"
    list(association.send_c_find(keys, STUDY_ROOT))
    keys.QueryRetrieveLevel = "Kanari"
    list(association.send_c_find(keys, STUDY_ROOT))
    del keys.QueryRetrieveLevel
    list(association.send_c_find(keys, UPS_PULL))
    action = Dataset()
    action.ProcedureStepState, action.TransactionUID = "KANARI", "1.2.3"
    action.ReasonForCancellation = PRIVATE_TEXT
    association.send_n_action(action, 1, UPS_PUSH, "1.2.3.4", meta_uid=UPS_PULL)
    association.release()


def ordered_over_hl7(daemon: Daemon) -> None:
    """One order that is taken, one of nonsense, one cut off."""
    good = hl7_orders.order("KANARI-ACC-99", "S", patient_id="KANARI-4711", name="Kanarienvogel^Zwitschi")
    with hl7_orders.sender(int(str(daemon.settings["hl7_port"]))) as peer:
        peer.say(good)
        peer.say(good.replace("|S", "|Kanarienvogel").replace("PID|", "PID|\x1b\\"))
        peer.connection.sendall(b"\x0b" + good.encode()[:200])


def asked_over_http(daemon: Daemon) -> list[httpx.Response]:
    base = f"http://127.0.0.1:{daemon.http_port}"
    canary = {"name": "Kanarienvogel^Zwitschi", "password": "KANARI-4711"}
    ours = {"sec-fetch-site": "same-origin"}
    with httpx.Client(base_url=base, headers=ours, timeout=30) as web:
        answers = [
            web.post("/login", data=canary),
            web.get("/api/worklist?q=Kanarienvogel", headers={"authorization": "Bearer KANARI-4711"}),
            web.get("/", headers={"cookie": "triage_session=KANARI-4711", "user-agent": "Kanarienvogel"}),
        ]
        assert web.post("/login", data={"name": "Boss", "password": PASSWORD}).status_code == 303
        answers += [
            web.get("/dicom-web/studies?PatientID=KANARI-4711&limit=Kanari"),
            web.get("/dicom-web/studies/KANARI-4711/series/Kanarienvogel"),
            web.get("/dicom-web/workitems/KANARI-4711"),
            web.put("/dicom-web/workitems/1.2.3/state", content=b'{"Kanarienvogel": "KANARI-4711"}'),
            web.post("/dicom-web/workitems/1.2.3/subscribers/KANARI-4711"),
            web.put("/api/studies/1.2.3/opinion", json={"opinion": "Kanarienvogel", "reader": "KANARI-4711"}),
            web.post("/studies/1.2.3/Kanarienvogel", data=canary),
            web.get("/Kanarienvogel?KANARI-4711"),
            web.get("/api/worklist?cursor=Kanarienvogel"),
            web.get("/api/audit?who=KANARI-4711&before=Kanarienvogel"),
        ]
    return answers


@pytest.mark.timeout(600)
def test_no_way_in_lets_a_name_out_though_the_database_fails(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon(
        log_level="debug", hl7_port=free_port(), audit_repository=f"syslog-tcp://127.0.0.1:{free_port()}"
    )
    user = [sys.executable, "-m", "daemon.cli", "users", "add", "Boss", "--role", "admin"]
    subprocess.run(user, env=daemon.environment, input=PASSWORD, text=True, check=True, timeout=120)
    daemon.start("serve")
    wait_for(daemon.live)
    daemon.wait_for_log("taking_orders")
    films = [marked(chests.chest(tmp_path / "films").dataset) for _ in range(2)]
    assert send(daemon, films[0]) == [0]
    answers = []
    for _ in range(2):
        ordered_over_hl7(daemon)
        asked_over_dicom(daemon)
        answers += asked_over_http(daemon)
        if not daemon.lines("instance_refused"):
            with broken_database(daemon):
                assert send(daemon, films[1]) == [0xA700]
                with suppress(ConnectionError, TimeoutError, AssertionError):
                    ordered_over_hl7(daemon)
                asked_over_dicom(daemon)
                answers += asked_over_http(daemon)
    kept_core = {process.pid: Path(f"/proc/{process.pid}/limits").read_text() for process in daemon.family()}
    daemon.terminate()

    search = Search(forbidden(films))
    for log in daemon.home.glob("*.log"):
        search.text(log.name, log.read_bytes())
    for answer in answers:
        if answer.is_error:
            search.text(str(answer.status_code), answer.text + str(answer.headers))
    search.names("data folder", daemon.data_dir)
    search.files("temporary files", daemon.scratch)
    search.text("names of temporary files", "\n".join(path.name for path in Path("/tmp").iterdir()))
    # Other outputs are added here, a line each: search.text(name, text), search.files(name, *paths).
    assert search.found == []
    assert {answer.status_code for answer in answers} >= {401, 403, 404, 503}
    assert daemon.lines("database_unavailable")
    assert daemon.lines("order_message")
    cores = [next(line.split()[4] for line in told.splitlines() if "core" in line) for told in kept_core.values()]
    assert set(cores) == {"0"}
