"""The report: a page that holds what the run holds, works without a network, and obeys no text in it."""

import base64
import contextlib
import gzip
import hashlib
import json
import random
import re
import shutil
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from engine import clocks, sql
from engine.commands.precompute import precompute
from engine.report import build as building
from engine.report.build import build
from engine.report.pairs import MOST_LETTERS, for_page
from engine.report.sample import sample
from engine.story.tokens import Tokens
from engine.views import views
from schemas.errors import UserError
from schemas.printable import printable
from schemas.recipe import load
from schemas.store import open_store
from schemas.tables import TABLES, table
from tests.browser import look_at_all, opened
from tests.conftest import command, settings

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "</script><script>alert(3)</script>",
    '"><svg onload=alert(4)>',
    "\x1b]0;title\x07\x1b[2J",
    "\u202egnp.exe\u202c \u2067rtl\u2069",
    "{{ 7 * 7 }} {% raw %} ${7*7} <!-- -->",
    "&lt;b&gt; &amp; \u0645\u0631\u062d\u0628\u0627 \U0001f600",
)
_SIDES = ("chosen", "rejected")
RECIPE = "[model]\n[prompts]\n[given]\n[logprobs]\n[pairs]\ntest_share = 0.2\n"


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory, model_path):
    """A run of texts that would do something in a page or a terminal that obeys them; some are refused."""
    folder = tmp_path_factory.mktemp("report")
    draw = random.Random(0)
    rows: list[dict] = []
    for number in range(60):
        words = [HOSTILE[number % len(HOSTILE)], f"word{number}", draw.choice(HOSTILE)]
        rows.append(
            {
                "prompt": " ".join(words),
                "chosen": f"yes {words[2]} and {number} more",
                "rejected": f"no {words[0]} and {number} fewer",
            }
        )
    for text in HOSTILE:
        rows.append({"prompt": text, "chosen": text})
    data = folder / "<b>\u202erows\x1b[2J.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.toml").write_text(RECIPE)
    words = settings(prompts__source=data, prompts__shards=2, model__name=model_path)
    run = folder / "run <i onclick=alert(5)>&amp;"
    precompute(run, load(folder / "recipe.toml", [word for word in words if word != "--set"]), 1)
    return run


@pytest.fixture(scope="module")
def page_of_hostile(hostile_run):
    path = hostile_run.parent / "report.html"
    said = command("engine", "report", hostile_run, "-o", path).stdout
    assert "all 60 pairs" in said and "\x1b" not in said
    return path


def unpacked(html: str, name: str) -> str:
    """What a page holds under an id."""
    packed = re.search(f'id="{name}">([^<]*)<', html)[1]
    return gzip.decompress(base64.b64decode(packed)).decode()


def pairs_in(html: str) -> list[dict]:
    """The pairs that a page holds."""
    return [json.loads(line) for line in unpacked(html, "pairs-data").splitlines()]


def test_the_page_holds_the_pairs_as_they_are(hostile_run, page_of_hostile):
    """Every pair, with its texts, what is changed in them, and its tokens with their log-probs."""
    held = {pair["id"]: pair for pair in pairs_in(page_of_hostile.read_text())}
    rows = views(open_store(hostile_run))["pairs"].to_table().to_pylist()
    assert held.keys() == {row["pair_id"] for row in rows} and len(held) == 60
    for row in rows:
        pair = held[row["pair_id"]]
        assert pair["turns"][-1][1] == printable(row["prompt"])
        kept: dict[str, str] = {}
        for side in ("chosen", "rejected"):
            there = pair[side]
            assert there["text"] == printable(row[side])
            assert there["logps"] == pytest.approx(row[f"ref_{side}_logps"], rel=1e-4)
            joined = there.get("token_text", there["text"])
            assert sum(there["tokens"]) == len(joined) and joined.startswith(there["text"].rstrip())
            assert there["token_logps"] == pytest.approx(row[f"ref_{side}_token_logps"], abs=0.006)
            same, place = "", 0
            for begin, end in there["own"]:
                assert place <= begin < end
                same += there["text"][place:begin]
                place = end
            kept[side] = same + there["text"][place:]
        # What is marked in neither is in both; but for blanks, which may be marked in one.
        assert "".join(kept["chosen"].split()) == "".join(kept["rejected"].split())


