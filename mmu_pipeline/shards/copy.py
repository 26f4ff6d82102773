"""Where the bytes of each sample of a shard lie -> its tar, its rows of the index, and the indexes of other readers."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq
import xxhash

from mmu_pipeline.catalog import SplitRule
from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.shards.index import EDGE_ARCSEC, index_schema, layout, shard_index_path
from mmu_pipeline.shards.manifest import ShardFile
from mmu_pipeline.shards.side_files import dali_index, dali_index_path, tar_index, tar_index_path
from mmu_pipeline.shards.splits import near_other_split
from mmu_pipeline.shards.tar import WRITTEN, Bytes, Digest, Ranges, copied
from mmu_pipeline.shards.ustar import BLOCK, NAME_BYTES, SIZE, padding
from mmu_pipeline.sky import Bool, Int, healpix29
from mmu_pipeline.storage import Root

COPIES = pa.schema(
    [
        pa.field("source", pa.int32(), nullable=False),
        pa.field("offset", pa.list_(pa.int64()), nullable=False),
        pa.field("nbytes", pa.list_(pa.int64()), nullable=False),
        pa.field("repeat", pa.bool_(), nullable=False),
        pa.field("digest", pa.uint64()),
    ]
)
"""What a shard is copied from, sample by sample: a tar, as a place in a list of them, ranges of it, one after the other; whether
the sample stands in the set before; and what its digest must be, null where members are left out."""
JSON_BLOCK = 1024**2


@dataclass(frozen=True)
class Rows:
    """What the index says of the samples of a set, beside their places."""

    members: tuple[str, ...]
    scalars: pa.Schema
    primary: str
    """The survey whose position is that of a sample."""
    split: SplitRule


def copies(source: Int, offset: Int, nbytes: Int, repeat: Bool, digest: npt.NDArray[np.uint64] | None) -> pa.Table:
    """What a shard is copied from, as COPIES. `offset` and `nbytes` have the shape (n, runs), the others (n,)."""
    bounds = pa.array(np.arange(len(source) + 1) * offset.shape[1], pa.int32())
    ranges = [pa.ListArray.from_arrays(bounds, pa.array(values.ravel(), pa.int64())) for values in (offset, nbytes)]
    found = pa.nulls(len(source), pa.uint64()) if digest is None else pa.array(digest)
    return pa.table([pa.array(source, pa.int32()), *ranges, pa.array(repeat), found], schema=COPIES)


def make_shard(
    root: Root,
    folder: str,
    name: str,
    fs: fsspec.AbstractFileSystem,
    paths: Sequence[str],
    wanted: pa.Table,
    rows: Rows,
    sha256: bool = False,
) -> ShardFile:
    """Copy a shard into a folder of the root, with all that lies beside it; `wanted` as COPIES, `paths` are the tars it names.

    Raises BrokenArtefact, and leaves no shard, if a tar is too short or a sample is not what its digest says.
    """
    runs = len(wanted["offset"][0]) if len(wanted) else 1
    offset, nbytes = (wanted[column].combine_chunks().flatten().to_numpy() for column in ("offset", "nbytes"))
    ranges = Ranges(np.repeat(wanted["source"].to_numpy().astype(np.int64), runs), offset, nbytes)
    digest, checksum = xxhash.xxh3_128(), hashlib.sha256()
    sums: list[Digest] = [digest, checksum] if sha256 else [digest]
    with root.writing(f"{folder}/{name}") as file:
        written, records = described(copied(file, fs, paths, ranges, runs, sums))
        _check_digests(written, wanted, paths)
    split = name.rpartition("-")[0]
    table = index_rows(written, records, rows, split, name, wanted["repeat"])
    ends = np.append(written["offset"].to_numpy(), int(nbytes.sum()))
    root.write_bytes(f"{folder}/{tar_index_path(name)}", tar_index(ends))
    root.write_bytes(f"{folder}/{dali_index_path(name)}", dali_index(written, rows.members))
    content = pa.BufferOutputStream()
    pq.write_table(table, content, **layout(table.schema))
    beside = content.getvalue().to_pybytes()
    root.write_bytes(f"{folder}/{shard_index_path(name)}", beside)
    size, sha = root.size(f"{folder}/{name}") or 0, checksum.hexdigest() if sha256 else ""
    return ShardFile(name, split, len(written), size, digest.hexdigest(), sha, xxhash.xxh3_128_hexdigest(beside))


def described(samples: Iterable[Bytes]) -> tuple[pa.Table, list[bytes]]:
    """Where each sample lies in the tar that they make, as WRITTEN, and its JSON. Raises BrokenArtefact for what is no sample."""
    keys: list[str] = []
    nbytes: list[int] = []
    digests: list[int] = []
    starts: list[int] = []
    sizes: list[int] = []
    members: list[int] = [0]
    records: list[bytes] = []
    for content in samples:
        view, position = memoryview(content), 0
        while position < len(view):
            try:
                size = int(bytes(view[position + SIZE.start : position + SIZE.stop]), 8)
            except ValueError as error:
                raise BrokenArtefact("what was copied is no sample", sample=len(keys), hint="mmu verify the input") from error
            starts.append(position + BLOCK)
            sizes.append(size)
            position += BLOCK + size + padding(size)
        keys.append(bytes(view[:NAME_BYTES]).partition(b".")[0].decode("ascii", "replace"))
        records.append(bytes(view[starts[-1] : starts[-1] + sizes[-1]]))
        nbytes.append(len(view))
        digests.append(xxhash.xxh3_64_intdigest(view))
        members.append(len(starts))
    offset = np.cumsum([0, *nbytes], dtype=np.int64)[:-1]
    lists = [pa.ListArray.from_arrays(pa.array(members, pa.int32()), pa.array(found, pa.int64())) for found in (starts, sizes)]
    return pa.table([keys, offset, nbytes, pa.array(digests, pa.uint64()), *lists], schema=WRITTEN), records


def _check_digests(written: pa.Table, wanted: pa.Table, paths: Sequence[str]) -> None:
    """Raise BrokenArtefact if the bytes of a sample are not those that were planned."""
    if wanted["digest"].null_count:
        return
    changed = np.flatnonzero(written["digest"].to_numpy() != wanted["digest"].to_numpy())
    if len(changed):
        row = int(changed[0])
        raise BrokenArtefact(
            "a sample is not what its index says: its digest differs",
            file=paths[wanted["source"][row].as_py()],
            offset=wanted["offset"][row][0].as_py(),
            key=written["key"][row].as_py(),
            samples=len(changed),
            hint="delete that file and make it again",
        )


def index_rows(
    written: pa.Table, records: Sequence[bytes], rows: Rows, split: str, shard: str, repeat: pa.ChunkedArray
) -> pa.Table:
    """The rows of a shard in the set's index, in sky order, from the samples' places and their JSON."""
    scalars = scalars_of(records, rows.scalars)
    ra, dec = (scalars[f"{rows.primary}_{name}"].to_numpy() for name in ("ra", "dec"))
    edge = near_other_split(ra, dec, rows.split.model_copy(update={"guard_arcsec": EDGE_ARCSEC}))
    values = {
        "_healpix_29": healpix29(ra, dec), "ra": ra, "dec": dec, "split": pa.array([split] * len(written), pa.string()),
        "shard": pa.array([shard] * len(written), pa.string()), "repeat": repeat, "edge": edge,
    }  # fmt: skip
    found = {**values, **dict(zip(written.column_names, written.columns, strict=True))}
    schema = index_schema(rows.scalars)
    table = pa.table([found[name] if name in found else scalars[name] for name in schema.names], schema=schema)
    return table.take(np.argsort(values["_healpix_29"], kind="stable"))


def scalars_of(records: Sequence[bytes], schema: pa.Schema) -> pa.Table:
    """The JSON of some samples as columns of a schema. Raises BrokenArtefact where it does not fit."""
    if not records:
        return schema.empty_table()
    read = pa.schema([pa.field(field.name, _as_read(field.type)) for field in schema])
    options = pj.ReadOptions(use_threads=False, block_size=max(JSON_BLOCK, 2 * max(map(len, records)) + 2))
    form = pj.ParseOptions(explicit_schema=read, unexpected_field_behavior="error")
    try:
        table = pj.read_json(io.BytesIO(b"\n".join(records)), options, form)
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError) as error:
        raise BrokenArtefact("the JSON of the samples is not as declared", reason=str(error).splitlines()[0],
                             hint="mmu verify the input") from error  # fmt: skip


def _as_read(type_: pa.DataType) -> pa.DataType:
    """The type as which JSON is read before it is cast: Arrow's reader knows no lists of a fixed length and no half floats."""
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_as_read(type_.value_type))
    return pa.float32() if pa.types.is_float16(type_) else type_
