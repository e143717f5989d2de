"""The data of the three examples."""

import gzip
import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from choral.core.errors import DataError
from choral.data import summary

EXAMPLES = Path(__file__).parents[3] / "examples"


def _module(path):
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def heart():
    pytest.importorskip("sklearn")
    return _module(EXAMPLES / "heart" / "heart_data.py")


def test_hearts_have_the_published_sizes(heart):
    clients = heart.hospitals()
    sizes = {n: (len(c.train[1]), len(c.test[1])) for n, c in clients.items()}
    assert sizes == {
        "cleveland": (199, 104),
        "hungarian": (172, 89),
        "switzerland": (30, 16),
        "va": (85, 45),
    }
    assert {n: sum(s) for n, s in sizes.items()} == {
        "cleveland": 303,
        "hungarian": 261,
        "switzerland": 46,
        "va": 130,
    }
    ill = {n: int(c.train[1].sum() + c.test[1].sum()) for n, c in clients.items()}
    assert ill == {"cleveland": 139, "hungarian": 98, "switzerland": 45, "va": 101}
    assert clients["va"].strata == {"country": "united-states"}


def test_hearts_have_thirteen_features_in_order(heart):
    assert heart.features() == (
        "age",
        "sex",
        "trestbps",
        "chol",
        "fbs",
        "thalach",
        "exang",
        "oldpeak",
        "cp=2",
        "cp=3",
        "cp=4",
        "restecg=1",
        "restecg=2",
    )


def test_the_first_patient_of_cleveland_by_hand(heart):
    # The file's first row: 63,1,1,145,233,1,2,150,0,2.3,…,0
    hospital = heart._hospital("cleveland")
    row = [63, 1, 145, 233, 1, 150, 0, 2.3, 0, 0, 0, 0, 1]
    assert hospital.x[0].tolist() == np.array(row, np.float32).tolist()
    assert hospital.y[0] == 0


def test_hospitals_are_standardised_by_their_own_training_part(heart):
    for name, client in heart.hospitals().items():
        x, y = client.train
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        varied = x.std(axis=0) > 0
        # In Switzerland every recorded cholesterol is 0; nothing else is constant anywhere.
        constant = [f for f, v in zip(heart.features(), varied, strict=True) if not v]
        assert constant == (["chol"] if name == "switzerland" else [])
        assert np.abs(x.mean(axis=0)).max() < 1e-5
        assert np.allclose(x[:, varied].std(axis=0, ddof=1), 1, atol=1e-5)
        hospital = heart._hospital(name)
        raw = hospital.x[hospital.train][:, 0]
        want = (hospital.x[hospital.test][:, 0] - raw.mean()) / raw.std(ddof=1)
        assert np.allclose(client.test[0][:, 0], want, atol=1e-5)


def test_pooled_hearts_are_standardised_by_all_training_parts(heart):
    x, y = heart.pooled_test()
    assert x.shape == (254, 13)
    assert y.tolist() == [v for c in heart.hospitals().values() for v in c.test[1]]
    every = [heart._hospital(name) for name in heart.COUNTRIES]
    raw = np.concatenate([h.x[h.train] for h in every]).astype(np.float64)
    tests = np.concatenate([h.x[h.test] for h in every])
    assert np.allclose(x, (tests - raw.mean(axis=0)) / raw.std(axis=0, ddof=1), atol=1e-5)


def test_heart_licence_lies_beside_the_files():
    text = (EXAMPLES / "heart" / "data" / "LICENSE.md").read_text()
    for word in ("Janosi", "Steinbrunn", "Pfisterer", "Detrano", "CC BY 4.0", "10.24432/C52P4X"):
        assert word in text


def test_digits_are_dealt_out_and_held_out_once():
    pytest.importorskip("sklearn")
    digits = _module(EXAMPLES / "digits" / "digits_data.py")
    source = digits.clients()
    found = summary(source)
    assert found.clients == 10
    assert found.train.sum() + found.test.sum() == 1437
    assert np.median((found.counts > 0).sum(axis=1)) < 10
    x, y = digits.held_out()
    assert (x.shape, x.dtype, y.dtype) == ((360, 64), np.float32, np.int64)
    assert 0 <= x.min() < x.max() <= 1
    rows = [*source.data[0], *x]
    assert len(rows) == 1797
    assert len({r.tobytes() for r in source.data[0]} & {r.tobytes() for r in x}) == 0


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """The example on a folder with 20 images of each kind."""
    for part, count in (("train", 200), ("t10k", 30)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.repeat(labels * 25, 28 * 28)
        head = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28)
        path = tmp_path / f"{part}-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(head + images.tobytes()))
        head = struct.pack(">4BI", 0, 0, 8, 1, count)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    monkeypatch.setenv("CHORAL_FASHION_MNIST", str(tmp_path))
    return _module(EXAMPLES / "fashion_mnist" / "fashion_data.py")


def test_fashion_partitions(fashion):
    for source, kinds in ((fashion.iid(), None), (fashion.two_shards(), 2)):
        assert len(source.ids) == 100
        for client in source.ids:
            data = source.load(client)
            x, y = data.train
            assert data.test is None
            assert (x.shape, x.dtype, y.dtype) == ((2, 784), np.float32, np.int64)
            assert np.allclose(x, (y[:, None] * 25 / 255 - 0.2860) / 0.3530, atol=1e-6)
            assert kinds is None or len(np.unique(y)) <= kinds
    x, y = fashion.test_set()
    assert (x.shape, y.shape) == ((30, 784), (30,))


def test_fashion_says_how_to_install_its_files(fashion, tmp_path):
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte") as error:
        fashion.test_set()
    assert "apt-get install dataset-fashion-mnist" in error.value.hint


def test_fashion_counts_must_agree(fashion, tmp_path):
    head = struct.pack(">4BI", 0, 0, 8, 1, 2)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(head + b"\0\1")
    with pytest.raises(DataError, match="30 images and 2 labels"):
        fashion.test_set()


def test_the_real_fashion_files():
    module = _module(EXAMPLES / "fashion_mnist" / "fashion_data.py")
    if not module.FOLDER.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    x, y = module.test_set()
    assert x.shape == (10_000, 784)
    assert np.bincount(y).tolist() == [1000] * 10
    assert abs(x.mean()) < 0.01
    assert abs(x.std() - 1) < 0.01
