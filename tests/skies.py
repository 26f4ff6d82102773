"""Small skies with names, and the brute-force matcher that everything is held against."""

from __future__ import annotations

import healpy as hp
import numpy as np
import pyarrow as pa

from mmu_pipeline.candidates import Positions
from mmu_pipeline.sky import healpix29


def scattered(rng: np.random.Generator, centres: np.ndarray, spread_arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    """Points around unit vectors, shape (n, 3), each moved in a random direction by up to `spread_arcsec`."""
    aside = np.cross(centres, rng.normal(size=centres.shape))
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    angle = np.radians(spread_arcsec / 3600.0) * rng.uniform(0, 1, (len(centres), 1))
    lon, lat = hp.vec2ang(np.cos(angle) * centres + np.sin(angle) * aside, lonlat=True)
    return np.mod(lon, 360.0), np.clip(lat, -90.0, 90.0)


def centres(kind: str, rng: np.random.Generator, count: int) -> np.ndarray:
    """Unit vectors in a difficult part of the sky, shape (count, 3)."""
    if kind == "north pole":
        return np.tile([0.0, 0.0, 1.0], (count, 1))
    if kind == "south pole":
        return np.tile([0.0, 0.0, -1.0], (count, 1))
    if kind == "RA 0":
        lat = rng.uniform(-60, 60, count)
        return np.asarray(hp.ang2vec(np.zeros(count), lat, lonlat=True))
    pixels = rng.choice(3072, 3)
    if kind == "borders":
        edges = np.concatenate([hp.boundaries(16, int(pixel), step=50, nest=True).T for pixel in pixels])
        return edges[rng.integers(len(edges), size=count)]
    if kind == "corners":
        corners = np.concatenate([hp.boundaries(16, int(pixel), step=1, nest=True).T for pixel in pixels])
        return corners[rng.integers(len(corners), size=count)]
    if kind == "where seven cells meet":  # corners of the base pixels at |dec| = 41.8 degrees
        corners = np.concatenate([hp.boundaries(1, pixel, step=1, nest=True).T for pixel in range(12)])
        return corners[rng.integers(len(corners), size=count)]
    raise ValueError(kind)


KINDS = ("north pole", "south pole", "RA 0", "borders", "corners", "where seven cells meet")


def brute_force(
    primary: Positions, counterpart: Positions, radius_arcsec: float, pick: str, preference: np.ndarray | None = None
) -> set[tuple[int, int]]:
    """Pairs of rows by the definition, over the whole sky: Vincenty separations of every row with every row.

    `best` takes the smallest `preference`, NaN last.
    """
    separation = np.full((len(primary), len(counterpart)), np.inf)
    lon1, lat1 = np.radians(primary.ra)[:, None], np.radians(primary.dec)[:, None]
    lon2, lat2 = np.radians(counterpart.ra)[None, :], np.radians(counterpart.dec)[None, :]
    delta = lon2 - lon1
    across = np.hypot(np.cos(lat2) * np.sin(delta), np.cos(lat1) * np.sin(lat2) - np.sin(lat1) * np.cos(lat2) * np.cos(delta))
    along = np.sin(lat1) * np.sin(lat2) + np.cos(lat1) * np.cos(lat2) * np.cos(delta)
    separation = np.degrees(np.arctan2(across, along)) * 3600.0
    within = separation <= radius_arcsec
    if pick == "all":
        return {(int(i), int(j)) for i, j in zip(*np.nonzero(within), strict=True)}
    ids = [side.ids.to_pylist() for side in (primary, counterpart)]
    pairs = set()
    for i in range(len(primary)):
        near = sorted((separation[i, j], ids[1][j], j) for j in np.flatnonzero(within[i]))
        if not near:
            continue
        j = near[0][2]
        if pick == "best" and preference is not None:
            values = np.nan_to_num(preference[[row for _, _, row in near]], nan=np.inf)
            j = near[int(np.argmin(values))][2]
        if pick == "mutual":
            back = sorted((separation[k, j], ids[0][k], k) for k in np.flatnonzero(within[:, j]))
            if back[0][2] != i:
                continue
        pairs.add((int(i), int(j)))
    return pairs


def object_table(ra: np.ndarray, dec: np.ndarray, ids: list[str]) -> pa.Table:
    """An object table without scalar columns, in `_healpix_29` order."""
    table = pa.table(
        {
            "_healpix_29": pa.array(healpix29(ra, dec)),
            "ra": ra,
            "dec": dec,
            "object_id": ids,
            "source_file": ["x.hdf5"] * len(ra),
            "source_row": np.arange(len(ra)),
        }
    )
    return table.sort_by([(name, "ascending") for name in ("_healpix_29", "object_id", "source_row")])
