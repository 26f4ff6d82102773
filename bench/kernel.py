"""How fast are the pairs of two catalogs in memory found? Against scipy's and pykdtree's trees, one thread, rows along the sky.

    python -m bench.kernel [--rows 1e6] [--rounds 5]

1 arcsec, the nearest of each row, on three skies: the whole of it, a square of 10 degrees and one of 2 degrees. Ours gives,
besides the nearest, how many candidates each row has, and finds all pairs for `all` in nearly the same time. Unit vectors and
the building of trees are part of the time, sorting is not: object tables are stored along the sky. Goal: at least as fast as
the best.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Annotated

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
import typer
from pykdtree.kdtree import KDTree
from rich.console import Console
from rich.table import Table
from scipy.spatial import cKDTree

from bench.skies import RADIUS, along_the_sky, two_skies
from mmu_pipeline.candidates import Positions
from mmu_pipeline.matching import match
from mmu_pipeline.sky import chord, unit_vectors


def by_tree(tree: Callable[[np.ndarray], object], one: Positions, two: Positions) -> int:
    distance, _ = tree(unit_vectors(two.ra, two.dec)).query(  # type: ignore[attr-defined]
        unit_vectors(one.ra, one.dec), k=1, distance_upper_bound=float(chord(RADIUS))
    )
    return int(np.isfinite(distance).sum())


def fast_ckdtree(points: np.ndarray) -> cKDTree:
    return cKDTree(points, balanced_tree=False, compact_nodes=False)


KERNELS: dict[str, Callable[[Positions, Positions], int]] = {
    "ours": lambda one, two: len(match(one, two, RADIUS).primary),
    "pykdtree": lambda one, two: by_tree(KDTree, one, two),
    "cKDTree, built fast": lambda one, two: by_tree(fast_ckdtree, one, two),
    "cKDTree, default": lambda one, two: by_tree(cKDTree, one, two),
    "ours, all pairs": lambda one, two: int(np.count_nonzero(np.diff(match(one, two, RADIUS, "all").primary, prepend=-1))),
}


def main(
    rows: Annotated[float, typer.Option(help="Rows of either catalog.")] = 1e6,
    rounds: Annotated[int, typer.Option(help="Rounds; the best is printed.")] = 5,
) -> None:
    table = Table(title=f"{int(rows):,} x {int(rows):,}, CPU-s of one thread (best), and ratio to ours")
    table.add_column("")
    seconds: dict[str, dict[str, float]] = {name: {} for name in KERNELS}
    skies = {"all sky": None, "10 x 10 degrees": 10.0, "2 x 2 degrees": 2.0}
    for sky, degrees in skies.items():
        table.add_column(sky, justify="right")
        sides = []
        for places in two_skies(int(rows), int(rows), degrees):
            index, ra, dec, row = along_the_sky(places)
            sides.append(Positions(ra, dec, pa.array(row), index))
        found = set()
        for _ in range(rounds):
            for name, kernel in KERNELS.items():
                start = time.process_time()
                found.add(kernel(sides[0], sides[1]))
                took = time.process_time() - start
                seconds[name][sky] = min(took, seconds[name].get(sky, np.inf))
        if len(found) != 1:
            raise SystemExit(f"kernels disagree on {sky}: {sorted(found)}")
    for name, taken in seconds.items():
        table.add_row(name, *(f"{taken[sky]:.3f}  {taken[sky] / seconds['ours'][sky]:.2f}x" for sky in skies))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
