"""What prompts.metadata keeps of the input's rows: from each row to its prompt, from the prompt to its pairs.

- A prompt has an entry for each of its rows, {comparison_id, row}: the comparison is the one that the row's
  responses are in.
- A pair has the row in which both of its responses were compared; where there is none (generated, rewritten)
  the prompt's first one.
- Rows that say the same but for their metadata are duplicates, of which the first is kept.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from schemas.row_checks import ALL_COLUMNS
from schemas.sections import Prompts

Entry = dict[str, str]  # comparison_id, and the row's JSON


def add_row(entries: list[Entry], row: Mapping[str, Any], given: Sequence[Mapping[str, Any]]) -> None:
    """Add a scanned row to the entries of its prompt, once for each comparison of its responses `given`."""
    if row["metadata"] is None:
        return
    comparisons = dict.fromkeys(response["comparison_id"] for response in given)
    for comparison in comparisons or [row["row_id"]]:
        entries.append({"comparison_id": comparison, "row": row["metadata"]})


def as_json(entries: Iterable[Entry]) -> str | None:
    """The entries as one JSON text, the rows in it as they stand; None for none."""
    texts: list[str] = []
    for entry in entries:
        comparison = json.dumps(entry["comparison_id"])
        texts.append(f'{{"comparison_id": {comparison}, "row": {entry["row"]}}}')
    return f"[{', '.join(texts)}]" if texts else None


# What `scores` say of a response in a comparison: its comparison_id and its score there.
Compared = Mapping[str, Any]


def of_pairs(
    entries_of: Sequence[str | None],
    chosen_by: Sequence[str | None],
    chosen: Sequence[Sequence[Compared] | None],
    rejected: Sequence[Sequence[Compared] | None],
) -> list[str | None]:
    """The JSON of the row for each pair, by its prompt's entries.

    `chosen_by`: the comparison that made the pair, where one did. Else it is the row of a comparison of its
    two responses, best of one in which the chosen one has the higher score."""
    rows: list[str | None] = []
    for text, comparison, of_chosen, of_rejected in zip(entries_of, chosen_by, chosen, rejected, strict=True):
        if text is None:
            rows.append(None)
        else:
            wanted = [comparison] if comparison else _common(of_chosen or (), of_rejected or ())
            rows.append(_row_of(json.loads(text), wanted))
    return rows


def _common(of_chosen: Sequence[Compared], of_rejected: Sequence[Compared]) -> list[str]:
    """The comparisons of two responses, first those in which the first one has the higher score."""
    score_of_rejected = {one["comparison_id"]: one["score"] for one in of_rejected}
    agreeing: list[str] = []
    others: list[str] = []
    for one in of_chosen:
        comparison = one["comparison_id"]
        if comparison not in score_of_rejected:
            continue
        score = one["score"]
        other_score = score_of_rejected[comparison]
        is_higher = score is not None and other_score is not None and score > other_score
        (agreeing if is_higher else others).append(comparison)
    return agreeing or others


def _row_of(entries: Sequence[Mapping[str, Any]], comparisons: Collection[str]) -> str:
    """The first row of one of these comparisons, or else the first of all, as JSON."""
    found = entries[0]["row"]
    for entry in entries:
        if entry["comparison_id"] in comparisons:
            found = entry["row"]
            break
    return json.dumps(found, ensure_ascii=False)


def not_kept(names: Iterable[str], config: Prompts) -> dict[str, None]:
    """Those of the names of what is not read that are not kept either: with "*" every whole column is."""
    if ALL_COLUMNS not in config.metadata:
        return dict.fromkeys(names)
    return dict.fromkeys(name for name in names if "." in name)
