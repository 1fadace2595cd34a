"""Which folders a recipe asks for, and what differs from those that are there.

A folder is named by the fingerprint of all that it is made from, so every name is known before anything is
made, nothing is ever stale, and to resume is to make what is missing. A shard depends on the shards of its
own number in the stages above it and on nothing else.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import draws
from engine.endpoint.spec import Endpoint
from engine.models import Model
from engine.models.spec import ResolvedModel, Resolver, reference_spec
from engine.stage import Context, Planning, Stage
from engine.stages import STAGES
from schemas import dtypes
from schemas.differences import difference
from schemas.errors import UserError
from schemas.fields import Section, facts_of
from schemas.manifest import FACTS, Facts, Planned, folder_name, read_facts
from schemas.plans import read_plan
from schemas.recipe import Recipe
from schemas.records import Damaged, what_of
from schemas.store import Store, open_store

_FINGERPRINT = 12 * "[0-9a-f]"  # as a shell pattern


@dataclass(frozen=True)
class Run:
    """A run folder as a recipe asks for it; a value that can be sent to a worker.

    `stages` in order; `planned`: where each one's shards are; `models`: the model that each opens, if any;
    `references`: the recipe's [model], for stages that compare with it."""

    store: Store
    recipe: Recipe
    stages: tuple[Stage, ...]
    planned: Mapping[str, Planned]
    models: Mapping[str, ResolvedModel]
    references: Mapping[str, ResolvedModel]
    shards: int
    remarks: tuple[str, ...] = ()  # on what the recipe left to us

    def folder(self, stage: Stage) -> Store:
        """Where the stage's shards are."""
        return self.store.child(self.planned[stage.name].folder)

    def config(self, stage: Stage) -> Section:
        """The stage's own section."""
        return self.recipe.sections[stage.name]

    def endpoint(self, stage: Stage) -> Endpoint | None:
        """The server that the stage asks in place of a model of this machine, if it does."""
        return endpoint_of(stage, self.recipe)

    def context(self, stage: Stage, open_model: Callable[[], Model]) -> Context:
        """What the stage's function is given beside its rows and its section."""
        return Context(
            seed=self.recipe.seed,
            model=self.models.get(stage.name),
            reference=self.references.get(stage.name),
            open_model=open_model,
            facts=self.planned[stage.name].facts,
        )

    def above(self, stage: Stage) -> list[Stage]:
        """The stages before this one that add rows to a table it reads."""
        return _writers(self.stages[: self.stages.index(stage)], stage)


def _writers(stages: tuple[Stage, ...], reader: Stage) -> list[Stage]:
    return [stage for stage in stages if set(stage.writes) & set(reader.reads)]


def plan(where: str | Path | Store, recipe: Recipe, workers: int = 1) -> Run:
    """The folders that a recipe asks for. Reads the input's and the models' digests, makes nothing.

    `workers`: how many are to make it, for a run that is new. Each model is resolved once. Raises UserError
    for what cannot work."""
    store = open_store(where)
    recipe, remarks = dtypes.resolved(recipe, store)
    stages = tuple(STAGES[name] for name in recipe.sections if name in STAGES)
    if not stages or stages[0].scan is None:
        raise UserError(
            "the recipe's first stage must be [prompts]: it brings the rows that all others work on"
        )
    models = _Models(recipe, Resolver())
    of_run = _FoldersOfRun(store, workers)
    planned: dict[str, Planned] = {}
    for number, stage in enumerate(stages):
        before = stages[:number]
        _check_reads(stage, before)
        facts = {
            "stage": stage.name,
            "version": stage.version,
            "above": {writer.name: planned[writer.name].folder for writer in _writers(before, stage)},
            **_own_facts(stage, recipe, models, of_run),
        }
        # As JSON gives them back, so that they compare equal with those read from a folder.
        facts = json.loads(json.dumps(facts))
        shards = planned[stages[0].name].facts["shards"] if before else facts["shards"]
        facts = draws.as_finished(store, stage.name, facts, shards)
        planned[stage.name] = Planned(stage.name, folder_name(stage.name, facts), facts)
    return Run(
        store=store,
        recipe=recipe,
        stages=stages,
        planned=planned,
        models={stage.name: models.of(stage) for stage in stages if _opens_model(stage, recipe)},
        references={stage.name: models.reference() for stage in stages if stage.compares_with_reference},
        shards=planned[stages[0].name].facts["shards"],
        remarks=remarks,
    )


def endpoint_of(stage: Stage, recipe: Recipe) -> Endpoint | None:
    """The server that a stage asks by a recipe, if it asks one."""
    return stage.endpoint(recipe.sections[stage.name]) if stage.endpoint else None


