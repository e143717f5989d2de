"""Who a client is to its coordinator, with certificates and without."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc
from grpc import aio

from choral.core.errors import CertificateError, ConfigError, Refused
from choral.core.params import ClientId
from choral.crypto.signatures import SigningKey, check_verify_key
from choral.pki import keys
from choral.pki.addresses import check_insecure
from choral.pki.credentials import ClientFiles, load_client
from choral.pki.federation import check_authority
from choral.pki.files import write
from choral.secagg.enrolment import check_enrolled
from choral.wire import names
from choral.wire.rpc import CHANNEL_OPTIONS

PINNED: Final = "coordinator.json"
SIGNING_KEY_FILE: Final = "signing_key.pem"

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a client has to prove itself with in secure aggregation.

    Attributes:
        key: Its signing key.
        enrolment: The authority's signature over its id and key.
        authority: The enrolment authority's verification key.
        server: The coordinator's verification key.
    """

    key: SigningKey
    enrolment: bytes
    authority: bytes
    server: bytes


class Certified:
    """A client with certificates.

    Args:
        client: Its id.
        files: Where its certificates and keys are.
        authority: The TLS authority's certificate, where it came another way than federation.json.

    Attributes:
        enrolled: None where there is no enrolment: the client joins no secure sum then.
        tls: Whether its line keeps every byte whole.

    Raises:
        CertificateError: A file cannot be used, or is somebody else's.
    """

    tls: Final = True

    def __init__(self, client: str, files: ClientFiles, authority: Path | None = None) -> None:
        self._files = files
        found = load_client(files, at=datetime.now(UTC), enrolled=files.enrolment.exists())
        if found.tls.identity.id != client:
            raise CertificateError(
                f"{files.certificate} is the certificate of {found.tls.identity.id!r}",
                hint=f"the client's id is {client!r}: use one of the two for both",
            )
        federation = found.federation
        self.server: bytes | None = federation.coordinator
        self.enrolled: Enrolled | None = None
        if found.signing_key is not None:
            self.enrolled = Enrolled(
                found.signing_key,
                found.enrolment,
                federation.enrolment_authority,
                federation.coordinator,
            )
        if authority is not None:
            check_authority(authority, federation, where=files.federation)

    def channel(self, address: str) -> aio.Channel:
        """Return a connection over TLS; the certificate is read anew, since it may be renewed."""
        tls = load_client(self._files, at=datetime.now(UTC), enrolled=False).tls
        credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
        return aio.secure_channel(address, credentials, options=_OPTIONS)

    @property
    def metadata(self) -> Metadata:
        """Nothing: the certificate says who calls."""
        return ()

    def heard(self, metadata: Mapping[str, str | bytes]) -> None:
        """Nothing: keys come from files, and never over the connection."""


class Unverified:
    """A client without certificates, on this machine alone; keys are pinned on first use.

    Args:
        client: Its id.
        addresses: Of the coordinators.
        state: The client's state folder.

    Attributes:
        enrolled: None until the coordinator has enrolled the key.
        tls: Whether its line keeps every byte whole.

    Raises:
        Refused: The address is no loopback address, and nobody asked for plain text by name.
    """

    tls: Final = False

    def __init__(self, client: str, addresses: tuple[str, ...], state: Path) -> None:
        for address in addresses:
            check_insecure(address)
        self._client = client
        self._pinned = state / PINNED
        path = state / SIGNING_KEY_FILE
        if not path.exists():
            write(path, keys.private_pem(keys.new_signing_key()), private=True)
        self._key = keys.load_signing_key(path)
        self.enrolled: Enrolled | None = None
        if self._pinned.exists():
            self.enrolled = self._read()

    def channel(self, address: str) -> aio.Channel:
        """Return a connection in plain text."""
        return aio.insecure_channel(address, options=_OPTIONS)

    @property
    def metadata(self) -> Metadata:
        """Who we say we are, and the key that we want enrolled."""
        return ((names.CLIENT_ID, self._client), (names.SIGNING_KEY, self._key.public))

    def heard(self, metadata: Mapping[str, str | bytes]) -> None:
        """Pin what the coordinator says of itself, the first time; refuse another one later.

        Raises:
            Refused: It is another coordinator than the first one.
        """
        said = [metadata.get(name) for name in (names.ENROLMENT, names.AUTHORITY, names.SERVER_KEY)]
        found = [value for value in said if isinstance(value, bytes)]
        if len(found) != len(said):
            return
        enrolment, authority, server = found
        if self.enrolled is not None:
            same = (self.enrolled.authority, self.enrolled.server) == (authority, server)
            if not same:
                raise Refused(
                    "another coordinator than before is at this address",
                    hint=f"if that is right, remove {self._pinned}: nothing proves who it is",
                )
            return
        for key in (authority, server):
            check_verify_key(key)
        check_enrolled(
            authority,
            client=ClientId(self._client),
            verify_key=self._key.public,
            enrolment=enrolment,
        )
        body = {"enrolment": enrolment, "authority": authority, "server": server}
        text = json.dumps({name: value.hex() for name, value in body.items()})
        write(self._pinned, text.encode(), private=True)
        self.enrolled = Enrolled(self._key, enrolment, authority, server)

    @property
    def server(self) -> bytes | None:
        """The coordinator's verification key, None until it was heard."""
        return None if self.enrolled is None else self.enrolled.server

    def _read(self) -> Enrolled:
        try:
            body = json.loads(self._pinned.read_text())
            parts = [bytes.fromhex(body[n]) for n in ("enrolment", "authority", "server")]
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{self._pinned} cannot be read", hint="remove it to meet the coordinator anew"
            ) from None
        return Enrolled(self._key, *parts)


_OPTIONS: Final = (
    *CHANNEL_OPTIONS,
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

Who = Certified | Unverified
