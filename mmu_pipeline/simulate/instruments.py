"""How each survey sees the simulated sky: one table of epoch, astrometric error, depth, kinds of objects and footprint."""

from __future__ import annotations

from dataclasses import dataclass

ALL = ("galaxy", "star", "sn_host")
FIELDS = ("cosmos", "xmm_lss", "elais_n1", "deep2_3")


@dataclass(frozen=True)
class Instrument:
    """How one survey sees the sky."""

    survey: str
    epoch: float
    """Julian year of its positions; proper motions move objects there."""
    error_arcsec: float
    """Astrometric error per axis; cut at three times that."""
    faintest: float
    """AB magnitude in i."""
    kinds: tuple[str, ...]
    """What it lists. One that lists supernova hosts alone lists the supernovae, at their own positions."""
    not_covered: tuple[str, ...] = ()
    """Fields outside its footprint."""
    side_deg: float = 0.0
    """Side to which it moves planted border objects, as an angle from the object's `across_deg`."""


INSTRUMENTS = {
    seen.survey: seen
    for seen in (
        Instrument("allwise", 2010.56, 0.05, 19.5, ALL, side_deg=45.0),
        Instrument("apogee", 2015.0, 0.05, 17.5, ("star",)),
        Instrument("asassn_variables", 2015.5, 0.8, 19.3, ("star",)),
        Instrument("btsbot", 2020.5, 0.08, 21.0, ("sn_host",), side_deg=60.0),
        Instrument("cfa3", 2005.0, 0.3, 19.0, ("sn_host",), ("xmm_lss",)),
        Instrument("cfa3_standard", 2005.0, 0.3, 19.0, ("sn_host",), ("xmm_lss",)),
        Instrument("chandra", 2005.0, 0.3, 19.0, ("galaxy", "star")),
        Instrument("csp", 2007.0, 0.2, 19.5, ("sn_host",), ("elais_n1",)),
        Instrument("des_y3_sne_ia", 2014.5, 0.05, 22.5, ("sn_host",), ("cosmos", "elais_n1")),
        Instrument("desi", 2021.0, 0.05, 19.3, ALL),
        Instrument("desi_provabgs", 2021.0, 0.05, 19.3, ("galaxy", "sn_host")),
        Instrument("foundation", 2016.5, 0.1, 19.5, ("sn_host",)),
        Instrument("gaia", 2016.0, 0.0005, 20.5, ("star",), side_deg=270.0),
        Instrument("galah", 2015.5, 0.05, 17.0, ("star",), ("elais_n1",)),
        Instrument("galex", 2007.0, 0.4, 20.5, ("galaxy", "star")),
        Instrument("gz10", 2016.0, 0.03, 18.5, ("galaxy", "sn_host")),
        Instrument("gz2", 2004.0, 0.08, 17.5, ("galaxy", "sn_host"), ("xmm_lss",)),
        Instrument("gz_hubble", 2005.0, 0.05, 22.5, ("galaxy",), ("elais_n1", "deep2_3")),
        Instrument("hsc", 2016.5, 0.03, 22.5, ALL),
        Instrument("jwst", 2023.0, 0.02, 22.5, ALL, ("elais_n1", "deep2_3")),
        Instrument("kepler", 2011.0, 0.1, 17.5, ("star",), ("xmm_lss", "deep2_3")),
        Instrument("lamost", 2014.0, 0.2, 17.8, ("star", "galaxy")),
        Instrument("legacysurvey", 2016.0, 0.03, 21.5, ("galaxy", "sn_host"), ("elais_n1",)),
        Instrument("manga", 2016.5, 0.1, 18.0, ("galaxy", "sn_host")),
        Instrument("plasticc", 2024.0, 0.05, 22.5, ("sn_host",)),
        Instrument("ps1_sne_ia", 2011.0, 0.1, 22.0, ("sn_host",), ("deep2_3",), side_deg=90.0),
        Instrument("sages", 2017.0, 0.1, 19.0, ("star",)),
        Instrument("sdss", 2004.0, 0.08, 19.3, ALL, side_deg=180.0),
        Instrument("snls", 2005.0, 0.1, 22.5, ("sn_host",), ("elais_n1",)),
        Instrument("ssl_legacysurvey", 2017.0, 0.03, 20.5, ("galaxy", "sn_host"), ("xmm_lss", "deep2_3")),
        Instrument("swift_sne_ia", 2012.0, 0.5, 19.0, ("sn_host",)),
        Instrument("tess", 2019.5, 0.1, 17.0, ("star",)),
        Instrument("tess_qlp", 2019.5, 0.1, 17.0, ("star",)),
        Instrument("tess_tglc", 2019.5, 0.001, 17.5, ("star",)),
        Instrument("twomass", 1999.3, 0.08, 18.0, ALL, side_deg=135.0),
        Instrument("vipers", 2012.0, 0.1, 22.5, ("galaxy",)),
        Instrument("yse", 2020.5, 0.1, 20.5, ("sn_host",)),
    )
}
"""By survey. Epochs are typical of a release; those of Gaia, AllWISE and GALAH are what their positions are given for."""
