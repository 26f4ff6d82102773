"""The match table to HATS associations, through which LSDB joins two object tables: every pair of a counterpart, once.

The match table is the association of its first counterpart. With several, each has a catalog of its pairs beside it: rows of
the match table are then combinations, in which a pair may stand several times.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Counterpart, Recipe, Survey
from mmu_pipeline.hats import Partition, write_metadata
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.sky import Cell
from mmu_pipeline.stages.build import Build
from mmu_pipeline.stages.match_table import match_schema
from mmu_pipeline.storage import match_folder, object_folder, partition_path


def association_folder(recipe: Recipe, survey: str) -> str:
    """Where the association of a counterpart lies."""
    return f"associations/{recipe.name}/{survey}" if recipe.counterparts[1:] else match_folder(recipe.name)


def catalogs(recipe: Recipe, surveys: Mapping[str, Survey]) -> dict[str, pa.Schema]:
    """Folder and columns of the match table, and, if there are several counterparts, of the pairs of each."""
    schema = match_schema(recipe, surveys)
    found = {match_folder(recipe.name): schema}
    for counterpart in recipe.counterparts if recipe.counterparts[1:] else ():
        columns = ["_healpix_29", *_pair_columns(recipe, counterpart)]
        found[association_folder(recipe, counterpart.survey)] = pa.schema([schema.field(name) for name in columns])
    return found


def parts_of(recipe: Recipe, table: pa.Table) -> dict[str, pa.Table]:
    """Rows of the match table to those of each of its catalogs, by folder."""
    parts = {match_folder(recipe.name): table}
    for counterpart in recipe.counterparts if recipe.counterparts[1:] else ():
        parts[association_folder(recipe, counterpart.survey)] = _pairs(recipe, counterpart, table)
    return parts


def _pairs(recipe: Recipe, counterpart: Counterpart, table: pa.Table) -> pa.Table:
    """The distinct pairs of one counterpart, in `_healpix_29` order, then by rank."""
    columns = ["_healpix_29", *_pair_columns(recipe, counterpart)]
    pairs = table.select(columns).filter(pc.is_valid(table[f"{counterpart.survey}_object_id"]))
    rest = (other for other in recipe.counterparts if other is not counterpart)
    if any(other.pick == "all" or other.repeats == "all" for other in rest):
        pairs = pairs.group_by(columns, use_threads=False).aggregate([])
    order = ["_healpix_29", columns[1], f"{counterpart.survey}_rank"]
    return pairs.sort_by([(name, "ascending") for name in order])


def _pair_columns(recipe: Recipe, counterpart: Counterpart) -> list[str]:
    names = ("object_id", "separation_arcsec", "rank", "n_candidates")
    return [f"{recipe.primary.survey}_object_id", *(f"{counterpart.survey}_{name}" for name in names)]


def write_catalogs(build: Build, done: Mapping[Cell, Receipt]) -> None:
    """Write the metadata of the match table, whose parts have these receipts, and of the associations beside it."""
    recipe, folder = build.recipe, match_folder(build.recipe.name)
    parts = [Partition(cell, partition_path(folder, cell), receipt.rows_out, "") for cell, receipt in done.items()]
    first = _properties(recipe, recipe.counterparts[0], done) if recipe.counterparts else None
    write_metadata(build.root, folder, recipe.name, parts, first)
    for counterpart in recipe.counterparts if recipe.counterparts[1:] else ():
        survey, folder = counterpart.survey, association_folder(recipe, counterpart.survey)
        parts = [
            Partition(cell, partition_path(folder, cell), receipt.facts["pairs"].get(survey, 0), "")
            for cell, receipt in done.items()
        ]
        properties = _properties(recipe, counterpart, done) | {"hats_col_ra": "", "hats_col_dec": ""}
        write_metadata(build.root, folder, f"{recipe.name}_{survey}", parts, properties)


def _properties(recipe: Recipe, counterpart: Counterpart, done: Mapping[Cell, Receipt]) -> dict[str, str]:
    """What makes a catalog an association of the primary with a counterpart (IVOA Note HATS).

    The two of a pair may lie further apart than the radius in their object tables, where they were moved to one epoch.
    """
    reach = max((receipt.facts["reach_arcsec"][counterpart.survey] for receipt in done.values()), default=0.0)
    return {
        "dataproduct_type": "association",
        "hats_primary_table_url": object_folder(recipe.primary.survey),
        "hats_col_assn_primary": "object_id",
        "hats_col_assn_primary_assn": f"{recipe.primary.survey}_object_id",
        "hats_assn_join_table_url": object_folder(counterpart.survey),
        "hats_col_assn_join": "object_id",
        "hats_col_assn_join_assn": f"{counterpart.survey}_object_id",
        "hats_assn_max_separation": f"{reach:g}",
        "hats_assn_leaf_files": "true",
        "hats_cols_default": " ".join(_pair_columns(recipe, counterpart)),
    }
