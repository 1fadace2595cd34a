"""Who says which response is better: the model itself, another one, a server's, or a reward model."""

from dataclasses import dataclass
from pathlib import Path

from engine.init.model_look import is_here, is_reward_model
from schemas.errors import UserError

SELF = "self"
_REWARD = "reward:"  # before a name: it is a reward model, which may not be on this machine


@dataclass(frozen=True)
class Judge:
    """`kind`: self, model, server or reward; `model`: its folder or name; `base_url`: of a server.

    `remark`: what could not be seen of it, empty where nothing is left open."""

    kind: str
    model: str = ""
    base_url: str = ""
    remark: str = ""

    @property
    def scorer(self) -> str:
        """The scorer whose scores it makes."""
        return "reward" if self.kind == "reward" else "rating"

    @property
    def section(self) -> str:
        """The section that asks it."""
        return "reward" if self.kind == "reward" else "judge"


def judge_of(word: str, model_there: str) -> Judge:
    """The judge that --judge names. `model_there`: --judge-model, the name that a server knows it by.

    Raises UserError where the two do not go together."""
    is_url = word.startswith(("http://", "https://"))
    if is_url and not model_there:
        raise UserError(
            "--judge is a server's address, and --judge-model is missing: the name that the server lists "
            "the judge by"
        )
    if model_there and not is_url:
        raise UserError(
            "--judge-model is the name of a judge on a server, and --judge names none: expected "
            "--judge http://host:port/v1"
        )
    if is_url:
        return Judge("server", model_there, word)
    if word == SELF:
        return Judge(SELF)
    return _model_of(word)


def _model_of(word: str) -> Judge:
    """A model that judges: a chat model or a reward model. Raises UserError where it is not what is said."""
    name = word.removeprefix(_REWARD)
    is_said = word.startswith(_REWARD)
    if not name:
        raise UserError(f"--judge {word}: expected {_REWARD}NAME, with the name of a reward model")
    is_folder = Path(name).expanduser().is_dir()
    written = str(Path(name).expanduser().absolute()) if is_folder else name
    if not is_here(name):
        if is_said:
            return Judge("reward", written)
        return Judge("model", written, remark=_unseen(name))
    is_reward = is_reward_model(name)
    if is_said and not is_reward:
        raise UserError(
            f"--judge {word}: the model there is no reward model, its config.json names no architecture "
            f"ForSequenceClassification; a chat model that rates is --judge {name}"
        )
    return Judge("reward" if is_reward else "model", written)


def _unseen(name: str) -> str:
    return (
        f"{name} is not on this machine, so what it is cannot be seen from here: it is taken for a chat "
        f"model that rates. If it is a reward model, say so: --judge {_REWARD}{name}"
    )
