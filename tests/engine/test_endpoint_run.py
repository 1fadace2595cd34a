"""A run whose judge and rewriter are behind a server, by the command: what it writes, says and goes on with.

No key stands in any file of the run or in anything that is printed, whatever the server sends back.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, command, preferences, settings, tree
from tests.serving import Answered, completion, serving

pytestmark = pytest.mark.long

KEY = "test-key-8f3a91c07d"
RECIPE = """
[prompts]
shards = 3
[given]
[judge]
rating_prompt = "judge_rating_bare"
retries = 1
[rewrite]
retries = 1
too_far = 50.0
[model]
"""


@pytest.fixture
def words(tmp_path, model_path):
    """The command line of a run with a judge and a rewriter behind servers, less its -o and base_url."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    rows = "".join(json.dumps(row) + "\n" for row in preferences(4, 12))
    (tmp_path / "rows.jsonl").write_text(rows)
    return [
        "engine",
        "precompute",
        tmp_path / "recipe.toml",
        "-o",
        tmp_path / "run",
        *settings(
            prompts__source=tmp_path / "rows.jsonl",
            model__name=model_path,
            judge__model="there",
            rewrite__model="there",
        ),
    ]


def at(server) -> list[str]:
    return settings(judge__base_url=server.base_url, rewrite__base_url=server.base_url)


def environment(key: str = KEY) -> dict[str, str]:
    return os.environ | {"OPENAI_API_KEY": key}


def mark_or_rewrite(one, number) -> Answered:
    """A mark by the response's length, and a rewrite; it sends the key back, as no server should."""
    if one.path.endswith("/models"):
        return Answered(body={"object": "list", "data": [{"id": "there", "object": "model"}]})
    question = one.body["messages"][0]["content"]
    if "logprobs" in one.body:
        mark = str(1 + len(question) % 5)
        return Answered(
            body=completion(mark, [(mark, {mark: -0.1, "3": -3.0} if mark != "3" else {mark: -0.1})])
        )
    return Answered(body=completion(f"rewritten, key {one.headers['authorization']}"))


def check_no_key(folder, *said: str) -> None:
    for name, content in tree(folder).items():
        assert KEY.encode() not in content, name
    for path in folder.rglob("*.parquet"):  # compressed
        assert KEY not in str(pq.read_table(path).to_pylist()), path
    assert all(KEY not in text for text in said)


def test_a_run_by_servers_opens_no_model_and_holds_no_key(words, tmp_path):
    with serving(mark_or_rewrite) as server:
        done = command(*words, *at(server), env=environment())
        assert {chat.headers["authorization"] for chat in server.chats} == {f"Bearer {KEY}"}
        count = len(server.asked)
        again = command(*words, *at(server), *settings(judge__concurrency=2), env=environment(""))
        assert "nothing to do" in again.stdout and len(server.asked) == count
    assert f"judge: there at {server.base_url}" in done.stdout
    assert "on transformers" not in done.stdout, "no stage opens a model here"
    lines = dict(line.split(": ", 1) for line in done.stderr.splitlines() if ": " in line)
    assert lines["judge"].startswith("24 responses in ") and " responses in " in lines["rewrite"]
    check_no_key(tmp_path / "run", done.stdout, done.stderr)
    out = command(
        "engine",
        "sql",
        tmp_path / "run",
        "select count(*) n, count(score) s from scores where scorer = 'rating'",
        "--format",
        "json",
    )
    assert json.loads(out.stdout) == {"n": 24, "s": 24}
    query = "select count(*) n from responses where source = 'rewritten'"
    assert json.loads(command("engine", "sql", tmp_path / "run", query, "--format", "json").stdout)["n"] > 0


def test_template_arguments_are_the_servers_to_give_to_its_template(words, tmp_path):
    arguments = ["--set", "judge.template_arguments.enable_thinking=false"]
    with serving(mark_or_rewrite) as server:
        command(*words, *at(server), *arguments, env=environment())
        judged = [chat for chat in server.chats if "logprobs" in chat.body]
        rewritten = [chat for chat in server.chats if chat.body["max_tokens"] > 100]
        assert {str(chat.body.get("chat_template_kwargs")) for chat in judged} == {
            "{'enable_thinking': False}"
        }
        assert rewritten and all("chat_template_kwargs" not in chat.body for chat in rewritten)
        before = len(server.chats)
        command(*words, *at(server), env=environment())
        assert len(server.chats) > before, "other arguments are other marks"


