"""Views: the arrays that known trainers take, held against their own steps written out plainly."""

import numpy as np
import pytest
from scipy import stats

from mmu_pipeline.errors import BadInput
from mmu_pipeline.loader import views


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def padded(arrays: list[np.ndarray], name: str) -> dict[str, np.ndarray]:
    longest = max(map(len, arrays))
    mask = np.arange(longest) < np.array([[len(array)] for array in arrays])
    values = np.zeros(mask.shape, arrays[0].dtype)
    for row, array in enumerate(arrays):
        values[row, : len(array)] = array
    return {name: values, f"{name}.mask": mask}


def test_astroclip(rng):
    image, flux = rng.normal(size=(2, 4, 160, 160)).astype("f4"), rng.normal(size=(2, 7781)).astype("f4")
    batch = {"legacysurvey.image": image, "desi.flux": flux, "desi_z": np.array([0.1, np.nan]), "desi_object_id": ["39627", None]}
    before = image.copy()
    found = views.astroclip(batch)
    assert {name: (value.shape, value.dtype.str) for name, value in found.items()} == {
        "image": ((2, 152, 152, 3), "<f4"),
        "spectrum": ((2, 7781, 1), "<f4"),
        "redshift": ((2,), "<f4"),
        "targetid": ((2,), "<i8"),
    }
    for plane, band in enumerate((0, 1, 3)):
        assert np.array_equal(found["image"][..., plane], image[:, band, 4:156, 4:156])
    assert np.array_equal(found["spectrum"][..., 0], flux)
    assert found["targetid"].tolist() == [39627, -1]
    assert np.array_equal(batch["legacysurvey.image"], before)
    absent = views.astroclip(batch | {"desi.flux": np.zeros((2, 0), "f4")})
    assert not absent["spectrum"].any()
    with pytest.raises(BadInput, match="cannot be cut"):
        views.astroclip(batch | {"legacysurvey.image": image[..., :100, :100]})


def test_aion(rng):
    image = rng.normal(size=(3, 5, 160, 160)).astype("f4")
    lengths = (4, 6, 0)
    batch = {"hsc.image": image, "hsc_g_cmodel_mag": np.array([20, np.nan, 21], "f4")}
    for name in ("flux", "ivar", "wavelength"):
        batch |= padded([rng.random(length).astype("f4") + 1 for length in lengths], f"sdss.{name}")
    batch |= padded([rng.random(length) > 0.5 for length in lengths], "sdss.mask")
    found = views.aion(batch, scalars=["hsc_g_cmodel_mag"])
    assert found["image"]["bands"][0] == "HSC-G"
    assert np.array_equal(found["image"]["flux"], image[..., 32:128, 32:128])
    assert found["hsc_g_cmodel_mag"].shape == (3, 1)
    spectrum = found["spectrum"]
    assert {value.shape for value in spectrum.values()} == {(3, 6)}
    assert spectrum["wavelength"][0, 4:].tolist() == [99999.0] * 2
    assert spectrum["mask"][0, 4:].all()
    assert spectrum["mask"][2].all()
    assert not spectrum["ivar"][0, 4:].any()
    assert np.array_equal(spectrum["mask"][1], ~batch["sdss.mask"][1])
    with pytest.raises(BadInput, match="band names"):
        views.aion_image(batch, bands=["DES-G"])


