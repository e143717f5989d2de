"""What a client is told: `client.yaml`, the environment and flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import Field, ValidationError

from choral.config.federation import Section
from choral.config.references import is_reference
from choral.config.yaml import load
from choral.core.errors import ConfigError, UnknownKey, did_you_mean
from choral.pki import certificates
from choral.pki.addresses import split_address
from choral.pki.credentials import ClientFiles
from choral.pki.files import read
from choral.pki.identity import identity
from choral.pki.names import party_id

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"

S = TypeVar("S", bound=Section)


class ClientTls(Section):
    """Certificates of a client.

    Attributes:
        folder: A folder of `choral pki request`, which stands for all of the others.
        certificate: Its certificate.
        key: The certificate's private key.
        authority: The TLS authority's certificate: must be the one in `federation`.
    """

    folder: str | None = None
    certificate: str | None = None
    key: str | None = None
    authority: str | None = None


class ClientFile(Section):
    """A client.

    Attributes:
        id: Its name; with certificates it must be theirs.
        coordinator: HOST:PORT of the coordinator; where several stand in for each other, all of
            them, separated by commas.
        data: A CSV or Parquet file, or `module:function` returning this client's data, or all
            clients' by id.
        target: Column to predict; default the last.
        missing: `raise` or `drop` for rows with missing values.
        schema_: Data schema, a YAML file; written `schema`.
        credentials: A folder of `choral pki request`, which stands for all of its files.
        tls: Certificates.
        signing_key: Private key for secure aggregation.
        federation: `federation.json`.
        enrolment: `enrolment.json`.
        state: Folder of what must survive: private keys, answers, personal tensors.
        policy: Site policy, a YAML file.
        strata: Labels, such as `{region: north}`.
        cache_bytes: Bytes of models that are kept.
    """

    id: str | None = None
    coordinator: str | None = None
    data: str | None = None
    target: str | None = None
    missing: str | None = None
    schema_: str | None = Field(default=None, alias="schema")
    credentials: str | None = None
    tls: ClientTls | None = None
    signing_key: str | None = None
    federation: str | None = None
    enrolment: str | None = None
    state: str | None = None
    policy: str | None = None
    strata: dict[str, str] = Field(default_factory=dict)
    cache_bytes: int = 4 << 30


@dataclass(frozen=True, slots=True)
class Local:
    """Where and what a client's data is; goes to the process that trains.

    Attributes:
        client: Its id.
        folder: Where modules are looked up first.
        data: A file's path, or `module:function`.
        target: Column to predict.
        missing: `raise` or `drop`.
        schema: The schema's file, or None.
        state: Folder of personal tensors and contributions.
    """

    client: str
    folder: Path
    data: str
    target: str | None
    missing: str
    schema: Path | None
    state: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """A client, put together.

    Attributes:
        local: Its data.
        coordinators: HOST:PORT of each that may answer.
        files: Its certificates and keys; None for plain text on a loopback address.
        authority: The TLS authority's certificate, where it is given apart.
        policy: The site's policy; None where there is none.
        strata: Labels.
        cache_bytes: Bytes of models that are kept.
    """

    local: Local
    coordinators: tuple[str, ...]
    files: ClientFiles | None
    policy: Path | None
    strata: Mapping[str, str]
    cache_bytes: int
    authority: Path | None = None


def read_client_file(path: Path) -> ClientFile:
    """Return the client of a YAML file.

    Raises:
        ConfigError: It cannot be read, or a value is wrong.
        UnknownKey: A key that nobody reads; the hint names the nearest.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {path}: {reason}") from None
    body = load(text, where=str(path)) or {}
    if not isinstance(body, dict):
        raise ConfigError(f"{path}: expected keys and values", hint="such as `id: hospital-a`")
    return parse_section(ClientFile, body, where=str(path))


