"""HATS partitions: the real DESI sample, and generated ones of several nestings, row groups and faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmu_pipeline.catalog import Survey
from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import hats
from tests.test_mmu_v1 import cell_survey

SURVEYS = load_surveys()


def test_the_real_desi_rows_equal_an_independent_reading(real_data: Path, tmp_path: Path) -> None:
    real = real_data / "mmu_v1/desi_hats_form/mmu-desi.parquet"
    expected = pd.read_parquet(real)
    survey = SURVEYS["desi"]
    with pytest.raises(BrokenSource, match="declared column is missing") as caught:
        hats.read_objects(survey, "hats", real)
    assert caught.value.where["column"] == "ra"  # this sample was cut before positions were added
    table = pq.read_table(real).append_column("ra", pa.array([10.5, 20.25])).append_column("dec", pa.array([-3.0, 4.0]))
    pq.write_table(table, tmp_path / "Npix=7.parquet")
    found = hats.read_objects(survey, "hats", tmp_path / "Npix=7.parquet").table.to_pylist()
    assert [row["object_id"] for row in found] == expected["object_id"].tolist()
    assert [row["ra"] for row in found] == [10.5, 20.25]
    for row, (_, wanted) in zip(found, expected.iterrows(), strict=True):
        assert row["z"] == wanted["Z"]
        assert row["z_err"] == wanted["ZERR"]
        assert row["zwarn"] == (not wanted["ZWARN"])
        for band in "grz":
            for ours, theirs in ((f"flux_{band}", f"FLUX_{band.upper()}"), (f"fiberflux_{band}", f"FIBERFLUX_{band.upper()}")):
                assert row[ours] == (None if wanted[theirs] in (0, -99) else wanted[theirs])
    ids = expected["object_id"].tolist()[::-1]
    arrays = hats.read_arrays(survey, "hats", real, np.array([1, 0]), ids, survey.members)
    for at, row in enumerate([1, 0]):
        theirs = expected["spectrum"][row]
        bad = np.asarray(theirs["mask"], bool) | (theirs["ivar"] == 0)
        np.testing.assert_array_equal(arrays["wavelength"][at], theirs["lambda"])
        np.testing.assert_array_equal(arrays["flux"][at], theirs["flux"])
        np.testing.assert_array_equal(arrays["lsf_sigma"][at], theirs["lsf_sigma"])
        np.testing.assert_array_equal(arrays["mask"][at], ~bad)
        np.testing.assert_array_equal(arrays["ivar"][at], np.where(bad, 0, theirs["ivar"]))
        assert arrays["flux"][at].dtype == np.float32


COUNT = 30


def survey_of(**names: Any) -> Survey:
    """`tests.test_mmu_v1.cell_survey` with the names that a HATS catalog has."""
    fields = [field.model_dump(by_alias=True, exclude_unset=True) for field in cell_survey().fields]
    for field in fields:
        field["from"] = names.get(field["name"], field.get("from", field["name"]))
    form = {"reader": "hats", "files": ["*"], "padding": {"field": "wavelength", "value": -1}, "planes": names.get("planes")}
    return cell_survey(forms={"v1": form}, fields=fields)


NAMES = {
    "image": "image.flux", "weight": "image.ivar", "image_mask": "image_mask", "wavelength": "spectrum.lambda",
    "flux": "spectrum.flux", "ivar": "spectrum.ivar", "mask": "spectrum.mask", "mags": "MAG_{G,R}",
}  # fmt: skip


def truth(seed: int = 3) -> list[dict[str, Any]]:
    """Rows whose spectra differ in length; a few pixels are bad."""
    rng = np.random.default_rng(seed)
    rows = []
    for at in range(COUNT):
        size = int(rng.integers(1, 9))
        rows.append({
            "object_id": f"b'  {at:05d}'", "ra": float(rng.uniform(0, 360)), "dec": float(rng.uniform(-90, 90)),
            "image": rng.normal(size=(3, 4, 5)).astype("f4"), "weight": rng.uniform(1, 2, (3, 4, 5)).astype("f4"),
            "image_mask": rng.uniform(size=(4, 5)) > 0.1, "wavelength": (4000 + np.arange(size)).astype("f4"),
            "flux": rng.normal(size=size).astype("f4"), "ivar": rng.uniform(1, 2, size).astype("f4"),
            "mask": rng.uniform(size=size) > 0.8, "Z": None if at == 4 else float(np.float32(rng.uniform())), "Z_ERR": 0.5,
            "flags": None if at == 5 else at, "MAG_G": 20.5, "MAG_R": 99.0, "CLASS": "STAR",
        })  # fmt: skip
    return rows


def partition(path: Path, rows: list[dict[str, Any]], planes_as_structs: bool, group: int) -> Path:
    """A partition with nested spectra: a struct of lists, or a list of structs; images as lists of planes."""
    spectra = [{"lambda": r["wavelength"], "flux": r["flux"], "ivar": r["ivar"], "mask": r["mask"]} for r in rows]
    if planes_as_structs:
        spectrum: Any = [[{k: v[i] for k, v in s.items()} for i in range(len(s["lambda"]))] for s in spectra]
        image: Any = [
            [{"flux": f.tolist(), "ivar": w.tolist()} for f, w in zip(r["image"], r["weight"], strict=True)] for r in rows
        ]
    else:
        spectrum = spectra
        image = [{"flux": r["image"].tolist(), "ivar": r["weight"].tolist()} for r in rows]
    nested = {"lambda": pa.float32(), "flux": pa.float32(), "ivar": pa.float32(), "mask": pa.bool_()}
    scalar = [pa.field(k, t) for k, t in nested.items()]
    kind = pa.list_(pa.struct(scalar)) if planes_as_structs else pa.struct([pa.field(k, pa.list_(t)) for k, t in nested.items()])
    plain = {k: [r[k] for r in rows] for k in ("object_id", "ra", "dec", "Z", "Z_ERR", "flags", "MAG_G", "MAG_R", "CLASS")}
    table = pa.table({
        "_healpix_29": pa.array(np.arange(len(rows))), **plain, "spectrum": pa.array(spectrum, kind), "image": pa.array(image),
        "image_mask": pa.array([r["image_mask"].tolist() for r in rows]),
    })  # fmt: skip
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.mark.parametrize("planes_as_structs", [False, True])
@pytest.mark.parametrize("group", [4, 7, 100])
def test_rows_in_any_order_of_any_nesting_and_row_groups(tmp_path: Path, planes_as_structs: bool, group: int) -> None:
    rows, survey = truth(), survey_of(**NAMES)
    path = partition(tmp_path / "Npix=1.parquet", rows, planes_as_structs, group)
    table = hats.read_objects(survey, "v1", path).table
    assert table["object_id"].to_pylist() == [f"{at:05d}" for at in range(COUNT)]
    np.testing.assert_array_equal(table["dec"].to_numpy(), [row["dec"] for row in rows])
    assert table["z"].to_pylist() == [row["Z"] for row in rows]
    assert table["z_err"].to_pylist() == [None if row["Z"] is None else 0.5 for row in rows]
    assert table["flags"].to_pylist() == [row["flags"] for row in rows]
    assert table["mags"].to_pylist() == [[20.5, None]] * COUNT
    chosen = [29, 3, 3, 11, 0]
    found = hats.read_arrays(survey, "v1", path, np.array(chosen), [f"{at:05d}" for at in chosen], survey.members)
    for at, number in enumerate(chosen):
        row = rows[number]
        for name in ("image", "wavelength", "flux"):
            np.testing.assert_array_equal(found[name][at], row[name])
            assert found[name][at].dtype == survey.field(name).numpy_dtype
        np.testing.assert_array_equal(found["mask"][at], ~row["mask"])
        np.testing.assert_array_equal(found["ivar"][at], np.where(row["mask"], 0, row["ivar"]))
        np.testing.assert_array_equal(found["image_mask"][at], row["image_mask"])
        np.testing.assert_array_equal(found["weight"][at], np.where(row["image_mask"], row["weight"], 0))


def test_only_the_row_groups_and_columns_that_are_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    survey, path = survey_of(**NAMES), partition(tmp_path / "a.parquet", truth(), False, 5)
    read: list[tuple[list[int], list[str]]] = []
    original = pq.ParquetFile.read_row_groups

    def noted(self: pq.ParquetFile, groups: list[int], columns: list[str]) -> pa.Table:
        read.append((groups, columns))
        return original(self, groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", noted)
    hats.read_arrays(survey, "v1", path, np.array([27, 6]), ["00027", "00006"], [survey.field("image_mask")])
    assert {tuple(groups) for groups, _ in read} == {(1, 5)}
    assert not any("spectrum" in column for _, columns in read for column in columns)


def change(**columns: Any) -> Any:
    def changed(table: pa.Table) -> pa.Table:
        for name, values in columns.items():
            at = table.schema.get_field_index(name)
            table = table.remove_column(at) if values is None else table.set_column(at, name, pa.array(values))
        return table

    return changed


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (change(ra=None), ["declared column is missing", "column: ra"]),
        (change(Z=["SEARCH"] * COUNT), ["not a number", "column: z", "SEARCH"]),
        (change(flags=np.full(COUNT, 1.5)), ["not a int32", "column: flags"]),
        (change(Z=[[1.0, 2.0]] * COUNT), ["not the declared shape", "column: z"]),
        (change(image_mask=np.zeros(COUNT)), ["not the declared shape", "column: image_mask"]),
        (change(image_mask=[[[True] * 5] * 3] * COUNT), ["column: image_mask"]),
        (change(spectrum=[{"lambda": [1.0]}] * COUNT), ["declared column is missing", "column: flux"]),
    ],
)
def test_what_is_not_as_declared_is_named_with_file_and_column(tmp_path: Path, changed: Any, names: list[str]) -> None:
    survey, path = survey_of(**NAMES), partition(tmp_path / "a.parquet", truth(), False, 100)
    pq.write_table(changed(pq.read_table(path)), path)

    def read() -> None:
        hats.read_objects(survey, "v1", path)
        hats.read_arrays(survey, "v1", path, np.array([2]), ["00002"], survey.members)

    with pytest.raises(BrokenSource) as caught:
        read()
    for name in [str(path), *names]:
        assert name in str(caught.value)


def test_another_object_or_a_row_that_is_not_there_or_a_cut_file_is_refused(tmp_path: Path) -> None:
    survey, path = survey_of(**NAMES), partition(tmp_path / "a.parquet", truth(), False, 100)
    with pytest.raises(BrokenSource, match="another object"):
        hats.read_arrays(survey, "v1", path, np.array([2]), ["00003"], survey.members)
    with pytest.raises(BrokenSource, match="no such row"):
        hats.read_arrays(survey, "v1", path, np.array([COUNT]), ["00003"], survey.members)
    assert hats.read_arrays(survey, "v1", path, np.array([], int), [], survey.members)["flux"] == []
    for keep in (0, 100, path.stat().st_size // 2):
        cut = tmp_path / f"{keep}.parquet"
        cut.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(BrokenSource, match=r"not a readable Parquet file[\s\S]*\.parquet"):
            hats.read_objects(survey, "v1", cut)
