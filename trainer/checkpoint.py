"""checkpoint-<step>/: a model folder that `from_pretrained` opens, with the state of training beside it.

What is in it is trainer/state.py. A checkpoint is there whole or not at all, and says its files' digests
(schemas/checkpoints.py), so that one that was damaged later is noticed. All tensors are safetensors: nothing
has to be unpickled, and the same state gives the same bytes.
"""

import contextlib
import filecmp
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from schemas import checkpoints
from schemas.checkpoints import STATE
from schemas.errors import UserError
from schemas.identity import weights_digest
from schemas.model_copies import copy_beside
from schemas.screen import warn
from schemas.store import Store
from schemas.tensor_headers import tensors_of
from trainer import state as train_state
from trainer.disk import at
from trainer.dist import Ranks
from trainer.state import TrainState
from trainer.tensor_file import Form

_PREFIX = "checkpoint-"
_EXTRA = "extra"  # in state.json of one that was saved because the run was told to end


def name_of(step: int) -> str:
    """The name of a step's checkpoint in its train folder."""
    return f"{_PREFIX}{step}"


def steps(folder: Store, last: int | None = None) -> list[int]:
    """The steps of the checkpoints that are there, in order, up to `last`: the last one of the run.

    A folder of such a name that holds nothing of ours is somebody's own, and so is one of a later step."""
    return sorted(step for step, is_ours in _named(folder, last) if is_ours)


def strangers(folder: Store, last: int) -> list[str]:
    """What has the name of a checkpoint and is none of a run that ends at step `last`."""
    return [name_of(step) for step, is_ours in _named(folder, last) if not is_ours]


def _named(folder: Store, last: int | None) -> list[tuple[int, bool]]:
    """The step of each thing with the name of a checkpoint, and whether it is one of ours."""
    found: list[tuple[int, bool]] = []
    for name in folder.names(f"{_PREFIX}*"):
        step = step_of(name)
        if step is None:
            continue
        is_of_run = step > 0 and (last is None or step <= last)
        found.append((step, is_of_run and checkpoints.is_one(folder.listing(name))))
    return found


def step_of(name: str) -> int | None:
    """The step of a checkpoint of this name; None where it is not the name of one."""
    suffix = name.removeprefix(_PREFIX)
    is_ours = suffix.isascii() and suffix.isdigit() and name == f"{_PREFIX}{int(suffix)}"
    return int(suffix) if is_ours else None


def save(
    folder: Store,
    step: int,
    state: TrainState,
    source: Path,
    keep: int,
    ranks: Ranks,
    best: Callable[[], int | None] = lambda: None,
    is_extra: bool = False,
) -> None:
    """Write checkpoint-<step>, then remove the oldest ones beyond `keep` (0: keep all). Every rank calls it.

    `is_extra`: it was not due at this step, and is removed once there is a later one.
    Rank 0 writes what it gathers from all. Tokenizer and template are copied from `source`. Does nothing
    where the checkpoint is there. A person's own files in a folder of its name stay in it. `best` names, once
    this one is there, the step of one that is kept whatever its age. Raises UserError where the disk refuses
    it, or where a weight is not finite."""
    if ranks.from_first(lambda: step in steps(folder, step)):
        return
    _check_finite(step, state, ranks)
    forms = train_state.optimizer_forms(state)
    weights = train_state.weights_of(state)
    tensors = train_state.optimizer_tensors(state)
    position = train_state.position(step, state)
    if is_extra:
        position[_EXTRA] = True

    def write() -> None:
        try:
            _write(folder, step, position, state, source, forms, weights, tensors)
        finally:
            _go_through(weights, tensors)  # the other ranks wait at each tensor
        prune(folder, keep, step, source, best())

    if not ranks.first:
        _go_through(weights, tensors)
    ranks.from_first(write)


def _go_through(*streams: Iterator[object]) -> None:
    """Take part in gathering what rank 0 writes."""
    for stream in streams:
        for _ in stream:
            pass


