"""README.md of a train folder: what was trained on what, how it went, how to load it.

The same run gives the same card. It is written before the run counts as finished. A README.md of somebody
else in the folder is left alone.
"""

from collections.abc import Sequence

from schemas.cards import literal, made_from, recipe_block
from schemas.screen import warn
from schemas.store import Store
from schemas.trainings import record
from trainer import losses
from trainer.disk import at
from trainer.job import Job

README = "README.md"
CURVES = "curves.svg"
_MARK = "<!-- written by prefmill; a README.md without this line is left alone -->"
_STEPS_WITH_CURVES = 30  # of fewer steps the table says it all
_MOST_ROWS = 12
_METRICS = ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")
_BARS = "▁▂▃▄▅▆▇█"
_BARS_IN_LINE = 40
_LOADING = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
```
"""
_LOADING_ADAPTER = """\
```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoPeftModelForCausalLM.from_pretrained("{name}")
```

`trainer merge {name} -o FOLDER` writes adapter and base as one model folder.
"""


def write(job: Job) -> None:
    """Write the card of a run that has made its last step, and its curves beside it."""
    folder = job.folder
    if folder.exists(README) and _MARK not in folder.read(README).decode(errors="replace"):
        warn(f"{folder.where(README)} is somebody's own and stays as it is: the model card is not written")
        return
    has_curves = _draw(job)
    text = "\n".join(_lines(job, has_curves))
    with at(folder.where(README)):
        folder.put(README, text.encode())


def _draw(job: Job) -> bool:
    """Write the picture of the curves, of a run long enough to have some; False where there is none."""
    if job.steps < _STEPS_WITH_CURVES:
        return False
    try:
        drawn = _curves_of(job.folder)
    except Exception as error:  # a run is not lost at its end for a picture
        warn(f"{job.folder.where(CURVES)} could not be drawn: {type(error).__name__}: {error}")
        return False
    with at(job.folder.where(CURVES)):
        job.folder.put(CURVES, drawn)
    return True


def _curves_of(folder: Store) -> bytes:
    """The curves as a picture. Raises ImportError on a machine that only trains and lacks what draws."""
    from schemas.trainings.picture import picture
    from schemas.trainings.read import trained_in

    trained = trained_in(folder)
    assert trained is not None, "a run at its end has made a step"
    return picture([trained.without_clock()], "svg")


def _lines(job: Job, has_curves: bool) -> list[str]:
    """The card, line by line."""
    name = job.last.name
    loss = losses.described(job.objective.name)
    picture_of_curves = [f"![curves of the training]({CURVES})", ""] if has_curves else []
    return [
        *_front(job),
        _MARK,
        "",
        f"# {literal(job.recipe.section('model').name)} after {job.objective.name}",
        "",
        f"The policy is `{name}`{', an adapter' if _is_adapter(job) else ''}: {job.steps:,} steps of "
        f"{job.config.batch_size:,} pairs by prefmill, without a reference model in memory. The reference's "
        "log-probs come from a cache.",
        "",
        "## Loading",
        "",
        (_LOADING_ADAPTER if _is_adapter(job) else _LOADING).format(name=name),
        "## Loss",
        "",
        f"`{job.objective.name}`: {loss.what}",
        "",
        "```",
        *loss.equation,
        "```",
        "",
        f"With {_settings(job)}.",
        "",
        "## How it went",
        "",
        *_results(job.folder),
        *picture_of_curves,
        *_sources(job),
        "## Recipe",
        "",
        *recipe_block(job.recipe),
        "",
    ]


def _is_adapter(job: Job) -> bool:
    return losses.lora_of(job.config) is not None


def _front(job: Job) -> list[str]:
    """What the Hub reads."""
    library = "peft" if _is_adapter(job) else "transformers"
    return [
        "---",
        f"library_name: {library}",
        f"tags: [prefmill, preference, {job.objective.name}]",
        "---",
        "",
    ]


def _settings(job: Job) -> str:
    """The loss's own settings, and those of training that matter most."""
    said: list[str] = []
    for key, value in job.objective.facts().items():
        if key not in ("name", "sft"):
            said.append(f"{key} = {literal(value)}")
    if job.objective.sft.weight:
        said.append(f"an SFT term of weight {job.objective.sft.weight:g}")
    config = job.config
    said.append(f"learning rate {config.learning_rate:g} ({config.schedule}, {config.optimizer})")
    said.append(f"forward in {config.dtype}, seed {job.recipe.seed}")
    return ", ".join(said)


def _results(folder: Store) -> list[str]:
    """The held-out pairs at each evaluation, or the batches where none are held out; the batches' course."""
    lines = record.read(folder)
    prefix = "eval_" if any("eval_loss" in line for line in lines) else ""
    measured = [line for line in lines if f"{prefix}loss" in line]
    what = "Held-out pairs" if prefix else "Training batches (no pairs are held out)"
    said = [f"{what}, by TRL's names; log-probs in nat:", ""]
    said += [f"| step | {' | '.join(_METRICS)} |", "|---" * (1 + len(_METRICS)) + "|"]
    for line in _some_of(measured):
        values = [f"{line[prefix + name]:.4g}" if prefix + name in line else "–" for name in _METRICS]
        said.append(f"| {line['step']} | {' | '.join(values)} |")
    said += ["", "Training batches from the first step to the last:", "", "```"]
    for name in (*_METRICS, "grad_norm"):
        course = [line[name] for line in lines if "loss" in line and name in line]
        if course:
            said.append(f"{name:20} {_bars(course)}  {course[0]:.4g} … {course[-1]:.4g}")
    return [*said, "```", ""]


def _some_of(lines: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """At most so many lines as a table has room for: the first, the last, and some between."""
    if len(lines) <= _MOST_ROWS:
        return list(lines)
    step = (len(lines) - 1) / (_MOST_ROWS - 1)
    return [lines[round(place * step)] for place in range(_MOST_ROWS)]


def _bars(values: Sequence[float]) -> str:
    """The course of values as a line of bars, each the mean of a part of them."""
    parts = min(_BARS_IN_LINE, len(values))
    means: list[float] = []
    for part in range(parts):
        begin = part * len(values) // parts
        end = (part + 1) * len(values) // parts
        means.append(sum(values[begin:end]) / (end - begin))
    low = min(means)
    span = (max(means) - low) or 1.0
    heights = [int((mean - low) / span * (len(_BARS) - 1) + 0.5) for mean in means]
    return "".join(_BARS[height] for height in heights)


def _sources(job: Job) -> list[str]:
    """The data, and the reference."""
    pairs = job.pairs
    policy = job.facts["policy"]
    return [
        "## Data",
        "",
        f"{pairs.count('train'):,} pairs to train on, {pairs.count('test'):,} held out, made from:",
        "",
        *(f"- {line}" for line in made_from(job.run)),
        "",
        "## Reference",
        "",
        f"The model that training began with: weights {literal(policy['weights'])}, config "
        f"{literal(policy['config'])}. Its log-prob of every token lies in `{pairs.folder.name}`; before the "
        "first step cache and policy were compared and agreed.",
        "",
    ]
