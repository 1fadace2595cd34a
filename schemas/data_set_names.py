"""How a recipe names a data set on the Hugging Face Hub: owner/name, owner/name:config@revision."""

import os
import re
from dataclasses import dataclass

_NAME = re.compile(r"(\w[\w.\-]*/\w[\w.\-]*)(?::([^@:\s,*?]+))?(?:@([^@:\s,*?]+))?")
# A name with such an ending is of a file.
_FILE = re.compile(
    r"(?i)\.(jsonl?|jsonlines|ndjson|csv|tsv|parquet|arrow|feather|txt|xlsx|gz|zst|bz2|xz|zip|tar)$"
)


@dataclass(frozen=True)
class DataSetName:
    """A data set on the Hub. `config` and `revision` are empty where the recipe leaves them to the Hub."""

    repository: str
    config: str = ""
    revision: str = ""

    def __str__(self) -> str:
        config = f":{self.config}" if self.config else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repository}{config}{revision}"


def data_set_name(source: str) -> DataSetName | None:
    """The data set that a source names; None where it is a path: it exists, or is spelt as one."""
    match = _NAME.fullmatch(source)
    if match is None or os.path.exists(source) or _FILE.search(match[1]):
        return None
    repository, config, revision = match.groups(default="")
    return DataSetName(repository, config, revision)
