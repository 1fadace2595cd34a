"""What a response in the market is worth: rewards with more than right and wrong, the truth of the sandbox.

Each is a function of the prompt's messages and the response, for [check]; None where the prompt is no problem
of the market.

    right            1 where the answer is right, else 0
    partial_credit   the share of the steps that are right, up to the first that is not
    style            1 for numbered steps, 0.5 for "First … Then …", 0 for any other manner
    length           words over 60, at most 1: what a labeller who likes long answers would reward
    reward           0.5 right + 0.3 partial_credit + 0.2 style − 0.1 length

Preferences are sampled from them: `pairs.choose = "bradley_terry"`, with a temperature and label noise.
"""

from dataclasses import dataclass

from pipelines.sandbox import market

_LONG = 60  # words

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Worth:
    """The parts of a response's reward, each from 0 to 1."""

    right: float
    partial_credit: float
    style: float
    length: float

    @property
    def reward(self) -> float:
        """All of them weighed, from −0.1 to 1."""
        return 0.5 * self.right + 0.3 * self.partial_credit + 0.2 * self.style - 0.1 * self.length


def worth(messages: Messages, response: str) -> Worth | None:
    """All parts of a response's reward."""
    found = market.read(messages[-1]["content"])
    if found is None:
        return None
    return Worth(
        right=float(market.said(response) == found.answer()),
        partial_credit=market.right_steps(found, response),
        style=_style(response),
        length=min(1.0, len(response.split()) / _LONG),
    )


def _style(response: str) -> float:
    if response.startswith("Step 1: "):
        return 1.0
    return 0.5 if response.startswith("First ") else 0.0


def reward(messages: Messages, response: str) -> float | None:
    """The whole reward."""
    found = worth(messages, response)
    return None if found is None else found.reward


def right(messages: Messages, response: str) -> float | None:
    """Whether the answer is right."""
    found = worth(messages, response)
    return None if found is None else found.right


def partial_credit(messages: Messages, response: str) -> float | None:
    """The share of right steps."""
    found = worth(messages, response)
    return None if found is None else found.partial_credit


def style(messages: Messages, response: str) -> float | None:
    """How well the steps are told apart."""
    found = worth(messages, response)
    return None if found is None else found.style


def length(messages: Messages, response: str) -> float | None:
    """How long it is."""
    found = worth(messages, response)
    return None if found is None else found.length
