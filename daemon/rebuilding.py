"""`triage rebuild`: the worklist made again from the films that are kept."""

from __future__ import annotations

import typer

from daemon.accounts import noted
from daemon.house import House, open_house
from triage.errors import TriageError


def rebuild() -> None:
    """List films again that are kept but not in the database: after its loss, or an older backup. Exit 1 if any cannot.

    Studies that were read may come back: better seen twice than never.
    """
    from daemon.adoption import Adoption

    house = open_house("rebuild")
    _need_films(house)
    house.refuse_damaged()
    house.look_at_database()
    adoption = Adoption(store=house.store, kept=house.spool.kept, arrivals=house.arrivals)
    with noted(house, "rebuild"):
        answers: list[bool] = []
        for quarantined in (False, True):
            orphans = adoption.orphans(quarantined=quarantined)
            answers += adoption.adopt_all(orphans, quarantined=quarantined)
    if any(answers):
        house.ringer.ring()
    listed, lost = answers.count(True), answers.count(False)
    typer.echo(f"{listed} films listed again, as having waited since they came; {lost} could not be")
    raise typer.Exit(lost > 0)


def _need_films(house: House) -> None:
    """Or else a forgotten setting would make an empty folder and call it rebuilt."""
    folder = house.settings.data_dir / "instances"
    if not house.settings.pixel_store and not folder.is_dir():
        raise TriageError(f"no films at {folder}; is TRIAGE_DATA_DIR set?")
