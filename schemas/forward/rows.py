"""The keys and values of samples that are under way: a row each, given up and taken one by one."""

import torch

_GRAIN = 64  # tokens; the cache is longer by a multiple
_GROWTH = 1.25  # at most; of the cache's length where it is too short: it is then copied, layer after layer


class Rows:
    """The keys and values of rows, each of its own length; those in use are the first ones.

    `lengths`: the tokens of each row in use; `count`: the most rows in use at a time, fewer once they are
    long."""

    def __init__(self, count: int, most: int | None = None):
        """`most`: the tokens that there is memory for, all rows at the length of the longest; None: no limit.

        A single row may have more."""
        self.count = count
        self._most = most
        self.lengths: list[int] = []
        self._capacity = 0
        # By the layer: (count, kv heads, capacity, head size) twice. Zeros where no token is: that is masked,
        # and what is masked must still be finite.
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def reserve(self, longest: int) -> None:
        """Make place for rows of so many tokens. Where memory ends the cache has fewer rows from here on."""
        used = max(1, len(self.lengths))
        if longest > self._capacity:
            wanted = max(longest, int(self._capacity * _GROWTH))
            if not self.fit(used, wanted):
                wanted = longest
            self._capacity = _in_grains(wanted)
        if self._most is not None:
            self.count = max(used, min(self.count, self._most // self._capacity))
        for number, (keys, values) in self._layers.items():
            if keys.shape[0] != self.count or keys.shape[2] != self._capacity:
                self._layers[number] = (self._resized(keys), self._resized(values))

    def fit(self, rows: int, longest: int) -> bool:
        """True if there is memory for so many rows, the longest of so many tokens."""
        return self._most is None or rows * max(self._capacity, _in_grains(longest)) <= self._most

    def of_layer(
        self, number: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer; `key` and `value`: (1, kv heads, T, head size), some that it made."""
        if number not in self._layers:
            keys = key.new_zeros(self.count, key.shape[1], self._capacity, key.shape[3])
            values = value.new_zeros(self.count, value.shape[1], self._capacity, value.shape[3])
            self._layers[number] = (keys, values)
        return self._layers[number]

    def token_bytes(self) -> int:
        """Bytes that a token takes, of the layers that were asked for."""
        size = 0
        for keys, values in self._layers.values():
            size += keys[0, :, 0].nbytes + values[0, :, 0].nbytes
        return size

    def begin_as(self, row: int, length: int) -> None:
        """One more row, which begins with the first tokens of another."""
        self._copy(row, len(self.lengths), length)
        self.lengths.append(length)

    def end(self, row: int) -> None:
        """Give up a row; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            self._copy(last, row, self.lengths[last])
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def _copy(self, source: int, target: int, length: int) -> None:
        for keys, values in self._layers.values():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def _resized(self, x: torch.Tensor) -> torch.Tensor:
        """(count, heads, capacity, size) of what a layer holds, with zeros behind what is there."""
        rows = min(self.count, x.shape[0])
        resized = x.new_zeros(self.count, x.shape[1], self._capacity, x.shape[3])
        resized[:rows, :, : x.shape[2]] = x[:rows]
        return resized


def _in_grains(tokens: int) -> int:
    return -(-tokens // _GRAIN) * _GRAIN
