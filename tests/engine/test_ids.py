"""Ids depend on the content alone, and shares and shards are spread evenly over them."""

from engine.ids import content_id, prompt_id, shard_of, share


def test_ids_are_of_the_content_alone():
    assert prompt_id([{"role": "user", "content": "x"}]) == prompt_id([{"content": "x", "role": "user"}])
    assert content_id("ab", "c") != content_id("a", "bc")
    ids = [content_id(n) for n in range(4000)]
    assert 0.08 < sum(share(i) < 0.1 for i in ids) / 4000 < 0.12
    assert {shard_of(i, 7) for i in ids} == set(range(7))
