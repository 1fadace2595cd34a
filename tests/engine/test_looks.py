"""A file that holds no rows is refused before any work, by what it looks like; a file of rows never is."""

import bz2
import gzip
import io
import json
import pickle
import sqlite3
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.inputs import find
from engine.looks import never_rows, not_rows
from engine.raw import rows
from engine.recognise import format_of, recognise
from schemas.errors import UserError
from schemas.sections import Prompts

ROWS = [{"prompt": f"Say {n}.", "chosen": f"{n}.", "rejected": "No."} for n in range(4)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def zipped(name):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(name, "text" * 99)
    return data.getvalue()


def tarred():
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x.jsonl"))
    return data.getvalue()


def arrow(stream):
    data = io.BytesIO()
    table = pa.Table.from_pylist(ROWS)
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(data, table.schema) as writer:
        writer.write_table(table)
    return data.getvalue()


def parquet():
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), data)
    return data.getvalue()


def sqlite(tmp_path):
    con = sqlite3.connect(tmp_path / "made.db")
    con.execute("create table t (prompt text)")
    con.commit()
    con.close()
    return (tmp_path / "made.db").read_bytes()


NEVER = {
    "UTF-16 with a mark": ("x.jsonl", LINES.encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    "UTF-16 without one": ("x.jsonl", LINES.encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
    "UTF-16 the other way": ("x.json", LINES.encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8"),
    "UTF-32": ("x.jsonl", LINES.encode("utf-32"), "iconv -f UTF-32 -t UTF-8"),
    "UTF-16 inside gzip": ("x.jsonl.gz", gzip.compress(LINES.encode("utf-16")), "UTF-16"),
    "Git LFS": ("x.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "HTML": ("x.json", b"\n<!DOCTYPE html><html><body>404", "a page of HTML"),
    "zip": ("x.jsonl", zipped("x.jsonl"), "a zip archive"),
    "xlsx": ("x.json", zipped("xl/workbook.xml"), "an Excel workbook"),
    "tar": ("x.jsonl", tarred(), "a tar archive"),
    "tar inside gzip": ("x.tar.gz", gzip.compress(tarred()), "a tar archive"),
    "pickle": ("x.json", pickle.dumps(ROWS), "a pickle"),
    "Parquet inside gzip": ("x.parquet.gz", gzip.compress(parquet()), "Parquet inside its compression"),
    "Arrow file": (
        "x.json",
        arrow(stream=False),
        "it is Arrow under another name; rename it to x.json.arrow",
    ),
    "Arrow stream": ("x.jsonl", arrow(stream=True), "it is Arrow under another name"),
    "Arrow inside gzip": ("x.arrow.gz", gzip.compress(arrow(stream=True)), "Arrow inside its compression"),
    "text under the name of Arrow": ("x.arrow", LINES.encode(), "is named .arrow"),
    "text under the name of Feather": ("x.feather", LINES.encode(), "is named .feather"),
    "old Feather": ("x.feather", b"FEA1" + bytes(99), "Feather of version 1"),
    "CSV in UTF-16": ("x.csv", "prompt,chosen\nq,a\n".encode("utf-16"), "text in UTF-16; rows are read in"),
    "CSV in UTF-16 without a mark": ("x.csv", "prompt,chosen\n".encode("utf-16-le"), "-f UTF-16LE"),
    "TSV in UTF-16 the other way": ("x.tsv", "prompt\tchosen\n".encode("utf-16-be"), "-f UTF-16BE"),
    "gzip under another name": ("x.jsonl", gzip.compress(LINES.encode()), "rename it to x.jsonl.gz"),
    "bz2 under another name": ("x.jsonl", bz2.compress(LINES.encode()), "rename it to x.jsonl.bz2"),
    "Parquet under another name": ("x.jsonl", parquet(), "rename it to x.jsonl.parquet"),
    "text under the name of gzip": ("x.jsonl.gz", LINES.encode(), "is named .gz"),
}


@pytest.mark.parametrize("kind", [*NEVER, "SQLite"])
@pytest.mark.parametrize("named", ["auto", "preference"])
def test_what_can_never_be_rows(tmp_path, kind, named):
    name, data, said = NEVER.get(kind, ("x.json", b"", "an SQLite data base"))
    if kind == "SQLite":
        data = sqlite(tmp_path)
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        format_of({name: path}, Prompts(format=named))
    assert said in str(error.value) and name in str(error.value)


COLUMNS = {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]}
INDENTED = "\n".join(json.dumps(row, indent=2) for row in ROWS)
NOT_ROWS = {
    "rows under a key": ("x.json", json.dumps({"version": 1, "data": ROWS}, indent=1), "under 'data'"),
    "rows under any key": ("x.json", json.dumps({"train": ROWS, "n": 4}), "the rows under 'train'"),
    "many rows under a key": ("x.json", json.dumps({"items": ROWS * 2000}, indent=1), "under 'items'"),
    "columns": ("x.json", json.dumps(COLUMNS), "object of columns (prompt, chosen, rejected)"),
    "many columns": ("x.json", '{"prompt":{"0":"' + "a" * 70_000 + '"}}', "object of columns (prompt"),
    "columns as lists": ("x.json", json.dumps({"prompt": ["a", "b"], "chosen": ["c", "d"]}), "of columns"),
    "rows by number": ("x.json", json.dumps(dict(enumerate(ROWS))), "rows by their number"),
    "indented objects": ("x.jsonl", INDENTED, "one after another"),
    "one indented object": ("x.json", json.dumps(ROWS[0], indent=2), "over several lines"),
    "CSV by another name": ("x.jsonl", '"prompt","chosen"\n"a","b"\n', "CSV with the columns prompt, chosen"),
    "CSV as plain text": ("x.txt", "prompt,chosen\na,b\n", "under a name that ends in .csv; rename it"),
    "TSV by another name": ("x.txt", "prompt\tchosen\na\tb\n", "under a name that ends in .tsv; rename it"),
    "semicolons": ("x.txt", "prompt;chosen\na;b\n", "pandas.read_csv('x.txt', sep=';', dtype=str"),
    "CSV without names": ("x.csv", "Who is it?,He.,She.\nWhat is it?,This.,That.\n", "write a line of names"),
    "TSV without names": ("x.tsv", "Who is it?\tHe.\tI.\n" * 2, "its first line should name the columns"),
    "Python": ("x.jsonl", "".join(f"{row}\n" for row in ROWS), "single quotes"),
    "a list in Python": ("x.jsonl", str(ROWS), "single quotes"),
    "pandas' CSV": ("x.txt", ",prompt,chosen\n0,a,b\n", "columns prompt, chosen; such a table"),
    "CSV of one column": ("x.txt", "prompt\nWhat is it?\nWho, then?\n", "CSV of one column"),
    "CSV with units": ("x.txt", "prompt (en),score (%)\na,1\n", "the columns prompt (en), score (%)"),
    "lone returns": ("x.jsonl", LINES.replace("\n", "\r"), "tr '\\r' '\\n' < x.jsonl"),
    "objects in a row": ("x.jsonl", LINES.replace("\n", ""), "objects on one line, one after another"),
    "commas at the ends": ("x.jsonl", LINES.replace("\n", ",\n"), "a comma stands between its objects"),
    "plain text": ("x.txt", "Tell me of the sea.\nAnd of ships, which I like.\n", "plain text"),
    "prose with commas": ("x.txt", "Ships, which I like.\nThe sea, too.\n", "plain text"),
    "a list of strings": ("x.json", json.dumps(["a", "b"]), "jq -c '.[] | {prompt: .}' x.json"),
    "lines of strings": ("x.jsonl", '"a"\n"b"\n', "its lines are strings"),
    "lines of lists": ("x.jsonl", '["q", "a", "b"]\n["r", "a", "b"]\n', "its lines are lists"),
    "JSON in strings": ("x.jsonl", "".join(json.dumps(json.dumps(r)) + "\n" for r in ROWS), "fromjson"),
    "rows by id": ("x.json", json.dumps({f"k{n}": r for n, r in enumerate(ROWS)}), "rows by their ids"),
    "many by id": ("x.json", json.dumps({f"k{n}": r for n, r in enumerate(ROWS * 900)}), "by their ids"),
    "rows two levels down": ("x.json", json.dumps({"set": {"rows": ROWS}}), "jq -c '.set.rows[]' x.json"),
    "many two levels down": ("x.json", json.dumps({"set": {"rows": ROWS * 900}}), "'.set.rows[]'"),
    "the datasets server": (
        "x.json",
        json.dumps({"features": [{"name": "q"}], "rows": [{"row_idx": 0, "row": ROWS[0]}]}),
        "jq -c '.rows[].row' x.json > rows.jsonl",
    ),
    "splits": (
        "x.json",
        json.dumps({"train": ROWS, "test": ROWS}),
        "jq -c '.train[]' x.json > train.jsonl; jq -c '.test[]' x.json > test.jsonl",
    ),
    "nan on one line": ("x.jsonl", '{"prompt": "a", "chosen": nan, "n": None}\n', "it says nan, None, which"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_ROWS)
@pytest.mark.parametrize("named", ["auto", "preference"])
def test_what_is_not_in_rows(tmp_path, kind, named):
    name, text, said = NOT_ROWS[kind]
    path = tmp_path / name
    path.write_text(text)
    assert never_rows(path) is None
    with pytest.raises(UserError) as error:
        format_of({name: path}, Prompts(format=named))
    assert said in str(error.value) and name in str(error.value)


@pytest.mark.parametrize(
    ("encoding", "text", "byte"), [("gbk", "月亮", 13), ("latin-1", "mañana", 15), ("cp1252", "“ja”", 13)]
)
def test_another_encoding_is_said_with_its_place(tmp_path, encoding, text, byte):
    path = tmp_path / "x.jsonl"
    row = {"prompt": text, "chosen": "a", "rejected": "b"}
    path.write_bytes((json.dumps(row, ensure_ascii=False) + "\n").encode(encoding) * 3)
    with pytest.raises(UserError, match=rf"not UTF-8 \(first at byte {byte}\).*iconv -f GBK -t UTF-8 x"):
        format_of({"x.jsonl": path}, Prompts())
    (tmp_path / "y.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert "y.jsonl" in not_rows(tmp_path / "y.jsonl.gz")
    # A character that the first 64 KiB cut through is none that is wrong.
    path.write_text('{"q": "' + "é" * 40_000 + "月" * 40_000)
    assert "UTF-8" not in (not_rows(path) or "")


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_under_a_name_of_json_lines_is_read(tmp_path, indent):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(ROWS, indent=indent) + "\n")
    assert [json.loads(row.text) for row in rows({"x": path}, 1000)] == ROWS
    assert format_of({"x.jsonl": path}, Prompts()).stem == "preference"


def test_a_broken_first_line_in_brackets_hides_no_other(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('[{"a": 1}\n' + LINES)
    assert [row.reason for row in rows({"x": path}, 1000)] == ["bad_json"] + [None] * len(ROWS)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.jsonl.gz", "x.txt", "X.JSONL"])
def test_rows_are_rows_under_any_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(LINES.encode()) if name.endswith("gz") else LINES.encode())
    assert format_of({name: path}, Prompts()).stem == "preference"


def test_one_row_is_a_row(tmp_path):
    """Its turns and its completions are no rows of a file that is one object."""
    for value, format_name in (
        ({"prompt": "q", "chosen": [{"role": "assistant", "content": "a"}],
          "rejected": [{"role": "assistant", "content": "b"}]}, "preference"),
        ({"instruction": "q", "completions": [{"response": "a", "score": 1}]}, "ultrafeedback"),
    ):  # fmt: skip
        path = tmp_path / "x.json"
        path.write_text(json.dumps(value))
        assert format_of({"x.json": path}, Prompts()).stem == format_name


def test_an_empty_file_is_no_input_but_may_stand_beside_one(tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(UserError, match=r"a\.jsonl is empty"):
        format_of(find([str(tmp_path)]), Prompts())
    assert not_rows(tmp_path / "a.jsonl") == "it is empty"
    (tmp_path / "b.jsonl").write_text(LINES)
    assert format_of(find([str(tmp_path)]), Prompts()).stem == "preference"


def test_a_column_split_that_is_none_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row | {"split": "harmless"}) + "\n" for row in ROWS))
    with pytest.raises(UserError, match=r"split is 'harmless'; expected train.*prompts\.split_column = \"\""):
        format_of(find([str(tmp_path)]), Prompts())
    assert format_of(find([str(tmp_path)]), Prompts(split_column="")).stem == "preference"


def test_many_files_are_all_looked_at(tmp_path):
    for number in range(600):
        (tmp_path / f"{number:04}.jsonl").write_text(LINES)
    assert format_of(find([str(tmp_path)]), Prompts()).stem == "preference"
    (tmp_path / "0599.jsonl").write_text('{"q": "a"}\n')
    with pytest.raises(UserError, match=r"rows of 0599\.jsonl: its columns are q"):
        format_of(find([str(tmp_path)]), Prompts())


def test_auto_looks_at_every_file(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "b.jsonl").write_text('{"prompt": "q", "completion": "a", "label": true}\n')
    with pytest.raises(UserError, match=r"a\.jsonl was taken for preference.* rows of b\.jsonl.*label"):
        format_of(find([str(tmp_path)]), Prompts())
    (tmp_path / "b.jsonl").write_text(INDENTED)
    with pytest.raises(UserError, match=r"b\.jsonl has no rows that can be read.*several lines"):
        format_of(find([str(tmp_path)]), Prompts())
    images = [row | {"images": ["x.png"]} for row in ROWS]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, images)))
    with pytest.raises(UserError, match=r'b\.jsonl is in the format preference.*ignore = \["images"\]'):
        format_of(find([str(tmp_path)]), Prompts())
    assert format_of(find([str(tmp_path)]), Prompts(ignore=("images",))).stem == "preference"


