"""Shards: samples of a cell -> a piece (a tar in sky order); pieces -> shards in training order, index, manifest, card."""
