import numpy as np
import pytest

import choral.data as data
from choral.core.errors import ConfigError, CorruptRow, UnknownKey, UnknownName
from choral.core.keys import Key
from choral.data import partition as ways
from choral.data.partitioners import PARTITIONERS, partition_data, partition_file

X, Y = np.arange(120.0).reshape(60, 2), np.arange(60) % 3
KEY = Key.root(1)


def test_iid_sizes_by_hand():
    found = ways.iid(10, clients=4, key=KEY)
    assert found.sizes.tolist() == [3, 3, 2, 2]
    assert len(found) == 4
    assert found.part(1).tolist() == found.indices[3:6].tolist()


def test_two_shards_of_sixty_examples():
    found = ways.shards(Y, clients=10, per_client=2, key=KEY)
    assert found.sizes.tolist() == [6] * 10
    sorted_by_label = ways.shards(Y, clients=3, per_client=1, key=KEY)
    kinds = [set(Y[sorted_by_label.part(c)]) for c in range(3)]
    assert sorted(map(sorted, kinds)) == [[0], [1], [2]]


def test_shards_are_dealt_at_random():
    held = {
        tuple(tuple(set(Y[p.part(c)])) for c in range(10))
        for p in (ways.shards(Y, clients=10, key=Key.root(s)) for s in range(5))
    }
    assert len(held) == 5


def test_every_client_has_exactly_its_number_of_labels():
    labels = np.arange(1000) % 10
    found = ways.labels_per_client(labels, clients=20, count=3, key=KEY)
    kinds = [np.unique(labels[found.part(c)]) for c in range(20)]
    assert {len(k) for k in kinds} == {3}
    assert np.bincount(np.concatenate(kinds)).tolist() == [6] * 10
    assert len({tuple(k) for k in kinds}) > 5


def _kinds(alpha):
    labels = np.arange(6000) % 10
    found = ways.dirichlet(labels, clients=60, alpha=alpha, key=KEY)
    assert found.sizes.tolist() == [100] * 60
    return np.array([np.bincount(labels[found.part(c)], minlength=10) for c in range(60)])


def test_a_small_alpha_means_one_label_and_a_large_one_the_mix_of_all():
    one, some, all_of_them = _kinds(1e-4), _kinds(0.1), _kinds(1e3)
    assert np.median((one > 0).sum(axis=1)) == 1
    assert 2 <= np.median((some > 0).sum(axis=1)) <= 6
    assert np.median((all_of_them > 0).sum(axis=1)) == 10
    # 50 of 60 clients are drawn freely: binomial(100, 0.1) has a standard deviation of 3.
    assert (np.abs(all_of_them - 10).max(axis=1) <= 15).sum() >= 50


def test_dirichlet_variance_is_that_of_its_parameter():
    # A share of Dir(alpha, alpha) has variance 1 / (4 (2 alpha + 1)), for alpha = 1/2: 1/8. The
    # first half of the clients draws freely. 2 000 draws: standard error below 0.003.
    labels = np.arange(800_000) % 2
    found = ways.dirichlet(labels, clients=4000, alpha=0.5, key=KEY)
    shares = np.array([labels[found.part(c)].mean() for c in range(4000)])
    assert abs(shares.mean() - 0.5) < 1e-9
    assert abs(shares.var() - 0.125) < 0.01


def test_dirichlet_of_one_label_is_iid_in_size():
    found = ways.dirichlet(np.zeros(7, int), clients=3, alpha=0.1, key=KEY)
    assert sorted(found.sizes.tolist()) == [2, 2, 3]


def test_quantities_follow_the_power_law():
    found = ways.by_quantity(1000, clients=3, exponent=1.0, min_examples=1, key=KEY)
    # 997 above the minimum in shares of 6/11, 3/11, 2/11.
    assert sorted(found.sizes.tolist()) == [182, 273, 545]
    flat = ways.by_quantity(10, clients=5, exponent=0, key=KEY)
    assert flat.sizes.tolist() == [2] * 5


def test_quantities_follow_a_dirichlet_distribution():
    equal = ways.by_quantity(10_000, clients=10, alpha=1e6, key=KEY)
    skew = ways.by_quantity(10_000, clients=10, alpha=0.1, min_examples=7, key=KEY)
    assert np.abs(equal.sizes - 1000).max() < 20
    assert skew.sizes.min() >= 7
    assert skew.sizes.max() > 3000


def test_columns_make_named_clients():
    found = ways.by_column(np.array(["b", "a", "b"]))
    assert found.names == ("a", "b")
    assert found.part(1).tolist() == [0, 2]
    assert ways.by_column(np.array([2.0, 10.0, 2.5])).names == ("2", "2.5", "10")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ways.iid(3, clients=4, key=KEY), "4 clients and 3 examples"),
        (lambda: ways.iid(3, clients=0, key=KEY), "clients 0: expected a whole number from 1"),
        (lambda: ways.iid(3, clients=True, key=KEY), "clients True"),
        (lambda: ways.iid(3, clients=1.5, key=KEY), "clients 1.5"),
        (lambda: ways.iid(0, clients=1, key=KEY), "1 clients and 0 examples"),
        (lambda: ways.shards(Y, clients=31, key=KEY), "62 shards of 60 examples"),
        (lambda: ways.shards(Y, clients=3, per_client=0, key=KEY), "per_client 0"),
        (lambda: ways.shards(Y + 0.5, clients=3, key=KEY), "real number"),
        (lambda: ways.dirichlet(Y, clients=3, alpha=0, key=KEY), "alpha 0"),
        (lambda: ways.dirichlet(Y, clients=3, alpha="x", key=KEY), "alpha 'x'"),
        (lambda: ways.dirichlet(Y, clients="3", alpha=1, key=KEY), "clients '3'"),
        (lambda: ways.labels_per_client(Y, clients=3, count=1.5, key=KEY), "count 1.5"),
        (lambda: ways.by_quantity(9, clients=3, alpha=True, key=KEY), "alpha True"),
        (lambda: ways.by_quantity(9, clients=3, exponent="1", key=KEY), "exponent '1'"),
        (lambda: ways.by_quantity(9, clients=3, min_examples=1.5, key=KEY), "min_examples 1.5"),
        (lambda: ways.dirichlet(Y, clients=3, alpha=1, min_examples=21, key=KEY), "min_examples"),
        (lambda: ways.labels_per_client(Y, clients=3, count=4, key=KEY), "has 3 labels"),
        (lambda: ways.labels_per_client(Y, clients=2, count=1, key=KEY), "leave labels out"),
        (lambda: ways.labels_per_client(Y, clients=60, count=2, key=KEY), "20 examples for 40"),
        (lambda: ways.by_quantity(9, clients=3, alpha=1, exponent=1, key=KEY), "not both"),
        (lambda: ways.by_quantity(9, clients=3, exponent=-1, key=KEY), "exponent -1"),
        (lambda: ways.by_quantity(9, clients=3, min_examples=4, key=KEY), "min_examples 4"),
        (lambda: ways.by_column(np.array([])), "no examples"),
    ],
)
def test_arguments_out_of_range(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


ARGUMENTS = {
    "iid": {"clients": 5},
    "shards": {"clients": 5, "per_client": 3},
    "dirichlet": {"clients": 5, "alpha": 0.3, "min_examples": 2},
    "labels_per_client": {"clients": 5, "count": 2},
    "by_column": {"column": 0},
    "by_quantity": {"clients": 5, "alpha": 0.5},
}


@pytest.mark.parametrize("name", PARTITIONERS)
def test_every_name_makes_what_its_function_makes(name):
    arguments = ARGUMENTS[name]
    named = partition_data((X, Y), {"name": name, **arguments}, seed=4, test_fraction=0.1)
    direct = getattr(data, name)((X, Y), seed=4, test_fraction=0.1, **arguments)
    assert np.array_equal(named.partition.indices, direct.partition.indices)
    assert list(named.ids) == list(direct.ids)
    total = sum(named.examples(c) for c in named.ids)
    assert total <= 60
    first = named.load(named.ids[0])
    assert np.array_equal(first.train[0][:, 0] // 2 % 3, first.train[1])


def test_seed_of_the_partition_wins():
    spec = {"name": "iid", "clients": 5, "seed": 9, "test_fraction": 0}
    found = partition_data((X, Y), spec, seed=1, test_fraction=0.5)
    assert (found.seed, found.test_fraction) == (9, 0)
    other = partition_data((X, Y), {"name": "iid", "clients": 5}, seed=1)
    assert not np.array_equal(found.partition.indices, other.partition.indices)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"name": "dirichelt", "alpha": 1}, UnknownName, "did you mean `dirichlet`"),
        ({"name": "dirichlet", "alfa": 1}, UnknownKey, "did you mean `alpha`"),
        ({"name": "iid", "data": 1}, UnknownKey, "has no argument `data`"),
        ({"name": "dirichlet", "clients": 3}, ConfigError, "needs `alpha`"),
        ({"clients": 3}, ConfigError, "without a `name`"),
        ({"name": "iid", "clients": 3, "seed": -1}, ConfigError, "seed -1"),
    ],
)
def test_wrong_specs(spec, error, message):
    with pytest.raises(error, match=message):
        partition_data((X, Y), spec)


