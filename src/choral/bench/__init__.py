"""Workloads that measure Choral beside its floor: the same work written by hand."""
