"""Why a row cannot be used, as an exception: a code to group by and a sentence."""


class RowProblem(Exception):
    """Raised while a row is put under the names that a format reads; it becomes a reject."""

    def __init__(self, code: str, sentence: str):
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence
