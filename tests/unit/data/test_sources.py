"""Every source must pass the table at the top; what only one of them does follows below."""

import sys

import numpy as np
import pytest

from choral.core.errors import ConfigError, CorruptRow, DataError, EmptyClient
from choral.core.task import ClientData, count_examples
from choral.data import (
    FolderSource,
    MappingSource,
    Partition,
    PartitionSource,
    SequenceSource,
    as_source,
    by_column,
)
from choral.data import sources as module

SIZES = {"0": 5, "1": 1, "2": 8}


def _data(client):
    n = SIZES[client]
    return np.full((n, 2), int(client), np.float32), np.arange(n)


def _mapping(_folder, **options):
    return MappingSource({c: _data(c) for c in SIZES}, **options)


def _sequence(_folder, **options):
    return SequenceSource([_data(c) for c in SIZES], **options)


def _folder(folder, **options):
    for client in SIZES:
        x, y = _data(client)
        rows = "".join(f"{a:g},{b:g},{c}\n" for (a, b), c in zip(x, y, strict=True))
        (folder / f"{client}.csv").write_text("a,b,y\n" + rows)
    return FolderSource(folder, **options)


def _partition(_folder, **options):
    parts = [_data(c) for c in SIZES]
    whole = tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))
    offsets = np.cumsum([0, *SIZES.values()])
    return PartitionSource(whole, Partition(np.arange(offsets[-1]), offsets), **options)


SOURCES = {
    "MappingSource": _mapping,
    "SequenceSource": _sequence,
    "FolderSource": _folder,
    "PartitionSource": _partition,
}


def test_the_table_lists_every_source():
    names = {n for n in vars(module) if n.endswith("Source") and n != "ClientSource"}
    assert names == set(SOURCES)


@pytest.fixture(params=SOURCES)
def make(request, tmp_path):
    return lambda **options: SOURCES[request.param](tmp_path, **options)


def test_ids_are_in_order(make):
    source = make()
    assert list(source.ids) == ["0", "1", "2"]
    assert all(c in source.ids for c in SIZES)


def test_load_gives_every_example_once(make):
    source = make(test_fraction=0.4, seed=3)
    for client, n in SIZES.items():
        data = source.load(client)
        assert isinstance(data, ClientData)
        parts = [p for p in (data.train, data.test) if p is not None]
        assert sorted(np.concatenate([y for _, y in parts])) == list(range(n))
        assert all((x == int(client)).all() for x, _ in parts)
        assert data.strata == source.strata(client) == {}


def test_splits_are_the_same_in_every_source(make):
    source = make(test_fraction=0.4, seed=3)
    want = MappingSource({c: _data(c) for c in SIZES}, test_fraction=0.4, seed=3)
    for client in SIZES:
        mine, theirs = source.load(client), want.load(client)
        assert mine.train[1].tolist() == theirs.train[1].tolist()
        assert (mine.test is None) == (theirs.test is None)


def test_a_client_of_one_example_keeps_it(make):
    data = make(test_fraction=0.9).load("1")
    assert len(data.train[1]) == 1
    assert data.test is None


def test_examples_counts_both_parts(make):
    """What is held out depends on a run, and a client tells its size before it knows of one."""
    source = make(test_fraction=0.4)
    for client, size in SIZES.items():
        assert source.examples(client) == size
        found = source.load(client)
        assert count_examples(found.train) + count_examples(found.test or ()) == size


def test_unknown_clients_are_named(make):
    source = make()
    for ask in (source.load, source.examples):
        with pytest.raises(ConfigError, match="no client `nobody`"):
            ask("nobody")


def test_fractions_are_checked_when_the_source_is_made(make):
    with pytest.raises(ConfigError, match="test_fraction"):
        make(test_fraction=1.0)


def test_mapping_order_does_not_matter():
    forward = MappingSource({"b": _data("0"), "a": _data("2"), 7: _data("1")}, seed=1)
    backward = MappingSource({7: _data("1"), "a": _data("2"), "b": _data("0")}, seed=1)
    assert forward.ids == backward.ids == ("7", "a", "b")
    assert forward.load("a").test[1].tolist() == backward.load("a").test[1].tolist()


def test_mapping_takes_client_data_as_it_is():
    given = ClientData(_data("0"), _data("2"), {"region": "north"})
    source = MappingSource({"a": given}, test_fraction=0.5)
    assert source.load("a") is given
    assert source.strata("a") == {"region": "north"}
    assert source.examples("a") == 5


def test_mapping_refuses_bad_ids_and_nobody():
    with pytest.raises(ConfigError, match="client id"):
        MappingSource({"../a": _data("0")})
    with pytest.raises(ConfigError, match="`7` is used twice"):
        MappingSource({"7": _data("0"), 7: _data("1")})
    with pytest.raises(ConfigError, match="no clients"):
        MappingSource({})


def test_empty_clients_are_named_when_they_are_loaded():
    source = MappingSource({"a": _data("0"), "hollow": (np.zeros((0, 2)), np.zeros(0))})
    assert len(source.load("a").train[1])
    with pytest.raises(EmptyClient, match="`hollow`"):
        source.load("hollow")


