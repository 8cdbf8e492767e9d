"""A listener that is stopped: work in hand is answered, nobody is waited for in vain, nothing is left behind."""

from __future__ import annotations

import threading
import time

import pytest
from listening import (
    A_ABORT,
    established,
    listening,
    p_data,
    read_pdu,
    status_of,
    store_rq,
    wait_for,
)

from daemon.dicom.association import StoreRequest

pytestmark = pytest.mark.timeout(60)


def test_stop_leaves_no_thread_of_silent_idle_or_busy_connections() -> None:
    with listening(acse_seconds=20, idle_seconds=20) as site, site.connect(), site.connect() as half:
        half.sendall(b"\x01\0")
        with established(site.connect()) as idle, established(site.connect()) as sending:
            sending.sendall(p_data(3, store_rq()))
            time.sleep(0.2)
            assert all(thread.daemon for thread in site.threads()), "the process could not exit"
            began = time.monotonic()
            assert site.listener.stop(0.3)
            assert time.monotonic() - began < 3
            assert wait_for(lambda: not site.threads()), site.threads()
            assert read_pdu(idle)[0] == A_ABORT
    assert len(site.ends) == 4


def test_stop_lets_the_instance_in_hand_be_answered() -> None:
    started = threading.Event()

    def slow(_request: StoreRequest) -> int:
        started.set()
        time.sleep(0.5)
        return 0

    with listening(slow) as site, established(site.connect()) as peer:
        peer.sendall(p_data(3, store_rq()) + p_data(2, bytes(100)))
        assert started.wait(5)
        stopping = threading.Thread(target=site.listener.stop, args=(5,))
        stopping.start()
        kind, content = read_pdu(peer)
        assert (kind, status_of(content)) == (4, 0)
        assert read_pdu(peer)[0] == A_ABORT
        stopping.join()


def test_stop_does_not_wait_out_its_grace_for_idle_associations() -> None:
    with listening(idle_seconds=60) as site, established(site.connect()):
        began = time.monotonic()
        assert site.listener.stop(30)
        assert time.monotonic() - began < 4
