"""The bench of noise runs, and says what it is about."""

import json

import pytest

from choral.bench.privacy import bench_privacy
from choral.core.errors import ConfigError


def quiet(stage, done, total):
    pass


def test_it_reports_a_round_with_noise_beside_one_without():
    report = bench_privacy(clients=4, params=3000, repeat=2, watch=quiet)
    assert json.loads(json.dumps(report)) == report
    assert report["workload"]["padded"] == 4096
    rows = {row["workload"]: row for row in report["rows"]}
    assert len(rows) == 6
    for row in rows.values():
        assert row["ours"] > 0
        assert row["floor"] > 0
        assert row["repeat"] == 2
    whole = rows["client, CPU of a round"]
    part = rows["client, encoding its update, CPU"]
    assert whole["ours"] > part["ours"]


def test_bad_numbers_are_named():
    with pytest.raises(ConfigError, match="params"):
        bench_privacy(clients=4, params=0, watch=quiet)