@pytest.mark.parametrize("count", [3, 200, 350])
def test_astrom3_light_curve(rng, count):
    """Against its steps: unique rows by time, flux by mean and MAD, time from 0 to 1, cut or filled, constants beside."""
    time, flux, error = 2_457_000 + rng.permutation(count) * 1.5, rng.normal(12, 2, count), rng.random(count)
    features = np.array([0.3, 1.7, 0.5, 0.9])
    again = rng.integers(0, count, 5)
    found, mask = views.astrom3_photometry(*(np.concatenate([a, a[again]]) for a in (time, flux, error)), features)
    order = np.argsort(time)
    mad = stats.median_abs_deviation(flux)
    wanted = np.stack([(time - time.min()) / np.ptp(time), (flux - flux.mean()) / mad, error / mad], axis=1)[order]
    begin = max(count - 200, 0) // 2
    wanted = wanted[begin : begin + 200]
    assert found.shape == (200, 9)
    assert found.dtype == mask.dtype == np.float32
    assert np.allclose(found[: len(wanted), :3], wanted, rtol=1e-5, atol=1e-6)
    assert not found[len(wanted) :, :3].any()
    assert mask.sum() == len(wanted)
    assert np.allclose(found[:, 3:], [*features, np.log10(mad), np.ptp(time) / 365], rtol=1e-5)
    cut, _ = views.astrom3_photometry(time, flux, error, features, rng=np.random.default_rng(1))
    same, _ = views.astrom3_photometry(time, flux, error, features, rng=np.random.default_rng(1))
    assert np.array_equal(cut, same)


def test_astrom3_spectrum(rng):
    wavelength = np.linspace(3700, 9100, 3909)
    flux, ivar = rng.normal(10, 1, 3909), rng.random(3909)
    found = views.astrom3_spectrum(wavelength, flux, ivar)
    grid = np.arange(3850, 9000, 2)
    values = np.interp(grid, wavelength, flux)
    mad = stats.median_abs_deviation(values)
    assert found.shape == (3, 2575)
    assert np.allclose(found[0], (values - values.mean()) / mad, rtol=1e-4, atol=1e-5)
    assert np.allclose(found[1], np.interp(grid, wavelength, ivar) / mad, rtol=1e-4)
    assert np.allclose(found[2], np.log10(mad), rtol=1e-5)


def test_astrom3_without_spread_or_data_stays_finite():
    for curve in ([np.arange(5.0), np.ones(5), np.ones(5)], [np.zeros(0)] * 3, [np.zeros(1)] * 3):
        found, mask = views.astrom3_photometry(*curve, np.zeros(4))
        assert np.isfinite(found).all()
        assert mask.sum() == len(curve[0])
    assert not views.astrom3_spectrum(*[np.zeros(0)] * 3).any()
    assert np.isfinite(views.astrom3_spectrum(np.arange(4000.0, 4003), np.ones(3), np.ones(3))).all()


def test_astrom3_batch(rng):
    curve, spectrum = ("asassn.time", "asassn.flux", "asassn.flux_err"), ("lamost.wavelength", "lamost.flux", "lamost.ivar")
    batch = {"label": ["EW", "DSCT"], "amplitude": np.array([0.1, 0.2]), "period": np.array([1.0, 2.0]), "bp_rp": np.zeros(2)}
    for name in curve:
        batch |= padded([np.sort(rng.random(size)) for size in (7, 300)], name)
    for name in spectrum:
        batch |= padded([np.sort(rng.uniform(3700, 9100, size)) for size in (90, 100)], name)
    found = views.astrom3(batch, curve, spectrum, ["amplitude", "period"], ["bp_rp"], "label", ["EW", "SR", "DSCT"])
    assert [array.shape for array in found] == [(2, 200, 7), (2, 200), (2, 3, 2575), (2, 1), (2,)]
    assert found[1].sum(axis=1).tolist() == [7, 200]
    assert found[4].tolist() == [1, 0]
    with pytest.raises(BadInput, match="'DSCT'"):
        views.astrom3(batch, curve, spectrum, ["period"], ["bp_rp"], "label", ["SR"])


def test_zoobot(rng):
    image = rng.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    batch = {"key": ["a-1", "b-2"], "gz10.image": image, "smooth": np.array([3, np.nan], "f4"), "disk": np.array([1, 0], "i4")}
    found = views.zoobot(batch, votes=["smooth", "disk"])
    assert found["image"].dtype == np.float32
    assert np.allclose(found["image"] * 255, image)
    assert found["smooth"].tolist() == [3, 0]
    assert found["disk"].tolist() == [1, 0]
    assert found["id_str"] == ["a-1", "b-2"]
    with pytest.raises(BadInput, match="8 bits"):
        views.zoobot({"key": [], "gz10.image": image.astype("f4")})
