"""Source files as they were listed for a scan -> a table beside the receipts, by which later stages know them again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import pyarrow as pa

from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.stages.build import Build, SourceFile, Unit

SCHEMA = pa.schema([("source_file", pa.string()), ("size", pa.int64()), ("tag", pa.string()), ("sha256", pa.string())])
ROW_GROUP = 10_000


def listing_path(recipe: str, survey: str) -> str:
    return f"receipts/stages/{recipe}/sources/{survey}.parquet"


def write_listing(build: Build, units: Iterable[Unit]) -> None:
    """Write what the units of the scan read, a table per survey, sorted by file."""
    rows: dict[str, list[tuple[str, int | None, str, str | None]]] = defaultdict(list)
    for unit in units:
        files = (item for item in unit.inputs if isinstance(item, SourceFile))
        rows[unit.name.split("/")[0]] += [(file.relative, file.size, file.tag, file.sha256) for file in files]
    for survey, found in rows.items():
        columns = [list(column) for column in zip(*sorted(found, key=lambda row: row[0]), strict=True)]
        table = pa.table(columns or [[], [], [], []], schema=SCHEMA)
        build.root.write_table(listing_path(build.recipe.name, survey), table, row_group_size=ROW_GROUP)


def listed_files(build: Build, survey: str, names: Sequence[str]) -> dict[str, SourceFile]:
    """Some source files of a survey as the scan met them, by name. Raises BrokenArtefact if it did not meet one."""
    source = build.sources[survey]
    path = listing_path(build.recipe.name, survey)
    rows = build.root.read_table(path, filters=[("source_file", "in", list(names))]).to_pylist() if names else []
    found = {
        row["source_file"]: SourceFile(
            row["source_file"],
            tuple(f"{place.rstrip('/')}/{row['source_file']}" for place in (source.url, *source.mirrors)),
            row["size"],
            row["tag"],
            sha256=row["sha256"],
        )
        for row in rows
    }
    if missing := sorted(set(names) - found.keys()):
        raise BrokenArtefact("the object table names a file that the scan did not meet", survey=survey, file=missing[0],
                             hint="remove the receipts of this survey's objects and build again")  # fmt: skip
    return found
