"""What training runs are called: by their loss, and by those settings in which they differ."""

from collections.abc import Sequence

from schemas.trainings.read import Trained


def labels(runs: Sequence[Trained]) -> list[str]:
    """A label for each run, without its seed: runs that differ in their seed alone have the same label."""
    settings: dict[str, None] = {}  # a set that keeps its order
    for run in runs:
        settings |= dict.fromkeys(run.facts)
    for key in ("seed", "loss.name"):
        settings.pop(key, None)
    differing = [key for key in settings if _differs(key, runs)]
    return [_label(run, differing) for run in runs]


def _differs(key: str, runs: Sequence[Trained]) -> bool:
    """True if the runs differ in this setting.

    Runs of another loss that does not know the setting do not count. An older run of the same loss, from
    before there was such a setting, does: to lack it is a difference."""
    losses_with_it: set[object] = set()
    for run in runs:
        if key in run.facts:
            losses_with_it.add(run.facts["loss.name"])
    values: set[str] = set()
    for run in runs:
        if run.facts["loss.name"] in losses_with_it:
            value = run.facts.get(key)
            values.add(repr(value))
    return len(values) > 1


def _label(run: Trained, differing: Sequence[str]) -> str:
    """The run's loss, and its values of the settings in which the runs differ."""
    words = [str(run.facts["loss.name"])]
    for key in differing:
        if key in run.facts:
            words.append(f"{_short_name(key)}={_shown(run.facts[key])}")
    return " ".join(words)


def _short_name(key: str) -> str:
    """A setting's dotted name without its section; one of the SFT term stays marked as such."""
    if key.startswith("loss.sft."):
        return key.removeprefix("loss.")
    if key.startswith(("loss.", "train.")):
        return key.rpartition(".")[2]
    return key


def _shown(value: object) -> str:
    """A setting's value as a label has it."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def folder_name(run: Trained, runs: Sequence[Trained]) -> str:
    """A name of the run's folder that no other run's folder has.

    It is the folder's own name, with the run folder's before it if there are several of those. It is the
    path as it was given if even that is another's."""
    name = run.folder.name
    run_folders = {other.path.parent for other in runs}
    if len(run_folders) > 1:
        name = f"{run.path.parent.name}/{name}"
    same_name = [other for other in runs if other.path.match(name)]
    return name if len(same_name) == 1 else str(run.folder)
