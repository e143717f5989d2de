"""Generated from `proto/choral/v1` by `scripts/generate_stubs.py`: do not edit."""
