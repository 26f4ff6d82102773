"""Reports: a published shard set -> one self-contained HTML page; one sample -> a figure.

- shard_set: a URL -> the set's manifest, index and samples, and what its build says was left out
- ink: figures -> SVG and PNG that live in a page, readable on light and dark
- samples: one sample -> its image in colour, its spectrum, its light curve
- overview: index -> sky, separations, shards
- page: all of it -> one HTML file
- show: one sample -> text and a PNG for the terminal
"""
