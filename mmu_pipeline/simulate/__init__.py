"""A small sky with known truth, written in the on-disk layouts of real surveys, served over HTTP: for the demo and the tests.

- sky: a seed -> the true objects
- detections: true objects -> what each survey sees, with its own errors, footprint and depth
- images, spectra, light_curves: objects -> arrays
- hsc, sdss, gaia, ps1_sne_ia, desi, apogee, galah, chandra, vipers, lamost: arrays and columns -> files in a survey's layout
- hats: cells of some of them -> partitions of a HATS catalog
- snana: light curves -> SNANA text, with the faults of real files on request
- write: all of it -> a folder and its truth tables
- serve: a folder -> a local HTTP server, with faults on request
- demo: sky, server, build, page in one go
"""