class Tags(HTMLParser):
    """The tags of a page and the names of their attributes, and the texts of its scripts."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def test_nothing_in_the_page_is_obeyed(page_of_hostile):
    """As another reader of HTML sees it: no tag, attribute or script is a text's; none may run but ours."""
    html = page_of_hostile.read_text()
    assert "\x1b" not in html and "\u202e" not in html and "\u2067" not in html
    read = Tags(html)
    assert not {"img", "i", "b", "iframe", "link"} & set(read.tags) and read.tags.count("script") == 4
    assert not [name for name in read.attributes if name.startswith("on")]
    policy = unescape(re.search('Content-Security-Policy" content="([^"]*)"', html)[1])
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    for script in read.scripts[2:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_in_a_browser_it_draws_asks_nothing_and_shows_texts_as_texts(page_of_hostile, hostile_run):
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light")):
        with opened(page_of_hostile, width, scheme) as seen:
            page = seen.page
            page.check("#open")
            look_at_all(page)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                "wider than the screen"
            )
            shown = page.evaluate("[...document.querySelectorAll('.side .text')].map(one => one.textContent)")
            assert len(shown) == 40 and any("<script>alert(1)</script>" in text for text in shown)
            assert (
                page.evaluate("document.querySelectorAll('.side script, .side img, main svg[onload]').length")
                == 0
            )
            assert page.inner_text("h1").startswith("run <i onclick")
            assert "<b>\\u202erows\\x1b[2J.jsonl" in page.inner_text("#made")
            assert seen.complaints == []


def test_pairs_are_found_sorted_and_shaded(page_of_hostile):
    held = pairs_in(page_of_hostile.read_text())
    with opened(page_of_hostile) as seen:
        page = seen.page

        def count() -> int:
            return int(page.inner_text("#count").split()[0].replace(",", ""))

        def column(number: int) -> list[str]:
            path = f"#rows .pair td:nth-child({number})"
            return page.evaluate(
                "path => [...document.querySelectorAll(path)].map(one => one.innerText)", path
            )

        assert count() == 60 and len(column(1)) == 20 and page.is_disabled("#previous")
        page.keyboard.press("n")
        assert column(1)[0] == "21"
        page.keyboard.press("p")
        page.keyboard.press("/")  # the search has the focus
        page.keyboard.type("word17")
        assert count() == 1 and "word17" in column(2)[0]
        page.fill("#search", "no such words")
        assert count() == 0 and page.inner_text("#page") == "none"
        page.fill("#search", "")
        page.select_option("#split", "test")
        assert count() == sum(pair["split"] == "test" for pair in held) and set(column(7)) == {"test"}
        page.select_option("#split", "")
        for key, sign in (("ascending", 1), ("descending", -1)):
            page.click("[data-sort=ref]")
            assert page.get_attribute("th:has([data-sort=ref])", "aria-sort") == key
            shown = [float(value) for value in column(4)]
            wanted = sorted((pair["ref"] for pair in held), key=lambda value: sign * value)[:20]
            assert shown == pytest.approx(wanted, rel=0.01)
        # By keyboard alone: a row is opened, and its tokens are shaded.
        page.focus("#rows tr:nth-child(3) .prompt")
        page.keyboard.press("Enter")
        assert page.get_attribute("#rows tr:nth-child(3) .prompt", "aria-expanded") == "true"
        marked = page.locator(".side mark").count()
        page.check("#tokens")
        weights = "tokens => tokens.map(one => [one.title, one.style.getPropertyValue('--weight')])"
        shaded = page.eval_on_selector_all(".token", weights)
        assert marked and len(shaded) > 10
        for title, weight in shaded:
            assert float(weight) == pytest.approx(min(1, -float(title.split()[0]) / 8), abs=0.02)
        # A token that is changed is shaded as any other, not coloured as a whole edit.
        colors = "tokens => tokens.map(one => getComputedStyle(one).backgroundColor)"
        of_changed = page.eval_on_selector_all(".token.own", colors)
        assert of_changed and all(color.startswith("rgba(190, 70, 20,") for color in of_changed)
        lines = "tokens => tokens.map(one => getComputedStyle(one).boxShadow)"
        under = {side: set(page.eval_on_selector_all(f".{side} .token.own", lines)) for side in _SIDES}
        assert len(under["chosen"]) == len(under["rejected"]) == 1 and under["chosen"] != under["rejected"]
        page.uncheck("#tokens")
        page.uncheck("#edits")
        assert page.locator(".side mark").count() == 0
        assert seen.complaints == []


def many_pairs(count: int) -> dict:
    """Tables with pairs of long texts that do not compress well."""
    draw = random.Random(0)

    def text() -> str:
        return " ".join(f"{draw.getrandbits(32):x}" for _ in range(120))

    chosen = [text() for _ in range(count)]
    columns = {
        "pair_id": [f"{number:032x}" for number in range(count)],
        "prompt_id": [f"p{number}" for number in range(count)],
        "split": ["train"] * count,
        "source": ["given"] * count,
        "prompt": [text() for _ in range(count)],
        "chosen": chosen,
        "rejected": [f"{one} {text()}" for one in chosen],
        "chosen_length": [120] * count,
        "rejected_length": [240] * count,
        "ref_chosen_logps": [-float(number % 97) for number in range(count)],
        "ref_rejected_logps": [-200.0] * count,
    }
    return {"pairs": table("pairs", columns), "prompts": table("prompts")}


