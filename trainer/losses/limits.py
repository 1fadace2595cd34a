"""What a loss's settings may be; a refusal names the key and the value."""

from schemas.errors import UserError


def within(low: float, high: float, /, **named: float) -> None:
    """Raises UserError for a value below `low` or above `high`."""
    for name, value in named.items():
        if not low <= value <= high:
            raise UserError(
                f"the loss's {name} = {value}: expected {low:g} to {high:g}"
                if high < float("inf")
                else f"the loss's {name} = {value}: expected {low:g} or more"
            )


def above_zero(**named: float) -> None:
    for name, value in named.items():
        if not 0 < value < float("inf"):
            raise UserError(f"the loss's {name} = {value}: expected a number above 0")


def one_of(*known: str, **named: str) -> None:
    for name, value in named.items():
        if value not in known:
            raise UserError(f"the loss's {name} = {value}: expected {' or '.join(known)}")
