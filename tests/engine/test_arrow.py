"""Arrow files, streams and the folders of save_to_disk give the rows that JSON Lines of them gives."""

import io
import json
import logging

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from engine.inputs import find, inputs
from engine.raw import rows
from schemas.errors import UserError
from schemas.sections import Prompts

datasets = pytest.importorskip("datasets")

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Say {n}, ‘é’."}],
        "chosen": f"{n}.",
        "rejected": "No.\nNever.",
        "score": n / 4,
        "id": None if n % 3 else n,
    }
    for n in range(700)
]


def read(source, limit=1 << 20):
    return list(rows(find([str(source)]), limit))


def values(source):
    result = read(source)
    assert not [row.reason for row in result if row.reason]
    return [json.loads(row.text) for row in result]


def written(path, values, kind="stream", size=300):
    table = pa.Table.from_pylist(values) if isinstance(values, list) else values
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=size)
    return path


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("size", [1, 255, 256, 700])
def test_both_forms_of_arrow_are_read(tmp_path, kind, size):
    assert values(written(tmp_path / "X.Arrow", ROWS, kind, size)) == ROWS
    assert [row.line for row in read(tmp_path / "X.Arrow")] == list(range(1, 701))


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_feather_is_read(tmp_path, compression):
    pyarrow.feather.write_feather(pa.Table.from_pylist(ROWS), tmp_path / "x.feather", compression)
    assert values(tmp_path / "x.feather") == ROWS


def test_values_are_treated_as_those_of_parquet(tmp_path):
    text = pa.array([b"fine", b"\xff", b"x" * 5000, b"fine", b"fine"])
    text = pa.Array.from_buffers(pa.string(), len(text), text.buffers())
    nested = pa.ListArray.from_arrays(
        pa.array(range(6), pa.int32()), pa.StructArray.from_arrays([text], ["t"])
    )
    table = pa.table(
        {
            "prompt": text,
            "turns": nested,
            "image": pa.array([b"1", b"2", b"3", b"\xfe", b"5"], pa.binary()),
            "score": [1.5, 2.0, 3.0, 4.0, float("nan")],
            "kind": pa.array(["a", "b", "a", "b", "a"]).dictionary_encode(),
            "day": pa.array([0, 1, 2, 3, None], pa.date32()),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    expected = read(tmp_path / "x.parquet", 1000)
    assert [row.reason for row in expected] == [None, "bad_utf8", "over_long", None, "nan"]
    for kind in ("file", "stream"):
        result = read(written(tmp_path / "x.arrow", table, kind), 1000)
        said = [(row.line, row.reason, row.text, row.not_finite) for row in result]
        assert said == [(row.line, row.reason, row.text, row.not_finite) for row in expected]


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_a_file_that_is_cut_anywhere_stops_the_run(tmp_path, kind):
    data = written(tmp_path / "x.arrow", ROWS, kind).read_bytes()
    path = tmp_path / "cut.arrow"
    ends_of_batches = [end for end in range(len(data)) if data[end : end + 4] == b"\xff\xff\xff\xff"]
    assert len(ends_of_batches) >= 4
    for end in [0, 3, 9, len(data) // 2, *ends_of_batches, len(data) - 4, len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(UserError, match=r"cut\.arrow breaks off or is damaged"):
            read(path)
    path.write_bytes(data + b"more rows")
    with pytest.raises(UserError, match=r"cut\.arrow breaks off or is damaged"):
        read(path)


def test_offsets_that_are_damaged_are_no_crash(tmp_path):
    table = pa.table({"prompt": ["abc", "d", "ef"], "turns": [[{"x": "1"}], [], [{"x": "2"}]]})
    data = bytearray(written(tmp_path / "x.arrow", table).read_bytes())
    offsets = bytes(pa.array([0, 3, 4, 6], pa.int32()).buffers()[1])[:16]
    place = data.index(offsets)
    data[place + 4 : place + 8] = (1 << 30).to_bytes(4, "little")
    (tmp_path / "x.arrow").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.arrow breaks off or is damaged"):
        read(tmp_path / "x.arrow")


def test_a_name_that_stands_twice_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["prompt", "prompt"])
    for kind in ("file", "stream"):
        with pytest.raises(UserError, match="several columns named prompt"):
            read(written(tmp_path / "x.arrow", table, kind))


def test_what_is_declared_as_json_is_that_json(tmp_path):
    mixed = [[{"b": 0}, {"c": "x"}], [], None, [{"d": [None]}]]
    data_set = datasets.Dataset.from_dict(
        {"a": mixed}, features=datasets.Features({"a": datasets.List(datasets.Json())})
    )
    data_set.save_to_disk(tmp_path / "saved")
    assert [value["a"] for value in values(tmp_path / "saved")] == mixed


# Folders of save_to_disk.


def test_a_saved_data_set_is_read_and_nothing_beside_it(tmp_path, caplog):
    saved = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(saved, num_shards=3)
    written(saved / "cache-0123.arrow", [{"prompt": "of map"}])
    written(saved / "tmpabc.arrow", [{"prompt": "of a killed map"}])
    (saved / "notes.jsonl").write_text('{"prompt": "of nobody"}\n')
    caplog.set_level(logging.INFO, logger="prefmill")
    found = inputs(Prompts(source=(str(saved),)), tell=True)
    assert list(found.files) == [f"data-0000{n}-of-00003.arrow" for n in range(3)]
    for name in ("cache-0123.arrow", "tmpabc.arrow", "notes.jsonl"):
        assert name in " ".join(caplog.messages)
    assert values(saved) == ROWS == values(tmp_path) == values(saved / "*")
    assert values(saved / "*.arrow") == ROWS == values(tmp_path / "**")
    # Who names a file means it.
    assert values(saved / "cache-0123.arrow") == [{"prompt": "of map"}]


def test_rows_that_were_filtered_and_shuffled_before_saving(tmp_path):
    data_set = datasets.Dataset.from_list(ROWS).filter(lambda row: row["score"] > 9).shuffle(seed=3)
    data_set.save_to_disk(tmp_path / "saved")
    assert values(tmp_path / "saved") == data_set.to_list()


@pytest.mark.parametrize("key", ["_indices_files", "_indices_data_files"])
def test_a_selection_beside_the_rows_is_refused(tmp_path, key):
    """As old versions of datasets saved it: all rows, and a list of those that count."""
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    path = tmp_path / "saved" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {key: [{"filename": "indices.arrow"}]}))
    for source in (tmp_path, tmp_path / "saved", tmp_path / "saved" / "*.arrow"):
        with pytest.raises(UserError, match=rf"only some rows count.*{key}.*flatten_indices"):
            find([str(source)])
    path.write_text(json.dumps(state | {key: []}))
    assert values(tmp_path) == ROWS


