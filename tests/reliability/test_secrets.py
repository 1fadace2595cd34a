"""The key that is sent to a server is in nothing that is printed or written, whatever the server answers."""

import json
import logging

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.conftest import preferences, settings, tree
from tests.serving import Answered, Asked, completion, serving

pytestmark = pytest.mark.long

KEY = "quite-unlike-a-key-8f3a91c07d"
RECIPE = """
[prompts]
[given]
[judge]
rating_prompt = "judge_rating_bare"
retries = 0
"""


def repeating(status: int, body: object, headers: dict[str, str] | None = None):
    """A server whose answers repeat the key that it was sent."""

    def answer(asked: Asked, number: int) -> Answered:
        sent = asked.headers.get("authorization", "")
        assert KEY in sent
        given = json.loads(json.dumps(body).replace("{sent}", sent))
        return Answered(status, given, {k: v.replace("{sent}", sent) for k, v in (headers or {}).items()})

    return answer


SERVERS = {
    "401": repeating(401, {"error": {"message": "Incorrect API key provided: {sent}"}}),
    "400": repeating(400, {"error": {"message": "what is {sent}?", "code": "{sent}"}}),
    "404": repeating(404, {"detail": "{sent}"}),
    "429": repeating(429, {"error": {"message": "{sent} has asked too often"}}, {"retry-after": "0"}),
    "500": repeating(500, {"traceback": "KeyError: {sent}"}),
    "a redirect": repeating(302, {}, {"location": "http://127.0.0.1:9/{sent}"}),
    "not a chat": repeating(200, {"choices": [{"message": {"content": "{sent}"}}]}),
    "a text": repeating(200, "{sent}"),
    "an answer": repeating(200, completion("{sent}", [("{sent}", {"{sent}": -0.1})])),
    "a header": repeating(200, completion("3", [("3", {"3": -0.1})]), {"x-key": "{sent}"}),
}


def test_no_server_gets_the_key_printed_or_written(tmp_path, trials, monkeypatch, caplog, capfd):
    from engine.cli import main

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences(4, 3)))
    with trials("a server that repeats the key it was sent") as trial:
        for number, (what, answer) in enumerate(SERVERS.items()):
            run = tmp_path / f"run {number}"
            with trial(what), serving(answer) as server:
                words = ["precompute", str(tmp_path / "recipe.toml"), "-o", str(run)]
                words += settings(
                    prompts__source=tmp_path / "rows.jsonl",
                    judge__base_url=server.base_url,
                    judge__model="there",
                )
                made = CliRunner().invoke(main, words)
                looked = CliRunner().invoke(main, ["sql", str(run), "from rejects", "--format", "json"])
                printed = capfd.readouterr()
                assert server.asked and made.output
                said = made.output + looked.output + printed.out + printed.err
                assert KEY not in said, said
                assert not any(KEY in record.getMessage() for record in caplog.records)
                for name, content in tree(tmp_path).items():
                    assert KEY.encode() not in content, name
                for path in run.rglob("*.parquet"):
                    assert KEY not in str(pq.read_table(path).to_pylist()), path
