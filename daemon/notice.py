"""What systemd is told of a service, sd_notify(3): that it is up, that it lives, that it stops. Elsewhere, nothing."""

from __future__ import annotations

import socket
from contextlib import suppress

from daemon.environment import notify_socket


class Notice:
    """Never raises: a service manager that does not listen ends nothing."""

    def __init__(self) -> None:
        self._address = notify_socket()
        self._status = ""

    @property
    def is_wanted(self) -> bool:
        """Whether somebody listens, and would miss us."""
        return bool(self._address)

    def __call__(self, *words: str) -> None:
        """In one datagram, lines like READY=1, WATCHDOG=1, STOPPING=1."""
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
            line.sendto("\n".join(words).encode(), self._address.replace("@", "\0", 1))

    def status(self, words: str) -> None:
        """What `systemctl status` shows; sent when it changes."""
        if words != self._status:
            self._status = words
            self(f"STATUS={words}")
