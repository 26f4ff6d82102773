"""Every survey in every form: files of a shared sky, written with their faults, read back value by value; and damaged ones."""

from __future__ import annotations

import bz2
import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table

from mmu_pipeline.catalog import Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Field
from mmu_pipeline.readers import objects_of, reader
from mmu_pipeline.simulate import mmu_v1
from mmu_pipeline.simulate.detections import detect
from mmu_pipeline.simulate.instruments import INSTRUMENTS
from mmu_pipeline.simulate.objects import invented
from mmu_pipeline.simulate.sky import sky_objects
from mmu_pipeline.simulate.survey_files import Written, forms, readable, write_files

SURVEYS = load_surveys()
COUNT = 5
CLOSE = {
    ("apogee", "mmu_v1"): 1e-12, ("apogee", "hats"): 1e-12, ("apogee", "apstar"): 1e-12, ("chandra", "pha"): 1e-6,
    ("desi", "coadd"): 1e-6, ("galah", "mmu_v1"): 2e-7, ("galah", "fits"): 1e-6, ("vipers", "mmu_v1"): 1e-6,
    ("vipers", "hats"): 2e-6, ("vipers", "fits"): 1e-6, ("chandra", "mmu_v1"): 1e-7,
    **{(name, "hats"): 1e-7 for name in ("btsbot", "kepler", "tess", "tess_qlp")},
}  # fmt: skip
"""How far reals may be off, relatively, where a form holds them in other terms (errors, logarithms) than we give them."""


def simulated(name: str, form: str, folder: Path) -> Written:
    seen = readable(detect(sky_objects(4), INSTRUMENTS[name], 4))
    rows = np.linspace(0, len(seen) - 1, COUNT).astype(int)
    return write_files(folder, SURVEYS[name], form, seen.take(rows), seed=4)


EMPTY = sorted(set(mmu_v1.FILES) - {"ssl_legacysurvey"})


@pytest.mark.parametrize("name", EMPTY)
def test_a_cell_without_objects_is_read(name: str, tmp_path: Path) -> None:
    survey = SURVEYS[name]
    mmu_v1.write_file(tmp_path / "001-of-001.hdf5", invented(survey, "mmu_v1", sky_objects(3).slice(0, 0), []))
    found = reader(survey.forms["mmu_v1"].reader).read_objects(survey, "mmu_v1", tmp_path / "001-of-001.hdf5")
    assert len(found.table) == 0


def test_every_form_of_every_survey_can_be_written() -> None:
    assert forms() == sorted((name, form) for name, survey in SURVEYS.items() for form in survey.forms)
    assert set(INSTRUMENTS) == set(SURVEYS)


@pytest.mark.parametrize(("name", "form"), forms())
def test_what_was_written_is_read(name: str, form: str, tmp_path: Path) -> None:
    survey, written = SURVEYS[name], simulated(name, form, tmp_path)
    truth = {object_id: at for at, object_id in enumerate(written.objects.object_ids)}
    declared, module = survey.forms[form], reader(survey.forms[form].reader)
    members = [field for field in survey.members if field.is_carried(form)]
    assert {field.name for field in members} == set(written.objects.members)
    found = 0
    for path in written.paths:
        relative = path.relative_to(tmp_path).as_posix()
        assert any(path.relative_to(tmp_path).match(pattern) for pattern in declared.files), relative
        rows = objects_of(survey, form, path, relative)
        assert rows.skipped == ()
        table = rows.table.take(np.random.default_rng(1).permutation(len(rows.table)))
        ids = table["object_id"].to_pylist()
        arrays = module.read_arrays(survey, form, path, table["source_row"].to_numpy(), ids, members)
        for row, record in enumerate(table.to_pylist()):
            at = truth[ids[row]]
            place = written.objects.ra[at], written.objects.dec[at]
            np.testing.assert_allclose(
                (record["ra"], record["dec"]), place, rtol=0, atol=declared.position_precision_arcsec / 3600 or 1e-12
            )
            for field in survey.columns:
                assert table.schema.field(field.name).type == field.arrow_type
                same(record[field.name], expected(written, field, at), field, CLOSE.get((name, form), 0.0))
            for field in members:
                array = arrays[field.name][row]
                assert (array.dtype, array.flags.c_contiguous) == (field.numpy_dtype, True)
                same(array, written.objects.members[field.name][at], field, CLOSE.get((name, form), 0.0))
            found += 1
    assert found == len(truth) == COUNT


