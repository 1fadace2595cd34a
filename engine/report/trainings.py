"""Training runs for the page: a table of where each of them ended, and the charts of their curves."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.cells import cell
from schemas.charts import Chart
from schemas.errors import UserError
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
    legend: Sequence[tuple[str, str]] = ()
    charts: dict[str, Chart] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def trainings(runs: Sequence[Store]) -> Trainings:
    """The training runs in these run folders, or train folders; there may be none."""
    found: dict[object, Trained] = {}
    remarks: list[str] = []
    for run in runs:
        for folder in train_folders(run) or _itself(run):
            try:
                trained = trained_in(folder)
            except UserError as error:
                remarks.append(str(error))
                continue
            if trained is not None:
                found.setdefault(trained.path, trained)
    if not found:
        return Trainings(remarks=remarks)
    drawn = curves(list(found.values()))
    rows = table.shown(table.table(list(found.values())))
    texts: list[list[str]] = []
    for row in rows.rows():
        texts.append([cell(value, 80) for value in row])
    return Trainings(rows.columns, texts, legend(drawn), panels(drawn), remarks)


def _itself(run: Store) -> list[Store]:
    """The folder, if it is one of a training."""
    from schemas.manifest import FACTS

    return [run] if run.exists(FACTS) else []