def parse_section(kind: type[S], body: dict[str, Any], *, where: str) -> S:
    """Return a section of settings, or say what is wrong with it in this project's words.

    Raises:
        ConfigError: A value is wrong.
        UnknownKey: A key that nobody reads; the hint names the nearest.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        *sections, last = (str(part) for part in first["loc"])
        place = ".".join((*sections, last))
        if first["type"] == "extra_forbidden":
            hint = did_you_mean(last, _keys_of(kind, sections))
            raise UnknownKey(f"{where}: unknown key `{place}`", hint=hint) from None
        message = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"{where}: `{place}` is {first.get('input')!r}: {message}") from None


def _keys_of(kind: type[Section], sections: list[str]) -> list[str]:
    """Return the keys of the section that is reached by these names."""
    for name in sections:
        annotation = kind.model_fields[name].annotation
        options = (annotation, *getattr(annotation, "__args__", ()))
        kind = next(o for o in options if isinstance(o, type) and issubclass(o, Section))
    return [field.alias or name for name, field in kind.model_fields.items()]


def settle(file: ClientFile, *, home: Path, given: Mapping[str, str], insecure: bool) -> Settings:
    """Put a client's settings together.

    Args:
        file: What its file says.
        home: The file's folder; its relative paths start there.
        given: What flags and the environment say: id, coordinator, data, policy, state, target.
            Their relative paths start at the working folder.
        insecure: Plain text, without certificates.

    Raises:
        ConfigError: Something is missing, or is no address.
    """

    def where(name: str) -> Path | None:
        if given.get(name):
            return Path(given[name])
        value = getattr(file, name)
        return None if value is None else home / value

    files = None if insecure else _files(file, home)
    name = given.get("id") or file.id or _certified(files)
    party_id(name)
    data = given.get("data") or file.data
    if not data:
        raise ConfigError("the client has no data", hint="`--data FILE`, or DATA_PATH")
    if not is_reference(data):
        data = str(Path(data) if given.get("data") else home / data)
    address = given.get("coordinator") or file.coordinator or DEFAULT_ADDRESS
    addresses = tuple(part.strip() for part in address.split(","))
    for each in addresses:
        split_address(each)
    tls = file.tls or ClientTls()
    state = where("state") or home / f"state-{name}"
    local = Local(
        client=name,
        folder=home.resolve(),
        data=data,
        target=given.get("target") or file.target,
        missing=file.missing or "raise",
        schema=None if file.schema_ is None else home / file.schema_,
        state=state.absolute(),
    )
    return Settings(
        local,
        addresses,
        files,
        where("policy"),
        file.strata,
        file.cache_bytes,
        None if insecure or tls.authority is None else home / tls.authority,
    )


def _certified(files: ClientFiles | None) -> str:
    """Return the id that a client's certificate speaks of.

    Raises:
        ConfigError: There is no certificate, and so nothing says who the client is.
        CertificateError: It cannot be read.
    """
    if files is None:
        raise ConfigError("the client has no id", hint="`--id hospital-a`, or CLIENT_ID")
    found = certificates.load(read(files.certificate), where=str(files.certificate))
    return identity(found).id


def _files(file: ClientFile, home: Path) -> ClientFiles:
    """Return where a client's certificates and keys are.

    Raises:
        ConfigError: Nothing says it.
    """
    tls = file.tls or ClientTls()
    folder = tls.folder or file.credentials
    if folder is None and (tls.certificate is None or tls.key is None):
        raise ConfigError(
            "no certificates",
            hint="`credentials: DIR` with the folder of `choral pki request`, or `--insecure` for "
            "plain text on a loopback address",
        )
    whole = ClientFiles.inside(home / (folder or "."))
    said = {
        "federation": file.federation,
        "certificate": tls.certificate,
        "key": tls.key,
        "signing_key": file.signing_key,
        "enrolment": file.enrolment,
    }
    return ClientFiles(
        **{
            name: getattr(whole, name) if value is None else home / value
            for name, value in said.items()
        }
    )
