"""Orders that wait for their images, for those who look after the site: is the interface of the RIS alive?"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from daemon.web.schemas import failures
from triage.records.orders import Orders

_MOST = 1000

Most = Annotated[int, Query(ge=1, le=_MOST, description="How many.")]


class KeptOrderShown(BaseModel):
    """The last word of one order."""

    accession_number: str = Field(description="As the order gives it.")
    patient_id: str = Field(description='"" where the order names none.')
    clinical_priority: str = Field(description="STAT, URGENT or ROUTINE.")
    who: str = Field(description="Who said it.")
    source: str = Field(description="By which way it came, in words.")
    at: datetime = Field(description="When, by the database's clock. UTC.")


class KeptOrders(BaseModel):
    """Some of them."""

    count: int = Field(description="Number of orders here.")
    entries: list[KeptOrderShown] = Field(description="The newest first.")


class Waiting:
    """GET /api/orders/kept."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/orders", responses=failures(400, 500))
        shown: dict[str, Any] = {"response_model": KeptOrders, "response_description": "The newest first."}
        router.add_api_route("/kept", self.list, **shown, responses=failures(401, 403, 422, 503))
        return router

    def list(self, *, limit: Most = 100) -> dict[str, Any]:
        """Orders whose images have not come, among the last 10,000, as far as they are kept (`orders_days`)."""
        kept = [asdict(each) for each in self._orders.kept(limit)]
        return {"count": len(kept), "entries": kept}
