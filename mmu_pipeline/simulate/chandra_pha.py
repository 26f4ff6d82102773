"""Detections to the products of the Chandra Source Catalog: counts of source and background, effective area, response."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from mmu_pipeline.simulate.objects import Objects

Values = npt.NDArray[Any]
CHANNELS = 1024
BACKGROUND_AREA = 4.0
"""Area of the background's region over that of the source."""


def write_pha(folder: Path, objects: Objects) -> list[Path]:
    """Three files for each detection; the response of a row of photon energy stands in one or two groups of channels."""
    paths = []
    for at, object_id in enumerate(objects.object_ids):
        arrays = {name: values[at] for name, values in objects.members.items()}
        obsid, obi, region = object_id.split(".")
        header: dict[str, Any] = {"OBS_ID": obsid, "OBI_NUM": int(obi), "REGIONID": region, "AREASCAL": 1.0,
                                  "RA": float(objects.ra[at]), "DEC": float(objects.dec[at])}  # fmt: skip
        for field in objects.survey.columns:
            key = field.source_name("pha")
            if key is not None and key != "background_scale":
                header[key] = objects.columns[field.name][at]
        spectra = []
        for kind, name, area in (("BKG", "background_counts", BACKGROUND_AREA), ("TOTAL", "counts", 1.0)):
            table = _table({"CHANNEL": ("J", np.arange(1, CHANNELS + 1)), "COUNTS": ("J", arrays[name])}, "SPECTRUM")
            table.header.update({**header, "HDUCLAS2": kind, "BACKSCAL": area * 2e-6})
            spectra.append(table)
        stem = f"acisf{int(obsid):05d}_{int(obi):03d}N001_r{int(region):04d}"
        paths.append(folder / f"{stem}_pha3.fits")
        fits.HDUList([fits.PrimaryHDU(), *spectra]).writeto(paths[-1])
        photons = {"ENERG_LO": ("E", arrays["photon_energy_low"]), "ENERG_HI": ("E", arrays["photon_energy_high"])}
        area_table = _table({**photons, "SPECRESP": ("E", arrays["effective_area"])}, "SPECRESP")
        fits.HDUList([fits.PrimaryHDU(), area_table]).writeto(folder / f"{stem}_arf3.fits")
        channel = ("J", np.arange(1, CHANNELS + 1))
        energies = {"CHANNEL": channel, "E_MIN": ("E", arrays["energy_low"]), "E_MAX": ("E", arrays["energy_high"])}
        hdus = [fits.PrimaryHDU(), _matrix(arrays["response"], photons), _table(energies, "EBOUNDS")]
        fits.HDUList(hdus).writeto(folder / f"{stem}_rmf3.fits")
    return paths


def _table(columns: dict[str, tuple[str, Values]], name: str) -> Any:
    return fits.BinTableHDU.from_columns(
        [fits.Column(key, kind, array=values) for key, (kind, values) in columns.items()], name=name
    )


def _matrix(response: Values, photons: dict[str, tuple[str, Values]]) -> Any:
    """RSP_MATRIX: of each row the runs of channels that are not 0."""
    starts, lengths, values = [], [], []
    for row in response:
        used = np.flatnonzero(row)
        runs = np.split(used, np.flatnonzero(np.diff(used) > 1) + 1)
        starts.append(np.array([run[0] + 1 for run in runs], "i2"))
        lengths.append(np.array([len(run) for run in runs], "i2"))
        values.append(row[used].astype("f4"))
    groups = ("I", np.array([len(run) for run in starts], "i2"))
    ragged = {"F_CHAN": ("PI", _objects(starts)), "N_CHAN": ("PI", _objects(lengths)), "MATRIX": ("PE", _objects(values))}
    table = _table({**photons, "N_GRP": groups, **ragged}, "RSP_MATRIX")
    table.header["TLMIN4"] = 1
    return table


def _objects(rows: list[Values]) -> Values:
    found = np.empty(len(rows), object)
    found[:] = rows
    return found