def test_a_server_that_fails_in_the_middle_keeps_what_is_done_and_the_command_goes_on(words, tmp_path):
    """Some of the first shard's questions are answered, later ones are not; then the server is well again."""
    fails = [True]

    def answer(one, number):
        if fails[0] and number > 14:
            return Answered(500, {"error": {"message": f"got {one.headers['authorization']}"}})
        return mark_or_rewrite(one, number)

    with serving(answer) as server:
        failed = command(*words, *at(server), env=environment(), code=1)
        assert "500" in failed.stderr and "Traceback" not in failed.stderr and "***" in failed.stderr
        fails[0] = False
        done = command(*words, *at(server), env=environment())
    check_no_key(tmp_path / "run", failed.stdout, failed.stderr, done.stdout, done.stderr)
    with serving(mark_or_rewrite) as other:
        whole = [*words[:4], tmp_path / "whole", *words[5:]]
        command(*whole, *at(other), env=environment())
    scores = {}
    for name in ("run", "whole"):
        out = command(
            "engine",
            "sql",
            tmp_path / name,
            "select response_id, score from scores order by all",
            "--format",
            "json",
        )
        scores[name] = out.stdout
    assert scores["run"] == scores["whole"]


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (lambda one, number: Answered(401, {"error": {"message": one.headers["authorization"]}}), 1, "401"),
        (lambda one, number: Answered(200, one.headers["authorization"].encode()), 1, "502"),
        (lambda one, number: Answered(body=completion("3", None)), 1, "log-probs"),
    ],
)
def test_no_key_is_told_by_an_error(words, tmp_path, answer, code, says):
    with serving(answer) as server:
        failed = command(*words, *at(server), env=environment(), code=code)
    assert says in failed.stderr and "Traceback" not in failed.stderr
    check_no_key(tmp_path / "run", failed.stdout, failed.stderr)


def test_a_server_whose_answers_make_no_sense_stops_the_run_at_the_first_shard(words, tmp_path):
    def answer(one, number):
        small = one.body["messages"][0]["content"] == "Say yes."
        return mark_or_rewrite(one, number) if small else Answered(200, {"choices": []})

    with serving(answer) as server:
        failed = command(*words, *at(server), *settings(prompts__shards=1), env=environment(), code=1)
    assert "refused in a row, none answered between" in failed.stderr and "made no sense" in failed.stderr


def test_a_server_that_refuses_all_in_the_middle_costs_no_row(words, tmp_path):
    """Not one of its refusals is kept, and the command goes on when the account is active again."""
    refuses = [True]

    def answer(one, number):
        if refuses[0] and number > 14:
            return Answered(400, {"error": {"message": "Your account is not active"}})
        return mark_or_rewrite(one, number)

    with serving(answer) as server:
        failed = command(*words, *at(server), env=environment(), code=1)
        assert "not active" in failed.stderr and "same command" in failed.stderr
        refuses[0] = False
        command(*words, *at(server), env=environment())
    query = (
        "select count(*) n, count(score) s, (select count(*) from rejects where stage = 'judge') r "
        "from scores where scorer = 'rating'"
    )
    out = command("engine", "sql", tmp_path / "run", query, "--format", "json")
    assert json.loads(out.stdout) == {"n": 24, "s": 24, "r": 0}


