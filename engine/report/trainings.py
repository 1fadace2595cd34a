"""Training runs for the page: a table of where each of them ended, and the charts of their curves."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.cells import cell
from schemas.charts import Chart
from schemas.errors import UserError
from schemas.manifest import FACTS
from schemas.printable import one_line
from schemas.redaction import redacted
from schemas.store import Store
from schemas.trainings import table
from schemas.trainings.curves import curves
from schemas.trainings.panels import legend, panels
from schemas.trainings.read import Trained, train_folders, trained_in


@dataclass(frozen=True)
class Trainings:
    """What the page shows of training runs. `remarks`: of those that could not be read."""

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    legend: Sequence[str] = ()
    charts: dict[str, Chart] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def trainings(run: Store, more: Sequence[Store]) -> Trainings:
    """The training runs of a run folder, of which there may be none, and of more run or train folders.

    Raises UserError where one of `more` holds no training."""
    found: dict[object, Trained] = {}
    remarks: list[str] = []
    folders = train_folders(run)
    for other in more:
        folders += train_folders(other) or [_itself(other)]
    for folder in folders:
        try:
            trained = trained_in(folder)
        except UserError as error:
            remarks.append(one_line(redacted(str(error))))
            continue
        if trained is None:
            remarks.append(f"{one_line(redacted(str(folder)))} has made no step yet, and is not shown")
        else:
            found.setdefault(trained.path, trained)
    if not found:
        return Trainings(remarks=remarks)
    drawn = curves(list(found.values()))
    rows = table.shown(table.table(list(found.values())))
    texts: list[list[str]] = []
    for row in rows.rows():
        texts.append([cell(value, 80) for value in row])
    return Trainings(rows.columns, texts, [name for name, _ in legend(drawn)], panels(drawn), remarks)


def _itself(folder: Store) -> Store:
    """The folder, if it is one of a training."""
    if not folder.name.startswith("train-") or not folder.exists(FACTS):
        raise UserError(
            f"{folder} holds no training run: name a run folder in which `trainer run` has been, or one of "
            "its train-… folders"
        )
    return folder
