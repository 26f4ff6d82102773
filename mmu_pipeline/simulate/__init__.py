"""A small sky with known truth, written in the on-disk layouts of real surveys, served over HTTP: for the demo and the tests.

- sky: a seed, or a list of positions -> the true objects
- instruments, detections, ids: true objects -> what each survey sees, with its own errors, epoch, footprint, depth and ids
- images, spectra, light_curves: objects -> arrays
- objects, kept: a survey's declaration -> objects with known values, as a form of the survey can hold them
- hsc, sdss, gaia, ps1_sne_ia, desi, apogee, galah, chandra, vipers, lamost: light and columns -> MMU v1 cells
- mmu_v1, supernovae, snana, fits_spectra, desi_coadd, chandra_pha, gaia_xp, brick, raw: objects -> files in a survey's layout
- hats: cells of some of them -> partitions of a HATS catalog
- survey_files, asked: any survey and form -> its files, and what a reader must find; `mmu simulate`
- write: the sky of the demo -> a folder and its truth tables
- serve: a folder -> a local HTTP server, with faults on request
- demo, check: sky, server, build, page in one go
"""
