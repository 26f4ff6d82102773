"""The match table of one cell and the arrays it points to: the cell's samples, encoded, in sky order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.fields import Array, Field
from mmu_pipeline.ranges import RangedFile
from mmu_pipeline.readers import reader
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.shards.index import piece_index
from mmu_pipeline.shards.narrow import Loss, narrowed
from mmu_pipeline.shards.samples import Sample, sample_key
from mmu_pipeline.shards.schema import MemberField, sample_members, sample_scalars
from mmu_pipeline.shards.splits import near_other_split
from mmu_pipeline.shards.tar import write_samples
from mmu_pipeline.sky import CELL_ORDER, Cell, Int, pixels_at
from mmu_pipeline.stages.access import Access
from mmu_pipeline.stages.build import Build, Unit
from mmu_pipeline.stages.listing import listed_files
from mmu_pipeline.stages.match import block_of
from mmu_pipeline.stages.objects import find_rows, read_objects
from mmu_pipeline.stages.repeats import is_repeated
from mmu_pipeline.stages.skies import Sky
from mmu_pipeline.storage import match_folder, partition_path

GUARDED = "within guard_arcsec of another split"
PAIR = ("separation_arcsec", "rank", "n_candidates", "crosses_border", "normalised_separation")


def run(unit: Unit, build: Build) -> Receipt:
    """Write the samples of one cell: `pieces/samples/<unit>.tar`, and `.parquet` that says where each lies and what it is.

    Arrays are read, normalised and written a batch at a time: `build.batch_bytes` of them are held, whatever the cell holds.
    """
    recipe, cell = build.recipe, Cell(CELL_ORDER, int(unit.name.split("/")[1]))
    block = next(block_of(name) for name in unit.inputs if isinstance(name, str))
    start, stop = cell.range
    within = [("_healpix_29", ">=", start), ("_healpix_29", "<", stop)]
    matches = build.root.read_table(partition_path(match_folder(recipe.name), block), filters=within)
    total = len(matches)
    if recipe.split.guard_arcsec > 0:
        near = near_other_split(matches["ra"].to_numpy(), matches["dec"].to_numpy(), recipe.split)
        matches = matches.filter(pa.array(~near))
    records = _records(unit, build, cell, matches)
    keys = _keys(build, matches)
    stem = f"pieces/samples/{unit.name}"
    access, nbytes = Access(build), Counter[str]()
    narrow = [member for member in sample_members(recipe, build.surveys) if member.is_narrowed]
    losses = {member.name: Loss() for member in narrow}
    scales: dict[str, list[float]] = {member.scale: [] for member in narrow if member.scale}
    with build.root.writing(f"{stem}.tar") as file:
        written = write_samples(file, _narrowed(_samples(access, matches, keys, records, nbytes), narrow, losses, scales))
    for name, found in scales.items():
        records = records.set_column(records.column_names.index(name), name, pa.array(found, pa.float32()))
    index29, ra, dec = (matches[name].to_numpy() for name in ("_healpix_29", "ra", "dec"))
    index = piece_index(written, index29, ra, dec, records, recipe)
    build.root.write_table(f"{stem}.parquet", index)
    return Receipt(
        stage="samples", unit=unit.name, fingerprint=unit.fingerprint, rows_in=total, rows_out=len(index),
        skipped={GUARDED: total - len(index)} if total > len(index) else {},
        outputs={path: build.root.size(path) or 0 for path in (f"{stem}.tar", f"{stem}.parquet")},
        facts={
            "array_bytes": dict(nbytes),
            "narrowed": {name: asdict(loss) for name, loss in losses.items()},
            "moved": access.moved,
        },
    )  # fmt: skip


def _keys(build: Build, matches: pa.Table) -> list[str]:
    """Keys follow from the primary's id alone, and from what else tells two samples of it apart."""
    recipe = build.recipe
    parts = [f"{recipe.primary.survey}_object_id"]
    if is_repeated(recipe.primary, build.surveys[recipe.primary.survey]):
        parts += [f"{recipe.primary.survey}_source_file", f"{recipe.primary.survey}_source_row"]
    for counterpart in recipe.counterparts:
        repeated = is_repeated(counterpart, build.surveys[counterpart.survey])
        if counterpart.pick == "all" or repeated:
            parts.append(f"{counterpart.survey}_object_id")
        if repeated:
            parts += [f"{counterpart.survey}_source_file", f"{counterpart.survey}_source_row"]
    columns = [pc.cast(matches[name], pa.string()).to_pylist() for name in parts]
    return [sample_key(ids) for ids in zip(*columns, strict=True)]


def _records(unit: Unit, build: Build, cell: Cell, matches: pa.Table) -> pa.Table:
    """The JSON of each row, as a table: columns as `record_schema`."""
    schema = pa.schema([(scalar.name, scalar.type) for scalar in sample_scalars(build.recipe, build.surveys)])
    columns: dict[str, pa.ChunkedArray | pa.Array] = {"healpix": pa.array(np.full(len(matches), cell.pixel))}
    skies = {sky.survey: sky for sky in unit.inputs if isinstance(sky, Sky)}
    for selection in build.recipe.selections:
        name = selection.survey
        wanted = ["ra", "dec", "source_file", "source_row", *(selection.columns or ())]
        places = matches["_healpix_29" if selection is build.recipe.primary else f"{name}_healpix29"]
        objects = read_objects(build, name, skies[name].partitions, _spans(places), wanted)
        rows = objects.take(_located(objects, matches[f"{name}_source_file"], matches[f"{name}_source_row"], name))
        columns |= {f"{name}_{column}": rows[column] for column in ("ra", "dec", *(selection.columns or ()))}
        columns[f"{name}_object_id"] = matches[f"{name}_object_id"]
        if selection is not build.recipe.primary:
            columns[f"has_{name}"] = pc.is_valid(matches[f"{name}_object_id"])
            pair = [f"{name}_{column}" for column in PAIR if f"{name}_{column}" in schema.names]
            columns |= {column: matches[column] for column in pair}
    absent = pa.nulls(len(matches))
    return pa.table([pc.cast(columns.get(field.name, absent), field.type) for field in schema], schema=schema)