KINDS = [
    ({"prompt": "q", "completion": "a", "label": False}, "KTO"),
    ({"prompt": "q", "response_0": "a", "response_1": "b", "safer_response_id": 1}, "numbered 0 and 1"),
    ({"instruction": "q", "input": "", "output": "a"}, "Alpaca"),
    ({"prompt": "q", "responses": ["a", "b"]}, "several answers"),
    ({"prompt": "q", "response": "a", "helpfulness": 3, "correctness": 3}, "(HelpSteer)"),
    ({"question": {"full_text": "q"}, "answer_0": "a", "answer_1": "b", "score_0": 1}, "webgpt"),
    ({"info": {"post": "q"}, "summaries": [{"text": "a"}], "choice": 1}, "summarize_from_feedback"),
    ({"question": "q", "response_j": "a", "response_k": "b"}, "stack-exchange-paired"),
    ({"question": "q", "chosen": "a", "rejected": "b"}, "pairs with the prompt in question"),
    ({"instruction": "q", "generations": ["a", "b"]}, "(distilabel)"),
    ({"instruction": "q", "output_1": "a", "output_2": "b", "preference": 2}, "AlpacaFarm"),
    ({"conversations": [{"from": "human", "value": "q"}], "label": True}, "KTO"),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "ShareGPT"),
    ({"instruction": "q", "context": "c", "response": "a"}, "Dolly"),
    ({"response_a": "a", "response_b": "b", "winner_model_a": 1}, "arena-55k"),
    ({"fields": {"prompt": "q"}, "responses": [{"values": 1}], "status": "pending"}, "Argilla"),
    ({"instruction": "q"}, "prompts in the column instruction"),
    ({"question": "q"}, '[prompts.columns] prompt = "question" (--set prompts.columns.prompt=question)'),
    ({"query": "q"}, "prompts in the column query"),
    ({"text": "q"}, "prompts in the column text"),
]


