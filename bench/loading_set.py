"""Arrays -> a set of shards for measurements: as the pipeline writes it, without surveys and recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmu_pipeline.fields import Array
from mmu_pipeline.shards.index import INDEX_PATH
from mmu_pipeline.shards.manifest import FORMAT_VERSION, MANIFEST_PATH
from mmu_pipeline.shards.samples import Sample
from mmu_pipeline.shards.side_files import tar_index, tar_index_path
from mmu_pipeline.shards.tar import write_samples
from mmu_pipeline.storage import Root

SHARDS = 8
DISTINCT = 64
"""Records that differ; a set repeats them under new keys."""
SCALARS = {"healpix": "int64", "hsc_object_id": "string", "hsc_ra": "float64", "hsc_dec": "float64", "has_sdss": "bool"}
SMALL = {"hsc.image": (5, 64, 64), "sdss.flux": (4096,)}
"""98.5 kB a record."""
LARGE = {"hsc.image": (5, 240, 240), "sdss.flux": (4096,)}
"""1.2 MB a record."""


def record_nbytes(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(4 * int(np.prod(shape)) for shape in shapes.values())


def samples(shapes: dict[str, tuple[int, ...]], first: int, count: int) -> Iterator[Sample]:
    rng = np.random.default_rng(0)
    held: list[dict[str, Array]] = [
        {name: rng.normal(size=shape).astype("<f4") for name, shape in shapes.items()} for _ in range(DISTINCT)
    ]
    for number in range(first, first + count):
        record = {"healpix": 1104, "hsc_object_id": str(number), "hsc_ra": 150.0, "hsc_dec": 2.2, "has_sdss": True}
        yield Sample(f"object-{number:016x}", held[number % DISTINCT], record)


def make_set(folder: Path, shapes: dict[str, tuple[int, ...]], count: int) -> Path:
    """Write a set of `count` records into a folder; its index has their places alone."""
    root = Root(str(folder))
    shards, rows = [], []
    for number in range(SHARDS):
        first, stop = number * count // SHARDS, (number + 1) * count // SHARDS
        name = f"train-{number:06d}.tar"
        with root.writing(name) as file:
            written = write_samples(file, samples(shapes, first, stop - first))
        ends = np.append(written["offset"].to_numpy(), written["offset"][-1].as_py() + written["nbytes"][-1].as_py())
        root.write_bytes(tar_index_path(name), tar_index(ends))
        shards.append({"name": name, "samples": stop - first, "nbytes": root.size(name), "digest": f"{number:032x}"})
        rows.append(written.append_column("shard", pa.array([name] * (stop - first))))
    with root.writing(INDEX_PATH) as file:
        pq.write_table(pa.concat_tables(rows), file)
    members = [{"name": name, "dtype": "float32", "shape": list(shape)} for name, shape in shapes.items()]
    scalars = [{"name": name, "dtype": kind} for name, kind in SCALARS.items()]
    splits = {"train": {"samples": count, "shards": shards}}
    manifest = {
        "format_version": FORMAT_VERSION,
        "set_digest": "0" * 32,
        "splits": splits,
        "members": members,
        "scalars": scalars,
    }
    root.write_json(MANIFEST_PATH, manifest)
    return folder