def expected(written: Written, field: Field, at: int) -> Any:
    if written.objects.form in field.file_name:
        return "train"
    values = written.objects.columns.get(field.name)
    return None if values is None else values[at]


def same(found: Any, wanted: Any, field: Field, tolerance: float) -> None:
    if tolerance and isinstance(wanted, np.ndarray) and wanted.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=tolerance, err_msg=field.name)
    elif isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(found, wanted, field.name)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=max(tolerance, 1e-7), abs=0), field.name
    else:
        assert found == wanted, field.name


# Damaged files. Names of columns stand in all of these formats as plain bytes, so a column is taken away by renaming it there.

WITHOUT_NAMES = {("allwise", "text"), ("twomass", "psc"), ("csp", "snpy"), ("apogee", "apstar"), ("gz10", "hdf5")}
"""Forms whose files hold no names of columns; damage to them is tested with their readers."""
OPENED = {".gz": (gzip.decompress, gzip.compress), ".bz2": (bz2.decompress, bz2.compress)}


def replaced(path: Path, change: Callable[[bytes], bytes]) -> None:
    decompress, compress = OPENED.get(path.suffix, (bytes, bytes))
    path.write_bytes(compress(change(decompress(path.read_bytes()))))


def word(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"(?<![\w])" + re.escape(name.encode()) + rb"(?![\w])", re.IGNORECASE)


def named_in(path: Path, survey: Survey, form: str) -> tuple[Field, str]:
    """A field that a file cannot do without, and its name in that file: the first array, else the first real number."""
    content = OPENED.get(path.suffix, (bytes, bytes))[0](path.read_bytes())
    numbers = [field for field in survey.columns if field.numpy_dtype.kind == "f" and field.error_of is None and not field.shape]
    for field in (*survey.members, *(() if survey.forms[form].reader == "snana" else numbers)):
        for source in field.source_names(form)[:1]:
            name = re.split(r"[:.@/]", re.sub(r"\[.*|\{.*| &.*", "", source))[-1]
            others = {other.split(".")[-1] for other in field.source_names(form)} - {name}
            alternatives = [other for other in others if word(other).search(content)]
            if len(name) > 2 and word(name).search(content) and not alternatives:
                return field, name
    raise AssertionError(f"no named field in {path}")


def without(path: Path, name: str) -> None:
    """Take a column away."""
    if h5py.is_hdf5(path):
        with h5py.File(path, "a") as file:
            found = next((there for there in file if there.lower() == name.lower()), None)
            if found is not None:
                del file[found]
                return
    replaced(path, lambda content: word(name).sub(b"q" * len(name), content))


def read_all(survey: Survey, form: str, path: Path) -> None:
    module = reader(survey.forms[form].reader)
    members = [field for field in survey.members if field.is_carried(form)]
    rows = module.read_objects(survey, form, path).table
    module.read_arrays(survey, form, path, rows["source_row"].to_numpy(), rows["object_id"].to_pylist(), members)


def check(error: BrokenSource, survey: Survey, form: str, path: Path, field: Field, source: str) -> None:
    """The file and the column are named; the column may be another that is made of the same source."""
    assert str(error.where["file"]) == str(path)
    same_source = {other.name for other in survey.fields if source in str(other.source_names(form))}
    column = str(error.where["column"])
    assert column in {*same_source, field.name} or source in re.split(r"\W", column)


@pytest.mark.parametrize(("name", "form"), [pair for pair in forms() if pair not in WITHOUT_NAMES])
def test_a_file_that_lacks_a_column_is_named_with_it(name: str, form: str, tmp_path: Path) -> None:
    survey, written = SURVEYS[name], simulated(name, form, tmp_path)
    path = written.paths[0]
    field, source = named_in(path, survey, form)
    without(path, source)
    with pytest.raises(BrokenSource) as caught:
        read_all(survey, form, path)
    check(caught.value, survey, form, path, field, source)


def real_column(survey: Survey, form: str) -> Field | None:
    """A column of reals that lies in the data files themselves and has no use for a marker."""
    for field in survey.columns:
        own = [source for source in field.source_names(form)[:1] if "/" not in source and "[" not in source]
        if own and field.numpy_dtype.kind == "f" and not (field.error_of or field.shape or field.any_value):
            return field
    return None