def test_ten_thousand_pairs_are_sampled_into_a_page_of_five_megabytes():
    with contextlib.closing(sql.closed(many_pairs(10_000))) as con:
        one, other = (sample(con, None, 10_000, 3_700_000) for _ in range(2))
        few, none = sample(con, None, 7, 3_700_000), sample(con, None, 10_000, 100)
    assert one == other and one.there == 10_000
    assert 500 < one.shown < 10_000 and len(one.packed) < 3_700_000
    assert none.shown == 0 and none.text == "0 of 10,000 pairs"
    assert "the 7 in which the reference disagrees most" in few.text and "others" not in few.text
    assert f"{one.shown:,} of 10,000 pairs" in one.text
    lines = gzip.decompress(base64.b64decode(one.packed)).decode().splitlines()
    pairs = [json.loads(line) for line in lines]
    assert len({pair["id"] for pair in pairs}) == one.shown
    # The first hundred are those that the reference is most against; the others come from everywhere.
    assert max(pair["ref"] for pair in pairs[:100]) <= min(pair["ref"] for pair in pairs[100:])
    places = [int(pair["id"], 16) for pair in pairs[100:]]
    assert 3_000 < sum(places) / len(places) < 7_000
    assert few.shown == 7
    firsts = [json.loads(line)["ref"] for line in gzip_lines(few.packed)]
    assert firsts == sorted(firsts) == sorted(pair["ref"] for pair in pairs)[:7]


def gzip_lines(packed: str) -> list[str]:
    return gzip.decompress(base64.b64decode(packed)).decode().splitlines()


def test_a_page_of_ten_thousand_pairs_is_below_five_megabytes(made_run, monkeypatch):
    tables = {name: table(name) for name in TABLES} | many_pairs(10_000)
    monkeypatch.setattr(building, "views_of", lambda files: tables)
    html = build(open_store(made_run), [], 10_000).html
    assert 4_500_000 < len(html.encode()) < 5_000_000
    assert 500 < len(pairs_in(html)) < 10_000


def test_a_long_text_is_cut_off_and_says_so():
    row = many_pairs(1)["pairs"].to_pylist()[0] | {"chosen": "x" * (MOST_LETTERS + 5)}
    pair = for_page(row, None)
    assert pair["chosen"]["text"].endswith(f"… ({MOST_LETTERS + 5:,} characters)")
    assert "tokens" not in pair["chosen"] and pair["chosen"]["scores"] == {}


def test_a_run_with_every_kind_of_judge_shows_them(rich_run, tmp_path):
    page = build(open_store(rich_run), [], 10_000)
    drawn = charts_in(page.html)
    assert {"lengths", "letters", "ref_margins", "scores prompt_gain", "agreement"} <= set(drawn)
    agreement = drawn["agreement"]["data"]["values"]
    shares = {(row["one"], row["other"]): row["share"] for row in agreement}
    rows = views(open_store(rich_run))["pairs"].to_table().to_pylist()
    agrees = [(np.sign(row["ref_chosen_logps"] - row["ref_rejected_logps"]) + 1) / 2 for row in rows]
    assert shares["chosen", "reference"] == pytest.approx(np.mean(agrees))
    assert shares["reference", "chosen"] == shares["chosen", "reference"] and shares["chosen", "chosen"] == 1
    gains = [dict(row["chosen_scores"])["prompt_gain"] for row in rows]
    of_chosen = [row for row in drawn["scores prompt_gain"]["data"]["values"] if row["series"] == "chosen"]
    assert sum(row["count"] for row in of_chosen) == len(gains)
    lengths = drawn["lengths"]["data"]["values"]
    for series in ("chosen", "rejected", "prompt"):
        assert sum(row["count"] for row in lengths if row["series"] == series) == len(rows)


