"""The federation file: one pydantic model, read from YAML or built in Python."""
