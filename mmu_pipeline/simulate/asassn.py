"""A seed to variable stars of ASAS-SN, their LAMOST spectra and Gaia sources: three sets that share the ids of Gaia."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy import units as u
from astropy.coordinates import SkyCoord

from mmu_pipeline.simulate import gaia, lamost
from mmu_pipeline.simulate.detections import detect
from mmu_pipeline.simulate.instruments import INSTRUMENTS
from mmu_pipeline.simulate.sky import rows_of, sky_objects
from mmu_pipeline.simulate.write import Layout
from mmu_pipeline.sky import CELL_ORDER, healpix29, pixels_at

FOLDER = "asassn"
TYPES = ("EW", "RRAB", "SR", "ROT", "DSCT")
COLUMNS = ("asassn_name", "edr3_source_id", "raj2000", "dej2000", "variable_type", "period", "epoch_hjd", "mean_vmag",
           "amplitude", "class_probability", "lksl_statistic", "rfr_score", "phot_g_mean_mag", "bp_rp", "parallax",
           "parallax_error", "pmra", "pmdec", "j_mag", "h_mag", "k_mag", "w1_mag", "w2_mag")  # fmt: skip
SPECTRA = (1, 2, 0, 3)
"""How many spectra LAMOST has of a star, in turn."""


def object_ids(rows: pa.Table) -> list[str]:
    """ASASSN-V J and the position, as the catalogue names its stars."""
    place = SkyCoord(rows["ra"].to_numpy() * u.deg, rows["dec"].to_numpy() * u.deg)
    ra = place.ra.to_string(u.hour, sep="", precision=2, pad=True)
    dec = place.dec.to_string(u.deg, sep="", precision=1, pad=True, alwayssign=True)
    return [f"ASASSN-V J{right}{up}" for right, up in zip(ra, dec, strict=True)]


def write_file(path: Path, rows: pa.Table, seed: int) -> None:
    """Write the catalogue as csv; `rows` are detections with object_id and gaia_source_id. What is missing is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows_of(rows):
            rng = np.random.default_rng([seed, 31, row["true_id"]])
            kind = TYPES[row["true_id"] % len(TYPES)]
            period = "" if kind == "SR" else repr(float(rng.uniform(0.1, 30)))
            mags = row["mag"] + np.array([0.1, -0.8, -1.1, -1.2, -1.25, -1.2])
            writer.writerow([
                row["object_id"], row["gaia_source_id"] or "", repr(row["ra"]), repr(row["dec"]), kind, period, 2457000.5,
                *(f"{value:.3f}" for value in (mags[0], *rng.uniform(0.1, 0.9, 4), mags[0] - 0.2, row["colour"] * 0.7)),
                row["parallax"], 0.05, row["pmra"], row["pmdec"], *(f"{value:.3f}" for value in mags[1:]),
            ])  # fmt: skip


def write_set(folder: Path, seed: int = 0) -> pa.Table:
    """Write the three sets below `asassn`, `lamost/lamost` and `gaia/gaia`, and tell what belongs together.

    One row per star of ASAS-SN: true_id, asassn_variables (its name), gaia (its id, null for every ninth star: then nobody
    knows it), lamost (ids of its spectra, the one with the highest signal to noise first; of a repeated spectrum half lie a few
    arcminutes off, as where a fibre was misplaced).
    """
    sky = sky_objects(seed)
    sources = detect(sky, INSTRUMENTS["gaia"], seed)
    sources = sources.append_column("object_id", pa.array(gaia.object_ids(sources)))
    _write_cells(folder / gaia.FOLDER, sources.filter(pc.equal(sources["fault"], "")), gaia, seed)
    known = {row["true_id"]: int(row["object_id"]) for row in rows_of(sources) if row["fault"] == "" and row["true_id"] % 9}

    stars = detect(sky, INSTRUMENTS["asassn_variables"], seed)
    stars = stars.append_column("object_id", pa.array(object_ids(stars)))
    ids = [known.get(true_id) for true_id in stars["true_id"].to_pylist()]
    stars = stars.append_column("gaia_source_id", pa.array(ids, pa.int64()))
    write_file(folder / FOLDER / "asassn_variables_x.csv", stars, seed)

    spectra = _spectra(stars)
    _write_cells(folder / lamost.FOLDER, spectra, lamost, seed)
    best: dict[int, list[tuple[float, str]]] = {true_id: [] for true_id in stars["true_id"].to_pylist()}
    for row, truth in zip(rows_of(spectra), lamost.true_rows(spectra, seed), strict=True):
        best[row["true_id"]].append((-truth["snrg"], row["object_id"]))
    columns = {
        "true_id": stars["true_id"],
        "asassn_variables": stars["object_id"],
        "gaia": stars["gaia_source_id"].cast(pa.string()),
    }
    return pa.table({**columns, "lamost": [[name for _, name in sorted(best[true_id])] for true_id in best]})


def _spectra(stars: pa.Table) -> pa.Table:
    """Rows of LAMOST, in its cells: some stars several times, every second time three arcminutes away."""
    rows = stars.drop_columns(["object_id"]).to_pylist()
    seen = [
        {**row, "visit": visit, "dec": row["dec"] + (0.05 if visit % 2 else 0.0) * (-1 if row["dec"] > 0 else 1)}
        for row in rows for visit in range(SPECTRA[row["true_id"] % len(SPECTRA)])
    ]  # fmt: skip
    table = pa.Table.from_pylist(seen)
    cells = pixels_at(healpix29(table["ra"].to_numpy(), table["dec"].to_numpy()), CELL_ORDER)
    table = table.set_column(table.schema.get_field_index("cell"), "cell", pa.array(cells))
    return table.append_column("object_id", pa.array(lamost.object_ids(table)))


def _write_cells(folder: Path, rows: pa.Table, layout: Layout, seed: int) -> None:
    names = pa.array(layout.file_names(rows))
    for name in pc.unique(names).to_pylist():
        layout.write_file(folder / name, rows.filter(pc.equal(names, name)), seed)
