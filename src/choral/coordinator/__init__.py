"""The service: one process that clients call, and that trains one model from what they send."""