@pytest.mark.parametrize(("row", "said"), KINDS)
def test_rows_of_a_known_kind_are_called_by_it(tmp_path, row, said):
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(row)}\n" * 3)
    with pytest.raises(UserError) as error:
        format_of({"x.jsonl": path}, Prompts())
    assert said in str(error.value)
    names = [name for name in row if not name.endswith("_id") and name not in ("messages", "prompt")]
    assert all(name in str(error.value) for name in names if row[name])


def test_a_refusal_names_the_columns_and_what_could_be_the_prompt(tmp_path):
    path = tmp_path / "x.jsonl"
    row = {"system": "s", "question": "q", "chosen": "The moon.", "rejected": "The sea."}
    path.write_text(f"{json.dumps(row)}\n" * 3)
    with pytest.raises(
        UserError, match=r"columns are system, question, chosen, rejected;.*in question; rename"
    ):
        recognise(list(rows({"x": path}, 1000)))


def test_scored_rows_are_refused_with_a_setting_to_copy(tmp_path):
    """The columns of a well-known data set; those that the row leaves empty are not named."""
    turns = [{"role": "user", "content": "q"}]
    row = {
        "prompt": "q",
        "prompt_id": "7",
        "chosen": [*turns, {"role": "assistant", "content": "a"}],
        "rejected": [*turns, {"role": "assistant", "content": "b"}],
        "history": turns,
        "score_chosen": 8.5,
        "margin": 8.0,
        "tools": [],
    }
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(row)}\n" * 3)
    ignore = ["history", "margin"]
    with pytest.raises(UserError) as error:
        format_of({"x.jsonl": path}, Prompts())
    assert f"ignore = {json.dumps(ignore)}" in str(error.value)
    assert format_of({"x.jsonl": path}, Prompts(ignore=tuple(ignore))).stem == "preference"


