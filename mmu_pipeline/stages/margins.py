"""Object tables to HATS margin catalogs: what LSDB must be given to follow pairs across the borders of partitions.

A build needs none, since it reads margins from the neighbours; so they are written only when asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import healpy as hp
import numpy as np
import pyarrow as pa

from mmu_pipeline.errors import BadInput
from mmu_pipeline.fingerprint import fingerprint
from mmu_pipeline.hats import Partition, write_metadata
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.sky import Cell, in_ranges, margin_order, margin_ranges
from mmu_pipeline.stages.build import Build, Outcome, Unit
from mmu_pipeline.stages.objects import read_objects
from mmu_pipeline.stages.scan import object_schema
from mmu_pipeline.storage import object_folder, partition_path

FINE_LEVELS = 11
"""How much deeper than a partition the pixels are of which its margin is made: it holds little beyond its threshold."""


@dataclass(frozen=True)
class Margin:
    """What one file of a margin catalog is made of."""

    survey: str
    arcsec: float
    cell: Cell
    near: tuple[Partition, ...]
    """Partitions of the object table that touch this one."""

    @property
    def path(self) -> str:
        return partition_path(margin_folder(self.survey, self.arcsec), self.cell)


def margin_folder(survey: str, arcsec: float) -> str:
    return f"{object_folder(survey)}_margin_{arcsec:g}arcsec"


def reach_of(receipts: Sequence[Receipt], survey: str) -> float:
    """How far apart primaries and their counterparts in a survey may lie, in whole arcsec: from receipts of the match stage.

    Raises BadInput if there are none.
    """
    found = [float(receipt.facts["reach_arcsec"][survey]) for receipt in receipts if receipt.status == "done"]
    if not found:
        raise BadInput("nothing is matched yet", hint="build first, or say how wide the margins are to be: --arcsec")
    return float(np.ceil(max(found)))


def margin_units(survey: str, partitions: Sequence[Partition], arcsec: float) -> list[Unit]:
    """A unit for each partition of an object table, and for each pixel beside one: a pair may begin where no row is.

    Raises BadInput if a margin would reach further than the partitions around it.
    """
    known = {partition.cell.pixel: partition for partition in partitions}
    order = partitions[0].cell.order if partitions else 0
    if margin_order(arcsec) < order:
        raise BadInput(f"a margin of {arcsec:g} arcsec is wider than a partition of {survey!r}", partition_order=order,
                       hint="give a smaller --arcsec, or the survey coarser partitions")  # fmt: skip
    around = _touching(order, np.fromiter(known, np.int64))
    units = []
    for pixel in sorted(known.keys() | set(around.ravel().tolist()) - {-1}):
        beside = {int(other) for other in _touching(order, np.array([pixel])).ravel()} & known.keys() - {pixel}
        near = tuple(known[other] for other in sorted(beside))
        margin = Margin(survey, arcsec, Cell(order, pixel), near)
        weight = known[pixel].rows if pixel in known else 1
        print_of = fingerprint("margins", survey, arcsec, [(part.path, part.digest) for part in near])
        units.append(Unit("margins", f"{survey}_{arcsec:g}arcsec/{pixel}", None, weight, (margin,), print_of))
    return units


def _touching(order: int, pixels: np.ndarray) -> np.ndarray:
    """The eight pixels around each of some pixels, -1 where there are but seven. Shape (8, n)."""
    return np.asarray(hp.get_all_neighbours(1 << order, pixels, nest=True))


def run(unit: Unit, build: Build) -> Receipt:
    """Write the rows within the threshold of one partition that lie outside it, all columns, in `_healpix_29` order."""
    (margin,) = (item for item in unit.inputs if isinstance(item, Margin))
    ranges = margin_ranges(margin.cell, margin.arcsec, FINE_LEVELS)
    columns = object_schema(build.surveys[margin.survey]).names
    rows = read_objects(build, margin.survey, margin.near, ranges, columns)
    outside = ~in_ranges(rows["_healpix_29"].to_numpy(), [margin.cell.range])
    rows = rows.filter(pa.array(outside))
    if len(rows):
        build.root.write_table(margin.path, rows)
    else:
        build.root.remove(margin.path)
    outputs = {margin.path: build.root.size(margin.path) or 0} if len(rows) else {}
    return Receipt("margins", unit.name, unit.fingerprint, rows_in=len(rows), rows_out=len(rows), outputs=outputs)


def finish(build: Build, outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Write the metadata of the margin catalogs whose units have run. Gives the URL of each and its rows."""
    parts: dict[tuple[str, float], list[Partition]] = defaultdict(list)
    for outcome in outcomes:
        for margin in outcome.unit.inputs:
            if isinstance(margin, Margin):
                parts[margin.survey, margin.arcsec].append(Partition(margin.cell, margin.path, outcome.receipt.rows_out, ""))
    written = {}
    for (survey, arcsec), partitions in parts.items():
        folder = margin_folder(survey, arcsec)
        properties = {
            "dataproduct_type": "margin",
            "hats_primary_table_url": object_folder(survey),
            "hats_margin_threshold": f"{arcsec:g}",
        }
        write_metadata(build.root, folder, folder.rsplit("/", 1)[-1], partitions, properties)
        written[build.root.at(folder).url] = sum(partition.rows for partition in partitions)
    return written
