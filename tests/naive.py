"""Obvious, slow twins of the kernels: plain Python over sets and lists, no epochs, blocks or buffers."""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Callable, Sequence

import numpy as np

NO_NODE = -1
MAX_TWO_HOP_FOUND = 32


def row_of(neighbors: np.ndarray, node: int) -> list[int]:
    return [int(x) for x in neighbors[node] if x != NO_NODE]


def range_counts(flags: Sequence[bool], offsets: Sequence[int]) -> list[int]:
    return [sum(map(bool, flags[a:b])) for a, b in itertools.pairwise(offsets)]


def exact_distance(query: np.ndarray, vector: np.ndarray, metric: str) -> float:
    q, x = query.astype(np.float64), vector.astype(np.float64)
    if metric == "l2":
        return float(((q - x) ** 2).sum())
    if metric == "dot":
        return float(-(q @ x))
    norms = float(np.sqrt(q @ q) * np.sqrt(x @ x))
    return 1.0 if norms == 0 else max(0.0, 1.0 - float(q @ x) / norms)


def decoded_row(row: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The vector that an encoded row stands for."""
    codes = row[: center.size].view(np.int8).astype(np.float64)
    return center.astype(np.float64) + scale.astype(np.float64) * codes


def unpack_codes(row: np.ndarray, bits: int, width: int) -> list[int]:
    """The unsigned codes of a row of fewer than 8 bits, dimension by dimension."""
    out = []
    for j in range(width):
        chunk, within = divmod(j, 64)
        if bits == 1:
            byte, shift = within // 8, within % 8
        else:
            lanes = 8 * bits
            byte, shift = within % lanes, bits * (within // lanes)
        out.append(int(row[chunk * 8 * bits + byte]) >> shift & ((1 << bits) - 1))
    return out


def rotate(vector: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Four rounds of signs, a Hadamard matrix on the first or last power of two, and mixed halves."""
    width = signs.shape[1]
    row = np.zeros(width)
    row[: len(vector)] = vector
    size = 1 << (width.bit_length() - 1)
    hadamard = np.array([[1.0]])
    while len(hadamard) < size:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    for r, flips in enumerate(signs):
        row = row * flips
        part = slice(0, size) if r % 2 == 0 else slice(width - size, width)
        row[part] = hadamard @ row[part] / np.sqrt(size)
        if size != width:
            a, b = row[: width // 2].copy(), row[width // 2 :].copy()
            row = np.concatenate([a + b, a - b]) / np.sqrt(2)
    return row


def narrow_estimate(
    query: np.ndarray, row: np.ndarray, center: np.ndarray, bits: int, metric: str, signs
) -> float:
    """The estimate that a row of fewer than 8 bits stands for, without quantizing the query."""
    width = signs.shape[1]
    codes = np.array(unpack_codes(row, bits, width)) - ((1 << bits) - 1) / 2
    bias, step = row[width * bits // 8 :].view("<f4").astype(np.float64)
    q, mean = query.astype(np.float64), center.astype(np.float64)
    if metric == "l2":
        return float(((q - mean) ** 2).sum() + bias + step * (codes @ rotate(q - mean, signs)))
    if metric == "cosine" and np.linalg.norm(q) > 0:
        q = q / np.linalg.norm(q)
    lean = float(q @ mean / (mean @ mean)) if mean @ mean > 0 else 0.0
    base = (1.0 if metric == "cosine" else 0.0) - float(q @ mean)
    return float(base + lean * bias + step * (codes @ rotate(q - lean * mean, signs)))


def undecided(estimates: Sequence[float], spreads: Sequence[float], k: int, sigmas: float) -> list[int]:
    """Positions whose lower bound does not lie beyond the k-th least upper bound."""
    upper = sorted(e + sigmas * s for e, s in zip(estimates, spreads, strict=True))
    bound = upper[k - 1] if len(upper) >= k else float("inf")
    return [t for t, (e, s) in enumerate(zip(estimates, spreads, strict=True)) if e - sigmas * s <= bound]


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_lists_v1(rows: Sequence[Sequence[int]], base: int) -> bytes:
    out = b""
    for i, row in enumerate(rows):
        ids = sorted(row)
        out += varint(len(ids))
        if ids:
            first = ids[0] - (base + i)
            out += varint(2 * first if first >= 0 else -2 * first - 1)
        for a, b in itertools.pairwise(ids):
            out += varint(b - a - 1)
    return out


def list_numbers(rows: Sequence[Sequence[int]], base: int) -> list[tuple[int, int]]:
    """(context, value) of each number of a block of lists, in order."""
    end = base + len(rows)
    links = {(base + i, x) for i, row in enumerate(rows) for x in row}
    pairs: list[list[int]] = []
    sides: list[list[list[int]]] = [[], []]
    for i, row in enumerate(rows):
        own = base + i
        pairs.append([x for x in range(own + 1, end) if (own, x) in links or (x, own) in links])
        sides[0].append(sorted((x for x in row if x < base), reverse=True))
        sides[1].append(sorted(x for x in row if x >= end))
    out = [(kind, len(row)) for kind, plane in enumerate([pairs, *sides]) for row in plane]
    for i, row in enumerate(pairs):
        last = own = base + i
        for t, x in enumerate(row):
            out += [(5 if t else 4, x - last - 1)]
            out += [(3, 0 if (own, x) in links and (x, own) in links else 1 if (own, x) in links else 2)]
            last = x
    for side, edge in ((0, base), (1, end - 1)):
        for row in sides[side]:
            last = edge
            for t, x in enumerate(row):
                out.append((6 + 2 * side + (t > 0), abs(x - last) - 1))
                last = x
    return out


def read_list_numbers(data: bytes, contexts: Sequence[int]) -> list[int]:
    """The numbers of these contexts from the tables and bits of a block, one bit at a time."""
    at, tables = 0, []
    for _ in range(10):
        size = data[at]
        lengths = [data[at + 1 + k // 2] >> 4 * (k % 2) & 15 for k in range(size)]
        at += 1 + (size + 1) // 2
        code, table = 0, {}
        for length in range(1, 13):
            code <<= 1
            for symbol in range(size):
                if lengths[symbol] == length:
                    table[length, code] = symbol
                    code += 1
        tables.append(table)
    bits = iter([byte >> k & 1 for byte in data[at:] for k in range(8)])
    out = []
    for context in contexts:
        length = code = 0
        while (length, code) not in tables[context]:
            length, code = length + 1, 2 * code + next(bits)
        c = tables[context][length, code]
        out.append((1 << c) - 1 + sum(next(bits) << k for k in range(c)))
    assert not any(bits)
    return out


def beam_insert(beam: list[tuple[float, int]], capacity: int, node: int, distance: float) -> int:
    """Insert after equal distances; return the position, or `capacity` when dropped."""
    if len(beam) == capacity and not distance < beam[-1][0]:
        return capacity
    if len(beam) == capacity:
        beam.pop()
    at = bisect.bisect_right([d for d, _ in beam], distance)
    beam.insert(at, (distance, node))
    return at


def select_neighbors(
    space: np.ndarray, candidates: Sequence[int], distances: Sequence[float], capacity: int
) -> list[int]:
    taken: list[int] = []
    n_copies = 0
    for node, distance in zip(candidates, distances, strict=True):
        if len(taken) == capacity:
            break
        if distance == 0:
            if 2 * n_copies >= capacity:
                continue
            n_copies += 1
        if all(exact_distance(space[node], space[other], "l2") >= distance for other in taken):
            taken.append(node)
    for node in candidates:
        if len(taken) >= 3 * capacity // 4:
            break
        if node not in taken:
            taken.append(node)
    return taken


def descend(distance: Callable[[int], float], upper: object) -> int:
    """Greedy from the entry through the levels above 0; `distance` takes a rank. Returns a rank."""
    rank = upper.entry_rank
    for level in range(upper.max_level, 0, -1):
        while True:
            best = min(
                [rank, *row_of(upper.links, upper.rows[rank] + level - 1)],
                key=lambda r: (distance(r), r != rank),
            )
            if distance(best) >= distance(rank):
                break
            rank = best
    return rank


def _two_hop(node: int, neighbors: np.ndarray, passing: Sequence[bool], visited: set[int]) -> list[int]:
    row = row_of(neighbors, node)
    n_passing = sum(bool(passing[x]) for x in row)
    found = [x for x in row if passing[x] and x not in visited]
    failing = [x for x in row if not passing[x] and x not in visited]
    visited.update(found)
    if 2 * n_passing < len(row):
        count = n_passing
        for middle in failing:
            if count >= MAX_TWO_HOP_FOUND:
                break
            visited.add(middle)
            for other in row_of(neighbors, middle):
                if other not in visited and passing[other]:
                    visited.add(other)
                    found.append(other)
                    count += 1
    return found


def walk(
    distance: Callable[[int], float],
    neighbors: np.ndarray,
    seeds: Sequence[int],
    ef: int,
    passing: Sequence[bool] | None = None,
) -> list[tuple[float, int]]:
    """HNSW's search of level 0, or with `passing` cluster-seeded ACORN; (distance, node), nearest first."""
    beam: list[tuple[float, int]] = []
    visited: set[int] = set()
    expanded: set[int] = set()
    for seed in seeds:
        if seed not in visited and (passing is None or passing[seed]):
            beam_insert(beam, ef, seed, distance(seed))
        visited.add(seed)
    while True:
        node = next((x for _, x in beam if x not in expanded), None)
        if node is None:
            return beam
        expanded.add(node)
        if passing is None:
            found = [x for x in row_of(neighbors, node) if x not in visited]
            visited.update(found)
        else:
            found = _two_hop(node, neighbors, passing, visited)
        for other in found:
            beam_insert(beam, ef, other, distance(other))


def walk_result_filter(
    distance: Callable[[int], float],
    neighbors: np.ndarray,
    seeds: Sequence[int],
    ef: int,
    passing: Sequence[bool],
) -> list[tuple[float, int]]:
    results: list[tuple[float, int]] = []
    frontier: list[tuple[float, int]] = []
    visited: set[int] = set()

    def take(nodes: Sequence[int]) -> None:
        for node in nodes:
            d = distance(node)
            if len(results) == ef and not d < results[-1][0]:
                continue
            heapq.heappush(frontier, (d, node))
            if passing[node]:
                beam_insert(results, ef, node, d)

    first = list(dict.fromkeys(seeds))
    visited.update(first)
    take(first)
    while frontier:
        if len(results) == ef and frontier[0][0] > results[-1][0]:
            break
        _, node = heapq.heappop(frontier)
        found = [x for x in row_of(neighbors, node) if x not in visited]
        visited.update(found)
        take(found)
    return results


def pick_seeds(
    cluster_order: Sequence[int], offsets: Sequence[int], passing: Sequence[bool], n_seeds: int
) -> list[int]:
    nodes = [x for c in cluster_order for x in range(offsets[c], offsets[c + 1]) if passing[x]]
    return nodes[:n_seeds]


def scan(distances: Sequence[float], node_ids: Sequence[int], top: int) -> list[tuple[float, int]]:
    return sorted(((distances[x], x) for x in node_ids), key=lambda pair: pair[0])[:top]


def scan_in_doubt(
    distances: Sequence[float], spreads: Sequence[float], node_ids: Sequence[int], k: int, sigmas: float
) -> list[int]:
    """The nodes that were not beyond the k-th least upper bound when they were met, nearest first."""
    kept: list[int] = []
    uppers: list[float] = []
    for x in node_ids:
        if len(uppers) >= k and distances[x] - sigmas * spreads[x] > sorted(uppers)[k - 1]:
            continue
        uppers.append(distances[x] + sigmas * spreads[x])
        kept.append(x)
    return sorted(kept, key=lambda x: distances[x])


def near_scan(
    distances: Sequence[float],
    spreads: Sequence[float],
    clusters: Sequence[Sequence[int]],
    budget: int,
    k: int,
    sigmas: float,
    quiet: float,
) -> tuple[list[int], int]:
    """The nodes in doubt of a scan of clusters, nearest first, and how many were scanned."""
    kept: list[int] = []
    uppers: list[float] = []
    scanned = last = 0
    for cluster in clusters:
        if scanned >= budget and scanned - last >= quiet * scanned:
            break
        for x in cluster:
            scanned += 1
            bound = sorted(uppers)[k - 1] if len(uppers) >= k else float("inf")
            if distances[x] - sigmas * spreads[x] > bound:
                continue
            upper = distances[x] + sigmas * spreads[x]
            if upper < bound:
                last = scanned
            uppers.append(upper)
            kept.append(x)
    return sorted(kept, key=lambda x: distances[x]), scanned


def chain(centroids: np.ndarray) -> list[int]:
    left = list(range(1, len(centroids)))
    out = [0]
    while left:
        nearest = min(left, key=lambda c: exact_distance(centroids[out[-1]], centroids[c], "l2"))
        left.remove(nearest)
        out.append(nearest)
    return out


def build(
    space: np.ndarray,
    levels: Sequence[int],
    order: Sequence[int],
    M: int,
    ef: int,
    batches: Sequence[tuple[int, int]],
) -> list[dict[int, list[int]]]:
    """Batched HNSW construction: for each level, the links of each node of it."""
    n = len(space)
    links: list[dict[int, list[int]]] = [
        {node: [] for node in range(n) if levels[node] >= level} for level in range(max(levels) + 1)
    ]

    def gap(a: int, b: int) -> float:
        return exact_distance(space[a], space[b], "l2")

    for start, stop in batches:
        batch = sorted(order[start:stop])
        own = {node: _own_links(node, links, levels, order[0], gap, space, M, ef) for node in batch}
        for level, of_level in enumerate(links):
            capacity = 2 * M if level == 0 else M
            incoming: dict[int, list[int]] = {}
            for node in batch:
                if levels[node] >= level:
                    of_level[node] = own[node][level]
                    for target in own[node][level]:
                        incoming.setdefault(target, []).append(node)
            for target, sources in incoming.items():
                row = of_level[target] + sources
                if len(row) > capacity:
                    ranked: list[tuple[float, int]] = []
                    for x in row:
                        beam_insert(ranked, len(row), x, gap(target, x))
                    nodes, gaps = [x for _, x in ranked], [d for d, _ in ranked]
                    row = select_neighbors(space, nodes, gaps, capacity)
                of_level[target] = row
    return links


def _own_links(
    node: int,
    links: list[dict[int, list[int]]],
    levels: Sequence[int],
    entry: int,
    gap: Callable[[int, int], float],
    space: np.ndarray,
    M: int,
    ef: int,
) -> dict[int, list[int]]:
    start, out = entry, {}
    for level in range(levels[entry], levels[node], -1):
        while True:
            best = min([start, *links[level][start]], key=lambda x: (gap(node, x), x != start))
            if gap(node, best) >= gap(node, start):
                break
            start = best
    for level in range(levels[node], -1, -1):
        width = max(map(len, links[level].values())) + 1
        table = np.full((len(space), width), NO_NODE)
        for x, row in links[level].items():
            table[x, : len(row)] = row
        beam = walk(lambda x: gap(node, x), table, [start], ef)
        out[level] = select_neighbors(space, [x for _, x in beam], [d for d, _ in beam], M)
        start = beam[0][1]
    return out


def max_sim(query: np.ndarray, documents: Sequence[np.ndarray]) -> list[float]:
    return [
        sum(max(float(np.dot(q.astype(np.float64), d)) for d in rows) for q in query)
        if len(rows)
        else float("nan")
        for rows in documents
    ]


def by_estimates(estimates: Sequence[float], passing: Sequence[int], k: int) -> list[tuple[int, float]]:
    """The k passing rows of the least estimates, nearest first."""
    return sorted(((row, estimates[row]) for row in passing), key=lambda pair: (pair[1], pair[0]))[:k]


def correlation(
    gaps: Sequence[float], counts: Sequence[int], sizes: Sequence[int], n_near: int, enough: int
) -> float:
    """How much of the nearest clusters passes, over how much of all does."""
    rows = met = 0
    for cluster in sorted(range(len(gaps)), key=gaps.__getitem__)[:n_near]:
        rows, met = rows + sizes[cluster], met + counts[cluster]
        if met >= enough:
            # Of the last cluster, as large a part as was needed.
            rows -= int(sizes[cluster] * (met - enough) / counts[cluster]) if met > enough else 0
            met = enough
            break
    return (met / rows) / (sum(counts) / sum(sizes)) if rows else 1.0


def products(queries: np.ndarray, rows: np.ndarray) -> list[list[float]]:
    """Every query times the first components of every row."""
    return [
        [sum(float(a) * float(b) for a, b in zip(query, row, strict=False)) for row in rows]
        for query in queries
    ]


def novelty(query: np.ndarray, centroids: np.ndarray, directions: bool) -> float:
    own = query.astype(np.float64)
    norm = float(np.sqrt(own @ own))
    if directions:
        own = own / norm if norm else own
    gaps = [float(((own - c.astype(np.float64)) ** 2).sum()) for c in centroids]
    return min(gaps) / (sum(gaps) / len(gaps))
