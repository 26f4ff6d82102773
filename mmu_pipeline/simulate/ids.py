"""Objects of the simulated sky to their ids, as each survey writes them."""

from __future__ import annotations

import pyarrow as pa

from mmu_pipeline.simulate import apogee, asassn, chandra, desi, gaia, galah, hsc, lamost, ps1_sne_ia, sdss, vipers

LAYOUTS = {
    "apogee": apogee, "chandra": chandra, "desi": desi, "gaia": gaia, "galah": galah, "hsc": hsc, "lamost": lamost,
    "ps1_sne_ia": ps1_sne_ia, "sdss": sdss, "vipers": vipers,
}  # fmt: skip
"""Surveys whose ids follow from what they list."""
PATTERNS = {
    "allwise": "1119111501351{:06d}", "btsbot": "2466440941315{:06d}", "des_y3_sne_ia": "12{:05d}",
    "desi_provabgs": "396278333{:08d}", "galex": "6370985862340{:06d}", "gz2": "587722981747{:06d}", "gz_hubble": "hubble-{:08d}",
    "jwst": "-52411236{:09d}", "kepler": "{}", "legacysurvey": "{0:04d}m002-{0}", "manga": "8485-{}", "plasticc": "{}",
    "sages": "SAGE000206.1+{:06d}", "ssl_legacysurvey": "9011-330248-{}", "tess": "{}", "tess_qlp": "{}",
    "tess_tglc": "570748552745{:07d}", "twomass": "110{:07d}",
}  # fmt: skip
NAMES = {"cfa3": "2001", "cfa3_standard": "2001", "csp": "2004", "foundation": "2016", "snls": "03D1", "swift_sne_ia": "SN2012",
         "yse": "2020"}  # fmt: skip
"""Supernovae: a year or field, then letters."""


def ids_of(survey: str, form: str, seen: pa.Table) -> list[str]:
    """The id of each row that a survey lists, without padding. Galaxy10 has row numbers, so its ids follow from the order.

    The forms of a survey share ids; only Chandra's products do not hold the source's name, which the MMU has put before.
    """
    if survey in LAYOUTS:
        ids: list[str] = LAYOUTS[survey].object_ids(seen)
        return [one.partition(".")[2] for one in ids] if form == "pha" else ids
    if survey == "gz10":
        return [str(number) for number in range(len(seen))]
    repeat = [fault == "coincident" for fault in seen["fault"].to_pylist()]
    numbers = [1 + 2 * true_id + again for true_id, again in zip(seen["true_id"].to_pylist(), repeat, strict=True)]
    if survey == "asassn_variables":
        return asassn.object_ids(seen)
    if survey in NAMES:
        return [f"{NAMES[survey]}{letters(number)}" for number in numbers]
    return [PATTERNS[survey].format(number) for number in numbers]


def letters(number: int) -> str:
    """1 -> a, 26 -> z, 27 -> aa: how supernovae of a year are counted."""
    text = ""
    while number > 0:
        number, last = divmod(number - 1, 26)
        text = chr(ord("a") + last) + text
    return text
