"""Machines of a round and of a run, their log, and the arithmetic on both sides. No I/O."""
