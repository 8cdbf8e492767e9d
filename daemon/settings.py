"""Every setting, in one frozen object: name with unit, default, meaning. `daemon/environment.py` reads them.

Clinical content is not here but in the TOML file's ``[policy]`` table.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.notation import (
    is_loopback,
    lacks_password,
    sender_network,
    split_application,
    split_peer,
    split_proxy,
    split_role,
    with_password,
)

PREFIX = "TRIAGE_"
# Where there is encryption, each with settings of its own: WING_tls_certificate_file and so on.
Wing = Literal["dicom", "dicom_calling", "hl7", "http", "audit"]
WINGS: tuple[Wing, ...] = get_args(Wing)
_HL7_FIELD = re.compile(r"(ORC|OBR|IPC)-[1-9][0-9]?")
DEFAULT_WEIGHTS = Path(__file__).resolve().parent.parent / "triage" / "weights" / "pneumonia.json"


class Settings(BaseSettings):
    """Made by `daemon.environment.read_settings`; nothing else constructs it from the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", allow_inf_nan=False)

    data_dir: Path = Field(Path("triage-data"), description="files, SQLite database and sockets; private to the daemon")
    database_url: str = Field("", description="sqlite:///FILE or postgresql://...; empty: SQLite in data_dir")
    database_password_file: Path | None = Field(None, description="file with the password that database_url lacks")
    database_seconds: float = Field(10.0, ge=1, description="a PostgreSQL that answers nothing for so long is away")
    database_connections_max: int = Field(10, ge=2, description="connections of one process to PostgreSQL")

    pixel_store: str = Field(
        "",
        pattern=r"^(s3://[a-z0-9][a-z0-9._-]+(/[\w./-]*)?)?$",
        description="s3://BUCKET/PREFIX: films are kept there, with credentials of AWS_* variables; empty: in data_dir",
    )
    pixel_store_endpoint: str = Field(
        "", pattern=r"^(https?://.+)?$", description="https://HOST:PORT of an S3 store that is not Amazon's"
    )
    pixel_store_seconds: float = Field(20.0, gt=0, description="deadline for each request to it, with all its retries")

    dicom_host: str = Field("0.0.0.0", description="address the receiver listens on")  # noqa: S104 - peers are listed
    dicom_port: int = Field(11112, ge=0, le=65535, description="port of the receiver; 0: any free one")
    receivers: int = Field(1, ge=1, le=16, description="receiver processes that share the port; each has its own caps")
    dicom_ae_title: str = Field(
        "TRIAGE", pattern=r"^[!-\[\]-~]{1,16}$", description="our AE title, of 1 to 16 characters"
    )
    dicom_peers: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="who may send: AE@ADDRESS or AE@NETWORK, with commas between, e.g. PACS@10.1.0.0/16"
    )
    dicom_strict_loopback: bool = Field(default=False, description="hold senders on this machine to the list too")
    dicom_tls_certificate_file: Path | None = Field(None, description="PEM; set it to speak TLS only")
    dicom_tls_key_file: Path | None = Field(None, description="PEM; needed with the certificate")
    dicom_tls_ca_file: Path | None = Field(None, description="PEM; clients must show a certificate signed by these")
    dicom_calling_tls_ca_file: Path | None = Field(
        None, description="PEM; set it to speak TLS to ups_subscribers and mwl_peer, whose certificates these signed"
    )
    dicom_calling_tls_certificate_file: Path | None = Field(None, description="PEM; what we show to them")
    dicom_calling_tls_key_file: Path | None = Field(None, description="PEM; needed with the certificate")
    dicom_pdu_seconds: float = Field(30.0, gt=0, description="deadline for each PDU to arrive whole")
    dicom_idle_seconds: float = Field(60.0, gt=0, description="a silent association is closed after this")
    dicom_acse_seconds: float = Field(5.0, gt=0, description="deadline for the association request and TLS handshake")
    dicom_connections_max: int = Field(100, ge=1, description="connections at a time, with up to 1.5 MiB each")
    dicom_connections_per_address_max: int = Field(25, ge=1, description="connections at a time from one address")
    dicom_instance_mib_max: int = Field(256, ge=1, description="largest instance that is received")

    ups_most: int = Field(500, ge=1, le=10_000, description="workitems in the answer to one query")
    ups_retrieve_ae: str = Field(
        "", pattern=r"^([!-\[\]-~]{1,16})?$", description="AE title films are retrieved from; empty: who sent them"
    )
    ups_subscribers: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="where subscribers are told of changes: AE@HOST:PORT, with commas between"
    )

    outage_instances_max: int = Field(10_000, ge=0, description="each receiver takes while PostgreSQL is away; 0: none")
    outage_seconds_max: float = Field(3600.0, gt=0, description="nothing is received once it has been away for longer")

    http_host: str = Field("127.0.0.1", description="address of the web server")
    http_port: int = Field(8080, ge=0, le=65535, description="port of the web server")
    http_allow_remote: bool = Field(
        default=False, description="listen beyond loopback without users: only behind a proxy that asks who it is"
    )
    http_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="names under which the page may be asked for, besides http_host and loopback"
    )
    http_url: str = Field(
        "",
        pattern=r"^(https?://[A-Za-z0-9.\[\]:-]+)?$",
        description="https://NAME of the page where a proxy speaks TLS for it: cookies then never travel without",
    )
    http_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="addresses or networks of proxies whose X-Forwarded-For and -Proto are believed"
    )
    http_tls_certificate_file: Path | None = Field(None, description="PEM, with its chain; set it to serve https only")
    http_tls_key_file: Path | None = Field(None, description="PEM; needed with the certificate")
    session_idle_minutes: float = Field(30.0, gt=0, description="a session ends after so long without a request")
    session_hours: float = Field(12.0, gt=0, description="a session ends so long after the sign-in")

    oidc_issuer: str = Field("", description="https://... of the site's identity provider (OpenID Connect)")
    oidc_client_id: str = Field("", description="our name there; its redirect address is http_url/login/oidc/back")
    oidc_client_secret_file: Path | None = Field(None, description="file with our secret there; without: PKCE alone")
    oidc_audience: str = Field("", description="audience of its access tokens for programs; empty: none are accepted")
    oidc_name_claim: str = Field("preferred_username", description="claim that holds the user's name")
    oidc_roles_claim: str = Field("roles", description="claim that holds roles or groups; dots lead into objects")
    oidc_roles: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="what they stand for: ROLE=GROUP, with commas between, e.g. radiologist=xray-readers"
    )

    hl7_host: str = Field("127.0.0.1", description="address on which orders are taken over HL7 v2 (MLLP)")
    hl7_port: int = Field(0, ge=0, le=65535, description="port for them; 0: none are taken")
    hl7_peers: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="who may send them, besides this machine: addresses or networks, with commas between"
    )
    hl7_tls_certificate_file: Path | None = Field(None, description="PEM; set it to take orders over TLS only")
    hl7_tls_key_file: Path | None = Field(None, description="PEM; needed with the certificate")
    hl7_tls_ca_file: Path | None = Field(None, description="PEM; senders must show a certificate signed by these")
    hl7_accession_fields: Annotated[tuple[str, ...], NoDecode] = Field(
        ("IPC-1", "OBR-18", "OBR-3", "ORC-3", "OBR-2", "ORC-2"),
        description="where an order's accession number stands; the first that is filled counts (IHE: IPC-1, OBR-18)",
    )
    hl7_message_kib_max: int = Field(1024, ge=16, description="largest HL7 message")
    hl7_message_seconds: float = Field(30.0, gt=0, description="deadline for an HL7 message to arrive whole")
    hl7_idle_seconds: float = Field(3600.0, gt=0, description="a silent HL7 connection is closed after this")
    hl7_connections_max: int = Field(32, ge=1, description="HL7 connections at a time; half of them from one address")
    orders_days: float = Field(90.0, gt=0, description="orders and HL7 messages are forgotten after this")
    mwl_peer: str = Field(
        "",
        pattern=r"^([!-?\[\]-~A-Z]{1,16}@[^@\s]+:[0-9]{1,5})?$",
        description="AE@HOST:PORT of a modality worklist that is asked for priorities of orders; empty: none is",
    )
    mwl_seconds: float = Field(10.0, gt=0, description="deadline for each of its answers")
    mwl_pause_seconds: float = Field(10.0, ge=0.1, description="between two times of asking it, for 20 studies each")

    audit_repository: str = Field(
        "",
        pattern=r"^(syslog-(tls|tcp|udp)://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?)?$",
        description="syslog-tls://HOST:PORT (or -tcp, -udp) where audit messages of PS3.15 A.5 go; empty: nowhere",
    )
    audit_source: str = Field("triage", pattern=r"^[\w.@-]{1,64}$", description="Audit Source ID in those messages")
    audit_waiting_max: int = Field(100_000, ge=1, description="messages kept for a repository that is away")
    audit_tls_ca_file: Path | None = Field(None, description="PEM; whom to trust as audit_repository over TLS")
    audit_tls_certificate_file: Path | None = Field(None, description="PEM; what we show to it")
    audit_tls_key_file: Path | None = Field(None, description="PEM; needed with the certificate")

    weights_card: Path = Field(DEFAULT_WEIGHTS, description="card (JSON) of the network; its weights lie beside it")
    explanations: bool = Field(default=False, description="pictures on the page of what moved the network; see README")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the network runs")
    torch_threads: int = Field(0, ge=0, description="threads of the network; 0: one fewer than cores")
    workers: int = Field(1, ge=1, le=64, description="worker processes that `triage serve` starts")
    decoders: int = Field(0, ge=0, le=256, description="films a worker decodes at a time; 0: one a core, at least two")
    batch_max: int = Field(16, ge=1, le=4096, description="most films that go through the network together")
    lease_seconds: float = Field(60.0, ge=1, description="a worker that is silent so long loses its job")
    job_seconds: float = Field(120.0, ge=1, description="a job gets no more heartbeats after this")
    attempts_max: int = Field(3, ge=1, le=20, description="attempts before a job is buried")
    retry_seconds: float = Field(2.0, gt=0, description="wait before the second attempt; doubles with each")
    pending_seconds: float = Field(300.0, gt=0, description="then a study shows 'not analysed (timeout)'")
    decode_seconds: float = Field(20.0, gt=0, description="deadline for decoding one instance")
    decode_mib: int = Field(2048, ge=256, description="memory the decoding child may take")
    decode_films: int = Field(16, ge=1, description="films that one child decodes, while all are sound; 1: one each")

    retention_days: float = Field(7.0, gt=0, description="pixel files are deleted after this: the PACS is the archive")
    disk_free_mib_min: int = Field(2048, ge=0, description="below this free space new associations are refused")
    sweep_seconds: float = Field(5.0, gt=0, description="how often leases, pending studies and the disk are looked at")

    metrics_host: str = Field("127.0.0.1", description="address on which Prometheus may ask for metrics")
    metrics_port: int = Field(0, ge=0, le=65535, description="port for it, of `serve` or a process alone; 0: none")
    watchdog_seconds: float = Field(30.0, ge=3, description="`serve` kills and restarts a process silent for so long")

    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: JSON unless stderr is a terminal")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    @field_validator(
        "dicom_peers", "http_allowed_hosts", "http_proxies", "oidc_roles", "ups_subscribers", "hl7_peers",
        "hl7_accession_fields", mode="before",
    )  # fmt: skip
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_empty(cls, value: object, field: ValidationInfo) -> object:
        if value == "" and cls.model_fields[field.field_name or ""].annotation in (Path, Path | None):
            raise ValueError("is empty; leave it out for the default")  # a Path would take it for the current folder
        return value

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        self._check_tls()
        if self.job_seconds <= self.decode_seconds:
            raise ValueError("job_seconds must be more than decode_seconds: decoding is only a part of a job")
        if self.pixel_store and self.job_seconds <= self.decode_seconds + self.pixel_store_seconds:
            raise ValueError("job_seconds must be more than decode_seconds and pixel_store_seconds together")
        if self.database_password_file and not lacks_password(self.database_url):
            raise ValueError("database_password_file needs a database_url like postgresql://USER@HOST/NAME")
        if self.receivers > 1 and self.dicom_port == 0:
            raise ValueError("receivers: several of them need a dicom_port to share, not 0")
        for peer in self.dicom_peers:
            split_peer(peer)
        if self.oidc_issuer:
            self._check_oidc()
        self._check_lists()
        return self

    def _check_tls(self) -> None:
        for wing in WINGS:
            names = [f"{wing}_tls_certificate_file", f"{wing}_tls_key_file"]
            pair = [getattr(self, name) for name in names]
            if any(pair) != all(pair):
                raise ValueError(f"{names[0]} and {names[1]} go together")
            if wing in {"dicom", "hl7"} and getattr(self, f"{wing}_tls_ca_file") and not all(pair):
                raise ValueError(f"{wing}_tls_ca_file needs {names[0]} and {names[1]}")
        if self.dicom_calling_tls_certificate_file and not self.dicom_calling_tls_ca_file:
            raise ValueError("dicom_calling_tls_certificate_file needs dicom_calling_tls_ca_file to say whom to trust")
        if self.audit_repository.startswith("syslog-tls:") and not self.audit_tls_ca_file:
            raise ValueError("audit_repository over TLS needs audit_tls_ca_file: it says whom to trust")

    def _check_lists(self) -> None:
        for proxy in self.http_proxies:
            split_proxy(proxy)
        for subscriber in self.ups_subscribers:
            split_application(subscriber, "ups_subscribers")
        if self.mwl_peer:
            split_application(self.mwl_peer, "mwl_peer")
        for peer in self.hl7_peers:
            sender_network(peer)
        if not self.hl7_accession_fields or not all(map(_HL7_FIELD.fullmatch, self.hl7_accession_fields)):
            raise ValueError("hl7_accession_fields: a list of fields of ORC, OBR and IPC, like IPC-1,OBR-18")

    def _check_oidc(self) -> None:
        if not re.match(r"https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/]", self.oidc_issuer):
            raise ValueError("oidc_issuer must be https://...; what it says would not be its own")
        if not (self.oidc_client_id and self.http_url and self.oidc_roles):
            raise ValueError("oidc_issuer needs oidc_client_id, oidc_roles and http_url")
        if self.oidc_audience == self.oidc_client_id:
            raise ValueError("oidc_audience must not be oidc_client_id: what tells us of a sign-in is no key")
        for pair in self.oidc_roles:
            split_role(pair)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over what the file says."""
        return env_settings, init_settings

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database. Raise SettingsError if its password cannot be read."""
        if self.database_password_file:
            return with_password(self.database_url, self.database_password_file)
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'triage.db'}"

    @property
    def http_is_reached(self) -> bool:
        """From other machines: by itself, or through a proxy."""
        hosts = (self.http_host, self.http_name or self.http_host)
        return bool(self.http_proxies) or not all(map(is_loopback, hosts))

    @property
    def http_is_encrypted(self) -> bool:
        """By us, or by a proxy."""
        return self.http_tls_certificate_file is not None or self.http_url.startswith("https://")

    @property
    def http_name(self) -> str:
        """Host name of http_url, "" where there is none."""
        return urlsplit(self.http_url).hostname or ""

    @property
    def sqlite_file(self) -> Path | None:
        """None where the database is a server or in memory."""
        scheme, _, path = self.url.partition(":///")
        return Path(path.partition("?")[0]) if scheme.startswith("sqlite") and path else None
