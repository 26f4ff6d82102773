"""Light curves of supernovae to the files of their surveys: SNANA text, SNooPy text, and MMU v1 HDF5, one object a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from mmu_pipeline.fields import Field
from mmu_pipeline.readers.snana import PART
from mmu_pipeline.simulate.objects import Objects
from mmu_pipeline.sky import healpix29, pixels_at

Values = npt.NDArray[Any]
V1_NAMES = {"ps1_sne_ia": "PS1_{}", "des_y3_sne_ia": "DES_{}", "csp": "SN{}", "cfa3_standard": "SN{}"}
"""What the MMU makes of a survey's id, where it does not keep it."""
V1_FILES = {"csp": "example_{}.hdf5"}
SNANA_FILES = {
    "cfa3": "CFA3_KEPLERCAM_{}.DAT", "csp": "CSPDR3_{}.DAT", "des_y3_sne_ia": "des_real_{:0>8}.dat",
    "foundation": "Foundation_DR1_{}.txt", "ps1_sne_ia": "PS1_PSc{}.txt", "snls": "JLA2014_SNLS_{}.dat",
    "swift_sne_ia": "{}.dat", "yse": "{}.snana.dat",
}  # fmt: skip
WITHOUT_UNIT = ("des_y3_sne_ia", "foundation")
WITHOUT_END = ("des_y3_sne_ia", "snls")


def write_snana(folder: Path, objects: Objects) -> list[Path]:
    """SNANA text: comments, a wrong NVAR, and each survey's own words for band, declination, units and the end."""
    survey, form, paths = objects.survey, objects.survey.forms["snana"], []
    unit = "" if survey.name in WITHOUT_UNIT else " deg"
    members = [field for field in survey.members if field.name in objects.members]
    names = [field.source_name("snana") or field.name for field in members]
    for at, object_id in enumerate(objects.object_ids):
        lines = ["SURVEY: SIM", f"SNID:  {object_id}   # as the survey writes it", f"RA:  {float(objects.ra[at])!r}{unit}",
                 f"{form.dec[-1]}:  {float(objects.dec[at])!r}{unit}"]  # fmt: skip
        lines += [f"{key}: {text}" for key, text in _header(objects, at).items()]
        columns = [_words(field, objects.members[field.name][at]) for field in members]
        rows = [f"OBS: {' '.join(words)}" for words in zip(*columns, strict=True)]
        lines += [
            "",
            "# TERSE LIGHT CURVE OUTPUT:",
            f"NOBS: {len(rows)}",
            f"NVAR: {len(names) + 1}",
            f"VARLIST: {' '.join(names)}",
        ]
        paths.append(folder / SNANA_FILES[survey.name].format(object_id))
        paths[-1].write_text("\n".join([*lines, *rows[::-1], *([] if survey.name in WITHOUT_END else ["END:"])]) + "\n")
    if form.member_list:
        (folder / form.member_list).write_text("\n".join(path.name for path in paths))
    return paths


def _header(objects: Objects, at: int) -> dict[str, str]:
    """Key -> text, errors after their values. A value that is missing is the survey's marker, or its key is not there."""
    found: dict[str, str] = {}
    errors: dict[str, str] = {}
    for field in objects.survey.columns:
        source = field.source_name("snana")
        if source is None:
            continue
        value, part = objects.columns[field.name][at], PART.fullmatch(source)
        values = value if isinstance(value, list) else [value]
        marker = next((sentinel for sentinel in field.sentinels), None)
        plain = [int(one) if isinstance(one, bool) else marker if one is None else one for one in values]
        words = [repr(one) if isinstance(one, float) else str(one) for one in plain]
        if all(one is None for one in values) and marker is None:
            continue
        if part:
            errors[part[1]] = words[0]
        else:
            found[source] = " ".join(words)
    return {key: f"{text} +- {errors[key]}" if key in errors else text for key, text in found.items()}


