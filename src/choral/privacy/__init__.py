"""Differential privacy: words, noise, clips, mechanisms, accountants and the ledger."""
