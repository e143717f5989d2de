"""A small federation with its files: two authorities, a coordinator, one client."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from choral.pki import authorities, coordinator, enrolment, requests, tls
from choral.pki import files as pki_files
from choral.pki.certificates import pem
from choral.pki.credentials import ClientFiles, ServerFiles
from choral.pki.names import Role

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Made:
    """A federation in a folder, made at one time; it can be told to make more."""

    def __init__(self, folder, *, name="heart", at=NOW, hosts=("localhost", "127.0.0.1")):
        self.folder, self.at = folder, at
        self.authorities = folder / "authorities"
        authorities.init(self.authorities, federation=name, at=at)
        self.tls = tls.open_tls(self.authorities)
        self.enrolment = enrolment.open_enrolment(self.authorities)
        self.coordinator = folder / "coordinator"
        self.federation, self.certificate = self.issue_coordinator(hosts=hosts)

    def issue_coordinator(self, *, hosts=("localhost",), **options):
        out = options.pop("out", self.coordinator)
        return coordinator.issue_coordinator(
            self.tls,
            out,
            names=hosts,
            enrolment_authority=self.enrolment.key.public,
            **{"at": self.at, **options},
        )

    def request(self, id, *, role=Role.CLIENT, folder=None):
        return requests.make_request(folder or self.folder / id, id=id, role=role)

    def party(self, id="hospital-a", *, role=Role.CLIENT, at=None, **options):
        """Return the folder of a party that has all it needs."""
        folder = self.folder / id
        request = self.request(id, role=role)
        at = at or self.at
        certificate = tls.sign(self.tls, request, role=role, at=at, **options)
        pki_files.write(folder / "certificate.pem", pem(certificate))
        if role == Role.CLIENT:
            made = enrolment.enrol(self.enrolment, request, at=at)
            pki_files.write(folder / "enrolment.json", enrolment.write_enrolment(made))
        data = (self.coordinator / "federation.json").read_bytes()
        pki_files.write(folder / "federation.json", data)
        return SimpleNamespace(
            folder=folder,
            files=ClientFiles.inside(folder),
            request=request,
            certificate=certificate,
        )

    @property
    def server_files(self):
        return ServerFiles.inside(self.coordinator)


@pytest.fixture
def now():
    return NOW


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a federation in a new folder."""

    def made(folder="f", **options):
        (tmp_path / folder).mkdir()
        return Made(tmp_path / folder, **options)

    return made


@pytest.fixture
def heart(make):
    return make("heart")
