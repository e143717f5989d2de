import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from choral.core.errors import DataError
from choral.data import read_idx, read_images, read_labels
from choral.data.idx import TYPES


def _idx(array, code=0x08, shape=None):
    shape = array.shape if shape is None else shape
    head = bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    return head + array.astype(TYPES[code]).tobytes()


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_images_and_labels(tmp_path, name):
    pack = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(pack(_idx(IMAGES)))
    assert np.array_equal(read_images(tmp_path / name), IMAGES)
    (tmp_path / name).write_bytes(pack(_idx(np.array([7, 9]))))
    assert read_labels(tmp_path / name).tolist() == [7, 9]


@pytest.mark.parametrize("code", TYPES)
def test_every_type_in_the_byte_order_of_the_machine(tmp_path, code):
    array = np.array([[1, 2], [3, 100]])
    (tmp_path / "a").write_bytes(_idx(array, code))
    found = read_idx(tmp_path / "a")
    assert np.array_equal(found, array)
    assert found.dtype.isnative


def test_files_of_several_gzip_members(tmp_path):
    raw = _idx(IMAGES)
    (tmp_path / "a.gz").write_bytes(gzip.compress(raw[:20]) + gzip.compress(raw[20:]))
    assert np.array_equal(read_images(tmp_path / "a.gz"), IMAGES)


RAW = _idx(IMAGES)

BROKEN = {
    "empty": (b"", "nothing, not an IDX file"),
    "magic": (b"\x89PNG" + RAW[4:], "not an IDX file"),
    "type": (b"\0\0\x07\x03" + RAW[4:], "not an IDX file"),
    "no dimensions": (b"\0\0\x08\x00", "0 dimensions"),
    "many dimensions": (b"\0\0\x08\xff" + bytes(2000), "255 dimensions"),
    "header": (RAW[:10], "ends within its header"),
    "short": (RAW[:-1], "2 x 3 x 4, 24 bytes"),
    "long": (RAW + b"\0", "there are more"),
    "labels": (_idx(np.array([1, 2])), "1 dimensions, expected 3"),
    "floats": (_idx(IMAGES, 0x0D), "expected bytes"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(tmp_path, case, packed):
    raw, message = BROKEN[case]
    path = tmp_path / ("bad.gz" if packed else "bad")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    with pytest.raises(DataError, match=message) as error:
        read_images(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_claims_too_much_allocates_nothing(tmp_path, packed):
    raw = _idx(np.zeros(4), shape=(2**31, 2**10, 2**10))
    path = tmp_path / ("bomb.gz" if packed else "bomb")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    tracemalloc.start()
    with pytest.raises(DataError, match="has room for"):
        read_images(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_memory_grows_only_with_bytes_that_are_there(tmp_path):
    noise = np.arange(60_000, dtype=np.uint32).view(np.uint8)
    raw = _idx(noise, shape=(50, 1000, 1000))
    (tmp_path / "a.gz").write_bytes(gzip.compress(raw))
    tracemalloc.start()
    with pytest.raises(DataError, match="only 240000"):
        read_images(tmp_path / "a.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_not_gzip_and_not_there(tmp_path):
    (tmp_path / "a.gz").write_bytes(RAW)
    with pytest.raises(DataError, match=r"a\.gz: cannot be read"):
        read_idx(tmp_path / "a.gz")
    (tmp_path / "b.gz").write_bytes(gzip.compress(RAW)[:-9])
    with pytest.raises(DataError, match=r"b\.gz: cannot be read"):
        read_idx(tmp_path / "b.gz")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "none")