def test_a_saved_dict_is_read_by_its_splits(tmp_path):
    whole = datasets.Dataset.from_list(ROWS)
    parts = {"train": whole.select(range(600)), "validation": whole.select(range(600, 700))}
    saved = tmp_path / "saved"
    datasets.DatasetDict(parts).save_to_disk(saved)
    (saved / "old").mkdir()
    written(saved / "old" / "data-00000-of-00001.arrow", [{"prompt": "of an older one"}])
    found = inputs(Prompts(source=(str(saved),)))
    assert sorted(found.files) == [f"{split}/data-00000-of-00001.arrow" for split in sorted(parts)]
    assert found.held_out == {"validation/data-00000-of-00001.arrow"}
    assert values(saved) == ROWS
    assert values(saved / "train") == ROWS[:600]


def test_a_saved_folder_that_is_not_whole_says_what_is_missing(tmp_path):
    saved = tmp_path / "saved"
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(saved, num_shards={"train": 2})
    (saved / "train" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"state\.json names data-00001-of-00002\.arrow, which is no file"):
        find([str(saved)])
    (saved / "train" / "state.json").write_text('{"_data_files": [')
    with pytest.raises(UserError, match=r"state\.json is damaged.*copy the whole folder again"):
        find([str(saved)])
    (saved / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(UserError, match=r"dataset_dict\.json names the split test, and no such folder"):
        find([str(saved)])


def test_a_state_of_another_program_says_nothing(tmp_path):
    (tmp_path / "state.json").write_text('{"epoch": 3}')
    (tmp_path / "x.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert values(tmp_path) == ROWS[:1]
    (tmp_path / "state.json").write_text("none")
    assert values(tmp_path) == ROWS[:1]


def test_an_arrow_stream_in_memory_is_the_file(tmp_path):
    """What datasets keeps in its cache is such a stream."""
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, pa.Table.from_pylist(ROWS).schema) as writer:
        writer.write_table(pa.Table.from_pylist(ROWS))
    (tmp_path / "x.arrow").write_bytes(stream.getvalue())
    cached = datasets.Dataset.from_file(str(tmp_path / "x.arrow"))
    assert values(tmp_path / "x.arrow") == cached.to_list() == ROWS
