"""The order is a function of (seed, epoch), for all ranks and from every start; nothing is dropped."""

from itertools import chain, islice, pairwise

import numpy as np
import pytest

from schemas.errors import UserError
from trainer import data
from trainer.pairs import check_need, open_pairs


@pytest.fixture(scope="module")
def pairs(made_run):
    return open_pairs(made_run)


def ids(batches, count):
    return [[pair.pair_id for pair in batch] for _, batch in islice(batches, count)]


@pytest.mark.parametrize("look_ahead", [1, 4, 1000])
def test_an_epoch_is_every_pair_once(pairs, look_ahead):
    each = data.steps_per_epoch(pairs, 16)
    epoch = ids(data.global_batches(pairs, 16, seed=3, look_ahead=look_ahead), each)
    assert sorted(len(batch) for batch in epoch) == [pairs.count("train") % 16 or 16] + [16] * (each - 1)
    assert len({pair for batch in epoch for pair in batch}) == pairs.count("train")


def test_looking_ahead_groups_by_length_within_its_window_only(pairs):
    each = data.steps_per_epoch(pairs, 16)
    plain, grouped = (list(islice(data.global_batches(pairs, 16, 3, look_ahead=n), each)) for n in (1, 4))

    def pairs_in(batches):
        return sorted(pair.pair_id for _, batch in batches for pair in batch)

    def spread(batches):
        return np.mean([np.std([pair.tokens for pair in batch]) for _, batch in batches])

    assert all(pairs_in(plain[at : at + 4]) == pairs_in(grouped[at : at + 4]) for at in range(0, each, 4))
    assert spread(grouped) < 0.5 * spread(plain)
    lengths = [np.mean([pair.tokens for pair in batch]) for _, batch in grouped]
    assert any(a < b for a, b in pairwise(lengths))
    assert any(a > b for a, b in pairwise(lengths))


