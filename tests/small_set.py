"""A small set of shards with what breaks readers: absent counterparts, ragged and empty arrays, nulls, masks, text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import healpy as hp
import numpy as np
import pyarrow as pa

from mmu_pipeline.catalog import Recipe, Survey
from mmu_pipeline.shards.copy import Rows, copies, make_shard
from mmu_pipeline.shards.index import piece_index, piece_sizes
from mmu_pipeline.shards.manifest import Account, Provenance, ShardFile, manifest_of
from mmu_pipeline.shards.plan import plan_shards
from mmu_pipeline.shards.samples import Sample, sample_key
from mmu_pipeline.shards.schema import sample_members, sample_scalars
from mmu_pipeline.shards.splits import near_other_split
from mmu_pipeline.shards.tar import write_samples
from mmu_pipeline.sky import healpix29, pixels_at
from mmu_pipeline.stages.seal import seal, set_facts
from mmu_pipeline.storage import Root

VERSION = "0123456789ab"
FORM = {"files": {"reader": "mmu_v1", "url": "https://user:secret@example.org/v1?token=secret", "files": ["*.hdf5"]}}
IMAGER = Survey.model_validate(
    {
        "name": "imager", "title": "The Imager", "modality": "image", "release": "DR1", "summary": "Images.", "forms": FORM,
        "licence": "CC BY 4.0", "citation": "Someone 2020", "homepage": "https://example.org",
        "fields": [
            {"name": "image", "dtype": "float32", "shape": [3, 8, 8], "bands": ["g", "r", "i"], "mask": "image_mask"},
            {"name": "image_mask", "dtype": "bool", "shape": [3, 8, 8], "true_means": "bad", "description": "good | bad"},
            {"name": "profile", "dtype": "float64", "shape": [5]},
            {"name": "mag", "dtype": "float32", "unit": "mag"},
            {"name": "psf", "dtype": "float32", "shape": [3], "column": True, "unit": "arcsec"},
            {"name": "kind", "dtype": "string"},
            {"name": "n_visits", "dtype": "int32"},
            {"name": "extended", "dtype": "bool"},
        ],
    }
)  # fmt: skip
CURVES = Survey.model_validate(
    {
        "name": "curves", "title": "The Curves", "modality": "light_curve", "release": "2", "summary": "Light curves.",
        "forms": FORM, "licence": "CC BY-NC 4.0", "citation": "Another 2021",
        "fields": [
            {"name": "time", "dtype": "float64", "shape": ["n_obs"], "unit": "d"},
            {"name": "flux", "dtype": "float32", "shape": ["n_obs"]},
            {"name": "band", "dtype": "int8", "shape": ["n_obs"], "bands": ["g", "r"]},
            {"name": "noise", "dtype": "float32", "shape": ["n_obs", 3]},
            {"name": "redshift", "dtype": "float64"},
        ],
    }
)  # fmt: skip
SURVEYS = {"imager": IMAGER, "curves": CURVES}
RECIPE = Recipe.model_validate(
    {
        "name": "imager-curves",
        "primary": {"survey": "imager"},
        "counterparts": [{"survey": "curves", "radius_arcsec": 1.0}],
        "split": {"train": 0.5, "validation": 0.25, "test": 0.25, "seed": 4, "guard_arcsec": 900},
        "shards": {"samples_per_shard": 40, "seed": 1},
    }
)
CELLS = (0, 17, 255, 300, 777, 1104, 1500, 2047, 2600, 3071)
"""Order-4 cells, a pole's and one at RA 0 among them."""


@dataclass(frozen=True)
class SmallSet:
    """Where it lies, and what was put in."""

    path: Path
    samples: dict[str, Sample]
    manifest: dict

    def split(self, name: str) -> list[str]:
        """File names of the shards of a split."""
        return [shard["name"] for shard in self.manifest["splits"][name]["shards"]]


