"""`engine plan`: its sample is fair, nothing is written, and a real run comes to what it says."""

import contextlib
import gzip
import json
import random
import time
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from engine.cli import main
from engine.commands.plan import planned
from engine.commands.precompute import precompute
from engine.gaps import missing
from engine.models import hf
from engine.plan import plan
from engine.planning import blocks, report, sampling
from engine.planning.devices import DEVICES, ModelSize, Speed, device_named
from engine.planning.elsewhere import for_device
from engine.planning.parts import TILE, ColumnarPool, File, HeadPool, TextPool, evenly
from engine.planning.planner import Options
from engine.planning.probing import probe
from engine.planning.repeats import repeats
from engine.planning.sampling import sample_of
from engine.planning.stand_in import Asked
from engine.planning.timing import time_of
from engine.planning.whole import WholeStage, file_bytes
from schemas.errors import UserError
from schemas.manifest import read_markers
from schemas.recipe import load
from schemas.store import LocalStore
from tests.conftest import ROOT, preferences, tree
from tests.engine.rewards import on_trunk

SEEDS = 40


def lines_of(sizes):
    """JSON lines that carry their number and are of these sizes."""
    for number, size in enumerate(sizes):
        text = json.dumps({"n": number, "x": "y" * size})
        yield text + "\n"


def numbers(rows):
    return [json.loads(row.text)["n"] for row in rows if row.reason is None]


def sizes_that_differ(count, seed=1):
    """Mostly short, one in seven longer than a block."""
    draw = random.Random(seed)
    return [draw.choice([5, 40, 300, 900, 2000, 9000, 20_000]) for _ in range(count)]


def test_the_blocks_of_a_file_hold_each_row_once(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(lines_of(sizes_that_differ(700))))
    together = b""
    for number in range(blocks.blocks_of(path.stat().st_size)):
        together += blocks.rows_in_block(path, number, limit=1 << 20)
    assert together == path.read_bytes()


def test_a_row_that_is_too_long_is_read_no_further_than_its_limit(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(lines_of([10, 5_000_000, 20])))
    found = blocks.rows_in_block(path, 0, limit=100_000)
    assert len(found) < 100_000 + 2 * blocks.BLOCK
    path.write_text("".join(lines_of([10, 200_000, 20])))
    rows = TextPool([File("a.jsonl", path, 2e5)], {}).draw(9, 0.0, limit=100_000).rows
    assert [row.reason for row in rows] == [None, "over_long", None]


@pytest.mark.parametrize("wanted", [1, 3, 64, 500])
def test_each_part_has_the_same_chance(wanted):
    starts = 997
    drawn = Counter()
    for start in range(starts):
        drawn.update(evenly(97, wanted, start / starts))
    assert set(drawn) == set(range(97))
    expected = starts * min(wanted, 97) / 97
    assert all(abs(count - expected) <= min(wanted, 97) for count in drawn.values())


def text_pool(tmp_path, texts):
    files = []
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(text)
        files.append(File(path.name, path, path.stat().st_size))
    return TextPool(files, {})


def columnar_pool(tmp_path, texts):
    files = []
    for number, text in enumerate(texts):
        rows = pa.Table.from_pylist([json.loads(line) for line in text.splitlines()])
        path = tmp_path / f"{number}.{'arrow' if number else 'parquet'}"
        if number:
            with pa.ipc.new_file(path, rows.schema) as out:
                out.write_table(rows, max_chunksize=100)
        else:
            pq.write_table(rows, path, row_group_size=333)
        files.append(File(path.name, path, path.stat().st_size))
    return ColumnarPool(files)


@pytest.mark.parametrize("pool_of", [text_pool, columnar_pool])
def test_what_is_drawn_says_how_many_rows_there_are_and_how_many_are_long(tmp_path, pool_of):
    """The long rows are a seventh; at random bytes they would be nine of ten."""
    sizes = [sizes_that_differ(2000), sizes_that_differ(1100, seed=2)]
    pool = pool_of(tmp_path, ["".join(lines_of(some)) for some in sizes])
    counted, long_ones = [], []
    for seed in range(SEEDS):
        drawn = pool.draw(200, seed / SEEDS, limit=1 << 20)
        assert 100 < len(drawn.rows) < 700 and len(drawn.parts) == len(drawn.rows)
        counted.append(drawn.weight * len(drawn.rows))
        long_ones.append(drawn.weight * sum(len(row.text) > 15_000 for row in drawn.rows))
    truth = sum(size > 15_000 for size in sizes[0] + sizes[1])
    assert sum(counted) / SEEDS == pytest.approx(3100, rel=0.03)
    assert sum(long_ones) / SEEDS == pytest.approx(truth, rel=0.1)


