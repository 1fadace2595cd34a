"""What carries over: a real chat model with an adapter, on preference pairs from elsewhere.

The true reward is not known here. What is known is which side was chosen, so a policy is measured on held-out
pairs: how often it prefers that side, by what margin, and how far its log-probs went. A seed is another order
of the pairs and another beginning of the adapter; the data are the same.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from engine import sql
from engine.commands.precompute import precompute
from engine.views import views
from pipelines.evidence import page, tables, work
from pipelines.evidence.intervals import of_mean
from pipelines.evidence.page import as_markdown, verdict_table
from pipelines.evidence.verdicts import Verdict
from schemas.errors import UserError
from schemas.recipe import load
from schemas.store import open_store

NAME = "real"
TITLE = "A real model: what carries over"
_SETTING = (
    "A chat model is trained with an adapter on preference pairs from elsewhere. The true reward is not "
    "known. So what is counted is how often a policy prefers the chosen side of a held-out pair, which is to "
    "say that its log-ratio is larger. One learning rate and one β for all methods, nothing searched; "
    "a seed is another order of the pairs and another beginning of the adapter."
)
_RECIPE = Path(__file__).with_name("real.toml")
# Method -> settings of [train]. Each β is the one usual for the method at whole sums of log-probs.
METHODS: dict[str, tuple[str, ...]] = {
    "DPO": ("loss=dpo", "dpo.beta=0.1"),
    "IPO": ("loss=ipo", "ipo.reduction=sum", "ipo.beta=0.1"),
    "Sr-DPO": ("loss=sr_dpo", "sr_dpo.beta=0.1", "sr_dpo.lam=0.3"),
    "score margin": ("loss=score_margin", "score_margin.beta=0.1", "score_margin.scorer=prompt_gain"),
    "RPO": ("loss=rpo", "rpo.beta=0.1", "rpo.eta=0.05"),
    "DPO-MC": ("loss=bmc", "bmc.beta=0.1", "bmc.delta=2"),
    "SFT": ("loss=rpo", "rpo.beta=1e-6", "rpo.eta=1", "rpo.reduction=mean"),
}


@dataclass(frozen=True)
class RealSetting:
    """`model`: a folder; `data`: a preference file; `pairs`: how many of it, from the first on.

    `settings`: section.key=value, over the recipe's own."""

    model: Path
    data: Path
    settings: Sequence[str] = ()
    pairs: int = 300
    seeds: int = 3
    workers: int = 2

    @property
    def data_name(self) -> str:
        """The data's name, for people."""
        return self.data.name.partition(".")[0]

    @property
    def run_name(self) -> str:
        """The name of the run folder of its data."""
        return f"real-{self.data_name}"


def settings_of(model: Path | None, data: Sequence[Path], **same: Any) -> list[RealSetting]:
    """A setting for each of the data; none where no model is named. `same`: their other fields.

    Raises UserError for a setting that is not the user's to choose here."""
    for setting in same.get("settings", ()):
        key = setting.partition("=")[0].strip()
        if key in _own_keys():
            raise UserError(f"--set {key}: real sets this itself, by its options or for each method")
    if model is None:
        return []
    return [RealSetting(model.resolve(), file.resolve(), **same) for file in data]


def _own_keys() -> set[str]:
    """Keys of the recipe that the command's options or the methods set."""
    keys = {"seed", "model.name", "prompts.source", "prompts.limit"}
    for settings in METHODS.values():
        keys |= {f"train.{setting.partition('=')[0]}" for setting in settings}
    return keys


