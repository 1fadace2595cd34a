"""How many rows of an input say what another says, by a sample of it.

Of two equal rows that lie far apart a sample of one row in a hundred holds both once in ten thousand
times. So what the sample holds twice is counted, and the whole is what would make it so, if what stands there
several times stands there equally often:

    a class of k equal rows has k(k−1)/2 pairs and k(k−1)(k−2)/6 triples; of a fraction f of the rows the
    sample has f² of the pairs and f³ of the triples. So k = 2 + 3·triples/(f·pairs), and k − 1 of k repeat.

Rows that lie together are drawn together: what repeats within a part is simply scaled.
"""

from collections.abc import Hashable, Sequence


def repeats(keys: Sequence[Hashable], parts: Sequence[int], weight: float) -> float:
    """How many rows of the whole repeat another one. `keys`: what each row of the sample says; `parts`: where
    it is from; `weight`: how many rows each of them stands for, 1 if they are all."""
    parts_of: dict[Hashable, set[int]] = {}
    for key, part in zip(keys, parts, strict=True):
        parts_of.setdefault(key, set()).add(part)
    in_one_part = len(keys) - sum(map(len, parts_of.values()))
    if weight <= 1:
        return len(keys) - len(parts_of)
    fraction = 1 / weight
    pairs = 0
    triples = 0
    for places in parts_of.values():
        count = len(places)
        pairs += count * (count - 1) // 2
        triples += count * (count - 1) * (count - 2) // 6
    apart = 0.0
    if pairs:
        in_a_class = 2 + 3 * triples / (fraction * pairs)
        apart = pairs / fraction**2 * 2 / in_a_class
    # What the sample holds once at least is in the whole once at least.
    most = weight * len(keys) - len(parts_of)
    return min(weight * in_one_part + apart, most)