def test_all_tiles_of_columnar_files_are_all_of_their_rows(tmp_path):
    pool = columnar_pool(tmp_path, ["".join(lines_of(range(1, 800))), "".join(lines_of(range(1, 450)))])
    drawn = pool.draw(10**6, 0.5, limit=1 << 20)
    assert sorted(numbers(drawn.rows)) == sorted([*range(799), *range(449)]) and drawn.weight == 1
    assert max(Counter(drawn.parts).values()) <= TILE


@pytest.mark.parametrize("packed", [True, False])
def test_what_has_a_beginning_alone_is_counted_by_its_bytes(tmp_path, packed, monkeypatch):
    monkeypatch.setattr("engine.planning.parts._HEAD", 200_000)
    draw = random.Random(3)
    sizes = [draw.choice([100, 300, 500]) for _ in range(5000)]
    rows = [line.strip() for line in lines_of(sizes)]
    if packed:
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(gzip.compress("\n".join(rows).encode()))
        size = sampling._unpacked_bytes(path, path.stat().st_size, "gzip")
    else:
        path = tmp_path / "a.json"
        path.write_text(f"[{','.join(rows)}]")
        size = path.stat().st_size
    drawn = HeadPool([File("a", path, size)]).draw(10**6, 0.0, limit=1 << 20)
    assert len(drawn.rows) < 1000
    assert drawn.weight * len(drawn.rows) == pytest.approx(5000, rel=0.05)


@pytest.mark.parametrize(("classes", "size"), [(4000, 2), (2000, 5), (300, 40), (20_000, 1)])
def test_rows_that_repeat_far_apart_are_counted_by_the_few_that_meet(classes, size):
    draw = random.Random(4)
    rows = [number for number in range(classes) for _ in range(size)]
    draw.shuffle(rows)
    found = []
    for _ in range(30):
        kept = [row for row in rows if draw.random() < 0.1]
        found.append(repeats(kept, range(len(kept)), 10.0))
    truth = classes * (size - 1)
    assert sum(found) / 30 == pytest.approx(truth, rel=0.15, abs=1)
    assert repeats(rows, range(len(rows)), 1.0) == truth


