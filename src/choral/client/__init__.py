"""The agent near private data: it asks for work, holds it against its site's policy, does it."""