def try_all(out: Path, settings: Sequence[RealSetting]) -> str:
    """Try the methods on each of the data; the claim's part of the page, which is written, too."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [f"## {TITLE}", _SETTING]
    found: list[Verdict] = []
    for setting in settings:
        rows = measured(out, setting)
        own = verdicts(rows, setting.data_name)
        tables.put(out / setting.run_name, NAME, {"verdicts": tables.of_verdicts(own), "held_out": rows})
        found += own
        parts.append(_section(out / setting.run_name, rows, own, setting))
    tables.put(out, NAME, {"verdicts": tables.of_verdicts(found)})
    text = "\n\n".join(parts)
    page.put(out, NAME, text)
    return text


def measured(out: Path, setting: RealSetting) -> pl.DataFrame:
    """Make the cache, train every method with every seed: the held-out pairs, by method and seed."""
    run = out / setting.run_name
    settings = [f"model.name={setting.model}", f"prompts.source={setting.data}"]
    settings += [f"prompts.limit={setting.pairs}", *setting.settings]
    precompute(run, load(_RECIPE, settings), workers=1)
    keys = [(name, seed) for seed in range(setting.seeds) for name in METHODS]
    jobs: list[work.Job] = [(run, name, seed) for name, seed in keys]
    paths = work.all_of("trainings", train_and_measure, jobs, out, setting.workers)
    rows: list[pl.DataFrame] = []
    for (name, seed), path in zip(keys, paths, strict=True):
        named = [pl.lit(name).alias("method"), pl.lit(seed).alias("seed")]
        rows.append(pl.read_parquet(path).with_columns(named))
    return pl.concat(rows)


def train_and_measure(run: Path, name: str, seed: int) -> Path:
    """In a worker: a Parquet file of the held-out pairs: margin, chosen and rejected log-ratio, nat."""
    import torch

    from schemas.recipe import load_of_run
    from trainer.train import train

    torch.set_num_threads(1)
    settings = [f"seed={seed}", *(f"train.{setting}" for setting in METHODS[name])]
    last = train(run, load_of_run(open_store(run), settings))
    path = run / work.MEASURED / f"{last.parent.name}.parquet"
    if not path.exists():
        work.write_frame(held_out(run, last), path)
    return path


def held_out(run: Path, adapter: Path) -> pl.DataFrame:
    """The log-ratios of the held-out pairs under an adapter, one row a pair."""
    from trainer.evaluate import by_pair, recipe_of

    store = open_store(run)
    rows = pl.DataFrame(list(by_pair(store, recipe_of(store, adapter, ["train.loss=dpo"]), adapter)))
    margin = pl.col("chosen") - pl.col("rejected")
    return rows.with_columns(margin.alias("margin"), (margin > 0).cast(pl.Float64).alias("accuracy"))


def _values(rows: pl.DataFrame, method: str, column: str) -> np.ndarray:
    """(seeds, pairs) of a method."""
    own = rows.filter(pl.col("method") == method).sort("seed", "pair_id")
    return own[column].to_numpy().reshape(own["seed"].n_unique(), -1)


def verdicts(rows: pl.DataFrame, data: str) -> list[Verdict]:
    """Against DPO, by the chosen side; and whether RPO holds its log-prob. `data`: their name."""
    found = [
        Verdict(
            NAME,
            f"{data}: DPO prefers the chosen side more often than by chance",
            of_mean(_values(rows, "DPO", "accuracy") - 0.5),
            "accuracy",
            f"{_values(rows, 'DPO', 'accuracy').mean():.1%}",
        )
    ]
    for method in METHODS:
        if method == "DPO":
            continue
        own, dpo = (_values(rows, name, "accuracy") for name in (method, "DPO"))
        figures = f"{own.mean():.1%} against {dpo.mean():.1%}"
        question = f"{data}: {method} prefers the chosen side more often than DPO"
        found.append(Verdict(NAME, question, of_mean(own - dpo), "accuracy", figures))
    own, dpo = (_values(rows, name, "chosen") for name in ("RPO", "DPO"))
    question = f"{data}: under RPO the chosen log-prob falls less than under DPO"
    figures = f"{own.mean():.1f} against {dpo.mean():.1f}"
    found.append(Verdict(NAME, question, of_mean(own - dpo), "nat", figures))
    return found


def _section(run: Path, rows: pl.DataFrame, found: Sequence[Verdict], setting: RealSetting) -> str:
    """The part of the page that is on one of the data."""
    table: list[dict[str, object]] = []
    for method in METHODS:
        accuracy = of_mean(_values(rows, method, "accuracy"))
        row: dict[str, object] = {"method": method, "accuracy": f"{accuracy.mean:.1%} ± {accuracy.half:.1%}"}
        for column in ("margin", "chosen", "rejected"):
            row[f"{column}, nat"] = f"{_values(rows, method, column).mean():+.2f}"
        table.append(row)
    held_out = rows["pair_id"].n_unique()
    parts = [
        f"### {setting.data_name}",
        f"{setting.model.name} with an adapter (r 16) on {_device(run)}: {setting.seeds} seeds, "
        f"{_trained_on(run)} pairs to train on, {held_out} held out.",
        verdict_table(found),
        as_markdown(pl.DataFrame(table)),
        *_judge(run),
    ]
    return "\n\n".join(parts)


def _device(run: Path) -> str:
    """What the recipe's model.device means on this machine, for people."""
    import torch

    from schemas.recipe import load_of_run

    wanted = load_of_run(open_store(run), []).section("model").device
    if wanted == "cpu" or not torch.cuda.is_available():
        return "a CPU"
    return f"one {torch.cuda.get_device_name()}"


def _trained_on(run: Path) -> int:
    """How many pairs the trainings read."""
    with closing(sql.closed(dict(views(open_store(run))))) as con:
        return int(sql.rows(con, "select count(*) as pairs from pairs where split = 'train'")[0]["pairs"])


_VOTES = """
    select scorer, count(*) as pairs, avg(agrees) as agrees, stddev_pop(agrees) as deviation
    from (select unnest(map_keys(chosen_scores)) as scorer, chosen_scores, rejected_scores from pairs),
         lateral (select chosen_scores[scorer] as chosen, rejected_scores[scorer] as rejected),
         lateral (select case when chosen > rejected then 1
                              when chosen = rejected then 0.5 else 0 end as agrees)
    where scorer <> 'given' and chosen is not null and rejected is not null
    group by scorer order by scorer
"""


def _judge(run: Path) -> Sequence[str]:
    """How often each scorer rates the chosen side higher."""
    with closing(sql.closed(dict(views(open_store(run))))) as con:
        found = sql.rows(con, _VOTES)
    rows: list[dict[str, object]] = []
    for row in found:
        half = 1.96 * row["deviation"] / row["pairs"] ** 0.5
        rows.append(
            {"scorer": row["scorer"], "pairs": row["pairs"], "agrees": f"{row['agrees']:.1%} ± {half:.1%}"}
        )
    title = "*How often a scorer rates the chosen side higher (a tie is half)*"
    return [title, as_markdown(pl.DataFrame(rows))]
