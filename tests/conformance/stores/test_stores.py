"""Every store passes every law of its port. A new store is one line in a table here."""

from pathlib import Path

import pytest

from choral.stores.blobs import open_blobs
from choral.stores.database import open_database
from choral.stores.files import FolderBlobStore
from choral.stores.memory import MemoryBlobStore, MemoryLogStore, MemoryRunStore
from choral.testing import (
    BLOB_STORE_LAWS,
    LOG_STORE_LAWS,
    RUN_STORE_LAWS,
    SHARED_RUN_STORE_LAWS,
)


@pytest.fixture
def opened():
    """Return a function that opens something and closes it after the test."""
    found = []

    def open_(opener):
        found.append(opener())
        return found[-1]

    yield open_
    for store in found:
        store.close()


@pytest.fixture
def memory_runs():
    store = MemoryRunStore()
    return lambda: store


@pytest.fixture
def memory_logs():
    store = MemoryLogStore()
    return lambda: store


@pytest.fixture
def sqlite(tmp_path, opened):
    return lambda: opened(lambda: open_database(f"sqlite:///{tmp_path}/run.db"))


@pytest.fixture
def postgresql(postgres_url, opened):
    return lambda: opened(lambda: open_database(postgres_url))


@pytest.fixture
def memory_blobs():
    store = MemoryBlobStore()
    return lambda: store


@pytest.fixture
def folder_blobs(tmp_path: Path):
    return lambda: FolderBlobStore(tmp_path / "blobs")


@pytest.fixture
def s3_blobs(s3_url):
    return lambda: open_blobs(s3_url)


POSTGRES = pytest.param("postgresql", marks=pytest.mark.xdist_group("postgres"))
RUN_STORES = ["memory_runs", "sqlite", POSTGRES]
LOG_STORES = ["memory_logs", "sqlite", POSTGRES]
BLOB_STORES = [
    "memory_blobs",
    "folder_blobs",
    pytest.param("s3_blobs", marks=pytest.mark.xdist_group("s3")),
]


def laws(table):
    return pytest.mark.parametrize("law", table, ids=lambda law: law.__name__)


@laws(RUN_STORE_LAWS)
@pytest.mark.parametrize("store", RUN_STORES)
def test_run_store(store, law, request):
    law(request.getfixturevalue(store))


@laws(SHARED_RUN_STORE_LAWS)
@pytest.mark.parametrize("store", RUN_STORES)
def test_shared_run_store(store, law, request):
    law(request.getfixturevalue(store))


@laws(LOG_STORE_LAWS)
@pytest.mark.parametrize("store", LOG_STORES)
def test_log_store(store, law, request):
    law(request.getfixturevalue(store))


@laws(BLOB_STORE_LAWS)
@pytest.mark.parametrize("store", BLOB_STORES)
def test_blob_store(store, law, request):
    law(request.getfixturevalue(store))