@pytest.fixture(scope="module")
def trained_run(rich_run, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    shutil.copytree(rich_run, run)
    more = settings(train__max_steps=4, train__eval_every=2)
    command("trainer", "run", rich_run.parent / "rich.toml", "-o", run, *more)
    return run


def charts_in(html: str) -> dict:
    return json.loads(unpacked(html, "charts-data"))


def test_a_run_that_is_not_finished_or_has_no_tokenizer_is_shown_as_it_is(made_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    (pairs,) = run.glob("pairs-*")
    for file in pairs.iterdir():
        if file.name != "facts.json":
            file.unlink()

    def no_tokens(store):
        raise UserError("tokens are shown by the tokenizer of the run's model: it is gone")

    monkeypatch.setattr(building.Tokens, "of", no_tokens)
    page = build(open_store(run), [], 100)
    assert "not finished" in page.html and "There are no pairs yet" in page.html
    assert page.summary == "no pairs yet" and "it is gone" in page.remarks[0]
    (tmp_path / "page.html").write_text(page.html)
    with opened(tmp_path / "page.html") as seen:
        look_at_all(seen.page)
        assert seen.complaints == []


def test_trainings_are_drawn_and_a_damaged_one_is_named(trained_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    (one,) = run.glob("train-*")
    shutil.copytree(one, tmp_path / "elsewhere" / one.name)
    (run / "train-0123456789ab").mkdir()
    (run / "train-0123456789ab" / "facts.json").write_text("{")
    page = build(open_store(run), [open_store(tmp_path / "elsewhere")], 100)
    assert "facts.json" in page.remarks[0]
    drawn = charts_in(page.html)
    assert {"accuracies", "margin", "loss", "grad_norm", "tokens_per_second", "memory"} <= set(drawn)
    (tmp_path / "page.html").write_text(page.html)
    with opened(tmp_path / "page.html") as seen:
        look_at_all(seen.page)
        assert seen.page.locator("#training .chart svg.marks").count() >= 9
        assert seen.page.locator("#training tbody tr").count() == 2
        assert seen.complaints == []


def test_how_long_commands_worked_is_kept_apart(made_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    worked = clocks.read(open_store(run))
    assert worked.commands == 1 and worked.seconds > 0
    begun = '{"seconds": 1, "began": "2026-01-01", "stages": '
    damaged = (
        "{",
        "[]",
        '{"seconds": 1}',
        begun + '{"pairs": {"shards": 1, "responses": 1, "tokens": 1, "seconds": 1}, "a": 1}}',
        begun + '{"a": {"shards": 1e999, "responses": 1, "tokens": 1, "seconds": 1}}}',
        begun + '{"a": {"shards": NaN, "responses": 1, "tokens": 1, "seconds": 1}}}',
        begun.replace("2026-01-01", "<b>") + "{}}",
        begun.replace("1,", "-1,") + "{}}",
    )
    spent = worked.stages["logprobs"]
    rows = views(open_store(run))["logprobs"].to_table()
    assert spent.responses == len(rows) and spent.tokens > spent.responses and spent.seconds > 0
    for number, text in enumerate(damaged):
        (run / f"clock.{number:032x}.json").write_text(text)
    assert clocks.read(open_store(run)) == worked
    with (
        pytest.raises(KeyboardInterrupt),
        clocks.clocked(open_store(run), lambda: {"pairs": clocks.Spent(1)}),
    ):
        raise KeyboardInterrupt
    assert clocks.read(open_store(run)).commands == 2


def test_the_command_refuses_what_is_no_page_and_no_run(made_run, tmp_path):
    assert "ends in .html" in command("engine", "report", made_run, "-o", tmp_path / "x.pdf", code=1).stderr
    assert (
        "is not a run folder"
        in command("engine", "report", tmp_path, "-o", tmp_path / "x.html", code=1).stderr
    )
    assert not list(tmp_path.iterdir())


def test_the_texts_of_tokens_are_the_text_whichever_way_they_are_found(made_run):
    """By each token alone, by the few before it, and by all before it: the same pieces of the text."""
    tokens = Tokens.of(open_store(made_run))
    ids = tokens._tokenizer.encode(
        "caf\u00e9 \U0001f600 \u4f60\u597d naive \u0645\u0631", add_special_tokens=False
    )
    rows = views(open_store(made_run))["logprobs"].to_table().to_pylist()[:20]
    for these in (ids, *(row["response_ids"] for row in rows)):
        found = tokens.texts(these)
        assert "".join(found) == tokens._decoded(these)
        assert found == tokens._texts_in_places(these) == tokens._texts_by_beginnings(these)
    assert tokens._decoded(ids) != "".join(tokens._alone(token) for token in ids), "too easy"


def test_tokens_of_another_tokenizer_are_not_shown(made_run, model_path, tmp_path, monkeypatch):
    own_model = tmp_path / "model"
    shutil.copytree(model_path, own_model)
    settings_of = json.loads((own_model / "generation_config.json").read_text())
    (own_model / "generation_config.json").write_text(json.dumps(settings_of | {"eos_token_id": [0, 1]}))
    monkeypatch.setattr("engine.story.tokens.resolve", lambda model: own_model)
    page = build(open_store(made_run), [], 5)
    assert "not the one that the run was made with" in page.remarks[0]
    assert "tokens" not in pairs_in(page.html)[0]["chosen"]


def test_a_folder_without_a_training_is_refused(made_run, tmp_path):
    (pairs,) = made_run.glob("pairs-*")
    for other in (tmp_path, pairs, tmp_path / "typo"):
        with pytest.raises(UserError, match="holds no training run"):
            build(open_store(made_run), [open_store(other)], 5)