class Million:
    """A lazy population that notes which clients were made."""

    def __init__(self):
        self.made = []

    def __len__(self):
        return 10**6

    def __getitem__(self, at):
        self.made.append(at)
        return np.full((3, 1), at), np.arange(3)


def test_a_million_clients_cost_nothing_until_they_are_loaded():
    population = Million()
    source = as_source(population, test_fraction=0, seed=0)
    assert isinstance(source, SequenceSource)
    assert len(source.ids) == 10**6
    assert source.examples(source.ids[5]) is None
    assert population.made == []
    assert source.load("000042").train[0][0] == 42
    assert population.made == [42]


def test_sequence_takes_strata_by_id():
    source = SequenceSource([_data("0"), _data("1")], strata={"1": {"region": "south"}})
    assert source.strata("1") == source.load("1").strata == {"region": "south"}
    assert source.strata("0") == {}


def test_folder_reads_on_demand_and_again_only_when_it_must(tmp_path, monkeypatch):
    read = []
    real = module.read_examples
    monkeypatch.setattr(module, "read_examples", lambda p, **o: read.append(p.stem) or real(p, **o))
    source = _folder(tmp_path, cache_bytes=5 * 16 + 8 * 16)
    assert read == []
    for client in "0202":
        source.load(client)
    assert read == ["0", "2"]
    source.load("1")
    source.load("2")
    source.load("0")
    assert read == ["0", "2", "1", "0"]


def test_folder_names_the_file_of_a_corrupt_row(tmp_path):
    source = _folder(tmp_path)
    (tmp_path / "1.csv").write_text("a,b,y\n1,x,0\n")
    source.load("0")
    with pytest.raises(CorruptRow, match=r"1\.csv, line 2, column 2 \(`b`\)"):
        source.load("1")


def test_folder_leaves_other_files_alone(tmp_path):
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / ".hidden.csv").write_text("1,2\n")
    (tmp_path / "deep.csv").mkdir()
    with pytest.raises(DataError, match="no data files"):
        FolderSource(tmp_path)
    assert list(_folder(tmp_path).ids) == ["0", "1", "2"]


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        FolderSource(tmp_path / "none")
    (tmp_path / "a.csv").write_text("1,2\n")
    (tmp_path / "a.tsv").write_text("1\t2\n")
    with pytest.raises(ConfigError, match=r"a\.csv and a\.tsv are both client `a`"):
        FolderSource(tmp_path)
    (tmp_path / "a.tsv").rename(tmp_path / "a b.csv")
    with pytest.raises(ConfigError, match="client id 'a b'"):
        FolderSource(tmp_path)


def test_folder_passes_its_reading_options_on(tmp_path):
    (tmp_path / "a.csv").write_text("y,x\n1,2\n3,?\n")
    source = FolderSource(
        tmp_path, target="y", missing="drop", test_fraction=0, strata={"a": {"r": "n"}}
    )
    data = source.load("a")
    assert (data.train[0].tolist(), data.train[1].tolist()) == ([[2]], [1])
    assert data.strata == {"r": "n"}


def test_partition_of_another_dataset_is_refused():
    with pytest.raises(ConfigError, match="partition of 3 examples for a dataset of 5"):
        PartitionSource(_data("0"), Partition(np.arange(3), np.array([0, 3])))


def test_a_hundred_thousand_clients_are_two_arrays():
    n = 100_000
    partition = Partition(np.arange(n), np.arange(n + 1))
    source = PartitionSource((np.zeros((n, 1)), np.arange(n)), partition, test_fraction=0)
    assert sys.getsizeof(source.ids) + sys.getsizeof(source._places) < 1000
    assert source.load("99999").train[1].tolist() == [99_999]
    assert source.examples("00007") == 1


def test_named_partitions_have_their_values_as_strata():
    data = (np.zeros((4, 1)), np.arange(4))
    source = by_column(data, column=np.array(["st. a", "b", "st. a", "b"]), stratum="site")
    assert source.ids == ("b", "st.-a")
    assert source.strata("st.-a") == source.load("st.-a").strata == {"site": "st. a"}
    with pytest.raises(ConfigError, match="'a b' and 'a/b' both make client `a-b`"):
        by_column(data, column=np.array(["a b", "a/b", "c", "c"]))


def test_as_source_knows_what_it_is_given():
    source = MappingSource({"a": _data("0")})
    assert as_source(source, test_fraction=0.9, seed=5) is source
    found = as_source({"a": _data("0")}, test_fraction=0.4, seed=5)
    assert found.examples("a") == SIZES["0"]
    assert len(found.load("a").train[1]) == 3
    for one_dataset in (_data("0"), np.zeros((3, 2))):
        with pytest.raises(ConfigError, match="one dataset") as error:
            as_source(one_dataset, test_fraction=0.2, seed=0)
        assert "choral.data.iid" in error.value.hint
    for wrong in (7, None, "x"[:0]):
        with pytest.raises(ConfigError, match="clients"):
            as_source(wrong, test_fraction=0.2, seed=0)


def test_strata_of_a_client_without_a_file_are_named(tmp_path):
    (tmp_path / "north.csv").write_text("1,0\n2,1\n3,0\n")
    with pytest.raises(ConfigError, match="strata of `nort`") as caught:
        FolderSource(tmp_path, strata={"nort": {"region": "n"}})
    assert caught.value.hint == "did you mean `north`?"
