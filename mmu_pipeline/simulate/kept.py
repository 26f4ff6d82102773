"""Invented objects to what a form of their survey can hold: grids that files imply, precision and fields that they lose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmu_pipeline.readers.manga_cube import FRAME
from mmu_pipeline.simulate import chandra_pha, desi_coadd, fits_spectra, manga_cube
from mmu_pipeline.simulate.objects import Objects

Values = npt.NDArray[Any]
SINGLE = ("allwise", "cfa3_standard", "csp", "des_y3_sne_ia", "foundation", "ps1_sne_ia", "snls", "swift_sne_ia", "yse")
"""Surveys whose MMU v1 files hold all reals as float32."""


WITH_HEADER = (("apogee", "apstar"), ("chandra", "pha"), ("galah", "fits"), ("lamost", "fits"), ("sdss", "spec"),
               ("vipers", "fits"))  # fmt: skip
"""Forms with columns in FITS headers, which cannot say that a number is missing unless the survey has a marker."""


def consistent(objects: Objects) -> Objects:
    """The objects as they can stand in files of their form, before they are written."""
    change = CONSISTENT.get((objects.survey.name, objects.form))
    columns = objects.columns
    for key in ("cntr", "pts_key"):
        if key in columns:
            columns = columns | {key: [int(one) for one in objects.object_ids]}
    if objects.survey.name in ("ssl_legacysurvey", "legacysurvey"):
        columns = columns | _parts(objects)
    if objects.survey.name in SINGLE and objects.form == "mmu_v1":
        columns = {name: _single(objects, name, values) for name, values in columns.items()}
    if (objects.survey.name, objects.form) in WITH_HEADER:
        columns = {name: _known(objects, name, values) for name, values in columns.items()}
    ready = replace(objects, columns=columns)
    return ready if change is None else change(ready)


def kept(objects: Objects) -> Objects:
    """What a reader finds in the files of such objects: what the form has lost is lost."""
    if objects.form != "mmu_v1":
        return objects
    columns, members = dict(objects.columns), dict(objects.members)
    match objects.survey.name:
        case "tess_tglc":
            columns["tic_id"] = list(objects.object_ids)
        case "plasticc":
            there = [band != 5 for band in members["band"]]
            members = {name: [row[at] for row, at in zip(rows, there, strict=True)] for name, rows in members.items()}
        case "jwst":
            members = {
                name: [np.concatenate([np.zeros_like(row[:1]), row[1:]]) for row in rows] for name, rows in members.items()
            }
            columns |= {name: [[None, *row[1:]] for row in columns[name]] for name in ("psf_fwhm", "pixel_scale")}
    return replace(objects, columns=columns, members=members)


def _parts(objects: Objects) -> dict[str, list[Any]]:
    """Columns that the id is made of: `9011-330248-7`, or `0001m002-7`."""
    ids = [name.split("-") for name in objects.object_ids]
    names = ("release", "brickid", "objid") if objects.survey.name == "ssl_legacysurvey" else ("brickname", "objid")
    return {
        name: [one[at] if name == "brickname" else int(one[at]) for one in ids]
        for at, name in enumerate(names)
        if name in objects.columns
    }


def _known(objects: Objects, name: str, values: list[Any]) -> list[Any]:
    field = objects.survey.field(name)
    in_header = "/" not in (field.source_name(objects.form) or "")
    fill = None if field.dtype == "string" or field.sentinels or field.error_of or not in_header else 1.5
    return [fill if value is None and fill is not None else value for value in values]


def _single(objects: Objects, name: str, values: list[Any]) -> list[Any]:
    if objects.survey.field(name).numpy_dtype.kind != "f":
        return values
    return [None if value is None else float(np.float32(value)) for value in values]


def _rounded_times(objects: Objects) -> Objects:
    """Days from MJD 53000, or later ones, that float32 holds exactly."""
    times = [53000 + np.round(time * 1024) / 1024 for time in objects.members["time"]]
    return _with(objects, time=times)


def _exact_times(objects: Objects) -> Objects:
    return _with(objects, time=[time.astype("f4").astype("f8") for time in objects.members["time"]])


def _with(objects: Objects, **members: list[Values]) -> Objects:
    return replace(objects, members=objects.members | members)


def _sdss(objects: Objects) -> Objects:
    """Wavelengths on the survey's grid, whose logarithms the files round to float32."""
    grids = [3.58 + 1e-4 * np.arange(len(flux)) for flux in objects.members["flux"]]
    return _with(objects, wavelength=[(10**grid).astype("f4") for grid in grids])


def _apstar(objects: Objects) -> Objects:
    return _with(objects, wavelength=[10 ** (4.179 + 6e-6 * np.arange(len(flux))) for flux in objects.members["flux"]])