def test_ctrl_c_ends_promptly_while_a_server_hangs(words, tmp_path):
    def answer(one, number):
        if one.path.endswith("/chat/completions"):
            server.stopping.wait(60)
        return mark_or_rewrite(one, number)

    with serving(answer) as server:
        line = [sys.executable, "-m", "engine.cli", *map(str, words[1:]), *at(server)]
        run = subprocess.Popen(line, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
        while not server.chats and run.poll() is None:
            time.sleep(0.1)
        time.sleep(0.5)
        run.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, said = run.communicate(timeout=30)
        assert time.monotonic() - began < 10
    assert run.returncode == 130 and "stopped" in said and "Traceback" not in said


SECRETS = [
    "https://me:pass-8f3a91c07d@host/v1",
    "https://host/v1?api_key=8f3a91c07d",
    "sk-proj-8f3a91c07d8f3a91c07d8f3a91c07d",
    "hf_8f3a91c07d8f3a91c07d8f3a91c07d",
    "sk-8f3a91c07d",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("key", ["judge.base_url", "judge.api_key_env", "judge.api_key", "rewrite.model"])
@pytest.mark.parametrize("place", ["file", "set"])
def test_a_recipe_that_holds_a_key_is_refused_without_showing_it(tmp_path, secret, key, place):
    from schemas.errors import UserError
    from schemas.recipe import load

    section, name = key.split(".")
    url = 'base_url = "http://host/v1"\n' if name == "model" else ""
    if name == "model" and secret.startswith("http"):
        secret = SECRETS[2]
    text = RECIPE.replace(
        f"[{section}]\n", f"[{section}]\n{url}" + (f'{name} = "{secret}"\n' if place == "file" else "")
    )
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(UserError) as error:
        load(tmp_path / "recipe.toml", [f"{key}={secret}"] if place == "set" else [])
    assert "8f3a91c07d" not in str(error.value) and section in str(error.value)


def test_names_that_only_look_like_keys_are_none(tmp_path):
    from schemas.recipe import load

    names = [
        "hf_dataset_of_preferences.jsonl",
        "runs/sk-learn-experiments-2024/rows.jsonl",
        "ask-me-anything-rows-2024",
    ]
    (tmp_path / "recipe.toml").write_text(f"[prompts]\nsource = {json.dumps(names)}\n")
    sources = load(tmp_path / "recipe.toml").section("prompts").source
    assert all(source.endswith(name) for source, name in zip(sources, names, strict=True))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('base_url = "http://host/v1"', "model"),
        ('base_url = "host:8000"\nmodel = "m"', "http"),
        ('base_url = "http://host:port/v1"\nmodel = "m"', "http"),
        ('base_url = "http://host/v1"\nmodel = "m"\nconcurrency = 0', "concurrency"),
        ('base_url = "http://host/v1"\nmodel = "m"\ntimeout = 0', "timeout"),
        ('api_key_env = "my key"', "environment variable"),
    ],
)
@pytest.mark.parametrize("section", ["judge", "rewrite"])
def test_what_cannot_work_is_refused_with_the_recipe(tmp_path, lines, says, section):
    from schemas.errors import UserError
    from schemas.recipe import load

    (tmp_path / "recipe.toml").write_text(f"[{section}]\n{lines}\n")
    with pytest.raises(UserError, match=says):
        load(tmp_path / "recipe.toml")


def test_a_key_that_is_named_and_not_there_is_told_before_any_work(words, tmp_path):
    with serving(mark_or_rewrite) as server:
        failed = command(*words, *at(server), *settings(judge__api_key_env="NO_SUCH_KEY_HERE"), code=1)
        assert not server.asked
    assert "NO_SUCH_KEY_HERE" in failed.stderr


def test_a_name_at_a_server_stays_a_name_where_a_folder_is_called_so(tmp_path, monkeypatch):
    from schemas.recipe import load

    (tmp_path / "there").mkdir()
    (tmp_path / "recipe.toml").write_text('[judge]\nbase_url = "http://host/v1"\nmodel = "there"\n')
    monkeypatch.chdir(tmp_path)
    assert load("recipe.toml").section("judge").model == "there"


def test_what_a_look_at_the_server_tells_before_the_work(words, tmp_path):
    def answer(one, number):
        if one.path.endswith("/models"):
            return Answered(body={"object": "list", "data": [{"id": "another", "object": "model"}]})
        return mark_or_rewrite(one, number)

    with serving(answer) as server:
        done = command(*words, *at(server), env=environment())
    assert "judge: the server does not list there; it lists another" in done.stdout
    gone = command(*words, *at(server), *settings(judge__min_mass=0.02), env=environment(), code=1)
    assert "cannot be reached now" in gone.stdout and "cannot be reached" in gone.stderr
    with serving(lambda one, number: Answered(401, {"error": {"message": "wrong key"}})) as strict:
        refused = command(*words[:4], tmp_path / "new", *words[5:], *at(strict), env=environment(), code=1)
    assert "wrong key" in refused.stderr and len(strict.asked) == 1
    assert not list((tmp_path / "new").rglob("*.parquet")), "the work had begun"
