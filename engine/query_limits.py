"""What is said of a query that takes more than it may have."""


def too_slow(seconds: float) -> str:
    """Of one that took longer than it may."""
    return f"the query was stopped after {seconds:g} s; give it more with --timeout, or ask for less"


def too_large(why: str) -> str:
    """Of one that takes more memory than it may."""
    return f"the query needs more memory than it may have: {why}; give it more with --memory, or ask for less"
