"""Every store passes every law of its port. A new store is one line in a table here."""

from pathlib import Path

import pytest

from choral.stores.files import FolderBlobStore
from choral.stores.memory import MemoryBlobStore, MemoryRunStore
from choral.stores.sqlite import SqliteRunStore
from choral.testing import BLOB_STORE_LAWS, RUN_STORE_LAWS


def memory_runs(_: Path):
    store = MemoryRunStore()
    return lambda: store


def sqlite_runs(folder: Path):
    return lambda: SqliteRunStore(folder / "run.db")


def memory_blobs(_: Path):
    store = MemoryBlobStore()
    return lambda: store


def folder_blobs(folder: Path):
    return lambda: FolderBlobStore(folder / "blobs")


RUN_STORES = [memory_runs, sqlite_runs]
BLOB_STORES = [memory_blobs, folder_blobs]


@pytest.mark.parametrize("law", RUN_STORE_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("store", RUN_STORES, ids=lambda store: store.__name__)
def test_run_store(store, law, tmp_path):
    law(store(tmp_path))


@pytest.mark.parametrize("law", BLOB_STORE_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("store", BLOB_STORES, ids=lambda store: store.__name__)
def test_blob_store(store, law, tmp_path):
    law(store(tmp_path))
