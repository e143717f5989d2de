"""Secure aggregation without input or output. Knows core and crypto, and nothing else of ours."""
