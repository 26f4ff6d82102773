"""Two made-up catalogs of one sky -> object tables on disk as the pipeline stores them, with the receipts that planning reads."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa

from mmu_pipeline.catalog import Counterpart, Form, Recipe, Selection, Survey
from mmu_pipeline.hats import Partition, write_metadata
from mmu_pipeline.receipt import Receipt, write_receipt
from mmu_pipeline.sky import CELL_ORDER, Cell, healpix29, pixels_at
from mmu_pipeline.stages.build import Build, Source
from mmu_pipeline.stages.receipts import write_stage
from mmu_pipeline.stages.scan import counts_of, object_schema
from mmu_pipeline.storage import Root, object_folder, partition_path

RADIUS = 1.0
"""Arcsec, of every match."""

Places = tuple[np.ndarray, np.ndarray]


def two_skies(rows: int, other: int, degrees: float | None = None, seed: int = 0, share: float = 0.5) -> tuple[Places, Places]:
    """ra, dec of two catalogs over the whole sky, or over a square of some degrees.

    That share of the smaller one's objects, every second, lies within an arcsecond of one of the other's.
    """
    rng = np.random.default_rng(seed)

    def places(count: int) -> Places:
        if degrees is None:
            return rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
        return rng.uniform(40, 40 + degrees, count), rng.uniform(0, degrees, count)

    (ra, dec), (also, up) = places(rows), places(other)
    shared = int(min(rows, other) * share)
    also[:shared], up[:shared] = ra[:shared], np.clip(dec[:shared] + rng.normal(0, 0.3 / 3600, shared), -90, 90)
    return (ra, dec), (also, up)


def along_the_sky(places: Places) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`_healpix_29`, ra, dec and row of a catalog, in sky order."""
    index = healpix29(*places)
    rows = np.argsort(index, kind="stable")
    return index[rows], places[0][rows], places[1][rows], rows


def survey(name: str, order: int) -> Survey:
    """A survey of positions alone, its object table cut at an order."""
    form = Form(reader="mmu_v1", files=("healpix=*/*.hdf5",), cut_by_cell=True)
    return Survey(
        name=name, title=name, modality="table", release="none", summary="Made by a benchmark.", forms={"cells": form}, fields=(),
        licence="none", citation="none", partition_order=order,
    )  # fmt: skip


def matched_build(root: Root, catalogs: dict[str, Places], order: int, match_rows: int = 1_000_000) -> Build:
    """A build whose object tables are on disk: the first catalog matched with the second, nearest, pairs alone."""
    names = list(catalogs)
    counterparts = tuple(Counterpart(survey=name, radius_arcsec=RADIUS, pick="nearest", how="inner") for name in names[1:])
    recipe = Recipe(name="bench", primary=Selection(survey=names[0]), counterparts=counterparts)
    sources = {name: Source("cells", "nowhere") for name in names}
    build = Build(recipe, {name: survey(name, order) for name in names}, sources, root, match_rows=match_rows)
    write_stage(
        build, "objects", [receipt for name, places in catalogs.items() for receipt in _write_catalog(build, name, places)]
    )
    return build


def _write_catalog(build: Build, name: str, places: Places) -> list[Receipt]:
    """Write an object table, which LSDB opens too; the receipts of its units."""
    root, declared = build.root, build.surveys[name]
    index, ra, dec, rows = along_the_sky(places)
    pixels = pixels_at(index, declared.partition_order)
    partitions, receipts = [], []
    for start, stop in pairwise(np.flatnonzero(np.diff(pixels, prepend=-1, append=-1)).tolist()):
        part, cell = slice(start, stop), Cell(declared.partition_order, int(pixels[start]))
        table = pa.table(
            {
                "_healpix_29": index[part], "ra": ra[part], "dec": dec[part],
                "object_id": pa.array(rows[part]).cast(pa.string()),
                "source_file": pa.array([f"healpix={cell.pixel}/001-of-001.hdf5"] * (stop - start)), "source_row": rows[part],
            }
        ).cast(object_schema(declared))  # fmt: skip
        path = partition_path(object_folder(name), cell)
        root.write_table(path, table)
        facts = {"cells": counts_of(pixels_at(index[part], CELL_ORDER))}
        receipts.append(
            write_receipt(root, Receipt("objects", f"{name}/{cell.pixel}", str(start), rows_out=len(table), facts=facts))
        )
        partitions.append(Partition(cell, path, len(table), str(start)))
    write_metadata(root, object_folder(name), name, partitions)
    return receipts
