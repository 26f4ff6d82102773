"""How many rows lie where to the pixels that work is cut into: coarse where the sky is empty, fine where it is dense."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mmu_pipeline.sky import Cell


def tiles(cells: Iterable[Cell], rows: Callable[[Cell], float], most: float, deepest: int) -> list[Cell]:
    """Pixels that cover `cells`, along the sky, each split into its four children while it holds more than `most` rows.

    `rows` tells how many a pixel holds; empty pixels are left out. At order `deepest` none is split.
    """
    found = []
    for cell in cells:
        count = rows(cell)
        if count > most and cell.order < deepest:
            children = (Cell(cell.order + 1, 4 * cell.pixel + child) for child in range(4))
            found += tiles(children, rows, most, deepest)
        elif count > 0:
            found.append(cell)
    return found
