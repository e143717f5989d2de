"""Drivers that run a federation on one machine: the machines of a deployment, without a network."""
