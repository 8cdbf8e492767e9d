"""What single studies are told and tell: opinions, clinical priorities, events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from daemon.web.schemas import MaybeReaderName, Name
from triage.proportion import wilson
from triage.study import ClinicalPriority, EventKind, Opinion

_PRIORITIES = [priority.name for priority in ClinicalPriority]
PriorityName = Annotated[str, Field(pattern=f"^({'|'.join(_PRIORITIES)})$")]


class OpinionBody(BaseModel):
    """What a reader thinks of the analysis."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"opinion": "agree", "reader": "Dr A"}]})

    opinion: Annotated[Opinion, WithJsonSchema({"type": "string", "enum": list(Opinion)})] = Field(
        description="Instead of an earlier one of the same reader."
    )
    reader: Name = Field(description="Whose it is.")


class ClosingBody(MaybeReaderName):
    """Who reads or releases, and whether another reader may hold the study."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reader": "Dr Adler"}, {"reader": "PACS", "anyway": True}]}
    )

    anyway: bool = Field(
        default=False,
        strict=True,
        description="Also where another reader holds the study, who has gone or has reported elsewhere.",
    )


class PriorityBody(BaseModel):
    """How urgent the order is."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"clinical_priority": "STAT", "reader": "Dr A"}]}
    )

    clinical_priority: Annotated[PriorityName, WithJsonSchema({"type": "string", "enum": _PRIORITIES})] = Field(
        description="Up or down; the analysis has no part in it."
    )
    reader: Name | None = Field(None, description="Who says so; stands in the study's events.")


class Requeued(BaseModel):
    """Films that will be looked at again."""

    films: int = Field(description="How many; 0 if they wait to be looked at already, or are no longer kept.")


class StudyEvent(BaseModel):
    """Something that happened to a study."""

    at: datetime = Field(description="When. UTC.")
    kind: Annotated[EventKind, WithJsonSchema({"type": "string", "enum": list(EventKind)})] = Field(
        description="What kind of thing it is."
    )
    who: str = Field(description='User, application entity or program; "" for the daemon itself.')
    words: str = Field(description='What there is to say of it; "" if its kind says all.')
    rank_from: int | None = Field(description="The place that it moved the study from; null if it did not move it.")
    rank_to: int | None = Field(description="The place that it moved the study to; null if it did not move it.")


class StudyEvents(BaseModel):
    """The history of a study."""

    events: list[StudyEvent] = Field(description="From the first to the last.")


class Share(BaseModel):
    """A share, and how well so many opinions tell it: Wilson's interval at 95 %."""

    value: float = Field(description="Between 0 and 1.")
    low: float = Field(description="Lower end of the interval.")
    high: float = Field(description="Upper end of the interval.")


class Opinions(BaseModel):
    """What readers think of the studies that were flagged here."""

    agree: int = Field(description="Opinions that agree with the flag.")
    disagree: int = Field(description="Opinions that disagree with it.")
    unsure: int = Field(description="Opinions that are unsure; they do not count below.")
    ppv: Share | None = Field(
        description="Share of those that agree: the local positive predictive value as readers see it, not a "
        "diagnosis. Null without opinions."
    )

    @staticmethod
    def of(said: Mapping[Opinion, int]) -> Opinions:
        """From how often each was said."""
        agree, decided = said[Opinion.AGREE], said[Opinion.AGREE] + said[Opinion.DISAGREE]
        counts = {opinion.value: count for opinion, count in said.items()}
        if not decided:
            return Opinions(**counts, ppv=None)
        low, high = wilson(agree, decided)
        return Opinions(**counts, ppv=Share(value=agree / decided, low=low, high=high))
