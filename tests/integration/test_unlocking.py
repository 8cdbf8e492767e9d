"""A user who has given too many wrong passwords is let in again by the command line, and orders that wait are shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from doors import PASSWORD, House, open_house
from triage.errors import TriageError
from triage.order import Order, Word
from triage.records.orders import Message, Orders
from triage.records.users import Users
from triage.study import ClinicalPriority
from triage.user import Role


@pytest.fixture
def house(engine: Engine, tmp_path: Path) -> Iterator[House]:
    with open_house(engine, tmp_path) as house:
        house.users.add("Dr Adler", Role.RADIOLOGIST, PASSWORD)
        house.users.add("Boss", Role.ADMIN, PASSWORD)
        yield house


def tries(house: House, name: str, password: str) -> int:
    return house.browser().post("/login", data={"name": name, "password": password}).status_code


def lock(house: House, name: str = "Dr Adler") -> None:
    assert [tries(house, name, "wrong") for _ in range(6)] == [403] * 5 + [429]
    assert tries(house, name, PASSWORD) == 429


def test_who_was_shut_out_is_let_in_once_unlocked(house: House) -> None:
    lock(house)
    lock(house, "Boss")
    house.users.unlock("Dr Adler")
    house.clock.now += 300.0
    assert tries(house, "Dr Adler", PASSWORD) == 303
    assert tries(house, "Boss", PASSWORD) == 429, "another stays shut out"


def test_unlocking_forgives_what_was_and_not_what_comes(house: House) -> None:
    lock(house)
    house.clock.now += 300.0
    house.users.unlock("Dr Adler")
    house.clock.now += 300.0
    lock(house)


def test_it_lets_nobody_in_by_a_wrong_password_or_a_strange_name(house: House) -> None:
    lock(house)
    house.users.unlock("Dr Adler")
    house.clock.now += 300.0
    assert tries(house, "Dr Adler", "wrong") == 403
    with pytest.raises(TriageError, match="no user of this name"):
        house.users.unlock("nobody")
    assert Users(house.store).unlocked_seconds_ago("nobody") is None


def test_orders_that_wait_for_their_images_are_shown_to_an_admin(house: House) -> None:
    orders = Orders(house.store)

    def said(number: str, patient: str = "", *, cancelled: bool = False) -> None:
        order = Order(
            accession_number=number,
            patient_id=patient,
            clinical_priority=ClinicalPriority.STAT,
            cancelled=cancelled,
        )
        message = Message(sha256=f"{number}{patient}{cancelled}".ljust(64, "0"))
        orders.take(message, [order], Word(who="RIS", source="an order over HL7"))

    house.receive(1)  # A1 of P1
    for number, patient in (("A1", "P1"), ("A1", ""), ("A1", "P2"), ("A2", "P3"), ("A3", "P4")):
        said(number, patient)
    said("A3", "P4", cancelled=True)
    assert house.signed_in("Dr Adler").get("/api/orders/kept").status_code == 403
    answer = house.signed_in("Boss").get("/api/orders/kept").json()
    waiting = [(each["accession_number"], each["patient_id"], each["clinical_priority"]) for each in answer["entries"]]
    assert waiting == [("A2", "P3", "STAT"), ("A1", "P2", "STAT")]
    assert answer["count"] == 2
    assert [access.verb for access in house.accesses(verb="orders_kept", outcome="success")] == ["orders_kept"]
