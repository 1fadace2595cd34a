"""The keys and values of samples that are under way: a row each, given up and taken one by one."""

import torch

_GRAIN = 64  # tokens; the cache is longer by a multiple
_GROWTH = 1.25  # of the cache's length where it is too short: it is then copied, layer after layer


class Rows:
    """The keys and values of rows, each of its own length; those in use are the first ones.

    `lengths`: the tokens of each row in use."""

    def __init__(self, count: int):
        """`count`: the most rows in use at a time."""
        self.count = count
        self.lengths: list[int] = []
        self._capacity = 0
        # By the layer: (count, kv heads, capacity, head size) twice. Zeros where no token is: that is masked,
        # and what is masked must still be finite.
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def reserve(self, longest: int) -> None:
        """Make place for rows of so many tokens."""
        if longest <= self._capacity:
            return
        wanted = max(longest, int(self._capacity * _GROWTH))
        self._capacity = -(-wanted // _GRAIN) * _GRAIN
        for number, (keys, values) in self._layers.items():
            self._layers[number] = (_longer(keys, self._capacity), _longer(values, self._capacity))

    def of_layer(
        self, number: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer; `key` and `value`: (1, kv heads, T, head size), some that it made."""
        if number not in self._layers:
            keys = key.new_zeros(self.count, key.shape[1], self._capacity, key.shape[3])
            values = value.new_zeros(self.count, value.shape[1], self._capacity, value.shape[3])
            self._layers[number] = (keys, values)
        return self._layers[number]

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


def _longer(x: torch.Tensor, length: int) -> torch.Tensor:
    """(rows, heads, length, size) with zeros behind what is there."""
    longer = x.new_zeros(x.shape[0], x.shape[1], length, x.shape[3])
    longer[:, :, : x.shape[2]] = x
    return longer
