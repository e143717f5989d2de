import sys

import pytest

from choral.core.errors import ConfigError
from choral.data import NumberedIds, client_id
from choral.data.ids import id_for


@pytest.mark.parametrize("good", ["a", "hospital-a", "A_1.csv", "-x", "x" * 128, 0, 12])
def test_good_ids(good):
    assert client_id(good) == str(good)


@pytest.mark.parametrize(
    "bad", ["", ".hidden", "..", "a/b", "a b", "é", "x" * 129, "a\n", None, -1, True, 1.5, ("a",)]
)
def test_bad_ids(bad):
    with pytest.raises(ConfigError, match="client id"):
        client_id(bad)


def test_numbered_ids_are_a_sequence_in_text_order():
    ids = NumberedIds(11)
    listed = list(ids)
    assert listed == [f"{i:02}" for i in range(11)] == sorted(listed)
    assert ids[-1] == "10"
    assert list(ids[2:8:3]) == ["02", "05"]
    assert ids[1:][0] == "01"
    assert [ids.index(i) for i in listed] == list(range(11))
    assert all(i in ids and ids.count(i) == 1 for i in listed)
    assert ids == NumberedIds(11)
    assert hash(ids) == hash(NumberedIds(11))
    assert ids != NumberedIds(12)
    assert list(reversed(ids)) == listed[::-1]
    with pytest.raises(IndexError):
        ids[11]


@pytest.mark.parametrize(
    "strange", ["1", "011", "11", "-1", " 1", "\u00b22", "\u0660\u0661", 1, None]
)
def test_strange_ids_are_not_in_it(strange):
    ids = NumberedIds(11)
    assert strange not in ids
    with pytest.raises(ValueError, match="is not one of"):
        ids.index(strange)


def test_a_million_ids_take_no_memory():
    ids = NumberedIds(10**6)
    assert len(ids) == 10**6
    assert sys.getsizeof(ids) < 200
    assert ids.index(ids[987_654]) == 987_654


def test_ids_for_values():
    assert id_for("St. Mary's / North") == "St.-Mary-s-North"
    with pytest.raises(ConfigError):
        id_for("???")