def test_rows_that_repeat_beside_each_other_are_scaled():
    keys = [number // 3 for number in range(300)]
    assert repeats(keys, [key // 10 for key in keys], 7.0) == pytest.approx(1400)


def recipe_of(tmp_path, model, rows, *more, name="rows.jsonl"):
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"prompts.source={tmp_path / name}", f"model.name={model}", *more]
    return load(ROOT / "pipelines" / "recipes" / "dpo.toml", words)


def test_a_sample_of_a_large_input_counts_its_rows_its_rejects_and_its_repeats(
    tmp_path, model_path, monkeypatch
):
    rows = [*preferences(3, 1600)]
    bad = [row | {"rejected": row["chosen"]} for row in rows[:200]]
    mixed = [*rows, *bad, *rows[:400]]
    random.Random(0).shuffle(mixed)
    recipe = recipe_of(tmp_path, model_path, mixed)
    run = plan(tmp_path / "run", recipe)
    whole = sample_of(run, 10)
    assert whole.is_whole and whole.total == 2200
    monkeypatch.setattr(sampling, "_ALL_OF", 0)
    monkeypatch.setattr(blocks, "BLOCK", 2048)
    some = sample_of(run, 500)
    assert not some.is_whole and 250 < len(some.rows) < 1500
    assert some.total == pytest.approx(2200, rel=0.1)
    refused = some.weight * (len(some.rows) - some.rows["reason"].null_count)
    assert refused == pytest.approx(200, rel=0.5)
    assert some.repeated == pytest.approx(whole.repeated, rel=0.5)
    assert some.prompts == pytest.approx(whole.prompts, rel=0.15)


def test_what_the_recipe_takes_is_what_is_planned(tmp_path, model_path, monkeypatch):
    monkeypatch.setattr(sampling, "_ALL_OF", 0)
    rows = [*preferences(3, 300)]
    for key in ("limit", "sample"):
        recipe = recipe_of(tmp_path, model_path, rows, f"prompts.{key}=70")
        assert sample_of(plan(tmp_path / "run", recipe), 60).prompts == pytest.approx(70)


def test_bytes_of_a_file_follow_from_a_smaller_one():
    draw = random.Random(6)
    rows = pa.table({"a": [draw.randbytes(draw.randrange(90)).hex() for _ in range(3000)]})
    assert file_bytes(rows.slice(0, 900), 3000) == pytest.approx(file_bytes(rows, 3000), rel=0.05)


def test_nothing_is_written_and_no_weights_are_read(tmp_path, model_path, monkeypatch):
    def loads(*_arguments, **_more):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("engine.models.hf.load", loads)
    recipe = recipe_of(tmp_path, model_path, preferences(3, 30), "prompts.shards=3")
    before = tree(tmp_path)
    found = planned(str(tmp_path / "run"), recipe, Options(device=DEVICES["l4"], devices=2, price=2.0))
    assert tree(tmp_path) == before
    assert found.shards == 3 and found.time.workers == 2 and found.cost == 2 * found.device_hours > 0
    logprobs = next(stage for stage in found.stages if stage.name == "logprobs")
    assert logprobs.tables["logprobs"].rows == 60 and logprobs.asked.scored_tokens > 0


SERVED = """
[model]
[prompts]
[generate]
n = 2
max_tokens = 6
[judge]
kinds = ["rating", "pairwise"]
base_url = "http://localhost:9/v1"
model = "large"
[reward]
[check]
[rewrite]
max_tokens = 8
base_url = "http://localhost:9/v1"
model = "large"
[logprobs]
[pairs]
choose = "rewritten_vs_parent"
"""


def test_no_server_is_asked_no_code_is_run_and_no_reward_model_is_loaded(tmp_path, model_path, monkeypatch):
    def opens(*_arguments, **_more):
        raise AssertionError("a client or a model is opened")

    rater = on_trunk(model_path, tmp_path / "rater")
    (tmp_path / "mine.py").write_text("raise SystemExit\ndef score(messages, response): return 1\n")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"Say {n}"}) + "\n" for n in range(9)))
    (tmp_path / "r.toml").write_text(SERVED)
    words = [
        f"prompts.source={tmp_path / 'rows.jsonl'}",
        f"model.name={model_path}",
        f"reward.model={rater}",
        f"check.function={tmp_path / 'mine.py'}:score",
    ]
    for place in ("engine.models.open.open_model", "engine.endpoint.client.Client.__init__"):
        monkeypatch.setattr(place, opens)
    found = planned(None, load(tmp_path / "r.toml", words), Options(device=DEVICES["l4"]))
    rows = {stage.name: {table: size.rows for table, size in stage.tables.items()} for stage in found.stages}
    # Two samples a prompt: two marks, and one comparison with its two rows.
    assert rows["judge"]["scores"] == 9 * (2 + 2) and rows["reward"]["scores"] == 18
    assert rows["rewrite"]["responses"] == 9 and rows["logprobs"]["logprobs"] == 27
    assert rows["check"]["scores"] == 18 and rows["pairs"]["pairs"] == 9
    asked = {stage.name: stage.asked for stage in found.stages}
    assert asked["generate"].generated == 18 and asked["generate"].sampled_tokens == 18 * 6
    assert asked["judge"].scored >= 18 + 2 * 9, "a comparison is asked in both orders"
    assert found.time.seconds is None, "the server's time is not known"


