"""The sections of a recipe and their keys: the reference of all of them, a file or two a stage.

A section is a stage, a key is a field with its default. What values a key may have stands at the field
(schemas/fields.py) and is checked when the recipe is read.
"""

from schemas.fields import Section
from schemas.sections.endpoint import Served as Served
from schemas.sections.logprobs import Logprobs as Logprobs
from schemas.sections.lora import Lora as Lora
from schemas.sections.model import Model as Model
from schemas.sections.pairs import Pairs as Pairs
from schemas.sections.prompts import Given as Given
from schemas.sections.prompts import Prompts as Prompts
from schemas.sections.runs import Rounds as Rounds
from schemas.sections.runs import Verify as Verify
from schemas.sections.sampling import Generate as Generate
from schemas.sections.sampling import Rewrite as Rewrite
from schemas.sections.sampling import Sampling as Sampling
from schemas.sections.scoring import Check as Check
from schemas.sections.scoring import Judge as Judge
from schemas.sections.scoring import PromptGain as PromptGain
from schemas.sections.scoring import Reward as Reward
from schemas.sections.train import Train as Train

SECTIONS: dict[str, type[Section]] = {
    "model": Model,
    "prompts": Prompts,
    "given": Given,
    "generate": Generate,
    "check": Check,
    "judge": Judge,
    "reward": Reward,
    "rewrite": Rewrite,
    "logprobs": Logprobs,
    "prompt_gain": PromptGain,
    "pairs": Pairs,
    "verify": Verify,
    "train": Train,
    "rounds": Rounds,
}
