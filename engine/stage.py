"""The words: what a stage is, what it is given, what it makes.

A stage is a query and a pure function over the rows of one shard. Who runs it, and where its rows go, is not
its business: plan.py names its folder by the fingerprint of all it is made from, make.py takes a shard
through it.

A stage may write several tables: an import fills prompts and rejects from one reading. `scan` is for the one
stage whose rows come from outside and have no shard yet.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import pyarrow as pa

from engine.endpoint.spec import Endpoint
from engine.models import Model, Rater
from engine.models.spec import ModelSpec, ResolvedModel
from engine.progress import NO_PROGRESS, StageProgress
from schemas import sections
from schemas.fields import Section
from schemas.manifest import Facts


@dataclass(frozen=True)
class Made:
    """What a stage makes of one shard: rows by table, and what it counted."""

    tables: dict[str, pa.Table]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Scanned:
    """A batch of rows from outside, and the shard of each."""

    rows: pa.Table
    shards: list[int]


@dataclass(frozen=True)
class Planning:
    """What a stage may look at while its folder is planned.

    `above` and `below`: the recipe's sections before and after this one, in order. `model()`: the stage's
    own, `reference()`: the recipe's [model]. Each is looked up at the first call, which may take a while:
    check first what can be checked without. Raises UserError where it is not there.

    `workers`: how many are to make the shards; `of_run()`: the facts of the folders that the run already has
    of the stage, those of its plan first."""

    seed: int
    above: Mapping[str, Section]
    below: Mapping[str, Section]
    model: Callable[[], ResolvedModel]
    reference: Callable[[], ResolvedModel]
    workers: int = 1
    of_run: Callable[[], list[Facts]] = list


def _no_model() -> Model:
    raise AssertionError("the stage opens a model and says that it uses none")


@dataclass(frozen=True)
class Context:
    """What a stage's function is given beside its rows and its section.

    `model`: the one it opens, if any; `reference`: the recipe's [model], if it `compares_with_reference`.

    `open_model` loads the stage's model at the first call and gives the same one afterwards; what that model
    does it tells `progress` itself. A stage that works without one may tell it of its work.

    `facts`: what the stage's folder is named by, where there is one."""

    seed: int
    model: ResolvedModel | None = None
    reference: ResolvedModel | None = None
    open_model: Callable[[], Model] = _no_model
    progress: StageProgress = NO_PROGRESS
    facts: Facts = field(default_factory=dict)

    def open_reward_model(self) -> Rater:
        """The same for a stage whose model is a reward model."""
        return cast(Rater, self.open_model())

    @property
    def positions(self) -> int:
        """Tokens of prompt and response together that the stage's model takes, 0 where it has no limit."""
        assert self.model is not None, "the stage says that it uses no model"
        return self.model.positions


# A stage's own section of the recipe.
Config = TypeVar("Config", bound=Section)
_Config = TypeVar("_Config", bound=Section, contravariant=True)


class StageFunction(Protocol[_Config]):
    """Computes a shard: a function of its arguments alone."""

    def __call__(self, batch: pa.Table, config: _Config, context: Context) -> Made:
        """`batch`: the query's rows, in its order; `config`: the stage's own section."""
        ...


@dataclass(frozen=True)
class Stage(Generic[Config]):
    """One stage, which is also the name of its section; `config` below is that section.

    All functions are at module level, so that a planned run can be sent to a worker."""

    name: str
    # Grows when the code's meaning changes: folders of another version are not used.
    version: int
    # The tables it adds rows to.
    writes: tuple[str, ...]
    # Computes a shard.
    fn: StageFunction[Config]
    # The tables that its query joins.
    reads: tuple[str, ...] = ()
    # SQL, or a function of `config` that gives it.
    query: str | Callable[[Config], str] = ""
    # (config, seed) -> the variables that the query may ask for by getvariable('name').
    variables: Callable[[Config, int], dict[str, object]] | None = None
    # (config, planning) -> what its rows depend on beside the stages above; None: its whole section. Raises
    # UserError for what cannot work.
    facts: Callable[[Config, Planning], Facts] | None = None
    # (config, facts) -> rows from outside; the function's batch is then what was scanned for the shard.
    scan: Callable[[Config, Facts], Iterator[Scanned]] | None = None
    # (config, the recipe's [model]) -> the model that it opens.
    model: Callable[[Config, sections.Model], ModelSpec] | None = None
    # (config) -> the server whose model takes that one's place: then none is opened here. None: none does.
    endpoint: Callable[[Config], Endpoint | None] | None = None
    # (tables, config) -> why rows that it made cannot be used, with what a model said and what to change; for
    # a stage that may make rows of which none serves.
    explain: Callable[[Mapping[str, pa.Table], Config], str] | None = None
    # (config) -> the code of the user's that its function runs, in words. None: it runs none.
    runs: Callable[[Config], str] | None = None
    # (config) -> the file that the code lies in.
    code: Callable[[Config], Path] | None = None
    # (config, facts) -> loads that code, before any work. Raises UserError where that cannot be.
    prepare: Callable[[Config, Facts], None] | None = None
    # (config) -> the installed packages that its code uses beside those of its model; see made_with.py.
    libraries: Callable[[Config], set[str]] | None = None
    # True if it looks at the identity of the recipe's [model].
    compares_with_reference: bool = False