def _opens_model(stage: Stage, recipe: Recipe) -> bool:
    return stage.model is not None and endpoint_of(stage, recipe) is None


def _check_reads(stage: Stage, before: tuple[Stage, ...]) -> None:
    """Raise UserError where no stage before this one makes a table that it cannot do without."""
    written = {"scores"}  # there may be none
    for other in before:
        written |= set(other.writes)
    missing_tables = sorted(set(stage.reads) - written)
    if missing_tables:
        raise UserError(f"[{stage.name}] reads {', '.join(missing_tables)}, which no section above it makes")


@dataclass(frozen=True)
class _Models:
    """The models of a recipe, each looked up when it is first asked for."""

    recipe: Recipe
    resolver: Resolver

    def of(self, stage: Stage) -> ResolvedModel:
        """The model that a stage opens. Raises UserError where it is not there."""
        assert stage.model is not None, f"[{stage.name}] asks for a model and says that it uses none"
        spec = stage.model(self.recipe.sections[stage.name], self.recipe.section("model"))
        return self.resolver.resolve(spec)

    def reference(self) -> ResolvedModel:
        """The recipe's [model]. Raises UserError where it is not there."""
        return self.resolver.resolve(reference_spec(self.recipe.section("model")))


@dataclass(frozen=True)
class _FoldersOfRun:
    """The folders that a run has already, and how many workers are to make what it lacks."""

    store: Store
    workers: int = 1

    def facts(self, stage: Stage) -> list[Facts]:
        """The facts of the stage's folders of this version, but what every stage has; the plan's first."""
        names = self.store.names(f"{stage.name}-{_FINGERPRINT}")
        with contextlib.suppress(UserError):  # no run yet, or a plan that is about to be written again
            planned, _ = read_plan(self.store)
            in_plan = {one.folder for one in planned}
            names.sort(key=lambda name: name not in in_plan)
        found: list[Facts] = []
        for name in names:
            with contextlib.suppress(UserError):
                facts = dict(read_facts(self.store.child(name)))
                if facts.pop("stage") == stage.name and facts.pop("version") == stage.version:
                    facts.pop("above")
                    found.append(facts)
        return found


def _own_facts(stage: Stage, recipe: Recipe, models: _Models, of_run: _FoldersOfRun) -> Facts:
    """All that the stage's rows depend on beside the stages above."""
    config = recipe.sections[stage.name]
    if stage.facts is None:
        return facts_of(config)
    names = list(recipe.sections)
    place = names.index(stage.name)
    planning = Planning(
        seed=recipe.seed,
        above={name: recipe.sections[name] for name in names[:place]},
        below={name: recipe.sections[name] for name in names[place + 1 :]},
        model=lambda: models.of(stage),
        reference=models.reference,
        workers=of_run.workers,
        of_run=lambda: of_run.facts(stage),
    )
    return stage.facts(config, planning)


def check_unchanged(run: Run, stages: Collection[Stage] = ()) -> None:
    """Raise UserError where a prompt, SQL or function is not what the run was planned with any more.

    `stages`: those to look at while they are made; empty for all, before. Neither input nor models are
    looked at again: the scan checks the one, loading the others."""
    resolver = Resolver()
    for model in (*run.models.values(), *run.references.values()):
        resolver.know(model)
    models = _Models(run.recipe, resolver)
    when = "going" if stages else "starting"
    for stage in stages or run.stages:
        if stage.scan:
            continue
        planned = run.planned[stage.name].facts
        now = _own_facts(stage, run.recipe, models, _FoldersOfRun(run.store))
        own = json.loads(json.dumps(now))
        if stages:
            draws.check(planned, own, run.planned[stage.name].folder)
        own = draws.like(planned, own)
        changes = difference(planned, planned | own)
        if changes:
            raise UserError(
                f"[{stage.name}] changed while the run was {when}: {'; '.join(changes)}; "
                "run the same command again"
            )


def what_changed(run: Run, stage: Stage) -> list[tuple[str, list[str]]]:
    """Other folders of the stage in this run, each with the facts that differ from the planned ones."""
    planned = run.planned[stage.name]
    changes: list[tuple[str, list[str]]] = []
    for name in run.store.names(f"{stage.name}-{_FINGERPRINT}"):
        folder = run.store.child(name)
        if name == planned.folder or not folder.exists(FACTS):
            continue
        try:
            changes.append((name, difference(read_facts(folder), planned.facts)))
        except Damaged as error:
            changes.append((name, [what_of(error)]))
    return changes