def _write(
    folder: Store,
    step: int,
    position: dict[str, Any],
    state: TrainState,
    source: Path,
    forms: dict[str, Form],
    weights: Iterator[tuple[str, torch.Tensor]],
    tensors: Iterator[tuple[str, torch.Tensor]],
) -> None:
    """Write a checkpoint's folder, whole or not at all."""
    gathered = dict(weights)
    with at(folder.where(name_of(step))), _put_aside(folder.local_path(name_of(step))) as own:

        def fill(path: Path) -> None:
            train_state.write(path, state, forms, gathered, tensors)
            copy_beside(source, path)
            (path / STATE).write_bytes(checkpoints.state_bytes(position, path))
            if own and own.is_dir():
                _copy_beside(own, path)  # after state.json, which is to name our own files alone

        folder.put_folder(name_of(step), fill)


@contextlib.contextmanager
def _put_aside(path: Path) -> Iterator[Path | None]:
    """Give what has a checkpoint's name and is none another name while the checkpoint is written.

    Whatever ends this process, it is under one of the names. What the checkpoint holds as well afterwards is
    removed."""
    if not path.exists():
        yield None
        return
    number = 1
    while (own := path.with_name(f"{path.name}.own-{number}")).exists():
        number += 1
    path.rename(own)
    try:
        yield own
    except BaseException:
        if not path.exists():
            own.rename(path)
        raise
    if own.is_dir() and _holds(path, own):
        shutil.rmtree(own)
    else:
        warn(f"{path} was no checkpoint: what was in its place is {own} now")


def _copy_beside(own: Path, path: Path) -> None:
    """Copy a person's own files into a checkpoint, but for those that have the name of a file of ours."""
    for name in checkpoints.names(own):
        if not (path / name).exists():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(own / name, path / name)


def _holds(path: Path, own: Path) -> bool:
    """True if a checkpoint has each of a person's files."""
    return all(filecmp.cmp(own / name, path / name, shallow=False) for name in checkpoints.names(own))


def _check_finite(step: int, state: TrainState, ranks: Ranks) -> None:
    """Raise UserError, on every rank, where nothing can be trained on from the weights or the optimizer."""
    found = train_state.check_finite(state)
    bad = ranks.gather([found] if found else [])
    if bad:
        raise UserError(
            f"after step {step} {bad[0]} is not finite, so {name_of(step)} is not written: "
            "lower train.learning_rate",
            shared=True,
        )


def prune(folder: Store, keep: int, last: int, source: Path, best: int | None = None) -> None:
    """Remove the oldest checkpoints up to step `last` beyond `keep`, but not the one of step `best`.

    0 keeps all. One that is extra counts for nothing, and goes where there is a later one. `source` as in
    `save`."""
    found = steps(folder, last)
    extra = [step for step in found if _is_extra(folder, step)]
    regular = [step for step in found if step not in extra]
    too_old = regular[:-keep] if keep else []
    too_old += [step for step in extra if step < found[-1]]
    for old in too_old:
        if old != best:
            remove(folder, old, source)


def _is_extra(folder: Store, step: int) -> bool:
    position = checkpoints.position_of(folder.local_path(name_of(step))) or {}
    return position.get(_EXTRA) is True


def remove(folder: Store, step: int, source: Path) -> None:
    """Remove a step's checkpoint, but not a person's own files in its folder."""
    name = name_of(step)
    path = folder.local_path(name)
    with at(folder.where(name)):
        ours, theirs = checkpoints.parted(path, source)
        if not theirs:
            folder.remove_folder(name)
            return
        for file in ours:
            (path / file).unlink(missing_ok=True)
        warn(f"{path} is no checkpoint any more; what was put into it stays: {', '.join(theirs)}")


def damage(folder: Store, step: int, weights: str | None, *, afresh: bool) -> str | None:
    """What is wrong with a step's checkpoint, in a few words; None where it is whole.

    `weights`: their digest where it is known from elsewhere, for a checkpoint that has no digests of its own.
    `afresh`: read every byte again."""
    path = folder.local_path(name_of(step))
    with at(path):
        if checkpoints.has_digests(path):
            return checkpoints.damage(path, afresh=afresh)
        try:
            for file in path.glob("*.safetensors"):
                tensors_of(file)
            if weights is not None and weights_digest(path) != weights:
                return "its weights are not those that manifest.json names"
        except UserError as error:
            return str(error)
    return None
