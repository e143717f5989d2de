"""All of a federation's certificates at once, for a trial in which one person is everybody."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from choral.core.errors import CertificateError
from choral.pki.authorities import init
from choral.pki.coordinator import FEDERATION_FILE, issue_coordinator
from choral.pki.credentials import ENROLMENT
from choral.pki.enrolment import enrol
from choral.pki.requests import load_request, make_request
from choral.pki.tls import ISSUED, sign

COORDINATOR: Final = "coordinator"


def trial_federation(folder: Path, *, name: str, clients: Iterable[str]) -> None:
    """Make the folders `operator`, `trustee`, `coordinator` and one for each client.

    The coordinator is reached as `localhost` and `127.0.0.1`.

    Args:
        folder: Where.
        name: The federation's.
        clients: Ids; none of them is the name of another folder.

    Raises:
        CertificateError: Something is there already, or cannot be written.
    """
    now = datetime.now(UTC)
    tls, _ = init(folder / "operator", federation=name, at=now, only="tls")
    _, enrolment = init(folder / "trustee", federation=name, at=now, only="enrolment")
    if tls is None or enrolment is None:
        raise CertificateError(f"{folder}: no authorities were made")
    issue_coordinator(
        tls,
        folder / COORDINATOR,
        names=["localhost", "127.0.0.1"],
        enrolment_authority=enrolment.key.public,
        at=now,
    )
    for client in clients:
        home = folder / client
        make_request(home, id=client)
        request = load_request(home / "request.json")
        sign(tls, request, at=now)
        enrol(enrolment, request, at=now)
        shutil.copy(tls.folder / ISSUED / f"{client}.pem", home / "certificate.pem")
        shutil.copy(enrolment.folder / ISSUED / f"{client}.json", home / ENROLMENT)
        shutil.copy(folder / COORDINATOR / FEDERATION_FILE, home)
