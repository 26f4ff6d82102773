"""Sky surveys in, training shards out: cells, matches, shards and their index."""

__version__ = "0.1.0"
