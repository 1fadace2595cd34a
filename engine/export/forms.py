"""The forms of the export: each writes all pairs into a folder, and says how the other tool is told of it."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.export.rows import Exported, Row
from schemas.errors import UserError

Counts = dict[str, int]  # split -> pairs
Form = Callable[[Iterable[Exported], Path], Counts]
_ROWS_OF_A_FILE = 100_000  # of a Parquet file for the hub
_TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_IDS = pa.list_(pa.int32())
_OF_PAIRS = {  # columns that are those of the table pairs
    "pair_id": pa.string(),
    "prompt_id": pa.string(),
    "source": pa.string(),
    "chosen_score": pa.float64(),
    "rejected_score": pa.float64(),
    "prompt_ids": _IDS,
    "chosen_ids": _IDS,
    "rejected_ids": _IDS,
    "ref_chosen_logps": pa.float64(),
    "ref_rejected_logps": pa.float64(),
}
_TEXTS = {"prompt": _TURNS, "chosen": _TURNS, "rejected": _TURNS, "tools": pa.string()}
_COLUMNS = pa.schema(_TEXTS | _OF_PAIRS)
_OF_TRAINING = ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps")


def as_jsonl(pairs: Iterable[Exported], folder: Path) -> Counts:
    """train.jsonl and test.jsonl: prompt, chosen and rejected as turns, scores, ids, reference log-probs."""
    return _lines(pairs, folder, _plain)


def as_openrlhf(pairs: Iterable[Exported], folder: Path) -> Counts:
    """train.jsonl and test.jsonl for --apply_chat_template: chosen and rejected as whole dialogues."""

    def row(one: Exported) -> Row:
        return {"chosen": [*one.prompt, one.chosen], "rejected": [*one.prompt, one.rejected]}

    return _lines(pairs, folder, row)


def as_llama_factory(pairs: Iterable[Exported], folder: Path) -> Counts:
    """train.jsonl and test.jsonl in the sharegpt form, and the dataset_info.json that names them."""

    def row(one: Exported) -> Row:
        said = {"conversations": one.prompt, "chosen": one.chosen, "rejected": one.rejected}
        return said | ({"tools": one.tools} if one.tools else {})

    counts = _lines(pairs, folder, row)
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "tools": "tools"}
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    }
    info: dict[str, Any] = {}
    for split in counts:
        info[f"prefmill_{split}"] = {
            "file_name": f"{split}.jsonl",
            "formatting": "sharegpt",
            "ranking": True,
            "columns": columns,
            "tags": tags,
        }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n")
    return counts


def as_hf(pairs: Iterable[Exported], folder: Path) -> Counts:
    """data/train-00000-of-00001.parquet …, as `datasets` and the hub's viewer read them."""
    data = folder / "data"
    data.mkdir()
    counts: Counts = {}
    parts: dict[str, list[Path]] = {}
    for split, rows in _batches(pairs, _ROWS_OF_A_FILE):
        part = data / f"{split}-{len(parts.setdefault(split, []))}.parquet"
        pq.write_table(rows, part, compression="zstd")
        parts[split].append(part)
        counts[split] = counts.get(split, 0) + len(rows)
    for split, paths in parts.items():
        for number, path in enumerate(paths):
            path.rename(data / f"{split}-{number:05d}-of-{len(paths):05d}.parquet")
    return counts


def as_trl(pairs: Iterable[Exported], folder: Path) -> Counts:
    """A saved DatasetDict with the columns of TRL's DPOTrainer: token ids and the reference's log-probs."""
    try:
        from datasets import Dataset, DatasetDict
    except ImportError:
        raise UserError("--to trl needs the package datasets: pip install 'prefmill[datasets]'") from None
    beside = folder / "parts"
    beside.mkdir()
    counts = as_hf(map(_with_logps, pairs), beside)
    _quiet()
    splits = {}
    for split in counts:
        paths = sorted(map(str, (beside / "data").glob(f"{split}-*.parquet")))
        splits[split] = Dataset.from_parquet(paths, split=split, cache_dir=str(beside / "cache"))
    DatasetDict(splits).save_to_disk(str(folder))
    shutil.rmtree(beside)
    return counts


def _with_logps(one: Exported) -> Exported:
    """The pair, which must have what a training reads."""
    lacking = [name for name in _OF_TRAINING if one.pair[name] is None]
    if lacking:
        raise UserError(
            f"pair {one.pair['pair_id']} has no {', '.join(lacking)}, which TRL would train on: add "
            "[logprobs] to the recipe and run `engine precompute`, or export --to hf or jsonl"
        )
    return one


def _quiet() -> None:
    """The library draws bars of its own."""
    from datasets.utils import disable_progress_bars

    disable_progress_bars()


FORMS: Mapping[str, Form] = {
    "trl": as_trl,
    "hf": as_hf,
    "openrlhf": as_openrlhf,
    "llama-factory": as_llama_factory,
    "jsonl": as_jsonl,
}


def _plain(one: Exported) -> Row:
    """A pair as a row that says all that is known of it."""
    row: Row = {"prompt": one.prompt, "chosen": [one.chosen], "rejected": [one.rejected], "tools": one.tools}
    for name in _OF_PAIRS:
        row[name] = one.pair[name]
    return row


def _lines(pairs: Iterable[Exported], folder: Path, row: Callable[[Exported], Row]) -> Counts:
    """Write a file of JSON lines for each split that has pairs."""
    counts: Counts = {}
    with contextlib.ExitStack() as files:
        opened: dict[str, IO[str]] = {}
        for one in pairs:
            if one.split not in opened:
                path = folder / f"{one.split}.jsonl"
                opened[one.split] = files.enter_context(open(path, "w", encoding="utf-8"))
            opened[one.split].write(json.dumps(row(one), ensure_ascii=False) + "\n")
            counts[one.split] = counts.get(one.split, 0) + 1
    return dict(sorted(counts.items()))


def _batches(pairs: Iterable[Exported], size: int) -> Iterator[tuple[str, pa.Table]]:
    """Rows of one split at a time, at most so many together."""
    waiting: dict[str, list[Row]] = {}
    for one in pairs:
        rows = waiting.setdefault(one.split, [])
        rows.append(_of_texts(one))
        if len(rows) == size:
            yield one.split, pa.Table.from_pylist(waiting.pop(one.split), schema=_COLUMNS)
    for split, rows in sorted(waiting.items()):
        yield split, pa.Table.from_pylist(rows, schema=_COLUMNS)


def _of_texts(one: Exported) -> Row:
    """A pair as a row of `_COLUMNS`, whose turns are texts."""
    for turn in (*one.prompt, one.chosen, one.rejected):
        if turn.keys() != {"role", "content"} or not isinstance(turn["content"], str):
            raise UserError(
                f"pair {one.pair['pair_id']} has a turn that is more than a text (its keys are "
                f"{', '.join(sorted(turn))}), for which this form has no column: export --to jsonl, openrlhf "
                "or llama-factory"
            )
    return _plain(one)
