"""The text of a recipe, from sections of the recipes that ship: their values, with their comments.

    pairs that are given     the method's own recipe; for BMC bridging.toml, and [train] of bmc.toml
    from prompts             on_policy.toml, with [logprobs] and [train] of the method; for BMC bmc.toml

What the data, the model and the memory of this machine ask for is set in that text, with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.init import memory
from engine.init.data_look import DataLook
from engine.init.data_look import lines_about as lines_about_data
from engine.init.judges import Judge
from engine.init.memory import Fit
from engine.init.methods import Method
from engine.init.model_look import ModelLook, in_millions
from engine.init.model_look import lines_about as lines_about_model
from engine.init.toml_text import comment, sections_of, toml_value, with_value, without_key
from schemas.errors import UserError

GIVEN, PROMPTS = "given", "prompts"
STARTS = (GIVEN, PROMPTS)
_TINY = 50_000_000  # parameters below which the papers' learning rates move nothing
_SHARE_OF_RESPONSE = 2  # a sampled response has a half of the positions at most

_SCORER = "Whose scores say which response is better: those of the section above."

Sections = dict[str, str]


@dataclass(frozen=True)
class Wish:
    """All that a recipe is written from.

    `source`: as the recipe has it; `settings`: over all, by their dotted names; `commands`: what the head
    says can be run with it; `rounds`: the command that makes several rounds, where it samples."""

    source: str
    data: DataLook
    model: ModelLook
    method: Method
    start: str
    judge: Judge | None
    fit: Fit
    settings: Mapping[str, Any]
    commands: tuple[str, ...]
    rounds: str = ""


def check_data(data: DataLook, start: str, judged: bool) -> None:
    """Raise UserError where the data cannot feed a start, with what would be needed. `judged`: by a judge."""
    if start == PROMPTS or data.pairs or (data.several and judged):
        return
    needed = "take --start prompts, which samples responses and judges them"
    if data.several:
        needed = f"take --judge, so that a judge says it; or {needed}"
    raise UserError(
        f"--start given takes pairs that the data brings, and it brings {data.brings}: {needed}; or name a "
        "file with a chosen and a rejected response (format preference)"
    )


def optimizer_of(method: Method) -> str:
    """The optimizer of a method's recipe."""
    train = sections_of(method.recipe)["train"]
    return "rmsprop" if 'optimizer = "rmsprop"' in train else "adamw"


def text_of(wish: Wish) -> str:
    """The recipe's text. Raises UserError for a name that a recipe cannot hold."""
    sections = _chosen_sections(wish)
    _set_input(sections, wish)
    _set_judge(sections, wish)
    _set_lengths(sections, wish.model)
    _set_training(sections, wish)
    seed = toml_value(wish.settings.get("seed", 0))
    for name, value in wish.settings.items():
        if name != "seed":
            _set(sections, name, value)
    body = "\n".join(f"{text.rstrip()}\n" for text in sections.values())
    return f"{_head(wish)}\nseed = {seed}\n\n{body}"


def _chosen_sections(wish: Wish) -> Sections:
    """The sections of the recipes that ship, in order."""
    own = sections_of(wish.method.recipe)
    if wish.start == GIVEN:
        base = sections_of("bridging") if wish.method.bridges else own
    else:
        base = own if wish.method.bridges else sections_of("on_policy")
    chosen = {name: text for name, text in base.items() if name.split(".")[0] not in ("train", "rounds")}
    if not wish.method.bridges:
        chosen["logprobs"] = own["logprobs"]
    wanted = ("train", f"train.{wish.method.loss}", "train.dpo")
    chosen |= {name: text for name, text in own.items() if name in wanted}
    return chosen


def _set_input(sections: Sections, wish: Wish) -> None:
    """The data and the model."""
    more = "What was looked at; more files, folders or globs may stand beside it."
    prompts = with_value(sections["prompts"], "source", [wish.source], more)
    looked = f'Recognised in the first {wish.data.rows:,} rows; "auto" looks again at each run.'
    sections["prompts"] = with_value(prompts, "format", wish.data.format, looked)
    what = "The reference, and the policy at its start: a folder in Hugging Face form, or a name on the hub."
    model = with_value(sections["model"], "name", wish.model.name, what)
    if wish.model.path is not None and wish.model.has_template:
        model = without_key(model, "template")
        model = (
            f"{model.rstrip()}\n{comment('Prompts are laid out by the chat template of the model itself.')}\n"
        )
    elif wish.model.path is not None:
        why = (
            "The model has no chat template: prompts are laid out by this one (prompts/plain.jinja). Name a "
            ".jinja file of your own where it was trained on another form."
        )
        model = with_value(model, "template", "plain", why)
    sections["model"] = model


def _set_judge(sections: Sections, wish: Wish) -> None:
    """Who judges, and the choices that go by the scores."""
    judge = wish.judge
    if judge is None:
        return
    own = sections.pop("judge", "") or sections_of("on_policy")["judge"]
    made = {judge.section: _judge_section(judge, own)}
    if wish.data.references and judge.section == "judge":
        shown = "Rows bring a right answer as reference: the judge is shown it."
        made["judge"] = f"{made['judge'].rstrip()}\n{comment(shown)}\n"
    first = "rewrite" if wish.method.bridges else "logprobs"
    _insert(sections, made, before=first)
    if wish.method.bridges:
        rewrite = with_value(sections["rewrite"], "choose", "best_vs_worst")
        sections["rewrite"] = with_value(rewrite, "scorer", judge.scorer, _SCORER)
    else:
        sections["pairs"] = with_value(sections["pairs"], "choose", "best_vs_worst")
    sections["pairs"] = with_value(sections["pairs"], "scorer", judge.scorer, _SCORER)


