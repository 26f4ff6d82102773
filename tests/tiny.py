"""A tiny survey in the MMU v1 layout, and its YAML: for tests that need a build rather than a sky."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import yaml

from mmu_pipeline.sky import healpix29, pixels_at


def survey_yaml(folder: Path, name: str, url: Path, **changes: object) -> Path:
    """Write `<folder>/<name>.yaml` of a survey with one image member and one magnitude."""
    content = {
        "name": name, "title": f"The {name} survey", "modality": "image", "release": "1", "summary": "Made for tests.",
        "licence": "CC0-1.0", "citation": "none",
        "forms": {"mmu_v1": {"reader": "mmu_v1", "url": str(url), "files": ["healpix=*/*.hdf5"], "cut_by_cell": True}},
        "fields": [
            {"name": "image", "dtype": "float32", "shape": [2, 4, 4], "unit": "nJy", "bands": ["g", "r"]},
            {"name": "mag", "dtype": "float32", "unit": "mag", "sentinels": [-99.0]},
        ],
        **changes,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def write_cells(folder: Path, ra: Sequence[float], dec: Sequence[float], ids: Sequence[str]) -> dict[int, Path]:
    """Write rows into `healpix=N/001-of-001.hdf5` by position (NaN rows into the first cell). Gives the files by cell.

    The image of a row is filled with its id's number plus a ramp; its magnitude is 20 plus the number over 100.
    """
    right, up = np.asarray(ra, float), np.asarray(dec, float)
    good = np.isfinite(right) & np.isfinite(up) & (np.abs(up) <= 90)
    cells = np.full(len(right), -1)
    cells[good] = pixels_at(healpix29(right[good], up[good]), 4)
    cells[~good] = cells[good].min()
    files = {}
    for cell in np.unique(cells):
        rows = np.flatnonzero(cells == cell)
        path = folder / f"healpix={cell}" / "001-of-001.hdf5"
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = np.array([int("".join(c for c in ids[row] if c.isdigit()) or 0) for row in rows])
        with h5py.File(path, "w") as file:
            file["object_id"] = np.array([ids[row].encode() for row in rows])
            file["ra"], file["dec"] = right[rows], up[rows]
            file["image"] = numbers[:, None, None, None] + np.arange(32, dtype="f4").reshape(2, 4, 4) / 100
            file["mag"] = (20 + numbers / 100).astype("f4")
        files[int(cell)] = path
    return files


def recipe_yaml(folder: Path, name: str, **content: object) -> Path:
    """Write a recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, **content}, sort_keys=False))
    return path
