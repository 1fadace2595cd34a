"""A prompt with all that the rows of the input say of it: a row of the table `prompts`."""

from typing import Any

from engine import ids
from engine.metadata import Entry, add_row, as_json


class GatheredPrompt:
    """Gathers the scanned rows of one prompt, in the order of the input.

    `splits` and `references` are all that any of its rows names."""

    def __init__(self, row: dict[str, Any]):
        """`row`: the first one; the prompt is as it stands there."""
        self.splits: set[str] = set()
        self.references: set[str] = set()
        self._first = row
        self._given: list[dict[str, Any]] = []
        self._ratings: list[float | None] = []
        self._turns: list[str | None] = []
        self._kept: list[Entry] = []

    def add_what_it_says(self, row: dict[str, Any]) -> None:
        """Add a row's split and reference."""
        if row["split"]:
            self.splits.add(row["split"])
        if row["reference"]:
            self.references.add(row["reference"])

    def add_responses(self, row: dict[str, Any]) -> None:
        """Add a row's responses, and what is kept of it. Comparisons of one row have ids of their own."""
        added: list[dict[str, Any]] = []
        for response in row["responses"]:
            comparison_id = row["row_id"]
            if response["comparison"] is not None:
                comparison_id = ids.content_id(row["row_id"], response["comparison"])
            added.append(
                {"comparison_id": comparison_id, "text": response["text"], "score": response["score"]}
            )
            self._ratings.append(response["rating"])
            self._turns.append(response["turn"])
        self._given += added
        add_row(self._kept, row, added)

    def as_row(self) -> dict[str, Any]:
        """The row of `prompts`."""
        messages = self._first["messages"]
        has_ratings = any(rating is not None for rating in self._ratings)
        return {
            "prompt_id": self._first["prompt_id"],
            "messages": messages,
            "prompt": messages[-1]["content"],
            "chat": self._first["chat"],
            "given": self._given,
            "ratings": self._ratings if has_ratings else None,
            "turns": self._turns if any(self._turns) else None,
            "file": self._first["file"],
            "line": self._first["line"],
            "given_split": self._split(),
            "reference": self._reference(),
            "metadata": as_json(self._kept),
        }

    def _split(self) -> str | None:
        """A prompt that any row holds out is held out, so that nothing of it is trained on."""
        for split in ("test", "train"):
            if split in self.splits:
                return split
        return None

    def _reference(self) -> str | None:
        """The right answer that the rows name; none where they differ: nobody knows which one is right."""
        if len(self.references) != 1:
            return None
        return next(iter(self.references))
