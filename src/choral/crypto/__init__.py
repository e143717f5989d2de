"""Primitives of secure aggregation over `cryptography`. Knows core and nothing else of ours."""