def positions(rng: np.random.Generator, cell: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random positions in an order-4 cell, in sky order, none within the guard of another split."""
    deep = (cell << 2 * 8) + np.sort(rng.choice(1 << 2 * 8, count, replace=False))
    ra, dec = hp.pix2ang(1 << 12, deep, nest=True, lonlat=True)
    keep = ~near_other_split(ra, dec, RECIPE.split)
    return ra[keep], dec[keep]


def samples_of(rng: np.random.Generator, cell: int, ra: np.ndarray, dec: np.ndarray) -> list[Sample]:
    samples = []
    for row in range(len(ra)):
        there, length = rng.random() < 0.6, int(rng.integers(0, 12))
        ids = [f"I.{cell}/{row:03d}", f"c{cell}-{row}" if there else None]
        mask = rng.random((3, 8, 8)) > 0.2
        arrays = {
            "imager.image": (rng.normal(size=(3, 8, 8)) * mask).astype("<f4"),
            "imager.image_mask": mask,
            "imager.profile": rng.normal(size=5),
        }
        if there:
            arrays |= {
                "curves.time": np.sort(rng.uniform(50_000, 60_000, length)),
                "curves.flux": rng.normal(size=length).astype("<f4"),
                "curves.band": rng.integers(0, 2, length).astype("i1"),
                "curves.noise": rng.random((length, 3)).astype("<f4"),
            }
        else:
            arrays |= {f"curves.{field.name}": field.absent() for field in CURVES.members}
        record = {
            "healpix": cell, "imager_object_id": ids[0], "imager_ra": float(ra[row]), "imager_dec": float(dec[row]),
            "imager_mag": None if row % 3 == 0 else float(np.float32(rng.uniform(14, 25))),
            "imager_psf": None if row % 4 == 0 else [float(np.float32(x)) for x in rng.random(3)],
            "imager_kind": rng.choice(["galaxy", "star", None]), "imager_n_visits": None if row % 2 else int(rng.integers(1, 9)),
            "imager_extended": bool(rng.random() < 0.5), "has_curves": there, "curves_object_id": ids[1],
            "curves_ra": float(ra[row]) if there else None, "curves_dec": float(dec[row]) if there else None,
            "curves_separation_arcsec": float(rng.random()) if there else None, "curves_rank": 1 if there else None,
            "curves_n_candidates": 1 if there else None, "curves_crosses_border": False if there else None,
            "curves_redshift": float(rng.random()) if there and row % 2 else None,
        }  # fmt: skip
        samples.append(Sample(sample_key(ids), arrays, record))
    return samples


def make_small_set(folder: Path, recipe: Recipe = RECIPE, seed: int = 11) -> SmallSet:
    """Write a whole set into `folder/shards/<recipe>/<VERSION>`, LATEST beside it."""
    rng, root = np.random.default_rng(seed), Root(str(folder))
    schema = pa.schema([(scalar.name, scalar.type) for scalar in sample_scalars(recipe, SURVEYS)])
    pieces, everything = [], {}
    for cell in CELLS:
        ra, dec = positions(rng, cell, 22)
        samples = samples_of(rng, cell, ra, dec)
        assert all([*sample.arrays] == [m.name for m in sample_members(recipe, SURVEYS)] for sample in samples)
        with root.writing(f"pieces/{cell}.tar") as file:
            written = write_samples(file, samples)
        scalars = pa.Table.from_pylist([dict(sample.record) for sample in samples], schema)
        index = healpix29(ra, dec)
        assert set(pixels_at(index, 4)) <= {cell}
        root.write_table(f"pieces/{cell}.parquet", piece_index(written, index, ra, dec, scalars, recipe))
        pieces.append(f"pieces/{cell}")
        everything |= {sample.key: sample for sample in samples}
    shards = deal_out(root, "aside", pieces, recipe)
    provenance = [Provenance(survey, "files", "/data/copy", 3, survey.name * 4) for survey in SURVEYS.values()]
    account = Account(
        {"imager objects": 400}, {"imager": {"no position": 2}}, [{"stage": "scan", "unit": "imager/5", "reason": "cut"}]
    )
    target = f"shards/{recipe.name}/{VERSION}"
    manifest = manifest_of(recipe, set_facts(root, "aside", recipe.name, VERSION, shards), provenance, account)
    root.write_bytes(f"shards/{recipe.name}/LATEST", f"{VERSION}\n".encode())
    seal(root, "aside", target, manifest)
    return SmallSet(folder / target, everything, manifest)


def deal_out(root: Root, folder: str, pieces: list[str], recipe: Recipe = RECIPE) -> list[ShardFile]:
    """Deal pieces of samples into shards in a folder, as the shards stage does."""
    sizes = [piece_sizes(root, f"{piece}.parquet") for piece in pieces]
    plan, digests = plan_shards(sizes, recipe.shards), np.concatenate([piece.digest for piece in sizes])
    scalars = pa.schema([(scalar.name, scalar.type) for scalar in sample_scalars(recipe, SURVEYS)])
    form = Rows(tuple(member.name for member in sample_members(recipe, SURVEYS)), scalars, "imager", recipe.split)
    made = []
    for number, name in enumerate(plan.names):
        part, rows = plan.ranges(number), plan.samples(number)
        wanted = copies(part.piece, part.offset[:, None], part.nbytes[:, None], plan.is_repeat(number), digests[rows])
        tars = [root.path(f"{piece}.tar") for piece in pieces]
        made.append(make_shard(root, folder, name, root.fs, tars, wanted, form, recipe.shards.sha256))
    return made
