"""What goes along when a model is written anew: tokenizer, template, generation config, byte for byte.

Of an adapter they are those that it is opened with.
"""

import shutil
from pathlib import Path

from schemas.adapters import ADAPTER, is_adapter
from schemas.chat_template import MORE_TEMPLATES, own_template
from schemas.checkpoints import STATE
from schemas.model_content import INDEX
from schemas.model_files import (
    CONFIG,
    GENERATION_CONFIG,
    PROCESSOR_FILES,
    model_home,
    tokenizer_home,
)

_COPIED_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".spm", ".codes", ".tokenizer")


def copy_beside(source: Path, path: Path) -> None:
    """Copy what a model folder has beside weights and config, but for names that `path` has already.

    state.json of a checkpoint is not copied: it speaks of the folder that it is in."""
    if not is_adapter(source):
        _copy_all(source, path, (CONFIG, INDEX, STATE))
        return
    base = model_home(source)
    tokenizer = tokenizer_home(source)
    for name in (GENERATION_CONFIG, *PROCESSOR_FILES):
        if (base / name).is_file():
            shutil.copyfile(base / name, path / name)
    _copy_all(tokenizer, path, (CONFIG, INDEX, STATE, ADAPTER, GENERATION_CONFIG, *PROCESSOR_FILES))
    own = own_template(base) if own_template(tokenizer) is None else None
    if own is not None:
        (path / "chat_template.jinja").write_text(own)


def _copy_all(source: Path, path: Path, leave_out: tuple[str, ...]) -> None:
    for file in sorted(source.iterdir()):
        is_wanted = file.suffix in _COPIED_SUFFIXES and file.name not in leave_out
        if is_wanted and not (path / file.name).exists():
            shutil.copyfile(file, path / file.name)
    if (source / MORE_TEMPLATES).is_dir():
        shutil.copytree(source / MORE_TEMPLATES, path / MORE_TEMPLATES)