def _words(field: Field, values: Values) -> list[str]:
    if field.is_band_code:
        known = {name: alias for alias, name in field.band_aliases.items() if len(alias) == 1}
        return [known.get(field.bands[code], field.bands[code]) for code in values.tolist()]
    return (
        [repr(value) for value in values.astype("f8").tolist()] if values.dtype.kind == "f" else list(map(str, values.tolist()))
    )


def write_snpy(folder: Path, objects: Objects) -> list[Path]:
    """SNooPy text: a block per filter, days from MJD 53000."""
    paths, bands = [], objects.survey.field("band").bands
    for at, object_id in enumerate(objects.object_ids):
        arrays = {name: values[at] for name, values in objects.members.items()}
        redshift = objects.columns["redshift_helio"][at]
        place = f"{float(objects.ra[at])!r} {float(objects.dec[at])!r}"
        lines = [f"SN{object_id} {'nan' if redshift is None else repr(redshift)} {place}"]
        for band in np.unique(arrays["band"])[::-1]:
            lines.append(f"filter {bands[band]}")
            for n in np.flatnonzero(arrays["band"] == band):
                time, mag, error = (float(arrays[name][n]) for name in ("time", "mag", "mag_err"))
                lines.append(f"{time - 53000!r} {mag!r} {error!r}")
        paths.append(folder / f"SN{object_id}_snpy.txt")
        paths[-1].write_text("\n".join(lines) + "\n")
    return paths


def write_v1(folder: Path, objects: Objects) -> list[Path]:
    """MMU v1: blocks (bands, longest) of float32, bands in the order of their ASCII codes, and float32 scalars, times and
    positions too."""
    survey, paths = objects.survey, []
    cells = pixels_at(healpix29(objects.ra, objects.dec), 4)
    for at, object_id in enumerate(objects.object_ids):
        name = V1_NAMES.get(survey.name, "{}").format(int(object_id) if survey.name == "ps1_sne_ia" else object_id)
        path = folder / f"healpix={cells[at]:04d}" / V1_FILES.get(survey.name, "{}.hdf5").format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        paths.append(path)
        with h5py.File(path, "w") as file:
            file["object_id"], file["healpix"] = np.bytes_(name), np.int64(cells[at])
            file["ra"], file["dec"] = np.float32(objects.ra[at]), np.float32(objects.dec[at])
            if "SNID" in survey.forms["mmu_v1"].object_id:
                file["SNID"] = np.int64(object_id)
            for dataset, scalar in _scalars(objects, at).items():
                file[dataset] = scalar
            for dataset, block in _blocks(objects, at).items():
                file[dataset] = block
    return paths


def _scalars(objects: Objects, at: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in objects.survey.columns:
        name = field.source_name("mmu_v1")
        if name is None or field.name not in objects.columns:
            continue
        value = objects.columns[field.name][at]
        marker = next(iter(field.sentinels), np.nan if field.dtype != "string" else "")
        value = marker if value is None else value
        found[name] = np.bytes_(value) if isinstance(value, str) else np.float32(value)
    return found


def _blocks(objects: Objects, at: int) -> dict[str, Any]:
    survey = objects.survey
    padding = survey.forms["mmu_v1"].padding
    code = objects.members["band"][at]
    names = sorted(survey.field("band").bands[number] for number in np.unique(code))
    rows = [np.flatnonzero(code == survey.field("band").bands.index(name)) for name in names]
    longest = max(map(len, rows))
    blocks: dict[str, Any] = {survey.field("band").source_name("mmu_v1") or "bands": np.bytes_(",".join(names))}
    for name, arrays in objects.members.items():
        field = survey.field(name)
        if field.is_band_code:
            continue
        block = np.full((len(rows), longest), padding.value if padding and padding.field == name else 0, "f4")
        for line, here in zip(block, rows, strict=True):
            line[: len(here)] = arrays[at][here] - field.offset.get("mmu_v1", 0)
        blocks[field.source_name("mmu_v1") or name] = block
    return blocks
