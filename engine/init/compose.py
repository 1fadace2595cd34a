"""The text of a recipe, from sections of the recipes that ship: their values, with their comments.

    pairs that are given     the method's own recipe; for BMC bridging.toml, and [train] of bmc.toml
    from prompts             on_policy.toml, with [train] of the method and what its log-probs are of; for BMC
                             bmc.toml

What the data, the model and the memory of this machine ask for is set in that text, with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.init import train_text
from engine.init.data_look import DataLook
from engine.init.data_look import lines_about as lines_about_data
from engine.init.judges import Judge
from engine.init.memory import Fit
from engine.init.methods import Method
from engine.init.model_look import ModelLook
from engine.init.model_look import lines_about as lines_about_model
from engine.init.toml_text import (
    Sections,
    add_section,
    comment,
    sections_of,
    toml_value,
    value_in,
    with_own_value,
    with_value,
    without_key,
)
from schemas.errors import UserError
from schemas.sections import Generate

GIVEN, PROMPTS = "given", "prompts"
STARTS = (GIVEN, PROMPTS)
_SHARE_OF_RESPONSE = 2  # a sampled response has a half of the positions at most

_DROPPED = (
    "What is longer goes to rejects: a sample that ended would not end where it is cut. max_tokens of "
    "[generate] leaves room for the prompt."
)
_BY_SCORE = "The best and the worst of a prompt's responses, by score."


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


def text_of(wish: Wish) -> str:
    """The recipe's text. Raises UserError for a name that a recipe cannot hold."""
    sections = _chosen_sections(wish)
    _set_input(sections, wish)
    _set_judge(sections, wish)
    if wish.method.bridges:
        train_text.set_bmc_task(sections, wish.method, wish.settings)
    _set_lengths(sections, wish)
    train_text.set_training(sections, wish.method, wish.model, wish.fit, wish.settings)
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
        chosen["logprobs"] = _logprobs_of(own["logprobs"], wish.start)
    wanted = ("train", f"train.{wish.method.loss}", "train.dpo")
    chosen |= {name: text for name, text in own.items() if name in wanted}
    return chosen


def _logprobs_of(own: str, start: str) -> str:
    """[logprobs] of a method's recipe, which is for given pairs; samples are not cut to fit."""
    if start == GIVEN:
        return own
    too_long = value_in(sections_of("on_policy")["logprobs"], "too_long")
    return with_value(own, "too_long", too_long, _DROPPED)


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
        if "model.chat_template" not in wish.settings:
            whose = comment("Prompts are laid out by the chat template of the model itself.")
            model = f"{model.rstrip()}\n{whose}\n"
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
    text = _judge_section(judge, own, wish.settings)
    if wish.data.references and judge.section == "judge":
        shown = "Rows bring a right answer as reference: the judge is shown it."
        text = f"{text.rstrip()}\n{comment(shown)}\n"
    add_section(sections, judge.section, text)
    whose = f"Whose scores say which response is better: those of [{judge.section}]."
    if wish.method.bridges:
        rewrite = with_value(sections["rewrite"], "choose", "best_vs_worst", _BY_SCORE)
        sections["rewrite"] = with_value(rewrite, "scorer", judge.scorer, whose)
    else:
        sections["pairs"] = with_value(sections["pairs"], "choose", "best_vs_worst", _BY_SCORE)
    sections["pairs"] = with_value(sections["pairs"], "scorer", judge.scorer, whose)


def _judge_section(judge: Judge, own: str, settings: Mapping[str, Any]) -> str:
    if judge.kind == "reward":
        why = "A sequence-classification model: its logit is the score."
        return with_value("[reward]\n", "model", judge.model, why)
    paragraph = own.split("# [reward]")[0].rstrip() + "\n"
    plain = "[judge]\n" + paragraph.partition("[judge]\n")[2]
    if judge.kind == "self":
        if {"judge.model", "judge.base_url"} & settings.keys():
            return plain  # the user's own lines say who judges
        why = (
            "The model rates its own responses. A larger judge (model), or a reward model ([reward] in place "
            'of this, and scorer = "reward" below), is another opinion.'
        )
        return f"{comment(why)}\n{plain}"
    if judge.kind == "model":
        why = judge.remark or "Another model than [model] judges."
        return with_value(plain, "model", judge.model, why)
    why = "The judge is on a server; its key is in the environment variable OPENAI_API_KEY, if it wants one."
    return with_value(
        with_value(plain, "base_url", judge.base_url, why), "model", judge.model, "Its name there."
    )


def _set_lengths(sections: Sections, wish: Wish) -> None:
    """Lengths that the model has positions for, and responses that leave room for their prompt."""
    positions = wish.model.positions
    longest = value_in(sections["logprobs"], "max_length") or 0
    if 0 < positions < longest:
        why = f"The paper's is {longest:,}; the model has {positions:,} positions: 0 is all of them."
        sections["logprobs"] = with_value(sections["logprobs"], "max_length", 0, why)
        longest = 0
    users = wish.settings.get("logprobs.max_length")
    if isinstance(users, int):
        longest = users
    if longest > 0 and not 0 < positions <= longest:
        why = f"A half of max_length in [logprobs], {longest:,}, which counts the prompt too."
        _cap_responses(sections, longest, why)
    elif positions:
        why = f"The model has {positions:,} positions, for prompt and response together."
        _cap_responses(sections, positions, why)


def _cap_responses(sections: Sections, room: int, why: str) -> None:
    """Let sampled responses be no longer than their share of the tokens that there is room for."""
    most = max(1, room // _SHARE_OF_RESPONSE)
    for name in ("generate", "rewrite"):
        if name not in sections:
            continue
        now = value_in(sections[name], "max_tokens") or Generate().max_tokens
        if most < now:
            sections[name] = with_value(sections[name], "max_tokens", most, why)


def _set(sections: Sections, name: str, value: object) -> None:
    """A setting of the user's own, by its dotted name; a section that is not there comes where it runs."""
    section, _, key = name.rpartition(".")
    if section not in sections:
        add_section(sections, section, f"[{section}]\n")
    sections[section] = with_own_value(sections[section], key, value)


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
