"""A small training run that is watched: answers, a best checkpoint, trackers."""

import json
import struct
from pathlib import Path

from tests.reliability.training import Trained, recipe_of

# The worst loss counts as the best, so the best checkpoint is not the last one.
WATCHED = {
    "train__max_steps": 5,
    "train__keep": 1,
    "train__save_every": 2,
    "train__eval_every": 1,
    "train__eval_samples": 2,
    "train__eval_sample_tokens": 7,
    "train__metric_for_best_model": "eval_loss",
    "train__greater_is_better": "true",
}


_made: list[Trained] = []


def watched(tmp_path_factory, model_path) -> Trained:
    """The run that several files of tests look at; it is made once."""
    if not _made:
        recipe = recipe_of(tmp_path_factory, model_path, **WATCHED)
        _made.append(Trained(tmp_path_factory.mktemp("watched"), recipe))
    return _made[0]


def with_train(recipe, **values: object):
    """The recipe with other settings of [train]."""
    from dataclasses import replace

    return recipe.with_sections(train=replace(recipe.section("train"), **values))


def points_of(folder: Path) -> dict[str, dict[int, float]]:
    """metrics.jsonl as metric -> step -> value."""
    points: dict[str, dict[int, float]] = {}
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        for name, value in line.items():
            if name != "step":
                points.setdefault(name, {})[line["step"]] = value
    return points


def once(pairs) -> dict[int, float]:
    """step -> value; no step may be there twice."""
    found: dict[int, float] = {}
    for step, value in pairs:
        assert step not in found, f"step {step} twice"
        found[step] = value
    return found


_BLOCK = 32768


def records_of(file: Path):
    """The records of a .wandb file: a LevelDB log behind a header of seven bytes, of W&B's own messages."""
    from wandb.proto import wandb_internal_pb2 as messages

    data = file.read_bytes()
    assert data[:4] == b":W&B"
    place = 7
    whole = b""
    while place + 7 <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < 7:  # the rest of a block is padding
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = messages.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def wandb_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each metric in the one offline run of a train folder."""
    import wandb

    wandb.teardown()  # its process writes on for a moment after a run's end
    (file,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records_of(file):
        if not record.HasField("history"):
            continue
        row = {}
        for item in record.history.item:
            row[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        for name, value in row.items():
            if not name.startswith(("_", "eval_samples/")):
                found.setdefault(name, []).append((row["_step"], value))
    return found
