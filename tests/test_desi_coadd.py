"""DESI coadds: the real ones against a pixel by pixel reading, and a generated one of several targets."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.sparse import dia_matrix

from mmu_pipeline.catalog_files import load_surveys
from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.readers import desi_coadd

DESI = load_surveys()["desi"]
GRIDS = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}


def pixel_by_pixel(hdus: Any, row: int) -> dict[str, np.ndarray]:
    """Flux, ivar, mask (good) and sigma of a target, by wavelength in Angstrom, joined one pixel at a time."""
    seen: dict[int, list[tuple[float, float, int, float]]] = defaultdict(list)
    for camera in GRIDS:
        wavelength, resolution = hdus[f"{camera}_WAVELENGTH"].data, hdus[f"{camera}_RESOLUTION"].data[row].astype("f8")
        offsets = len(resolution) // 2 - np.arange(len(resolution))
        matrix = dia_matrix((resolution, offsets), shape=(len(wavelength),) * 2).tocsc()
        for at, angstrom in enumerate(wavelength):
            column = matrix[:, [at]].toarray()[:, 0]
            if 5 <= at < len(wavelength) - 5 and column.sum() > 0:
                where = np.arange(len(column)) - at
                mean = (column * where).sum() / column.sum()
                variance = (column * where**2).sum() / column.sum() - mean**2
            else:
                variance = np.nan  # diagonals reach beyond the matrix there
            values = (hdus[f"{camera}_{name}"].data[row][at] for name in ("FLUX", "IVAR", "MASK"))
            seen[round(angstrom * 10)].append((*values, variance))  # type: ignore[arg-type]
    result: dict[str, list[float]] = {name: [] for name in ("wavelength", "flux", "ivar", "mask", "lsf_sigma")}
    for tenth in sorted(seen):
        pixels = seen[tenth]
        total = sum(float(ivar) for _, ivar, _, _ in pixels)
        result["wavelength"].append(tenth / 10)
        result["ivar"].append(total)
        alone = len(pixels) == 1
        result["flux"].append(
            float(pixels[0][0]) if alone else sum(float(f) * float(w) for f, w, _, _ in pixels) / total if total > 0 else 0.0
        )
        result["mask"].append(total > 0 and any(bits == 0 for _, _, bits, _ in pixels))
        weights = [float(w) if total > 0 else 1.0 for _, w, _, _ in pixels]
        spread = sum(w * v for w, (_, _, _, v) in zip(weights, pixels, strict=True) if w > 0)
        result["lsf_sigma"].append(float(np.sqrt(max(spread / sum(weights), 0.0))) if np.isfinite(spread) else np.nan)
    return {name: np.array(values) for name, values in result.items()}


def check(arrays: dict[str, Any], at: int, expected: dict[str, np.ndarray]) -> None:
    found = {name: values[at] for name, values in arrays.items()}
    np.testing.assert_allclose(found["wavelength"], expected["wavelength"], rtol=1e-7)
    np.testing.assert_array_equal(found["mask"], expected["mask"].astype(bool))
    np.testing.assert_allclose(found["flux"], expected["flux"], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found["ivar"], np.where(expected["mask"], expected["ivar"], 0), rtol=1e-6)
    known = np.isfinite(expected["lsf_sigma"])
    assert known.mean() > 0.98
    np.testing.assert_allclose(found["lsf_sigma"][known], expected["lsf_sigma"][known], rtol=1e-5, atol=1e-6)


def test_every_real_coadd(real_data: Path) -> None:
    paths = sorted((real_data / "raw/desi/fastspecfit").glob("coadd-*.fits"))
    assert len(paths) == 2
    for path in paths:
        (row,) = desi_coadd.read_objects(DESI, "coadd", path).table.to_pylist()
        with fits.open(path) as hdus, fits.open(path.with_name(path.name.replace("coadd", "redrock"))) as redrock:
            target, fit = hdus["FIBERMAP"].data[0], redrock["REDSHIFTS"].data[0]
            assert row["object_id"] == str(target["TARGETID"])
            assert (row["ra"], row["dec"]) == (target["TARGET_RA"], target["TARGET_DEC"])
            assert (row["z"], row["z_err"], row["zwarn"]) == (fit["Z"], fit["ZERR"], fit["ZWARN"])
            assert (row["spectype"], row["objtype"]) == (fit["SPECTYPE"].strip(), target["OBJTYPE"].strip())
            assert row["flux_r"] == (target["FLUX_R"] if target["FLUX_R"] not in (0, -99) else None)
            arrays = desi_coadd.read_arrays(DESI, "coadd", path, np.array([0]), [row["object_id"]], DESI.members)
            assert len(arrays["flux"][0]) == 7781
            assert 0.4 < np.median(arrays["lsf_sigma"][0]) < 1.2
            check(arrays, 0, pixel_by_pixel(hdus, 0))


@pytest.fixture
def coadd(tmp_path: Path) -> Path:
    """Four targets; extensions in odd order; redrock in another order and without the last."""
    rng = np.random.default_rng(8)
    ids = np.array([39627700000000011, 39627700000000007, -3, 39627700000000002])
    fibermap = Table({"TARGETID": ids, "TARGET_RA": [10.0, 11, 12, 13], "TARGET_DEC": [-5.0, 5, 6, 7],
                      "OBJTYPE": ["TGT", "TGT", "SKY", "TGT"],
                      "COADD_FIBERSTATUS": np.array([0, 8, 0, 0], "i4")})  # fmt: skip
    for name in ["EBV", *(f"{kind}{band}" for kind in ("FLUX_", "FLUX_IVAR_", "FIBERFLUX_", "FIBERTOTFLUX_") for band in "GRZ")]:
        fibermap[name] = np.array([1.5, -99, 0, 2.5], "f4")
    hdus: list[Any] = []
    for camera, (start, length) in reversed(GRIDS.items()):
        width = 0.6 + 0.1 * np.arange(4)
        kernel = np.exp(-0.5 * ((5 - np.arange(11))[None, :, None] / width[:, None, None]) ** 2)
        ivar = rng.uniform(0.5, 2, (4, length)).astype("f4")
        ivar[:, rng.integers(0, length, 40)] = 0
        bits = np.where(ivar == 0, 2**31, 0).astype("u4")
        bits[:, :30] |= 4
        hdus += [
            fits.ImageHDU(np.tile(kernel, (1, 1, length)).astype("f4"), name=f"{camera}_RESOLUTION"),
            fits.CompImageHDU(bits.astype("i4"), name=f"{camera}_MASK"),
            fits.ImageHDU(rng.normal(3, 1, (4, length)).astype("f4"), name=f"{camera}_FLUX"),
            fits.ImageHDU(ivar, name=f"{camera}_IVAR"),
            fits.ImageHDU(start + 0.8 * np.arange(length), name=f"{camera}_WAVELENGTH"),
        ]
    path = tmp_path / "coadd-main-dark-27247.fits"
    fits.HDUList([fits.PrimaryHDU(), *hdus, fits.BinTableHDU(fibermap, name="FIBERMAP")]).writeto(path)
    fit = Table(
        {
            "TARGETID": ids[[2, 1, 0]],
            "Z": [0.2, 0.1, 0.0],
            "ZERR": [1e-4] * 3,
            "ZWARN": [0, 4, 2**40],
            "SPECTYPE": ["QSO", "STAR", "GALAXY"],
            "SUBTYPE": ["", "M", ""],
            "DELTACHI2": [30.0, 20.0, 10.0],
        }
    )
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(fit, name="REDSHIFTS")]).writeto(tmp_path / "redrock-main-dark-27247.fits")
    return path


def test_targets_are_joined_with_their_redshifts_by_id(coadd: Path) -> None:
    rows = desi_coadd.read_objects(DESI, "coadd", coadd).table.to_pylist()
    assert [row["object_id"] for row in rows] == ["39627700000000011", "39627700000000007", "-3", "39627700000000002"]
    assert [row["z"] for row in rows] == [0.0, 0.1, 0.2, None]
    assert [row["zwarn"] for row in rows] == [2**40, 4, 0, None]
    assert [row["spectype"] for row in rows] == ["GALAXY", "STAR", "QSO", None]
    assert [row["subtype"] for row in rows] == [None, "M", None, None]
    assert [row["deltachi2"] for row in rows] == [10.0, 20.0, 30.0, None]
    assert [row["flux_g"] for row in rows] == [1.5, None, None, 2.5]
    assert [row["fiberstatus"] for row in rows] == [0, 8, 0, 0]
    chosen = [3, 0, 3]
    arrays = desi_coadd.read_arrays(
        DESI, "coadd", coadd, np.array(chosen), [rows[row]["object_id"] for row in chosen], DESI.members
    )
    with fits.open(coadd) as hdus:
        for at in (0, 1):
            check(arrays, at, pixel_by_pixel(hdus, chosen[at]))
    np.testing.assert_array_equal(arrays["flux"][0], arrays["flux"][2])
    assert arrays["lsf_sigma"][1][3000] == pytest.approx(0.6, abs=0.02)


def rewrite(path: Path, change: Any) -> None:
    with fits.open(path) as hdus:
        kept = fits.HDUList([hdu.copy() for hdu in hdus])
    change(kept)
    kept.writeto(path, overwrite=True)


def renamed(name: str) -> Any:
    return lambda hdus: setattr(hdus[name], "name", "OTHER")


def shorter(hdus: Any) -> None:
    hdus["R_IVAR"].data = hdus["R_IVAR"].data[:, :-1]


def off_grid(hdus: Any) -> None:
    hdus["Z_WAVELENGTH"].data = hdus["Z_WAVELENGTH"].data + 0.3


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (renamed("R_FLUX"), ["declared extension is missing", "R_FLUX"]),
        (shorter, ["not as long as the wavelengths", "R_IVAR"]),
        (off_grid, ["do not share a grid"]),
    ],
)
def test_what_is_not_as_declared_is_named(coadd: Path, change: Any, names: list[str]) -> None:
    rewrite(coadd, change)
    with pytest.raises(BrokenSource) as caught:
        desi_coadd.read_arrays(DESI, "coadd", coadd, np.array([0]), ["39627700000000011"], DESI.members)
    for name in [str(coadd), *names]:
        assert name in str(caught.value)


def test_a_coadd_without_its_redshifts_or_of_another_target_is_refused(coadd: Path) -> None:
    with pytest.raises(BrokenSource, match="another object"):
        desi_coadd.read_arrays(DESI, "coadd", coadd, np.array([1]), ["17"], DESI.members)
    with pytest.raises(BrokenSource, match="no such row"):
        desi_coadd.read_arrays(DESI, "coadd", coadd, np.array([4]), ["17"], DESI.members)
    redrock = coadd.with_name("redrock-main-dark-27247.fits")
    rewrite(redrock, lambda hdus: hdus["REDSHIFTS"].columns.change_name("Z", "ZED"))
    with pytest.raises(BrokenSource, match="redrock/REDSHIFTS:Z"):
        desi_coadd.read_objects(DESI, "coadd", coadd)
    redrock.unlink()
    with pytest.raises(BrokenSource, match="redrock is not there"):
        desi_coadd.read_objects(DESI, "coadd", coadd)


FROM_CATALOG = {field.name: field.source_names("coadd")[0].partition(":")[2] for field in DESI.columns
                if (field.source_name("coadd") or "").startswith("zcatalog/")}  # fmt: skip


def of_targets(coadd: Path, ids: Any, **header: str) -> None:
    """Make the coadd one of other targets, of a survey and a program."""

    def change(hdus: Any) -> None:
        hdus["FIBERMAP"].data["TARGETID"] = ids
        hdus[0].header.update(header)

    rewrite(coadd, change)


def test_rows_of_the_real_catalog_of_redshifts_are_joined_by_target_survey_and_program(real_data: Path, coadd: Path) -> None:
    source = real_data / "raw/desi/hats-import/zall-pix-iron_10rows.fits"
    with fits.open(source) as hdus:
        known = hdus["ZCATALOG"].data
        chosen = [7, 0, 9]
        ids = [*known["TARGETID"][chosen], 39627700000000002]
        assert {(row["SURVEY"].strip(), row["PROGRAM"].strip()) for row in known} == {("cmx", "other")}
        of_targets(coadd, ids, SURVEY="cmx", PROGRAM="other")
        assert_null(coadd)  # no catalog lies there yet
        (coadd.parent / "zall-pix-iron.fits").symlink_to(source)
        rows = desi_coadd.read_objects(DESI, "coadd", coadd).table.to_pylist()
        assert len(FROM_CATALOG) == 10
        for name, column in FROM_CATALOG.items():
            assert [row[name] for row in rows] == [*known[column][chosen].tolist(), None], name
    of_targets(coadd, ids, SURVEY="main", PROGRAM="other")
    assert_null(coadd)


def assert_null(coadd: Path) -> None:
    rows = desi_coadd.read_objects(DESI, "coadd", coadd).table.to_pylist()
    assert {row[name] for row in rows for name in FROM_CATALOG} == {None}


def test_a_catalog_of_several_programs_gives_each_coadd_its_own_row_whatever_its_place(coadd: Path, tmp_path: Path) -> None:
    folder = tmp_path / "healpix/main/dark/272/27247"
    folder.mkdir(parents=True)
    (tmp_path / "zcatalog/v1").mkdir(parents=True)
    for path in tmp_path.glob("*.fits"):
        path.rename(folder / path.name)
    with fits.open(folder / coadd.name) as hdus:
        ids = np.array(hdus["FIBERMAP"].data["TARGETID"])
    programs, many = np.repeat(["bright", "dark"], 4), 300_000
    rows = {column: np.arange(8) if "NSPEC" in column or "NUMEXP" in column else np.arange(8) % 2 == 0
            for column in FROM_CATALOG.values()}  # fmt: skip
    table = Table({"TARGETID": np.tile(ids, 2), "SURVEY": ["main"] * 8, "PROGRAM": programs, **rows})
    filled = Table({name: np.concatenate([np.full(many, table[name][0]), table[name]]) for name in table.colnames})
    catalog = tmp_path / "zcatalog/v1/zall-pix-iron.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(filled, name="ZCATALOG")]).writeto(catalog)
    for program, expected in (("bright", [0, 1, 2, 3]), ("dark", [4, 5, 6, 7]), ("backup", [None] * 4)):
        of_targets(folder / coadd.name, ids, SURVEY="main", PROGRAM=program)
        found = desi_coadd.read_objects(DESI, "coadd", folder / coadd.name).table["main_nspec"].to_pylist()
        assert found == expected


def test_a_catalog_without_a_declared_column_is_named(coadd: Path) -> None:
    table = Table({"TARGETID": [1], "SURVEY": ["main"], "PROGRAM": ["dark"]})
    catalog = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(table, name="ZCATALOG")])
    catalog.writeto(coadd.parent / "zall-pix-iron.fits")
    with pytest.raises(BrokenSource, match="zcatalog/ZCATALOG:MAIN_NSPEC"):
        desi_coadd.read_objects(DESI, "coadd", coadd)
