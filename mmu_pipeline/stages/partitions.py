"""Receipts to the partitions of a catalog: those of this build, and those of earlier builds that still hold beside them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mmu_pipeline.hats import Partition, write_metadata
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.sky import CELL_ORDER, Cell, overlapping
from mmu_pipeline.stages.associations import write_catalogs
from mmu_pipeline.stages.build import Build
from mmu_pipeline.stages.match import block_of
from mmu_pipeline.stages.quality import quality_of, quality_path
from mmu_pipeline.stages.receipts import by_survey, other_receipts
from mmu_pipeline.storage import object_folder, partition_path


def object_partitions(build: Build, name: str, receipts: Iterable[Receipt]) -> tuple[Partition, ...]:
    """Partitions of a survey's object table, along the sky, from receipts of the objects stage."""
    order, folder = build.surveys[name].partition_order, object_folder(name)
    found = []
    for receipt in receipts:
        owner, pixel = receipt.unit.split("/")
        if owner == name and receipt.status == "done":
            cell = Cell(order, int(pixel))
            found.append(Partition(cell, partition_path(folder, cell), receipt.rows_out, receipt.fingerprint))
    return tuple(sorted(found, key=lambda partition: partition.cell))


def describe_objects(build: Build, receipts: list[Receipt]) -> None:
    """Write the metadata of each survey's object table.

    A build of some cells reads a part of each survey, and so does any build of a counterpart that is cut by cell: what earlier
    builds left elsewhere in the sky is part of the catalog as well.
    """
    stored = by_survey(receipts)
    for name, survey in build.surveys.items():
        own = stored[name]
        whole = build.cells is None and name == build.recipe.primary.survey
        if whole or not survey.forms[build.sources[name].form].cut_by_cell:
            left = []
        else:
            others = other_receipts(build, "objects", name, own)
            left = [r for r in others if all(build.root.size(path) == size for path, size in r.outputs.items())]
            left = [r for r in left if {item.path for item in object_partitions(build, name, [r])} == r.outputs.keys()]
        write_metadata(build.root, object_folder(name), name, list(object_partitions(build, name, [*own, *left])))


def describe_matches(build: Build, receipts: list[Receipt], rule: str) -> None:
    """Write the metadata of the match table and its associations; remove partitions of earlier builds that this one replaces.

    They stay where this build says nothing, as long as they follow the same rule. The quality of the match is that of this build
    alone, as its set will hold it: another build measured with primaries that it sampled in its own way.
    """
    bounds = np.array([Cell(CELL_ORDER, cell).range for cell in sorted(build.cells or ())], np.int64).reshape(-1, 2)
    kept = [receipt for receipt in receipts if receipt.status == "done"]
    for receipt in other_receipts(build, "match", build.recipe.name, receipts):
        beside = build.cells is not None and receipt.status == "done" and receipt.facts.get("rule") == rule
        if beside and not len(overlapping(bounds, np.array([block_of(receipt.unit).range]))):
            kept.append(receipt)
            continue
        for path in (*receipt.outputs, receipt.path):
            build.root.remove(path)
    write_catalogs(build, {block_of(receipt.unit): receipt for receipt in kept})
    build.root.write_json(quality_path(build.recipe), quality_of(build, receipts))
