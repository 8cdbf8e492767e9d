"""What grows with the years is found by an index, and what is asked for is found without sorting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from plans import plans
from sqlalchemy import Engine
from wards import Ward, ward

from triage.order import Order, Word
from triage.records.audit import Audit
from triage.records.orders import Message, Orders
from triage.records.store import Store
from triage.study import ClinicalPriority


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Iterator[Ward]:
    with ward(engine, tmp_path) as made:
        yield made


def test_workitems_that_ended_are_found_without_sorting_them_all(engine: Engine, site: Ward) -> None:
    told = plans(engine, lambda: site.workitems.ended(5), as_if_large=True)
    (past,) = (plan for plan in told if "ix_workitems_ended" in plan)
    for plan in told:
        assert "TEMP B-TREE" not in plan
        assert "Sort" not in plan
    assert "Seq Scan" not in past
    assert "SCAN studies" not in past


def test_the_last_word_of_each_reading_is_found_by_an_index(engine: Engine, site: Ward) -> None:
    (plan,) = plans(engine, site.reading.opinions, as_if_large=True)
    assert "Seq Scan" not in plan
    assert "SCAN" not in plan


def test_what_somebody_did_is_found_without_a_look_at_all_the_others(engine: Engine) -> None:
    audit = Audit(Store(engine))
    (plan,) = plans(engine, lambda: audit.list(5, 10, same={"who": "Dr Adler"}), as_if_large=True)
    assert "ix_accesses_who" in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan


def test_orders_that_wait_are_looked_for_among_the_last_alone(
    engine: Engine, site: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    del site
    orders = Orders(Store(engine))
    for number in range(1, 5):
        said = Order(accession_number=f"W{number}", patient_id="", clinical_priority=ClinicalPriority.STAT)
        orders.take(Message(sha256=f"{number}"), [said], Word(who="RIS", source="an order"))
    assert [order.accession_number for order in orders.kept()] == ["W4", "W3", "W2", "W1"]
    (plan,) = plans(engine, orders.kept, as_if_large=True)
    assert "ix_studies_accession_number" in plan
    assert "TEMP B-TREE" not in plan
    monkeypatch.setattr("triage.records.orders._LOOKED_THROUGH", 3)
    assert [order.accession_number for order in orders.kept()] == ["W4", "W3", "W2"]
