"""What is said of a file whose first rows are not read: its columns, what they look like, what to do."""

from collections import Counter
from collections.abc import Sequence

from engine.answer_columns import advice, answer_columns
from engine.attempts import Attempt, attempt
from engine.formats import Format, shipped
from engine.raw import Row
from engine.readings import UNREAD, unread_sentence
from engine.row_looks import columns, columns_text, kind_of, near_names
from engine.wording import columns_setting
from schemas.errors import UserError
from schemas.row_checks import toml_value
from schemas.sections import Prompts


def check_answers(name: str, tried: Attempt, config: Prompts) -> None:
    """Raise UserError where a format takes rows for prompts alone that have answers under other names."""
    answers = answer_columns(tried.rows, [*tried.unread(), *tried.left_out()])
    if answers and not tried.brings_responses(config):
        raise UserError(
            f"prompts.format = {config.format}: {name} is in the format {tried.path.stem}, which reads no "
            f"responses; {columns_text(tried.rows)}; {advice(answers, tried.rows)}"
            f"{_looks(tried.rows)}"
        )


def check_unread(name: str, tried: Attempt, config: Prompts, most: float) -> None:
    """Raise UserError where more than this share of a file's rows have columns that may not be left out."""
    count = sum(reading.reason == UNREAD for reading in tried.readings)
    if count > most * len(tried.readings) or (count and not tried.read):
        check_answers(name, tried, config)
        to_ignore = tuple(dict.fromkeys([*config.ignore, *tried.unread()]))
        why = unread_sentence(tried.unread(), to_ignore, tried.renames())
        looks = "" if tried.brings_responses(config) else _looks(tried.rows)
        raise UserError(
            f"prompts.format = {config.format}: {name} is in the format {tried.path.stem}, but {count} of "
            f"its first {len(tried.readings)} rows have columns that are {why} "
            f"(copy pipelines/sql/{tried.path.name} and name your copy in prompts.format){looks}"
        )


def nothing_read(name: str, tried: Attempt, config: Prompts) -> UserError:
    """The error for input of whose first rows the format that the recipe names reads none."""
    said = [
        f"prompts.format = {config.format} reads none of the first {len(tried.readings)} rows of {name}",
        columns_text(tried.rows),
        tried.complaint(),
    ]
    others = [attempt(path, tried.rows, config) for path in shipped() if path != tried.path]
    able = [f"{other.path.stem} reads {other.read}" for other in others if other.read]
    if able:
        said.append(f"of the other formats {', '.join(able)} of them")
    else:
        said += _kind_and_names(tried.rows, config)
    return UserError("; ".join(said))


def other_file(name: str, first_name: str, key: str, tried: Attempt) -> UserError:
    """The error for a file that is in another format than the first one."""
    return UserError(
        f"prompts.format = auto: {first_name} was taken for {tried.path.stem}, which reads {tried.read} "
        f"of the first {len(tried.rows)} rows of {name}: {columns_text(tried.rows)}; {tried.complaint()}; "
        f"take this file out of {key}, or name the format"
    )


def not_recognised(
    name: str,
    rows: Sequence[Row],
    tried: Sequence[Attempt],
    several: bool,
    config: Prompts,
) -> UserError:
    """The error for rows that no format reads, or `several`: their columns, their looks, what to do."""
    of_rows = f"the first {len(rows)} rows of {name}"
    who = (
        f"several formats can read {of_rows}: {_several(tried)}"
        if several
        else f"{_none(tried)} of {of_rows}"
    )
    said = [f"prompts.format = auto: {who}", columns_text(rows)]
    bad = Counter(f"{row.reason}: {row.detail}" for row in rows if row.reason)
    if bad:
        reason = bad.most_common(1)[0][0]
        if bad.total() == len(rows):
            said.append(f"the reader says of most: {reason}")
        else:
            said.append(f"{bad.total()} of them cannot be read, such as {reason}")
    if several:
        said.append(_differences(tried, config))
    said += _kind_and_names(rows, config)
    there = {*columns(rows), *config.columns}
    nearest = None if several else _nearest(there, tried)
    if nearest:
        said.append(f"{nearest.path.stem} says: {nearest.complaint()}")
    said.append("name the format, or copy the nearest pipelines/sql/*.sql and name your copy")
    return UserError("; ".join(said))


def _none(tried: Sequence[Attempt]) -> str:
    """That no format reads rows, or too few of them: which ones read how many."""
    counts = [f"{one.path.stem} {one.read}" for one in tried if one.read]
    if not counts:
        return "no format reads any"
    return f"no format reads more than half (rows read: {', '.join(counts)})"


def _several(tried: Sequence[Attempt]) -> str:
    """How many rows each of several formats reads, or would read without columns that it does not."""
    counts: list[str] = []
    for one in tried:
        unread = f" without {', '.join(one.unread())}" if one.unread() else ""
        if one.of_its_form:
            counts.append(f"{one.path.stem} {one.of_its_form}{unread}")
    return ", ".join(counts)


def _differences(tried: Sequence[Attempt], config: Prompts) -> str:
    """What to leave out for each of several formats to be the one."""
    said: list[str] = []
    for one in tried:
        unread = one.unread() or one.left_out()
        if one.of_its_form and unread:
            to_ignore = dict.fromkeys([*config.ignore, *unread])
            said.append(f"for {one.path.stem} prompts.ignore = {toml_value(list(to_ignore))}")
    return f"leave out what is not meant: {', '.join(said)}"


def _looks(rows: Sequence[Row]) -> str:
    said = kind_of(rows)
    return f"; its rows look like {said}" if said else ""


def _kind_and_names(rows: Sequence[Row], config: Prompts) -> list[str]:
    """What rows look like, and which of their columns have nearly the name of one that a format reads.

    Where the recipe names their columns, what they look like without that is not said."""
    said: list[str] = []
    kind = None if config.columns else kind_of(rows)
    if kind:
        said.append(f"they look like {kind}")
    known: dict[str, None] = {}
    for path in shipped():
        reads = Format(path).columns
        known |= dict.fromkeys(reads.reads if reads else ())
    near = near_names(columns(rows), known)
    if near:
        listed = ", ".join(f'"{wrong}" to {right}' for wrong, right in near.items())
        ours = {right: wrong for wrong, right in near.items()}
        said.append(f"rename {listed}: {columns_setting(ours)}")
    return said


def _nearest(columns: set[str], tried: Sequence[Attempt]) -> Attempt | None:
    """The attempt of the format that says most about rows with these columns; None where none knows any.

    What a format says of a value tells more than that a column is missing. Of equals the one that reads more
    columns is the more general."""

    def rank(one: Attempt) -> tuple[int, bool, int, int, int]:
        reads = Format(one.path).columns
        known = set(reads.reads) if reads else set()
        _, _, sentence = one.complaint().partition(": ")
        is_missing = "missing" in sentence or "neither" in sentence
        shared = len(known & columns)
        return one.of_its_form, bool(shared) and not is_missing, shared, one.of_its_columns, len(known)

    best = max(tried, key=rank)
    return best if rank(best)[2] else None
