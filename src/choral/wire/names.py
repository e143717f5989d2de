"""Names of metadata that travels beside calls where there are no certificates."""

from __future__ import annotations

from typing import Final

CLIENT_ID: Final = "choral-client-id"
"""By which a caller names itself."""
ROLE: Final = "choral-role"
"""Which role it claims; a client's where it is absent."""
SIGNING_KEY: Final = "choral-signing-key-bin"
"""A client's verification key, to be enrolled on first use."""
ENROLMENT: Final = "choral-enrolment-bin"
"""The answer: the coordinator's own signature over id and key."""
AUTHORITY: Final = "choral-authority-bin"
"""The key that made it."""
SERVER_KEY: Final = "choral-server-key-bin"
"""The coordinator's verification key."""