def _judge_section(judge: Judge, own: str) -> str:
    if judge.kind == "reward":
        why = "A sequence-classification model: its logit is the score."
        return with_value("[reward]\n", "model", judge.model, why)
    paragraph = own.split("# [reward]")[0].rstrip() + "\n"
    plain = "[judge]\n" + paragraph.partition("[judge]\n")[2]
    if judge.kind == "self":
        why = (
            "The model rates its own responses. A larger judge (model), or a reward model ([reward] in place "
            'of this, and scorer = "reward" below), is another opinion.'
        )
        return f"{comment(why)}\n{plain}"
    if judge.kind == "model":
        return with_value(plain, "model", judge.model, "Another model than [model] judges.")
    why = "The judge is on a server; its key is in the environment variable OPENAI_API_KEY, if it wants one."
    return with_value(
        with_value(plain, "base_url", judge.base_url, why), "model", judge.model, "Its name there."
    )


def _insert(sections: Sections, made: Sections, before: str) -> None:
    """Put sections above another one: they run in their order."""
    later = {name: sections.pop(name) for name in list(sections)[list(sections).index(before) :]}
    sections |= made
    sections |= later


def _set_lengths(sections: Sections, model: ModelLook) -> None:
    """Lengths that the model has positions for."""
    if not model.positions:
        return
    for name in ("generate", "rewrite"):
        most = model.positions // _SHARE_OF_RESPONSE
        if name in sections and most < 1024:
            why = f"The model has {model.positions:,} positions, for prompt and response together."
            sections[name] = with_value(sections[name], "max_tokens", most, why)
    for length in (512, 1024):
        if f"max_length = {length}" in sections["logprobs"] and model.positions < length:
            why = f"The paper's is {length:,}; the model has {model.positions:,} positions: 0 is all of them."
            sections["logprobs"] = with_value(sections["logprobs"], "max_length", 0, why)


def _set_training(sections: Sections, wish: Wish) -> None:
    """The loss, and what follows from the model's size and the memory here."""
    method, fit = wish.method, wish.fit
    train = sections["train"]
    if not method.is_the_papers:
        why = (
            f"The other settings of [train] are those of {method.recipe}; trainer losses shows its own keys."
        )
        train = with_value(train, "loss", method.loss, why)
    if wish.model.path is not None and wish.model.parameters < _TINY:
        why = f"5e-7 is for billions of parameters; this model has {in_millions(wish.model.parameters)}."
        train = with_value(train, "learning_rate", 1e-4, why)
    elif fit.way != memory.WHOLE:
        why = "The papers' 5e-7 trains all weights; an adapter wants more. One cache serves any you try."
        train = with_value(train, "learning_rate", 1e-5, why)
    memory_lines = "\n".join(comment(line) for line in (*fit.why, _LEFT_OPEN))
    sections["train"] = f"{train.rstrip()}\n{memory_lines}\n"
    if fit.way != memory.WHOLE:
        _insert_behind_train(sections, _LORA)
    if fit.way == memory.ADAPTER_ON_FOUR_BITS:
        why = "The weights in 4 bits, in engine and trainer alike: in more they do not fit here."
        sections["model"] = with_value(sections["model"], "quantization", "nf4", why)


_LEFT_OPEN = (
    "parallel, gradient_checkpointing and micro_batch_tokens are left open: the trainer takes what fits when "
    "it starts, and trainer plan says it before."
)
_LORA = """# An adapter is trained in place of the weights: delete this table to train them all.
[train.lora]
r = 16
alpha = 32.0             # its update is scaled by alpha/r
target_modules = ["all-linear"]
"""


def _insert_behind_train(sections: Sections, lora: str) -> None:
    names = list(sections)
    behind = names[names.index("train") + 1 :]
    later = {name: sections.pop(name) for name in behind}
    sections["train.lora"] = lora
    sections |= later


def _set(sections: Sections, name: str, value: object) -> None:
    """A setting of the user's own, by its dotted name; a table that is not there comes behind its section."""
    section, _, key = name.rpartition(".")
    if section in sections:
        sections[section] = with_value(sections[section], key, value)
        return
    made = with_value(f"[{section}]\n", key, value)
    names = list(sections)
    parent = section.rpartition(".")[0]
    place = names.index(parent) + 1 if parent in sections else len(names)
    later = {other: sections.pop(other) for other in names[place:]}
    sections[section] = made
    sections |= later


def _head(wish: Wish) -> str:
    """What the recipe is, what was found, and what can be run with it."""
    start = "pairs that are given" if wish.start == GIVEN else "prompts, which the model answers"
    lines = [
        f"{wish.method.title}, from {start}: written by engine init.",
        f"Data: {'; '.join(lines_about_data(wish.data))}.",
        f"Model: {'; '.join(lines_about_model(wish.model))}.",
        "A section is a stage; they run in this order. All keys, with defaults: schemas/sections/.",
    ]
    what, data, model, order = (comment(line) for line in lines)
    commands = "\n".join(f"#   {line}" for line in wish.commands)
    if wish.start == PROMPTS:
        commands += f"\n#\n# Rounds, each with the last one's policy:\n#\n#   {wish.rounds}"
    return f"{what}\n#\n{data}\n{model}\n#\n{commands}\n#\n{order}"
