"""Where films are kept, as the site has set it."""

from __future__ import annotations

from daemon.folder import Folder
from daemon.kept import Kept
from daemon.settings import Settings
from daemon.tray import Tray


def kept_of(settings: Settings) -> Kept:
    """In the data folder, or in a bucket, whose library is loaded only then."""
    if not settings.pixel_store:
        return Folder(settings.data_dir)
    from daemon.bucket import Bucket

    return Bucket(
        settings.pixel_store,
        Tray(settings.data_dir / "fetched"),
        seconds=settings.pixel_store_seconds,
        endpoint=settings.pixel_store_endpoint,
    )