def put(path: Path, survey: Survey, form: str, source: str, value: str | float) -> None:
    """Write a value in place of the first one of a column, which becomes text if the value is text."""
    if h5py.is_hdf5(path):
        _put_in_hdf5(path, source, value)
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        name = next(there for there in table.column_names if there.lower() == source.split(".")[0].lower())
        at = table.column_names.index(name)
        values = table[name].to_pylist()
        kind = pa.string() if isinstance(value, str) else pa.float64()
        if pa.types.is_struct(table[name].type):
            inner = source.split(".")[1]
            values = [row | {inner: str(row[inner]) if isinstance(value, str) else row[inner]} for row in values]
            values[0][inner], kind = value, None
        else:
            values = [str(one) if isinstance(value, str) else one for one in values]
            values[0] = value
        pq.write_table(table.set_column(at, name, pa.array(values, kind)), path)
    elif ".fits" in path.name:
        _put_in_fits(path, source, value)
    else:
        replaced(path, lambda content: _put_in_text(content.decode(), survey, form, source, value).encode())


def _put_in_hdf5(path: Path, source: str, value: str | float) -> None:
    with h5py.File(path, "a") as file:
        places: list[str] = []
        file.visit(lambda name: places.append(name) if name.split("/")[-1].lower() == source.lower() else None)
        values = np.array(file[places[0]][()])
        values = np.full(values.shape, b"none") if isinstance(value, str) else values.astype("f8")
        values.flat[0] = value
        del file[places[0]]
        file[places[0]] = values


def _put_in_fits(path: Path, source: str, value: str | float) -> None:
    place = re.fullmatch(r"(?:(\w+)([:@]))?(\w+)", source)
    assert place is not None
    hdu, kind, name = place.groups()
    with fits.open(path) as hdus:
        if kind != ":":
            for one in hdus if kind is None else [hdus[int(hdu)]]:
                if name in one.header:
                    one.header[name] = value
        for at, one in enumerate(hdus):
            if isinstance(one, fits.BinTableHDU) and kind != "@":
                table = Table.read(one)
                found = next((there for there in table.colnames if there.lower() == name.lower()), None)
                if found is not None:
                    values = [str(v) if isinstance(value, str) else v for v in np.asarray(table[found].filled(0) if
                              hasattr(table[found], "filled") else table[found]).tolist()]  # fmt: skip
                    values[0] = value
                    table[found] = np.array(values)
                    hdus[at] = fits.BinTableHDU(table, one.header if kind == ":" else None, name=one.name)
        hdus.writeto(path, overwrite=True)


def _put_in_text(text: str, survey: Survey, form: str, source: str, value: str | float) -> str:
    lines = text.split("\n")
    if survey.forms[form].reader == "snana":
        return re.sub(rf"(?m)^{source}: .*\n", "", text).replace("NOBS:", f"{source}: {value}\nNOBS:", 1)
    declared = survey.forms[form].text
    header = next(at for at, line in enumerate(lines) if not line.startswith("#"))
    names = list(declared.columns) or lines[header].split(declared.delimiter)
    first = header if declared.columns else header + 1
    words = lines[first].split(declared.delimiter)
    words[names.index(source)] = str(value)
    lines[first] = declared.delimiter.join(words)
    return "\n".join(lines)


ELSEWHERE = {("csp", "snpy"), ("gaia", "xp")}
"""Forms whose damaged numbers are tested with their readers."""
WITH_REALS = [pair for pair in forms() if pair not in ELSEWHERE and real_column(SURVEYS[pair[0]], pair[1])]


@pytest.mark.parametrize("value", ["none", -1e20])
@pytest.mark.parametrize(("name", "form"), WITH_REALS)
def test_text_or_an_unknown_marker_among_reals_is_named_with_its_column(
    name: str, form: str, value: str | float, tmp_path: Path
) -> None:
    survey, written = SURVEYS[name], simulated(name, form, tmp_path)
    field, path = real_column(survey, form), written.paths[0]
    assert field is not None
    names = field.source_names(form)
    if path.suffix == ".parquet":
        there = [name.lower() for name in pq.read_schema(path).names]
        names = tuple(name for name in names if name.split(".")[0].lower() in there)
    source = names[0]
    put(path, survey, form, source, value)
    with pytest.raises(BrokenSource) as caught:
        read_all(survey, form, path)
    check(caught.value, survey, form, path, field, source)
