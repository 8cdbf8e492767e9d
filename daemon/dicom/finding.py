"""Which workitems a query is about (PS3.4 CC.2.8, PS3.18 11.9): at a bounded cost, a bounded number of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag

from daemon.dicom.matching import matches
from daemon.dicom.workitem import data_set, plain, sequence
from triage.records.workitems import Workitems
from triage.workitem import FINAL, StepState, Workitem

# Sequences in sequences that are looked into.
_DEPTH_MAX = 3
_NO_KEYS = frozenset({"SpecificCharacterSet", "TimezoneOffsetFromUTC"})
_ENDED_MAX = 1000
# Where keys stand in sequences.
_LOOKED_INTO_MAX = 5000
# Times as many as are wanted.
_TRIED_FIRST = 2
# Keys in sequences whose values are the study's own.
_OF_STUDY = {
    "ReferencedRequestSequence": ("AccessionNumber", "StudyInstanceUID"),
    "InputInformationSequence": ("StudyInstanceUID",),
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """The first that match, in the order of the worklist; ``ignored``: some keys are not known here."""

    items: Sequence[Workitem]
    films: Mapping[str, Sequence[Mapping[str, str]]] = field(repr=False)
    is_cut: bool = False
    ignored: bool = False

    @staticmethod
    def of_one(item: Workitem, workitems: Workitems) -> Found:
        return Found(items=[item], films=workitems.films([item.study_instance_uid]))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """``most``: responses to one query. ``retrieve_ae``: of the archive, "" for who sent the films."""

    workitems: Workitems
    most: int
    retrieve_ae: str = ""

    def find(self, keys: Dataset, most: int | None = None, offset: int = 0) -> Found:
        """Raise what pydicom raises for keys that cannot be read."""
        texts, sequences, ignored = _split(keys)
        wanted = offset + min(most or self.most, self.most)
        # Most queries find their first page among the first that may match: then it does not cost all that wait.
        enough = _TRIED_FIRST * (wanted + 1)
        fitting, is_cut = self._fitting(texts, sequences, enough)
        if is_cut and len(fitting) <= wanted:
            fitting, is_cut = self._fitting(texts, sequences, None)
        items = fitting[offset:wanted]
        films = self.workitems.films({item.study_instance_uid for item in items})
        return Found(items=items, films=films, is_cut=is_cut or len(fitting) > wanted, ignored=ignored)

    def _fitting(
        self, texts: Mapping[str, str], sequences: Sequence[DataElement], enough: int | None
    ) -> tuple[list[Workitem], bool]:
        """Those that match, and whether there may be more. Looked at are the first ``enough`` that may, or all."""
        found = self._candidates({**_inside(sequences), **texts}, enough)
        candidates = [item for item in found if _fits(plain(item), texts)]
        is_cut = enough is not None and len(found) >= enough
        if not sequences:
            return candidates, is_cut
        looked_at = candidates[:_LOOKED_INTO_MAX]
        return self._holding(looked_at, sequences), is_cut or len(candidates) > len(looked_at)

    def data_set(self, item: Workitem, found: Found, wanted: Collection[str] | None = None) -> Dataset:
        """``wanted``: keywords, or all of them."""
        return data_set(item, found.films.get(item.study_instance_uid, ()), self.retrieve_ae, wanted)

    def _candidates(self, texts: Mapping[str, str], enough: int | None) -> list[Workitem]:
        """Named ones are looked up; those that have ended are looked through only where their state is asked for."""
        uids = texts.get("SOPInstanceUID", "*")
        if uids != "*":
            return self.workitems.named([uid.strip(" \0") for uid in uids.split("\\")])
        state = texts.get("ProcedureStepState", "*")
        is_one = state in list(StepState)
        items = [] if state in FINAL else self.workitems.open(StepState(state) if is_one else None, enough, texts)
        if (is_one and state not in FINAL) or (enough and len(items) >= enough):
            return items
        return items + self.workitems.ended(_ENDED_MAX)

    def _holding(self, items: Sequence[Workitem], keys: Sequence[DataElement]) -> list[Workitem]:
        films = self.workitems.films({item.study_instance_uid for item in items})

        def holds(item: Workitem, key: DataElement) -> bool:
            own = films[item.study_instance_uid]
            return _any_holds(sequence(item, key.keyword, own, self.retrieve_ae), key, 1)

        return [item for item in items if all(holds(item, key) for key in keys)]


def _split(keys: Dataset) -> tuple[dict[str, str], list[DataElement], bool]:
    """Keys with a value: those that a workitem has by itself, sequences; and whether there are others."""
    texts, sequences, ignored = {}, [], False
    for tag in list(keys.keys()):
        keyword = keyword_for_tag(tag)
        if keyword in _NO_KEYS:
            continue
        if keyword not in _KNOWN:  # and is not even decoded
            ignored = True
            continue
        element = keys[tag]
        if dictionary_VR(tag) != "SQ":
            texts[keyword] = text(element)
        elif element.VR == "SQ" and element.value and len(element.value[0]):
            sequences.append(element)
    return {keyword: key for keyword, key in texts.items() if key not in {"", "*"}}, sequences, ignored


def _inside(sequences: Sequence[DataElement]) -> dict[str, str]:
    """Keys in the first items of sequences that only one value of a study can match."""
    asked = [(element, keyword) for element in sequences for keyword in _OF_STUDY.get(element.keyword, ())]
    return {keyword: text(element.value[0][keyword]) for element, keyword in asked if keyword in element.value[0]}


def text(element: DataElement) -> str:
    """Of a key; several values with backslashes between them, as they came."""
    value = element.value
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, list | tuple) or element.VM > 1 else str(value)


def _fits(values: Mapping[str, str], texts: Mapping[str, str]) -> bool:
    return all(
        matches(dictionary_VR(keyword), key, values[keyword]) for keyword, key in texts.items() if keyword in values
    )


def _any_holds(items: Sequence[Dataset], key: DataElement, depth: int) -> bool:
    """Whether any of the items has all that the key's first item asks for."""
    return depth > _DEPTH_MAX or any(all(_has(item, each, depth) for each in key.value[0]) for item in items)


def _has(item: Dataset, key: DataElement, depth: int) -> bool:
    held = item.get(key.tag)
    if key.VR == "SQ":
        is_universal = held is None or not key.value or not len(key.value[0])
        return is_universal or _any_holds(list(held.value), key, depth + 1)
    return held is None or matches(key.VR, text(key), text(held))


def _known() -> frozenset[str]:
    """Attributes of every workitem, taken from one that is made up."""
    columns = ("study_description", "modality", "words", "patient_name", "patient_id", "patient_birth_date")
    study = dict.fromkeys((*columns, "patient_sex", "accession_number"), "")
    times = dict.fromkeys(("waiting_since", "overdue_at", "status_at"))
    made = Workitem(
        workitem_uid="2.25.1",
        study_instance_uid="2.25.2",
        state=StepState.SCHEDULED,
        study={**study, **times, "clinical_priority": 2, "flagged": False},
    )
    return frozenset(element.keyword for element in data_set(made, ()))


_KNOWN = _known()