def refusal(path, named="auto", **settings):
    with pytest.raises(UserError) as error:
        format_of({path.name: path}, Prompts(format=named, **settings))
    return str(error.value)


def written(path, row, count=3):
    path.write_text(f"{json.dumps(row)}\n" * count)
    return path


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("response_chosen", "response_rejected"),
        ("chosen_response", "rejected_response"),
        ("positive", "negative"),
        ("win", "lose"),
        ("Chosen", "Rejected"),
        ("preferred_output", "dispreferred_output"),
        ("preferred_output", "non_preferred_output"),
        ("winning answer", "losing answer"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_pairs_under_other_names_are_not_taken_for_prompts(tmp_path, better, worse, turned):
    values = {worse: "No.", better: "Yes."} if turned else {better: "Yes.", worse: "No."}
    path = written(tmp_path / "x.jsonl", {"prompt": "Is it?", "id": 3} | values)
    said = refusal(path)
    assert f'[prompts.columns] chosen = "{better}", rejected = "{worse}"' in said and "ignore" not in said
    mapped = Prompts(columns={"chosen": better, "rejected": worse})
    assert format_of({"x": path}, mapped).stem == "preference"
    renamed = {"prompt": "Is it?", "id": 3, "chosen": "Yes.", "rejected": "No."}
    assert format_of({"x": written(path, renamed)}, Prompts()).stem == "preference"


def test_answers_that_do_not_say_which_is_better(tmp_path):
    row = {"messages": [{"role": "user", "content": "q"}], "output_a": "x", "output_b": "y", "winner": "a"}
    said = refusal(written(tmp_path / "x.jsonl", row))
    assert 'where it is output_a: [prompts.columns] chosen = "output_a", rejected = "output_b"' in said
    (tmp_path / "x.json").write_text(json.dumps([row]))
    names = {"prompt": "messages", "chosen": "output_a", "rejected": "output_b"}
    mapped = Prompts(columns=names, metadata=("winner",))
    assert format_of({"x.json": tmp_path / "x.json"}, mapped).stem == "preference"
    ignored = Prompts(ignore=("output_a", "output_b", "winner"))
    assert format_of({"x.json": tmp_path / "x.json"}, ignored).stem == "prompts"


@pytest.mark.parametrize(
    "more",
    [
        {"answer_type": "text"},
        {"win_rate": 0.5},
        {"chosen_model": "m"},
        {"source": "win"},
        {"negative": None},
    ],
)
def test_what_only_tells_about_a_prompt_is_no_answer(tmp_path, more):
    path = written(tmp_path / "x.jsonl", {"prompt": "q"} | more)
    assert format_of({"x.jsonl": path}, Prompts()).stem == "prompts"


def test_a_spare_column_of_pairs_is_no_kind_of_its_own(tmp_path):
    path = written(tmp_path / "x.jsonl", ROWS[0] | {"instruction": "Be brief.", "input": "x"})
    said = refusal(path)
    assert 'ignore = ["instruction", "input"]' in said and "look like" not in said


def test_the_format_that_says_most_is_heard(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = written(tmp_path / "x.jsonl", {"chosen": turns, "rejected": [{"role": "user", "content": "r"}]})
    assert "preference says: no_response: a side does not end" in refusal(path)
    assert "prompts says: last_turn" in refusal(written(path, {"messages": turns}))
    assert "drop the last turn" in refusal(path)
    assert "says:" not in refusal(written(path, {"a": "b"}))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"Prompt": "q", "Chosen": "a", "Rejected": "b"},
            'prompt = "Prompt", chosen = "Chosen", rejected = "Rej',
        ),
        ({"prompt ": "q", "chosen": "a", "rejected": "b"}, 'rename "prompt " to prompt'),
        ({"MESSAGES": [{"role": "user", "content": "q"}]}, 'rename "MESSAGES" to messages'),
    ],
)
def test_a_name_that_is_nearly_right_is_corrected(tmp_path, row, said):
    assert said in refusal(written(tmp_path / "x.jsonl", row))


