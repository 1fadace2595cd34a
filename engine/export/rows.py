"""Pairs with their prompts, as plain rows: what every form of the export is made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from engine.make import read_file
from engine.table_files import RunFiles
from schemas.errors import UserError
from schemas.store import Store

Row = dict[str, Any]
Turn = dict[str, Any]


@dataclass(frozen=True)
class Exported:
    """A pair to write: its row of `pairs`, the prompt's turns, both answers as turns, the tools as JSON."""

    pair: Row
    prompt: list[Turn]
    chosen: Turn
    rejected: Turn
    tools: str | None

    @property
    def split(self) -> str:
        """train, or test where it is held out."""
        return str(self.pair["split"])


def exported(run: Store) -> Iterator[Exported]:
    """All pairs, shard by shard, each in the order of its shard.

    Raises UserError where not every shard is there, where there is no pair, or one is damaged."""
    files = RunFiles(run)
    not_all = files.unfinished()
    if not_all:
        raise UserError(
            f"not all of {run} is made ({', '.join(not_all)}): run its `engine precompute` to the end first"
        )
    shards = files.by_shard("pairs")
    if not shards:
        raise UserError(f"{run} has no pairs: `engine status {run}` says what became of its rows")
    prompts, responses = files.by_shard("prompts"), files.by_shard("responses")
    for shard, pairs in shards.items():
        rows_of_prompts: dict[str, Row] = {}
        for folder, file in prompts.get(shard, ()):
            for row in read_file(folder, file).select(["prompt_id", "messages", "chat"]).to_pylist():
                rows_of_prompts[row["prompt_id"]] = row
        turns: dict[str, Turn] = {}
        for folder, file in responses.get(shard, ()):
            for row in read_file(folder, file).select(["response_id", "turn"]).to_pylist():
                if row["turn"]:
                    turns[row["response_id"]] = orjson.loads(row["turn"])
        for folder, file in pairs:
            for pair in read_file(folder, file).to_pylist():
                yield _exported(pair, rows_of_prompts[pair["prompt_id"]], turns)


def _exported(pair: Row, prompt: Row, turns: dict[str, Turn]) -> Exported:
    messages, tools = prompt["messages"], None
    if prompt["chat"]:  # what the template was given, where it is more than texts
        chat = orjson.loads(prompt["chat"])
        messages = chat["messages"]
        tools = orjson.dumps(chat["tools"]).decode() if chat.get("tools") else None
    answers: list[Turn] = []
    for side in ("chosen", "rejected"):
        text = {"role": "assistant", "content": pair[side]}
        answers.append(turns.get(pair[f"{side}_response_id"], text))
    return Exported(pair, messages, answers[0], answers[1], tools)
