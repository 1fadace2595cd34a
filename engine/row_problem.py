"""Why a row cannot be used, as an exception: a code to group by and a sentence."""

_LONGEST = 200  # letters of another's message, which may hold the row


class RowProblem(Exception):
    """Raised while a row is put under the names that a format reads; it becomes a reject."""

    def __init__(self, code: str, sentence: str):
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence


def of_error(error: Exception, code: str = "unreadable") -> RowProblem:
    """The problem of a row on which something has failed that nobody expected to: the error's first line."""
    lines = str(error).strip().splitlines()
    said = lines[0][:_LONGEST] if lines else "it gives no reason"
    name = type(error).__name__
    # A message may hold half a surrogate pair, which no column takes.
    sentence = f"{name}: {said}".encode(errors="backslashreplace").decode()
    return RowProblem(code, sentence)
