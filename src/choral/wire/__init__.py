"""What travels between a coordinator and its clients: messages, frames, errors, versions."""
