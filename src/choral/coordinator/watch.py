"""What changes around a coordinator that serves: revoked and renewed certificates, the roster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from choral.coordinator.auditing import Auditor
from choral.coordinator.desk import Desk
from choral.coordinator.roster import LiveRoster
from choral.core.errors import ChoralError
from choral.core.params import ClientId
from choral.pki.credentials import ServerCredentials
from choral.pki.identity import Identity
from choral.pki.names import Role

LOG: Final = logging.getLogger("choral.coordinator")
EVERY_S: Final = 1.0
"""How often files are looked at, and what waits for the audit trail is written."""
REVOKED: Final = "its certificate was revoked"


class Watch:
    """Looks now and then at what may have changed.

    Args:
        desk: The clients.
        auditor: Notes changes.
        credentials: Reads the certificates; None for plain text.
        roster: The operator's list; None where there is none, or it does not change.
        pool: Threads for disk.
    """

    def __init__(
        self,
        desk: Desk,
        auditor: Auditor,
        *,
        credentials: Callable[[], ServerCredentials] | None,
        roster: LiveRoster | None,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._desk = desk
        self._auditor = auditor
        self._credentials = credentials
        self._roster = roster
        self._pool = pool
        self._admitted: dict[ClientId, int] = {}
        self._revoked: frozenset[int] | None = None
        self._certificate: bytes | None = None
        self._said: dict[str, str] = {}

    def admitted(self, who: Identity) -> None:
        """Note with which certificate a client came in last."""
        if who.role is not Role.CLIENT:
            return
        client = ClientId(who.id)
        before = self._admitted.get(client)
        self._admitted[client] = who.serial
        if before not in (None, who.serial):
            LOG.info("%s has a new certificate", client)
            self._auditor.trail.note("certificate.renewed", client=self._auditor.name(client))

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Look once. Nothing that cannot be read ends this; it is logged, once."""
        for what, look in (
            ("the list of clients", self._look_at_roster),
            ("the certificates", self._look_at_certificates),
            ("the audit trail", self._flush),
        ):
            try:
                await look()
                self._said.pop(what, None)
            except ChoralError as error:
                if self._said.get(what) != error.message:
                    LOG.error("%s: %s", what, error)
                self._said[what] = error.message

    async def _elsewhere(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def _flush(self) -> None:
        await self._elsewhere(self._auditor.flush)

    async def _look_at_roster(self) -> None:
        roster = self._roster
        if roster is None:
            return
        before = dict(roster)
        if not await self._elsewhere(roster.refresh):
            return
        added, removed = roster.keys() - before.keys(), before.keys() - roster.keys()
        LOG.info("the list of clients has changed: %d new, %d gone", len(added), len(removed))
        self._auditor.trail.note(
            "roster.changed",
            clients=len(roster),
            added=self._auditor.names(added),
            removed=self._auditor.names(removed),
            sign=True,
        )
        self._desk.look_again()

    async def _look_at_certificates(self) -> None:
        if self._credentials is None:
            return
        found: ServerCredentials = await self._elsewhere(self._credentials)
        if self._certificate not in (None, found.tls.certificate):
            LOG.warning("the coordinator has a new certificate; a restart shows it to the clients")
        self._certificate = found.tls.certificate
        before, self._revoked = self._revoked, found.revoked
        gone = [c for c, serial in self._admitted.items() if serial in found.revoked]
        if before is not None and before != found.revoked:
            self._auditor.trail.note(
                "revocations.changed", revoked=len(found.revoked), was=len(before), sign=True
            )
        for client in gone:
            LOG.warning("%s: %s; its open work is lost", client, REVOKED)
            del self._admitted[client]
            work = self._desk.drop(client, REVOKED)
            self._auditor.trail.note("client.revoked", client=self._auditor.name(client), work=work)
