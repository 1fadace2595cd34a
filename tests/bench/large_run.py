"""Writes a large run folder in little time: made-up rows, and all that names them as the engine writes it.

Plan and facts are those of a recipe; shards and markers are written through the project's own writer, and
manifests by `finish`. Ids are unique and lie in the shard of their number, the tables join, texts and tokens
are a few words.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "pipelines" / "sandbox" / "model"
_FOUR = "seed = 0\n[model]\n[prompts]\nformat = 'preference'\n[given]\n[logprobs]\n[pairs]\n[train]\n"
_EIGHT = (
    "seed = 0\n[model]\n[prompts]\nformat = 'preference'\n[given]\n[generate]\n[judge]\n[rewrite]\n"
    "prompt = 'rewrite_maths'\nchoose = 'best_vs_worst'\n"
    "[logprobs]\ncontexts = ['plain', 'quality']\n[prompt_gain]\n[pairs]\n[train]\n"
)
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_PROMPT, _CHOSEN, _REJECTED = 6, 5, 4  # tokens


def recipe_of(folder: Path, shards: int, stages: int):
    """A recipe of four stages or of eight, whose input is a file in the folder."""
    import pipelines  # noqa: F401 (hands over the prompts)
    from schemas.recipe import load

    folder.mkdir(parents=True, exist_ok=True)
    row = {"prompt": "1 + 1", "chosen": "2", "rejected": "3"}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "recipe.toml").write_text(_FOUR if stages == 4 else _EIGHT)
    values = [f"prompts.source={folder / 'rows.jsonl'}", f"prompts.shards={shards}", f"model.name={MODEL}"]
    return load(folder / "recipe.toml", values)


def write_run(folder: Path, recipe, pairs: int) -> None:
    """Write the run of a recipe with so many pairs, evenly over its shards."""
    from engine.gaps import SCANNED
    from engine.make import finish
    from engine.opened import opened
    from engine.plan import plan
    from schemas.records import sealed_bytes

    run = plan(folder, recipe)
    counts = [pairs // run.shards + (shard < pairs % run.shards) for shard in range(run.shards)]
    with opened(run):
        run.folder(run.stages[0]).put(SCANNED, sealed_bytes({"rows": counts}))
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(lambda shard: _write_shard(run, shard, counts[shard]), range(run.shards)):
                pass
        finish(run, print)


def _write_shard(run, shard: int, count: int) -> None:
    """Write a shard of every stage: its tables as files, then its marker. No byte is forced to the disk."""
    from engine.gaps import made_from
    from engine.make import write_parquet
    from schemas.digest import sha256_file
    from schemas.manifest import File, Marker, file_name, marker_name
    from schemas.markers import as_json
    from schemas.records import sealed_bytes
    from schemas.tables import stored

    tables = _tables(run, shard, count)
    digests: dict[str, str] = {}
    for stage in run.stages:
        folder = run.folder(stage).local_path()
        files = []
        for name, rows in tables[stage.name].items():
            path = folder / file_name(shard, name)
            write_parquet(stored(rows), path)
            files.append(File(path.name, name, len(rows), sha256_file(path), path.stat().st_size))
        made = {"prompts": {"rows_in": count, "rows_out": count}, "pairs": {"train": count}}
        marker = Marker(shard, tuple(files), made_from(run, stage, digests), made.get(stage.name, {}))
        (folder / marker_name(shard)).write_bytes(sealed_bytes(as_json(marker)))
        digests[stage.name] = marker.digest


def _tables(run, shard: int, count: int) -> dict[str, dict[str, pa.Table]]:
    """Stage -> table -> its rows in a shard."""
    from schemas.tables import table

    draw = np.random.default_rng([7, shard])
    prompt_ids = _ids(draw, count, shard, run.shards)
    chosen = _ids(draw, count, shard, run.shards)
    rejected = _ids(draw, count, shard, run.shards)
    both = pa.concat_arrays([chosen, rejected])
    twice = pa.concat_arrays([prompt_ids, prompt_ids])
    prompts = table(
        "prompts",
        {
            "prompt_id": prompt_ids,
            "prompt": _texts("what is the sum of", draw, count),
            "file": ["rows.jsonl"] * count,
            "line": pa.array(np.arange(count) * run.shards + shard + 1),
        },
    )
    scores = {"prompt_id": twice, "response_id": both, "scorer": ["given"] * (2 * count)}
    scores["score"] = pa.array(np.repeat([1.0, 0.0], count))
    answers = {"prompt_id": twice, "response_id": both, "source": ["given"] * (2 * count)}
    answers["text"] = _texts("the answer is", draw, 2 * count)
    pairs, logprobs = _with_tokens(draw, count, prompt_ids, chosen, rejected)
    made = {
        "prompts": {"prompts": prompts},
        "given": {"responses": table("responses", answers), "scores": table("scores", scores)},
        "logprobs": {"logprobs": logprobs},
        "pairs": {"pairs": pairs},
    }
    for stage in run.stages:
        if stage.name not in made:
            made[stage.name] = {name: made["given"][name] for name in stage.writes if name in made["given"]}
    return made


def _with_tokens(draw, count: int, prompt_ids, chosen, rejected) -> tuple[pa.Table, pa.Table]:
    """The tables pairs and logprobs."""
    from schemas.tables import table

    tokens = [_tokens(draw, count, length) for length in (_PROMPT, _CHOSEN, _REJECTED)]
    logps = [_logps(draw, count, length) for length in (_CHOSEN, _REJECTED)]
    pairs = {
        "pair_id": _ids(draw, count, 0, 1),
        "prompt_id": prompt_ids,
        "chosen_response_id": chosen,
        "rejected_response_id": rejected,
        "split": ["train"] * count,
        "source": ["given"] * count,
        "prompt_ids": tokens[0],
        "chosen_ids": tokens[1],
        "rejected_ids": tokens[2],
        "ref_chosen_token_logps": logps[0],
        "ref_rejected_token_logps": logps[1],
        "chosen_length": pa.array(np.full(count, _CHOSEN), pa.int32()),
        "rejected_length": pa.array(np.full(count, _REJECTED), pa.int32()),
    }
    logprobs = {
        "prompt_id": pa.concat_arrays([prompt_ids, prompt_ids]),
        "response_id": pa.concat_arrays([chosen, rejected]),
        "context": ["plain"] * (2 * count),
        "prompt_ids": pa.concat_arrays([tokens[0], tokens[0]]),
        "response_ids": pa.concat_arrays(tokens[1:]),
        "token_logps": pa.concat_arrays(logps),
    }
    return table("pairs", pairs), table("logprobs", logprobs)


def _ids(draw: np.random.Generator, count: int, shard: int, shards: int) -> pa.StringArray:
    """Ids of 32 hex digits that no two rows share, all of the shard (engine/ids.py)."""
    head = draw.integers(0, 2**32 // shards - 1, count, np.uint64) * shards + shard
    first = head.astype(">u4").view(np.uint8).reshape(count, 4)
    rest = draw.integers(0, 256, (count, 12), np.uint8)
    whole = np.concatenate([first, rest], axis=1)
    digits = np.stack([_HEX[whole >> 4], _HEX[whole & 15]], axis=2)
    offsets = np.arange(0, 32 * (count + 1), 32, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(digits.tobytes())]
    return pa.StringArray.from_buffers(count, buffers[1], buffers[2])


def _texts(begin: str, draw: np.random.Generator, count: int) -> pa.Array:
    numbers = draw.integers(0, 1000, count)
    return pa.array([f"{begin} {number}" for number in numbers.tolist()])


def _lists(values: np.ndarray, count: int, length: int) -> pa.ListArray:
    offsets = pa.array(np.arange(0, length * (count + 1), length, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values))


def _tokens(draw: np.random.Generator, count: int, length: int) -> pa.ListArray:
    return _lists(draw.integers(3, 200, count * length, np.int32), count, length)


def _logps(draw: np.random.Generator, count: int, length: int) -> pa.ListArray:
    return _lists(-draw.exponential(1.0, count * length).astype(np.float32), count, length)