def test_seed_and_epoch_make_the_order(pairs):
    n = 2 * data.steps_per_epoch(pairs, 16)
    a, again, other = (
        ids(data.global_batches(pairs, 16, 3), n),
        ids(data.global_batches(pairs, 16, 3), n),
        ids(data.global_batches(pairs, 16, 4), n),
    )
    assert a == again != other
    first = list(chain.from_iterable(a[: n // 2]))
    second = list(chain.from_iterable(a[n // 2 :]))
    assert sorted(first) == sorted(second) and first != second


@pytest.mark.parametrize("look_ahead", [1, 4, 7])
@pytest.mark.parametrize("start", [1, 5, 17, 18, 19, 40])
def test_starting_in_the_middle_is_the_same_stream(pairs, start, look_ahead):
    whole = ids(data.global_batches(pairs, 16, 3, look_ahead=look_ahead), start + 4)
    assert ids(data.global_batches(pairs, 16, 3, start, look_ahead), 4) == whole[start:]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_share_a_global_batch_without_loss(pairs, world_size):
    for _, batch in islice(data.global_batches(pairs, 13, 3), data.steps_per_epoch(pairs, 13)):
        parts = data.deal(batch, world_size)
        assert sorted(pair.pair_id for part in parts for pair in part) == sorted(
            pair.pair_id for pair in batch
        )
        if len(batch) == 13:
            tokens = [sum(pair.tokens for pair in part) for part in parts]
            # The rank with the most had the fewest before its last pair, which is its shortest.
            last = min(pair.tokens for pair in parts[tokens.index(max(tokens))])
            assert max(tokens) - min(tokens) <= last


def test_micro_batches_hold_all_within_the_budget(pairs):
    _, batch = next(data.global_batches(pairs, 50, 3))
    parts = data.micro_batches(batch, 150)
    assert [pair.pair_id for part in parts for pair in part] == [pair.pair_id for pair in batch]
    assert all(sum(pair.tokens for pair in part) <= 150 or len(part) == 1 for part in parts)


def test_rows_are_what_the_shards_hold(pairs, made_run):
    import duckdb

    rows = duckdb.sql(
        "select pair_id, prompt_ids, chosen_ids, ref_rejected_token_logps "
        f"from '{made_run}/pairs-*/*.parquet' where split = 'test'"
    ).fetchall()
    want = {row[0]: row[1:] for row in rows}
    held_out = list(data.held_out(pairs))
    assert len(held_out) == len(want) == pairs.count("test") > 0
    for pair in held_out:
        prompt, chosen, logps = want[pair.pair_id]
        assert pair.prompt_ids.tolist() == prompt and pair.chosen_ids.tolist() == chosen
        np.testing.assert_array_equal(pair.ref_rejected_token_logps, np.array(logps, np.float32))
        assert isinstance(pair.prompt_ids, np.ndarray) and pair.prompt_ids.dtype == np.int32


def test_an_unfinished_folder_is_refused(made_run, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    next(run.glob("pairs-*/manifest.json")).unlink()
    with pytest.raises(UserError, match="unfinished, 5 of 5 shards"):
        open_pairs(run)
    shutil.rmtree(next(run.glob("pairs-*")))
    with pytest.raises(UserError, match="unfinished, 0 of 5"):
        open_pairs(run)


@pytest.mark.parametrize(
    ("need", "said"),
    [
        (
            "quality",
            r"log-probs under the quality prompt .*quality_prompt_ids.*lacks: "
            r'set contexts = \["plain", "quality"\] in \[logprobs\], and run `engine precompute` again',
        ),
        (
            "baseline",
            r'a baseline response .*: set baseline = "sample" in \[pairs\], '
            r"with a section \[generate\] above \[logprobs\]",
        ),
        (
            "score.rating",
            r"the scores of 'rating' .*put a section \[judge\] with kinds = \[.rating.\] "
            r"above \[pairs\], and run",
        ),
        ("score.ratings", "scorer = ratings: did you mean 'rating'"),
    ],
)
def test_what_a_loss_needs_and_the_pairs_lack_is_refused_by_the_section_that_makes_it(made_run, need, said):
    with pytest.raises(UserError, match=said):
        open_pairs(made_run, (need,))


def test_a_score_that_some_pairs_lack_is_refused_by_their_number(made_run):
    """The data's own scores are there for all; take one away."""
    from dataclasses import replace

    pairs = open_pairs(made_run, ("score.given",))
    marker = pairs.markers[0]
    fewer = replace(
        marker, counts=marker.counts | {"have_score.given": marker.counts["have_score.given"] - 1}
    )
    said = (
        r"which 1 of 30\d pairs lack: set scored_by = \[.given.\] in \[pairs\], "
        r"which sends those pairs to rejects, and run"
    )
    with pytest.raises(UserError, match=said):
        check_need(replace(pairs, markers=(fewer, *pairs.markers[1:])), "score.given", "it")


def test_a_folder_that_has_not_been_counted_is_an_older_one(made_run):
    from dataclasses import replace

    pairs = open_pairs(made_run)
    bare = [
        replace(
            marker,
            counts={name: count for name, count in marker.counts.items() if not name.startswith("have_")},
        )
        for marker in pairs.markers
    ]
    with pytest.raises(UserError, match="which an older prefmill made"):
        check_need(replace(pairs, markers=tuple(bare)), "edit_mask", "train.loss = bmc")


def test_micro_batches_are_bounded_under_the_quality_prompt_too(rich_run):
    pairs = open_pairs(rich_run, ("quality",))
    _, batch = next(data.global_batches(pairs, 20, 3))
    parts = data.micro_batches(batch, 600)
    under = [
        sum(
            len(pair.more["quality_prompt_ids"]) + len(pair.chosen_ids) + len(pair.rejected_ids)
            for pair in part
        )
        for part in parts
    ]
    assert max(under) <= 600 and len(parts) > len(
        data.micro_batches([pair._replace(more={}) for pair in batch], 600)
    )


def test_the_order_is_the_same_for_a_loss_that_reads_more(rich_run):
    bare, more = (open_pairs(rich_run, needs) for needs in ((), ("quality", "baseline")))
    n = 2 * data.steps_per_epoch(bare, 6)
    assert ids(data.global_batches(bare, 6, 3, look_ahead=5), n) == ids(
        data.global_batches(more, 6, 3, look_ahead=5), n
    )
