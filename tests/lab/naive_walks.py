"""Obvious, slow twins of the lab's walks: sets and lists, no blocks, no buffers."""

from __future__ import annotations

import bisect
from collections.abc import Callable

import numpy as np

from vstore.lab.expansions import GAMMA, N_BRIDGES


class Naive:
    """A beam of passing nodes over whole arrays.

    Args:
        neighbors: int32[n, M0], -1 padded.
        passes: bool[n].
        estimates: float32[n], of every node.
    """

    def __init__(self, neighbors: np.ndarray, passes: np.ndarray, estimates: np.ndarray) -> None:
        self.rows = [[int(x) for x in row if x >= 0] for row in neighbors]
        self.passes, self.estimates = passes, estimates
        self.M0 = neighbors.shape[1]
        self.met: set[int] = set()
        self.n_distances = self.n_hops = self.n_lists = self.n_filter_checks = 0

    def search(self, seeds: list[int], ef: int, expand: Callable[[int], list[int]]) -> list[int]:
        beam: list[tuple[float, int]] = []
        expanded: set[int] = set()
        seeds = list(dict.fromkeys(seeds))
        self.met |= set(seeds)
        self._score([s for s in seeds if self.passes[s]], beam, ef)
        while True:
            node = next((node for _, node in beam if node not in expanded), None)
            if node is None:
                return [node for _, node in beam]
            expanded.add(node)
            self.n_hops += 1
            self._score(expand(node), beam, ef)

    def _score(self, nodes: list[int], beam: list[tuple[float, int]], ef: int) -> None:
        for node in nodes:
            self.n_distances += 1
            bisect.insort(beam, (float(self.estimates[node]), node), key=lambda item: item[0])
            del beam[ef:]

    def open(self, node: int) -> list[int]:
        self.n_lists += 1
        return self.rows[node]

    def take(self, node: int, out: list[int]) -> bool:
        """Offer a passing node that is new."""
        fresh = bool(self.passes[node]) and node not in self.met
        if fresh:
            self.met.add(node)
            out.append(node)
        return fresh

    def beyond(self, middle: int, out: list[int], limit: float) -> None:
        row = self.open(middle)
        self.met.add(middle)
        for other in row:
            if len(out) >= limit:
                break
            self.n_filter_checks += other not in self.met
            self.take(other, out)

    def first_hop(self, node: int) -> tuple[list[int], list[int], int]:
        row, out = self.open(node), []
        self.n_filter_checks += len(row)
        for other in row:
            self.take(other, out)
        return row, out, sum(bool(self.passes[x]) for x in row)

    def failing(self, row: list[int]) -> list[int]:
        return [x for x in row if not self.passes[x] and x not in self.met]

    def one_hop(self, node: int) -> list[int]:
        return self.first_hop(node)[1]

    def two_hop(self, node: int) -> list[int]:
        row, out, found = self.open(node), [], 0
        self.n_filter_checks += len(row)
        for middle in row:
            if found >= self.M0:
                break
            self.take(middle, out)
            found += bool(self.passes[middle])
            for other in self.open(middle):
                if found >= self.M0:
                    break
                self.n_filter_checks += 1
                found += self.take(other, out)
        return out

    def compressed(self, node: int) -> list[int]:
        row, out, found = self.open(node), [], 0
        M_beta = 2 * self.M0 // GAMMA
        for place, middle in enumerate(row):
            if found >= M_beta:
                break
            self.n_filter_checks += 1
            self.take(middle, out)
            found += bool(self.passes[middle])
            for other in self.open(middle) if place >= M_beta else []:
                if found >= M_beta:
                    break
                self.n_filter_checks += 1
                found += self.take(other, out)
        return out

    def adaptive(self, node: int) -> list[int]:
        row, out, n_passing = self.first_hop(node)
        if 2 * n_passing >= len(row):
            return out
        middles = self.failing(row)
        n = len(row)
        if 0.4 * (n * n_passing + n_passing) > n + (n - n_passing):
            self.n_distances += len(middles)
            middles.sort(key=lambda x: self.estimates[x])
        for middle in middles:
            if len(out) >= self.M0:
                break
            if middle not in self.met:
                self.beyond(middle, out, self.M0)
        return out

    def bridged(self, node: int) -> list[int]:
        row, out, _ = self.first_hop(node)
        for middle in self.failing(row):
            if len(out) >= self.M0:
                break
            self.beyond(middle, out, self.M0)
        if out or not row:
            return out
        for middle in strided(row):
            far = self.open(middle)
            for bridge in strided(far):
                if not self.passes[bridge] and bridge not in self.met:
                    self.beyond(bridge, out, self.M0)
        return out

    def switched(self, node: int) -> list[int]:
        row, out, n_passing = self.first_hop(node)
        if 2 * n_passing >= len(row):
            return out
        found = n_passing
        for middle in self.failing(row):
            if found >= 32:
                break
            before = len(out)
            self.beyond(middle, out, float("inf"))
            found += len(out) - before
        return out


def strided(row: list[int]) -> list[int]:
    count = min(len(row), N_BRIDGES)
    return [row[b * len(row) // count] for b in range(count)]


def gamma_links(space: np.ndarray, M_beta: int, order: list[int]) -> list[list[int]]:
    """The lists of an ACORN-gamma graph, nearest first."""
    width = M_beta // 2 * GAMMA
    links: list[list[int]] = [[] for _ in order]

    def gap(a: int, b: int) -> float:
        return float(((space[a] - space[b]) ** 2).sum())

    def compress(candidates: list[int]) -> list[int]:
        kept, covered = candidates[:M_beta], set()
        for node in candidates[M_beta:]:
            if node in covered:
                continue
            if len(covered) + len(kept) >= width:
                break
            kept.append(node)
            covered |= set(links[node])
        return kept

    for place in range(1, len(order)):
        node = order[place]
        beam, met, expanded = [order[0]], {order[0], node}, set()
        while (here := next((x for x in beam if x not in expanded), None)) is not None:
            expanded.add(here)
            for other in links[here][:M_beta]:
                if other not in met:
                    met.add(other)
                    beam = sorted([*beam, other], key=lambda x: gap(node, x))[:width]
        links[node] = compress(beam)
        for other in links[node]:
            links[other] = compress(sorted([*links[other], node], key=lambda x: gap(other, x))[:width])
    return links