def test_one_file_for_many_clients(tmp_path):
    path = tmp_path / "all.csv"
    rows = "".join(f"{i},{'north' if i % 3 else 'south'},{i % 2}\n" for i in range(30))
    path.write_text("a,region,y\n" + rows)
    source = partition_file(path, {"name": "by_column", "column": "region"}, test_fraction=0)
    assert source.ids == ("north", "south")
    assert source.strata("south") == {"region": "south"}
    assert source.load("south").train[0].tolist() == [[i] for i in range(0, 30, 3)]
    with pytest.raises(CorruptRow, match=r"line 2, column 2 \(`region`\)"):
        partition_file(path, {"name": "iid", "clients": 3})
    with pytest.raises(UnknownKey):
        partition_file(tmp_path / "none.csv", {"name": "iid", "client": 3})


def test_one_file_dealt_out(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("".join(f"{i},{i % 2}\n" for i in range(30)))
    source = partition_file(path, {"name": "iid", "clients": 3}, seed=2, test_fraction=0.2)
    assert [source.examples(c) for c in source.ids] == [10, 10, 10]
    seen = np.concatenate([source.load(c).train[0][:, 0] for c in source.ids])
    assert len(set(seen)) == 24


def test_by_column_of_arrays():
    by_feature = data.by_column((np.array([[1, 5], [2, 5], [1, 6]]), np.arange(3)), column=0)
    assert by_feature.ids == ("1", "2")
    with pytest.raises(ConfigError, match="column 2: expected a whole number from 0 to 1"):
        data.by_column((X, Y), column=2)
    with pytest.raises(ConfigError, match="3 values for a dataset of 60"):
        data.by_column((X, Y), column=np.arange(3))
    with pytest.raises(ConfigError, match="needs"):
        data.by_column([(x, y) for x, y in zip(X, Y, strict=True)], column=0)


def test_datasets_of_items_are_partitioned_too():
    items = [(x, y) for x, y in zip(X, Y, strict=True)]
    source = data.dirichlet(items, clients=6, alpha=0.5, test_fraction=0)
    same = data.dirichlet((X, Y), clients=6, alpha=0.5, test_fraction=0)
    assert [y for _, y in source.load("3").train] == same.load("3").train[1].tolist()


def test_who_takes_the_rest_is_drawn():
    # The last of 60 clients in turn take what is left: the least like the mix. Without a drawn
    # order they would be the same ones for every key.
    labels = np.arange(6000) % 10
    odd = set()
    for seed in range(8):
        found = ways.dirichlet(labels, clients=60, alpha=1e3, key=Key.root(seed))
        counts = [np.bincount(labels[found.part(c)], minlength=10) for c in range(60)]
        odd.add(int(np.argmax([np.abs(c - 10).max() for c in counts])))
    assert len(odd) > 4
    assert min(odd) < 40