def _galah(objects: Objects) -> Objects:
    """Four arms on linear grids, one relative error for flux and normalised flux."""
    grids, weights = [], []
    for flux, norm, ivar in zip(*(objects.members[name] for name in ("flux", "norm_flux", "ivar")), strict=True):
        pieces = zip(fits_spectra.ARMS, fits_spectra.arms(len(flux)), strict=True)
        grids.append(np.concatenate([start + step * np.arange(len(here)) for (start, step), here in pieces]))
        weights.append((ivar.astype("f8") * (flux.astype("f8") / norm) ** 2).astype("f4"))
    return _with(objects, wavelength=grids, norm_wavelength=grids, norm_ivar=weights)


def _coadd(objects: Objects) -> Objects:
    """All targets of a file share a grid, cut to the shortest; widths are below one pixel."""
    length = min(len(flux) for flux in objects.members["flux"])
    rows = {name: [array[:length] for array in arrays] for name, arrays in objects.members.items()}
    rows["wavelength"] = [(3600 + desi_coadd.STEP * np.arange(length)).astype("f4")] * len(objects)
    rows["lsf_sigma"] = [(array / 4).astype("f4") for array in rows["lsf_sigma"]]
    return replace(objects, members=rows)


def _pha(objects: Objects) -> Objects:
    """Channels of one width; rates and Gehrels' errors follow from counts, area of the regions, exposure and width."""
    channels, rng = chandra_pha.CHANNELS, np.random.default_rng(31)
    edges = (0.25 + np.arange(channels + 1) / 64).astype("f4")
    rows: dict[str, list[Values]] = {name: [] for name in objects.members}
    for at, exposure in enumerate(objects.columns["exposure"]):
        photons = len(objects.members["photon_energy_low"][at])
        source, background = (rng.poisson(0.3, channels).astype("i4") for _ in range(2))
        unit, share = float(exposure) * np.diff(edges.astype("f8")), 1 / chandra_pha.BACKGROUND_AREA
        errors = [1 + np.sqrt(counts + 0.75) for counts in (source, background)]
        response = np.zeros((photons, channels), "f4")
        response[:, 40:60], response[::2, 90:95] = 0.04, 0.01
        found = {
            "energy_low": edges[:-1], "energy_high": edges[1:], "counts": source, "background_counts": background,
            "rate": (source - share * background) / unit, "rate_err": np.hypot(errors[0], share * errors[1]) / unit,
            "response": response,
        }  # fmt: skip
        for name, arrays in rows.items():
            arrays.append(found.get(name, objects.members[name][at]).astype(objects.survey.field(name).numpy_dtype))
    scale = {"background_scale": [1 / chandra_pha.BACKGROUND_AREA] * len(objects)}
    return replace(objects, members=rows, columns=objects.columns | scale)


def _xp(objects: Objects) -> Objects:
    """BP and RP spectra are there as a whole or not at all: every third source has no BP."""
    rows: dict[str, list[Values]] = {name: [array.copy() for array in arrays] for name, arrays in objects.members.items()}
    for at in range(len(objects)):
        missing = at % 3 == 2
        rows["coeff_known"][at][:] = np.repeat([not missing, True], 55)
        for band, lost in (("bp", missing), ("rp", False)):
            rows[f"{band}_correlations_known"][at][:] = not lost
            rows[f"{band}_correlations"][at] = (np.ones(1485, "f4") * (0 if lost else 0.25)).astype("f4")
        for name in ("coeff", "coeff_error"):
            rows[name][at] = np.where(rows["coeff_known"][at], 1 + np.arange(110) / 8, 0).astype("f4")
    return replace(objects, members=rows)


def _cube(objects: Objects) -> Objects:
    """Spaxels of one grid, in order of rows; images of the size of the cube; each spaxel with some weight."""
    first, size = (FRAME - manga_cube.SIZE) // 2, manga_cube.SIZE
    window = np.zeros((FRAME, FRAME), bool)
    window[first : first + size, first : first + size] = True
    rows: dict[str, list[Values]] = {name: [array.copy() for array in arrays] for name, arrays in objects.members.items()}
    for at in range(len(objects)):
        row, column = manga_cube.spaxels(len(rows["x"][at]))
        rows["x"][at], rows["y"][at] = (column + first).astype(np.int16), (row + first).astype(np.int16)
        for name in ("image", "psf"):
            rows[name][at] = np.where(window, rows[name][at], 0)
    return replace(objects, members=rows)


def _quarter(objects: Objects) -> Objects:
    return _with(objects, quarter=[np.full(len(time), 4, np.int8) for time in objects.members["time"]])


CONSISTENT: dict[tuple[str, str], Callable[[Objects], Objects]] = {
    ("apogee", "apstar"): _apstar,
    ("chandra", "pha"): _pha,
    ("csp", "mmu_v1"): _rounded_times,
    ("csp", "snpy"): _rounded_times,
    ("desi", "coadd"): _coadd,
    ("gaia", "xp"): _xp,
    ("galah", "fits"): _galah,
    ("kepler", "llc"): _quarter,
    ("manga", "logcube"): _cube,
    ("sdss", "spec"): _sdss,
    **{(name, "mmu_v1"): _exact_times for name in SINGLE if name not in ("allwise", "csp")},
}