@pytest.mark.parametrize("breaks", [False, True])
def test_a_table_is_entered_in_its_middle_where_its_rows_are_lines(tmp_path, breaks):
    path = tmp_path / "a.csv"
    cell = '"two\nlines, ""quoted"""' if breaks else '"one line, ""quoted"""'
    path.write_text("n,x\n" + "".join(f"{number},{cell}\n" for number in range(9000)))
    (pool,) = sampling._pools({"a.csv": path})
    assert isinstance(pool, HeadPool if breaks else TextPool)
    drawn = pool.draw(10**6, 0.3, limit=1 << 20)
    assert [int(json.loads(row.text)["n"]) for row in drawn.rows] == list(range(9000))
    assert drawn.weight == 1 and not any(row.reason for row in drawn.rows)


def test_what_is_there_is_used_again_and_what_is_not_says_why(made_run, precompute_words, tmp_path):
    words = [str(word) for word in precompute_words[2:]]
    shown = CliRunner().invoke(main, ["plan", *words, "-o", str(made_run), "--device", "h100"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("used again, all 5 shards are there") == 4
    before = tree(made_run)
    changed = CliRunner().invoke(
        main, ["plan", *words, "-o", str(made_run), "--set", "logprobs.max_length=40", "--json"]
    )
    assert changed.exit_code == 0, changed.output
    found = json.loads(changed.stdout[changed.stdout.index("{") :])
    there = {stage["name"]: stage["there"] for stage in found["stages"]}
    assert there == {"prompts": 5, "given": 5, "logprobs": 0, "pairs": 0}
    ((_, facts),) = found["changed"]["logprobs"]
    assert any("max_length" in fact for fact in facts)
    assert tree(made_run) == before


def test_the_table_of_lengths_is_what_a_run_cuts(tmp_path, model_path):
    rows = [*preferences(3, 60)]
    shares = {}
    for limit in (50, 70):
        recipe = recipe_of(
            tmp_path, model_path, rows, f"logprobs.max_length={limit}", 'logprobs.too_long=["drop"]'
        )
        found = planned(None, recipe, Options())
        (own,) = [cut for cut in found.lengths.cuts if cut.what.endswith("the recipe's")]
        pairs = found.stages[-1].tables.get("pairs")
        assert own.whole == pytest.approx((pairs.rows if pairs else 0) / 60)
        assert own.cut == 0 and own.whole + own.dropped == pytest.approx(1)
        shares[limit] = own.whole
    assert shares[50] < shares[70] and found.lengths.pairs == 60


def size(weights=8e9):
    return ModelSize(int(weights), weights, layers=32, heads=32, kv_heads=8, head_size=128)


def speed(model_path, device="h100", weights=8e9, **settings):
    from engine.models.spec import ModelSpec, resolve
    from schemas.sections import Model

    model = resolve(ModelSpec(Model(name=str(model_path), dtype="bfloat16"), "hf"))
    spec = replace(model.spec, backend="vllm", config=replace(model.spec.config, vllm=settings))
    return Speed(DEVICES[device], replace(model, spec=spec), size(weights))


def test_a_roofline_has_the_slopes_that_it_should(model_path):
    scored = Asked(calls=1, scored=100, scored_tokens=50_000, unshared_tokens=80_000)
    sampled = Asked(calls=1, generated=1000, generate_prompt_tokens=10**5, sampled_tokens=4 * 10**5)
    base = speed(model_path)
    assert speed(model_path, weights=16e9).seconds(scored) == pytest.approx(2 * base.seconds(scored), rel=0.1)
    # By hand: two operations for each weight and token, at half of the peak.
    assert base.seconds(scored) == pytest.approx(2 * 8e9 * 80_000 / (0.5 * 989e12), rel=0.1)
    # Sampling is bound by memory: more of its bandwidth helps, more operations do not.
    ratio = base.seconds(sampled) / speed(model_path, "h200").seconds(sampled)
    assert 1.2 < ratio < 4.8 / 3.35 + 0.01
    assert speed(model_path, max_num_seqs=8).seconds(sampled) > 5 * base.seconds(sampled)
    assert speed(model_path, "l4").fit(2000).needs < 24e9
    assert speed(model_path, weights=70e9).fit(2000).needs > 80e9
    assert speed(model_path, weights=70e9, tensor_parallel_size=4).fit(2000).needs < 80e9


def test_a_device_that_is_not_in_the_table_is_refused_with_those_that_are():
    with pytest.raises(UserError, match=r"--device h1000: expected one of .*h100.* --probe"):
        device_named("h1000")


def stage(name, there, seconds):
    return WholeStage(name, name, there, 0.0, {}, {}, {}, "m", "hf", "", Asked(calls=1), seconds, None)


def test_time_is_by_rounds_of_shards_and_a_kill_costs_a_stage_of_a_shard():
    stages = [stage("prompts", 10, 0.0), stage("generate", 3, 20.0), stage("judge", 0, 10.0)]
    found = time_of(stages, 10, 4, reading=100.0, model_seconds=lambda one: 80.0)
    # 7 shards by 4 workers are two rounds of (80 + 20) / 10, 10 are three of 9.
    assert found.seconds == pytest.approx(2 * 10 + 3 * 9) and found.kill == pytest.approx(10)
    assert time_of(stages, 10, 4, 100.0, lambda one: None).seconds is None
    # The scan is waited for, and no device is paid for it.
    again = time_of([replace(stages[0], there=0), *stages[1:]], 10, 4, 100.0, lambda one: 80.0)
    assert again.seconds - again.at_work == pytest.approx(100)


def test_what_is_auto_is_as_on_the_device_and_vllm_need_not_be_here(tmp_path, model_path, monkeypatch):
    monkeypatch.setattr("engine.models.spec.vllm_is_installed", lambda: False)
    rows = [{"prompt": f"Say {number}"} for number in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.toml").write_text("[model]\n[prompts]\n[generate]\nn = 1\nmax_tokens = 6\n[logprobs]\n")
    words = [f"prompts.source={tmp_path / 'rows.jsonl'}", f"model.name={model_path}"]
    recipe = load(tmp_path / "r.toml", words)
    found = planned(None, recipe, Options(device=DEVICES["h100"]))
    backends = {stage.name: stage.backend for stage in found.stages}
    assert backends == {"prompts": "", "generate": "vllm", "logprobs": "hf"}
    assert len(found.taken) == 2 and "bfloat16" in found.taken[0] and "vllm" in found.taken[1]
    in_half = found.memory[0].fit.needs
    words.append("model.dtype=float32")
    single = planned(None, load(tmp_path / "r.toml", words), Options(device=DEVICES["h100"]))
    assert single.memory[0].fit.needs > 1.9 * in_half and len(single.taken) == 1
    words += ["model.backend=vllm", "model.vllm={tensor_parallel_size = 4}"]
    shared = load(tmp_path / "r.toml", words)
    found = planned(None, shared, Options(device=DEVICES["h100"], devices=6))
    assert found.time.workers == 1 and found.idle == 2
    assert any(
        line.startswith("2 of the 6 devices") for line in report.remarks(found, Options(DEVICES["h100"], 6))
    )
    with pytest.raises(UserError, match=r"--devices 2, .*--devices 4 or more"):
        planned(None, shared, Options(device=DEVICES["h100"], devices=2))


def test_a_run_keeps_its_dtype_on_another_device(made_run, precompute_words):
    words = [str(word) for word in precompute_words[2:]]
    recipe = load(words[0], [word for word in words[1:] if "=" in word])
    there, _ = for_device(recipe, LocalStore(made_run), DEVICES["h100"])
    assert there.section("model").dtype == "float32"


def test_a_judge_behind_a_server_is_counted_where_no_model_is_known(tmp_path):
    rows = [*preferences(3, 5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.toml").write_text(
        "[prompts]\n[given]\n[judge]\nkinds = ['rating', 'pairwise']\n"
        "base_url = 'http://localhost:9/v1'\nmodel = 'large'\n"
    )
    recipe = load(tmp_path / "r.toml", [f"prompts.source={tmp_path / 'rows.jsonl'}"])
    found = planned(None, recipe, Options())
    judge = found.stages[-1]
    assert judge.tables["scores"].rows == 5 * (2 + 2) and judge.asked.scored == 5 * (2 + 2)
    assert judge.asked.scored_tokens == 0 and "tokens not known" in report.stage_rows(found)[-1]["asks"]


@pytest.mark.parametrize("other", [True, False])
def test_a_probe_times_no_loading(tmp_path, model_path, monkeypatch, other):
    """Not even of two models, of which one at a time is held: each opens twice, outside of its calls."""
    loaded = []
    hf_load = hf.load

    def slow(*arguments, **more):
        time.sleep(0.4)
        loaded.append(arguments)
        return hf_load(*arguments, **more)

    monkeypatch.setattr(hf, "load", slow)
    rows = [{"prompt": f"Say {number}"} for number in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.toml").write_text("[model]\n[prompts]\n[generate]\nn = 1\nmax_tokens = 2\n[judge]\n")
    words = [f"prompts.source={tmp_path / 'rows.jsonl'}", f"model.name={model_path}", "model.dtype=float32"]
    words += ["judge.dtype=bfloat16", f"judge.model={model_path}"] if other else []
    run = plan(tmp_path / "run", load(tmp_path / "r.toml", [*words, "model.backend=hf"]))
    calls = []
    timed = Asked.timed
    monkeypatch.setattr(Asked, "timed", lambda asked: watched(timed(asked), loaded, calls))
    found = probe(run, sample_of(run, 10).rows, 4, 1)
    assert len(loaded) == (4 if other else 1) and found.loading > 0.4
    assert calls and not any(calls), "a model was loaded in a call that is timed"


@contextlib.contextmanager
def watched(context, loaded, calls):
    before = len(loaded)
    with context:
        yield
    calls.append(len(loaded) - before)


def of_run(folder, recipe):
    """What a run made: rows and bytes by stage and table."""
    run = plan(folder, recipe)
    rows, sizes = Counter(), Counter()
    for one in run.stages:
        for marker in read_markers(run.folder(one)):
            for file in marker.files:
                rows[one.name, file.table] += file.rows
                sizes[one.name, file.table] += file.size
    assert not missing(run)
    return rows, sizes


def check_against_run(tmp_path, recipe, monkeypatch):
    """Rows and bytes within 1.5 of a real run, with --probe the times of stages that ask a model, too.

    Times are of the processor and of one thread, so that they do not depend on what else the machine does;
    and of all shards but the first, in which the model is loaded."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    monkeypatch.setattr("engine.threads.cores", lambda: 1)
    found = planned(None, recipe, Options(probe=True))
    spent, batches = Counter(), Counter()

    import engine.make

    compute = engine.make.compute

    def timed(run, stage, shard, *more):
        begin = time.process_time()
        made = compute(run, stage, shard, *more)
        if shard:
            spent[stage.name] += time.process_time() - begin
            batches[stage.name] += len(made.tables[stage.writes[0]])
        return made

    monkeypatch.setattr(engine.make, "compute", timed)
    precompute(tmp_path / "run", recipe, 1)
    rows, sizes = of_run(tmp_path / "run", recipe)
    for one, times in zip(found.stages, found.time.stages, strict=True):
        for table, size_planned in one.tables.items():
            at = (one.name, table)
            assert rows[at] / 1.5 <= size_planned.rows <= rows[at] * 1.5, at
            assert sizes[at] / 1.5 <= size_planned.bytes <= sizes[at] * 1.5, at
        if one.asked.calls:
            first_table = next(iter(one.tables.values()))
            a_row = spent[one.name] / batches[one.name]
            in_plan = (times.model + times.own) / first_table.rows
            assert a_row / 1.5 <= in_plan <= a_row * 1.5, (one.name, a_row, in_plan)
    assert {at for at in rows if at[1] != "rejects"} <= {
        (one.name, table) for one in found.stages for table in one.tables
    }
    return found


@pytest.mark.long
def test_the_sandbox_comes_to_what_was_planned(tmp_path, monkeypatch):
    from pipelines.sandbox import world

    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in world.prompts(5, 40)))
    words = [f"prompts.source={tmp_path / 'p.jsonl'}", "prompts.shards=3"]
    recipe = load(ROOT / "pipelines" / "recipes" / "sandbox.toml", words)
    found = check_against_run(tmp_path, recipe, monkeypatch)
    assert {stage.said for stage in found.stages if stage.asked.generated} == {"measured"}


@pytest.mark.long
def test_given_pairs_come_to_what_was_planned(tmp_path, monkeypatch):
    model = ROOT / "pipelines" / "sandbox" / "model"
    recipe = recipe_of(tmp_path, model, preferences(5, 120), "prompts.shards=3")
    check_against_run(tmp_path, recipe, monkeypatch)
