"""Choral."""
