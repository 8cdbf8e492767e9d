"""What a page of the worklist may be asked for: the parameters of the interface and of the page are the same."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from triage.records.listing import Asked, Sort, View
from triage.study import Analysis, Status, Tier

_PLAIN = r"^[^\x00-\x1f\x7f-\x9f]*$"


def _or_none(value: Any) -> Any:  # noqa: ANN401 - as it came
    """A form sends its empty fields, too."""
    return None if value == "" else value


_Empty = BeforeValidator(_or_none)
_Text = Annotated[str | None, Field(max_length=64, pattern=_PLAIN), _Empty]


class Filters(BaseModel):
    """Parameters of a page."""

    model_config = ConfigDict(frozen=True)

    view: Annotated[View | None, _Empty] = Field(
        None, description="Which studies; `open` without it. `read`: the last of them first."
    )
    sort: Annotated[Sort | None, _Empty] = Field(
        None, description="Which order; `rank`, the worklist's own, without it. The view `read` has its own."
    )
    modality: _Text = Field(None, description="Of these only, e.g. CR.")
    status: Annotated[Status | None, _Empty] = Field(None, description="Of these only.")
    tier: Annotated[Tier | None, _Empty] = Field(None, description="Of these only.")
    analysis: Annotated[Analysis | None, _Empty] = Field(None, description="Of these only.")
    q: _Text = Field(None, description="Words, all of which stand in the patient's name or ID or the accession number.")
    limit: Annotated[int | None, Field(ge=1, le=10_000), _Empty] = Field(
        None,
        description="How many of the first studies; all without it, but 200 of those that were read. A page of "
        "`read` may hold fewer, even none, while there is a next_cursor.",
    )
    cursor: Annotated[str | None, Field(max_length=256, pattern=r"^[A-Za-z0-9_-]*$"), _Empty] = Field(
        None, description="next_cursor of the page before, with the other parameters as they were."
    )

    def asked(self, most: int | None = None) -> Asked:
        """``most``: the limit where none is given."""
        kept = self.model_dump(include={"modality", "status", "tier", "analysis", "cursor"})
        view = self.view or View.OPEN
        sort = Sort.RANK if view is View.READ else self.sort or Sort.RANK
        return Asked(view=view, sort=sort, text=self.q, limit=self.limit or most, **kept)

    def query(self, **changes: object) -> str:
        """As it stands in an address, "" or "?...": what is not given stays out."""
        given = {name: value for name, value in (self.given() | changes).items() if value is not None}
        return "?" + urlencode(given) if given else ""

    def given(self) -> dict[str, Any]:
        """Parameters that are not as they are without being asked."""
        return self.model_dump(mode="json", exclude_none=True)
