"""Who says which response is better: the model itself, another one, a server's, or a reward model."""

from dataclasses import dataclass
from pathlib import Path

from engine.init.model_look import is_reward_model
from schemas.errors import UserError

SELF = "self"


@dataclass(frozen=True)
class Judge:
    """`kind`: self, model, server or reward; `model`: its folder or name; `base_url`: of a server."""

    kind: str
    model: str = ""
    base_url: str = ""

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
    is_folder = Path(word).expanduser().is_dir()
    written = str(Path(word).expanduser().absolute()) if is_folder else word
    return Judge("reward" if is_reward_model(word) else "model", written)
