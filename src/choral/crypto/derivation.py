"""Keys from shared secrets, one for each purpose and transcript. Source: RFC 5869."""

from __future__ import annotations

from enum import Enum
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from choral.core.errors import ConfigError
from choral.crypto.encoding import DIGEST_SIZE, frame
from choral.crypto.secret import SECRET_SIZE, Buffer, Secret

KEY_LABEL: Final = "choral key derivation v1"


class Purpose(Enum):
    """What a derived key is for; the value stands in the derivation.

    A transport key has a direction: (sender, receiver). A pair mask is known to both ends, so its
    ids are sorted here. A self mask belongs to one client.
    """

    TRANSPORT = "share transport"
    PAIR_MASK = "pair mask"
    SELF_MASK = "self mask"


_IDS: Final = {Purpose.TRANSPORT: 2, Purpose.PAIR_MASK: 2, Purpose.SELF_MASK: 1}


def hkdf_sha256(secret: Buffer, *, salt: bytes, info: bytes, size: int) -> bytes:
    """Return `size` bytes of HKDF-SHA256 (RFC 5869).

    Args:
        secret: Input keying material.
        salt: Public; empty means 32 zero bytes.
        info: What the key is for.
        size: 1 to 8160 bytes.
    """
    return HKDF(SHA256(), size, salt, info).derive(secret)


def derive_key(
    secret: Secret, *, purpose: Purpose, transcript: bytes, ids: tuple[str, ...]
) -> Secret:
    """Return the key of one purpose between these parties in this transcript.

    Guarantees: another purpose, transcript, id or direction gives an unrelated key, so parties
    that were shown different things share no key.

    Args:
        secret: A shared secret of `AgreementKey.exchange`, or a self mask's seed.
        purpose: What the key is for.
        transcript: The salt: the 32-byte hash of all that was agreed so far.
        ids: (sender, receiver), the two ends in any order, or the one client; see `Purpose`.

    Raises:
        ConfigError: The transcript is no digest, or the ids do not fit the purpose.
    """
    if len(transcript) != DIGEST_SIZE:
        raise ConfigError(f"transcript hash of {len(transcript)} bytes, expected {DIGEST_SIZE}")
    if len(ids) != _IDS[purpose] or len(set(ids)) != len(ids):
        raise ConfigError(
            f"ids {ids} for a {purpose.value} key, expected {_IDS[purpose]} different ones"
        )
    if purpose is Purpose.PAIR_MASK:
        ids = tuple(sorted(ids))
    info = frame(KEY_LABEL, purpose.value.encode(), *(name.encode() for name in ids))
    return Secret(hkdf_sha256(secret.expose(), salt=transcript, info=info, size=SECRET_SIZE))
