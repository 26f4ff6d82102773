"""Stages: each a plain function of one unit (a few source files, a cell, a shard) that writes one result and its receipt.

- scan: source files -> a piece of the object table, rows of any cell
- objects: pieces -> one partition of the survey's object table
- match: object tables -> the match table of one cell
- samples: matches, arrays -> the encoded samples of one cell, in sky order
- shards: encoded samples -> one shard, in training order
"""
