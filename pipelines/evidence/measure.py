"""What a policy is worth: its answers to test problems, their true reward, and how far it went for it.

- Every policy answers the same problems at temperature 1, and sample k of a problem has the same random
  numbers for all policies of a seed. So differences between two policies are paired.
- KL(π‖ref) is the mean of log π − log ref over the policy's own samples, in nat.
- Margins are log-ratios of two samples of the reference, chosen by nobody: whether a policy's implicit reward
  goes with the true one is seen on responses that no preference was sampled for.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl

from engine.ids import seed_of
from engine.models import Ids, Model, Sample
from engine.models.open import open_model, places
from engine.models.spec import ModelSpec, resolve
from engine.text import TemplateError
from pipelines.evidence.caches import problems
from pipelines.evidence.setting import RECIPE
from pipelines.sandbox.rewards import Worth, worth
from schemas import sections
from schemas.recipe import load
from schemas.sections import Sampling

_MAX_TOKENS = 160
PARTS = ("reward", "right", "partial_credit", "style", "length")


@dataclass(frozen=True)
class Asked:
    """The problems that policies are measured on: so many, drawn with a seed."""

    seed: int
    count: int

    def prompts(self) -> list[str]:
        """The problems."""
        return problems(self.seed, self.count)


def samples_of(policy: Model, asked: Asked, seed: int, samples: int) -> pl.DataFrame:
    """What a policy answers: columns problem, sample, response, PARTS, logps, ref_logps, tokens.

    `seed`: of the sampling."""
    prompts = _prompt_ids(asked)
    groups = policy.generate(prompts, _seeds(asked, seed, samples), _sampling(samples))
    ids = _ids_of(groups)
    ref_logps = reference().logprobs(prompts, ids)
    rows: list[dict[str, object]] = []
    for number, prompt in enumerate(asked.prompts()):
        texts = policy.text.decode(ids[number])
        for place, sample in enumerate(groups[number]):
            row = {"problem": number, "sample": place, "response": texts[place]}
            row |= _parts(_worth(prompt, texts[place]))
            row |= _logps(sample, float(ref_logps[number][place].sum(dtype="float64")))
            rows.append(row)
    return pl.DataFrame(rows)


def _ids_of(groups: Sequence[Sequence[Sample]]) -> list[list[Ids]]:
    """The token ids of each sample."""
    ids: list[list[Ids]] = []
    for group in groups:
        ids.append([sample.ids for sample in group])
    return ids


def _logps(sample: Sample, ref_logps: float) -> dict[str, object]:
    logps = float(sample.token_logps.sum(dtype="float64"))
    return {"logps": logps, "ref_logps": ref_logps, "tokens": len(sample.ids)}


def margins_of(policy: Model, asked: Asked, seed: int) -> pl.DataFrame:
    """Log-ratios of two samples of the reference to each problem: columns problem, gap, margin.

    `gap`: the true reward of the first less that of the second; `margin`: the same of their log-ratios, nat.
    Two samples of one text are left out."""
    two = _reference_pairs(asked, seed)
    prompts = _prompt_ids(asked)
    policy_logps = policy.logprobs(prompts, two.ids)
    rows: list[dict[str, object]] = []
    for number, (own, ref) in enumerate(zip(policy_logps, two.logps, strict=True)):
        logratios = [mine - theirs for mine, theirs in zip(own, ref, strict=True)]
        one, other = [float(logratio.sum(dtype="float64")) for logratio in logratios]
        if two.texts[number][0] == two.texts[number][1]:
            continue
        first, second = two.worths[number]
        rows.append({"problem": number, "gap": first.reward - second.reward, "margin": one - other})
    return pl.DataFrame(rows)


class _Two(NamedTuple):
    """Two samples of the reference to each problem."""

    ids: list[list[Ids]]
    logps: list[list]
    texts: list[list[str]]
    worths: list[tuple[Worth, Worth]]


@functools.cache
def _reference_pairs(asked: Asked, seed: int) -> _Two:
    prompts = _prompt_ids(asked)
    groups = reference().generate(prompts, _seeds(asked, seed, 2), _sampling(2))
    ids = _ids_of(groups)
    texts = [reference().text.decode(group) for group in ids]
    worths: list[tuple[Worth, Worth]] = []
    for prompt, (one, other) in zip(asked.prompts(), texts, strict=True):
        worths.append((_worth(prompt, one), _worth(prompt, other)))
    return _Two(ids, reference().logprobs(prompts, ids), texts, worths)


def _parts(found: Worth) -> dict[str, object]:
    return {name: getattr(found, name) for name in PARTS}


def _worth(prompt: str, response: str) -> Worth:
    found = worth([{"role": "user", "content": prompt}], response)
    assert found is not None, "every problem is one of the market"
    return found


def _sampling(samples: int) -> Sampling:
    return Sampling(n=samples, temperature=1.0, max_tokens=_MAX_TOKENS)


def _seeds(asked: Asked, seed: int, samples: int) -> list[list[int]]:
    """The seed of each sample of each problem."""
    seeds: list[list[int]] = []
    for number in range(asked.count):
        seeds.append([seed_of(seed, asked.seed, number, place) for place in range(samples)])
    return seeds


def reference_path() -> Path:
    """The folder of the model that all policies start from."""
    return Path(load(RECIPE).section("model").name)


@functools.cache
def reference() -> Model:
    """The frozen model that all policies start from."""
    return opened(reference_path())


def opened(model: Path) -> Model:
    """A model folder on one thread."""
    spec = ModelSpec(sections.Model(name=str(model)), "hf")
    return open_model(resolve(spec), places(spec)[0], threads=1)


@functools.cache
def _prompt_ids(asked: Asked) -> Sequence[Ids]:
    """The token ids of each problem. Raises TemplateError if the model's template refuses one."""
    conversations = [[{"role": "user", "content": prompt}] for prompt in asked.prompts()]
    found: list[Ids] = []
    for ids in reference().text.prompts(conversations):
        if isinstance(ids, TemplateError):
            raise ids
        found.append(ids)
    return found
