"""Scores by log-probs: how much the quality prompt p raises the likelihood of a response.

The score is log ref(y | p⊕x) − log ref(y | x): the sums of the cached log-probs under the two contexts.
"""

import pyarrow as pa

from engine.stage import Context, Made, Planning, Stage
from schemas.errors import UserError
from schemas.manifest import Facts
from schemas.sections import Logprobs, PromptGain
from schemas.tables import table

_QUERY = """
with plain as (select * from logprobs where context = 'plain'),
quality as (select * from logprobs where context = 'quality')
select plain.prompt_id as prompt_id,
       response_id,
       quality.logps - plain.logps as score
from plain
join quality using (response_id)
order by prompt_id, response_id
"""


def facts(config: PromptGain, planning: Planning) -> Facts:
    """None of its own. Raises UserError where [logprobs] does not score under the quality prompt."""
    logprobs = planning.above["logprobs"]
    assert isinstance(logprobs, Logprobs)
    if "quality" not in logprobs.contexts:
        raise UserError(
            '[prompt_gain] compares two contexts: set contexts = ["plain", "quality"] in [logprobs]'
        )
    return {}


def make(batch: pa.Table, config: PromptGain, context: Context) -> Made:
    """One score a response."""
    columns = {
        "prompt_id": batch["prompt_id"],
        "response_id": batch["response_id"],
        "score": batch["score"],
        "scorer": ["prompt_gain"] * len(batch),
    }
    return Made({"scores": table("scores", columns)}, {"scored": len(batch)})


STAGE = Stage(
    name="prompt_gain",
    version=1,
    reads=("logprobs",),
    writes=("scores",),
    query=_QUERY,
    fn=make,
    facts=facts,
)
