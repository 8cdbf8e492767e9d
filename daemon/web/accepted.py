"""What a client accepts, by its Accept header (PS3.18 8.7): media types with their parameters, in its order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from urllib.request import parse_http_list

from daemon.web.shield import RefusalError

ANY = "*"
MULTIPART = "multipart/related"
JSON = "application/dicom+json"
DICOM = "application/dicom"


@dataclass(frozen=True, kw_only=True)
class Range:
    """A media range. ``inner``: of each part, where it is multipart; ``syntax``: "" if none is named."""

    media_type: str
    inner: str = ""
    syntax: str = ""

    def takes(self, media_type: str) -> bool:
        return _covers(self.media_type, media_type)

    def takes_part(self, media_type: str, syntaxes: Collection[str]) -> bool:
        """Parts of this type, all in these transfer syntaxes. Where none is named, as they are stored."""
        fits = self.syntax in ("", ANY) or set(syntaxes) <= {self.syntax}
        return self.takes(MULTIPART) and _covers(self.inner or "*/*", media_type) and fits


def accepted(header: str | None) -> list[Range]:
    """Anything, where nothing is said."""
    return list(_ranges(header or "")) or [Range(media_type="*/*")]


def need(header: str | None, *media_types: str) -> None:
    """Raise RefusalError (406) if none of them is accepted."""
    preferred(header, *media_types)


def preferred(header: str | None, *media_types: str) -> str:
    """The first of them in the client's order. Raise RefusalError (406)."""
    found = (media_type for each in accepted(header) for media_type in media_types if each.takes(media_type))
    wanted = next(found, None)
    if wanted is None:
        raise RefusalError(406, f"Sent as {' or '.join(media_types)} only.")
    return wanted


def _ranges(header: str) -> Iterator[Range]:
    for stated in parse_http_list(header):
        parsed = Message()
        parsed["content-type"] = stated
        parameters: Mapping[str, str] = dict(parsed.get_params(failobj=[], unquote=True))
        names = {name.lower(): value.strip() for name, value in parameters.items()}
        media_type = next(iter(parameters), "").strip().lower()
        if "/" in media_type and names.get("q", "1") not in ("0", "0.0"):
            yield Range(
                media_type=media_type, inner=names.get("type", "").lower(), syntax=names.get("transfer-syntax", "")
            )


def _covers(stated: str, media_type: str) -> bool:
    kind, _, _ = media_type.partition("/")
    return stated in ("*/*", f"{kind}/*", media_type)