def _spans(places: pa.ChunkedArray) -> Int:
    """`_healpix_29` ranges, shape (n, 2), that hold some places: from the first to the last of them in each order-4 cell."""
    index = np.unique(places.drop_null().to_numpy())
    starts = np.flatnonzero(np.diff(pixels_at(index, CELL_ORDER), prepend=-1))
    ends = np.append(starts[1:], len(index))[: len(starts)]
    return np.stack([index[starts], index[ends - 1] + 1], axis=1)


def _located(objects: pa.Table, files: pa.ChunkedArray, rows: pa.ChunkedArray, survey: str) -> pa.Array:
    """Where each (source_file, source_row) stands in an object table; null where the pointer is null."""
    place, absent = find_rows(objects, files, rows), pc.is_null(files).to_numpy()
    if np.any((place < 0) & ~absent):
        raise BrokenArtefact("the match table points to rows that the object table does not hold", survey=survey,
                             hint="remove the receipts of this recipe's matches and build again")  # fmt: skip
    return pa.array(place, mask=absent)


def _samples(access: Access, matches: pa.Table, keys: Sequence[str], records: pa.Table, nbytes: Counter[str]) -> Iterator[Sample]:
    build = access.build
    members: dict[str, list[Field]] = {name: [] for name in build.recipe.survey_names}
    for member in sample_members(build.recipe, build.surveys):
        members[member.survey].append(member.field)
    per_sample = sum(field.nominal_bytes for fields in members.values() for field in fields)
    step = max(1, build.batch_bytes // max(per_sample, 1))
    columns_of_record = records.column_names
    wanted = {name: _rows_by_file(matches, name) for name in members}
    for start in range(0, len(matches), step):
        part = matches.slice(start, step)
        arrays: dict[str, Sequence[Array]] = {}
        for name, fields in members.items():
            arrays |= _arrays(access, build.surveys[name], fields, part, wanted[name], nbytes)
        columns = [records[column].slice(start, step).to_pylist() for column in columns_of_record]
        for row in range(len(part)):
            yield Sample(
                keys[start + row],
                {member: values[row] for member, values in arrays.items()},
                {name: column[row] for name, column in zip(columns_of_record, columns, strict=True)},
            )


def _narrowed(
    samples: Iterable[Sample], members: Sequence[MemberField], losses: dict[str, Loss], scales: dict[str, list[float]]
) -> Iterator[Sample]:
    """The samples with these members in their narrower types. What that loses is added up; scales are listed, row by row."""
    for sample in samples:
        arrays, record = dict(sample.arrays), dict(sample.record)
        for member in members:
            arrays[member.name], scale, loss = narrowed(arrays[member.name], member.dtype)
            losses[member.name] = losses[member.name].plus(loss)
            if member.scale:
                scales[member.scale].append(scale)
                record[member.scale] = scale
        yield Sample(sample.key, arrays, record)


def _read(
    survey: Survey, form: str, rows: Int, ids: Sequence[str], members: Sequence[Field], path: Path | RangedFile
) -> dict[str, Sequence[Array]]:
    return reader(survey.forms[form].reader).read_arrays(survey, form, path, rows, ids, members)


def _rows_by_file(matches: pa.Table, survey: str) -> dict[str, Int]:
    """Source file -> all its rows that the cell's samples need."""
    pointers = matches.select([f"{survey}_source_file", f"{survey}_source_row"]).drop_null()
    grouped = pa.TableGroupBy(pointers, f"{survey}_source_file").aggregate([(f"{survey}_source_row", "list")])
    names, rows = grouped[f"{survey}_source_file"].to_pylist(), grouped[f"{survey}_source_row_list"]
    return {name: np.asarray(found.values) for name, found in zip(names, rows, strict=True)}


def _arrays(
    access: Access, survey: Survey, members: Sequence[Field], part: pa.Table, wanted: Mapping[str, Int], nbytes: Counter[str]
) -> Mapping[str, Sequence[Array]]:
    """One survey's arrays of some samples: member name -> one array per row, absent ones filled."""
    source = access.build.sources[survey.name]
    files = part[f"{survey.name}_source_file"].combine_chunks().dictionary_encode()
    rows: Int = pc.fill_null(part[f"{survey.name}_source_row"], 0).to_numpy()
    ids = part[f"{survey.name}_object_id"].to_pylist()
    codes = files.indices.fill_null(-1).to_numpy()
    result: dict[str, list[Array]] = {field.name: [field.absent()] * len(part) for field in members}
    names = files.dictionary.to_pylist() if members else []
    listed = listed_files(access.build, survey.name, names)
    for code, relative in enumerate(names):
        here = np.flatnonzero(codes == code)
        read = partial(_read, survey, source.form, rows[here], [ids[row] for row in here], members)
        found = access.read(survey, listed[relative], read, wanted[relative], members)
        for field in members:
            for row, array in zip(here, found[field.name], strict=True):
                result[field.name][row] = array
                nbytes[survey.name] += array.nbytes
    return {f"{survey.name}.{name}": arrays for name, arrays in result.items()}