def test_a_named_format_that_reads_nothing_is_refused_at_once(tmp_path):
    path = written(tmp_path / "x.jsonl", ROWS[0])
    assert "of the other formats preference reads 3 of them" in refusal(path, "ultrafeedback")
    assert "'Prompt' to prompt".replace("'", '"') in refusal(written(path, {"Prompt": "q"}), "prompts")
    images = refusal(written(path, ROWS[0] | {"images": ["x.png"]}), "preference")
    assert "prompts.format = preference: x.jsonl is in the format preference, but 3" in images
    # One row that it reads is enough: the others are refused one by one.
    path.write_text('{"a": 1}\n' * 9 + LINES)
    assert format_of({"x.jsonl": path}, Prompts(format="preference")).stem == "preference"


@pytest.mark.parametrize("named", ["trl", "best_vs_worst", "overview", "Preference"])
def test_a_format_that_is_none_is_told_the_formats_alone(tmp_path, named):
    said = refusal(written(tmp_path / "x.jsonl", ROWS[0]), named)
    assert "preference" in said and "length_bias" not in said and "judge_and_truth" not in said


def test_a_query_that_is_no_format_is_not_sent_to_tables_of_duckdb(tmp_path):
    (tmp_path / "mine.sql").write_text("select * from pairs")
    said = refusal(written(tmp_path / "x.jsonl", ROWS[0]), str(tmp_path / "mine.sql"))
    assert "pairs does not exist" in said and "sqlite_master" not in said


def test_a_bad_file_is_blamed_on_the_setting_that_names_it(tmp_path):
    files = {"a.jsonl": written(tmp_path / "a.jsonl", ROWS[0])}
    files["b.txt"] = tmp_path / "b.txt"
    for text, said in (("prompt,chosen\na,b\n", "prompts.test_source: b.txt"), ('{"x": 1}\n', "out of prom")):
        files["b.txt"].write_text(text)
        with pytest.raises(UserError, match=said) as error:
            format_of(files, Prompts(), of_test_source={"b.txt"})
        assert "prompts.source" not in str(error.value)
