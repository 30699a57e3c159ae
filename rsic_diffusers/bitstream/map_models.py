"""How likely each level of a cell of M is, given the cells before it, row by row.

Weights are whole numbers, so that encoder and decoder agree everywhere. Every number here is part of the file format.
"""

from math import isqrt


class PatchModel:
    """Integer weights of the levels of the next cell: those of its left and upper neighbour, and the counts so far."""

    def __init__(self, levels: int, columns: int):
        self.columns = columns
        self.counts = [1] * levels
        self.seen = []

    def weights(self) -> list[int]:
        weights = [2 * count for count in self.counts]
        place = len(self.seen)
        if place % self.columns:
            weights[self.seen[-1]] += 24
        if place >= self.columns:
            weights[self.seen[place - self.columns]] += 24
        return weights

    def add(self, level: int) -> None:
        self.seen.append(level)
        self.counts[level] += 1


class SlopeModel:
    """Integer weights of the levels of the next cell: a bell around a linear prediction from the cells before it.

    It is wider where its neighbours differ more. Its numbers were fitted to Gaussian blobs with some noise, on grids
    of 4 x 6 to 16 x 16 cells.
    """

    SCALE = 15  # bits of the sum of the bell's weights
    FLOOR = 16  # of each weight, so that every level can be coded

    def __init__(self, levels: int, columns: int):
        self.levels, self.columns = levels, columns
        self.seen = []

    def weights(self) -> list[int]:
        centre, width = self._bell()
        # Student's t distribution with two degrees of freedom, whose CDF needs no more than a root. Values in 1/32
        # of a level; what falls outside of the levels counts for the first and the last.
        edges = [32 * level - 16 - centre for level in range(1, self.levels)]
        below = [self._below(edge, width) for edge in edges]
        return [high - low + self.FLOOR for low, high in zip([0, *below], [*below, 1 << self.SCALE], strict=True)]

    def _below(self, edge: int, width: int) -> int:
        root = isqrt((width**2 + edge**2) << 32)
        return (1 << self.SCALE - 1) + (edge << 16 + self.SCALE - 1) // root

    def _bell(self) -> tuple[int, int]:
        """Its middle and its width, in 1/32 of a level."""
        row, column = divmod(len(self.seen), self.columns)
        # Outside the grid, the nearest level inside it is repeated.
        left = self._level(row, column - 1) if column else self._level(row - 1, column) if row else 0
        up = self._level(row - 1, column) if row else left
        up_left = self._level(row - 1, column - 1) if row and column else up
        up_right = self._level(row - 1, column + 1) if row and column + 1 < self.columns else up
        left_2 = self._level(row, column - 2) if column > 1 else left
        up_2 = self._level(row - 2, column) if row > 1 else up
        centre = 30 * left + 17 * up - 11 * up_left + 6 * up_right - 7 * left_2 - 5 * up_2 + 2
        pairs = ((left, up_left), (up, up_left), (up, up_right), (left, left_2), (up, up_2))
        width = 8 + 3 * sum(abs(a - b) for a, b in pairs) + (0 if row and column else 22)
        return centre, width

    def _level(self, row: int, column: int) -> int:
        return self.seen[row * self.columns + column]

    def add(self, level: int) -> None:
        self.seen.append(level)
