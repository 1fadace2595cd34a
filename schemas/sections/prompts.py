"""The sections [prompts] and [given]: raw files to prompts, with the responses they bring."""

from dataclasses import dataclass
from typing import Any

from schemas import row_checks
from schemas.errors import UserError
from schemas.fields import Section, number, path, setting, tables


@dataclass(frozen=True)
class Prompts(Section):
    """Raw files to prompts, with the responses they bring."""

    # Files, folders or globs: JSON Lines, JSON arrays, CSV, TSV (these also .gz, .zst, .bz2), Parquet, Arrow,
    # folders of save_to_disk; or data sets on the Hub: owner/name, owner/name:config@revision.
    source: tuple[str, ...] = path((), data_set=True)
    # auto, a file of pipelines/sql without .sql, or a path to one of your own.
    format: str = path("auto", "sql", ".sql")
    # 0: one for every MiB of input or million tokens to be sampled, and at least four for each worker; a run
    # keeps its number. A file's name has five digits for its shard.
    shards: int = number(0, low=0, high=99_999)
    # A longer row goes to rejects.
    max_row_bytes: int = number(4 << 20, low=1)
    # Columns that are taken for not there, or keys of their objects: ["tools", "chosen.reasoning"]. A column
    # that the format does not read and that may change what is learned is refused until it is named here.
    ignore: tuple[str, ...] = ()
    # Like source; its prompts are held out as split = 'test', the others are train.
    test_source: tuple[str, ...] = path((), data_set=True)
    # A file of source whose name says test or validation, beside others that do not, is held out as well.
    test_by_name: bool = True
    # The column that says which split a row is of: train, test, validation, dev, eval; "": none does.
    split_column: str = "split"
    # Take the first prompts only, this many of source and of the held-out files each. 0: all.
    limit: int = number(0, low=0)
    # Take this many prompts of source and of the held-out files each, drawn by their content. 0: all.
    sample: int = number(0, low=0)
    # [prompts.columns] prompt = "question": the format's column, and the input's. A path into objects,
    # "question.full_text"; or a list whose texts are joined with a newline, ["instruction", "input"].
    columns: dict[str, Any] = tables(check=row_checks.columns)
    # [prompts.roles] customer = "user": other spellings of roles, whatever their case.
    roles: dict[str, Any] = tables(check=row_checks.roles)
    # [prompts.turns] role = "speaker": the keys of a turn, and what the input calls them.
    turns: dict[str, Any] = tables(check=row_checks.turns)
    # Columns that are no part of what is learned and are kept as JSON, through to pairs.metadata; "*": all
    # that the format does not read and that may be left out.
    metadata: tuple[str, ...] = setting((), row_checks.metadata)

    def check(self) -> None:
        if self.limit and self.sample:
            raise UserError(
                f"{self.title()} limit = {self.limit} and sample = {self.sample}: "
                "set limit for the first prompts, or sample for some drawn from all"
            )


@dataclass(frozen=True)
class Given(Section):
    """The responses that came with the prompts, and what the data says of them."""
