"""The committed Python of the wire is that of the schema, and the schema may only grow."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import __version__ as protobuf_version

from choral.wire.v1 import admin_pb2, coordinator_pb2, transfer_pb2
from choral.wire.versions import PROTOCOL_VERSION

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
BUF = Path(sys.executable).parent / "buf"
needs_buf = pytest.mark.skipif(not BUF.exists(), reason="buf-bin is not installed")


def script():
    """The script that generates, as a module."""
    spec = importlib.util.spec_from_file_location("stubs", ROOT / "scripts/generate_stubs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_stubs_are_what_the_schema_gives(tmp_path):
    pytest.importorskip("grpc_tools")
    stubs = script()
    made = stubs.generate(tmp_path)
    assert len(made) > 10
    assert stubs.stale(made) == []


def test_a_stale_a_missing_and_a_left_over_file_are_found(tmp_path):
    for name in ("same.py", "changed.py", "left.pyi"):
        (tmp_path / name).write_text("x")
    made = {"same.py": "x", "changed.py": "y", "new.py": "x"}
    assert script().stale(made, tmp_path) == ["changed.py", "left.pyi", "new.py"]


def test_stubs_are_made_by_the_version_that_is_pinned():
    """That is the oldest one, so that older and newer libraries than here can run them."""
    project = (ROOT / "pyproject.toml").read_text()
    pinned = re.search(r'"grpcio-tools==([\d.]+)"', project)[1]
    assert (
        f"GRPC_GENERATED_VERSION = '{pinned}'"
        in (ROOT / "src/choral/wire/v1/coordinator_pb2_grpc.py").read_text()
    )
    assert f'"grpcio>={pinned}"' in project
    generated = (ROOT / "src/choral/wire/v1/error_pb2.py").read_text()
    oldest = re.search(r"# Protobuf Python Version: (\d+\.\d+)", generated)[1]
    assert f'"protobuf>={oldest}' in project
    assert int(protobuf_version.split(".")[0]) - int(oldest.split(".")[0]) in (0, 1)


def buf(*arguments):
    return subprocess.run(
        [BUF, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )


@needs_buf
def test_the_schema_has_no_lint():
    done = buf("lint", "proto")
    assert (done.returncode, done.stdout) == (0, "")


@needs_buf
def test_the_schema_is_formatted():
    done = buf("format", "--exit-code", "proto")
    assert done.returncode == 0, done.stdout


@needs_buf
def test_the_schema_breaks_nothing_of_the_baseline():
    done = buf("breaking", "proto", "--against", "proto/baseline.binpb")
    assert (done.returncode, done.stdout) == (0, "")


@needs_buf
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("string run_id = 1;", "string run_id = 19;", 'Previously present field "1"'),
        ("uint32 round = 2;", "uint64 round = 2;", "changed type"),
        ("  ComeBack come_back = 4;\n", "", 'Previously present field "4"'),
        ("rpc GetUpload(", "rpc AskUpload(", 'Previously present RPC "GetUpload"'),
    ],
)
def test_a_change_that_breaks_is_found(tmp_path, old, new, message):
    shutil.copytree(PROTO, tmp_path / "proto")
    path = tmp_path / "proto/choral/v1/coordinator.proto"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    done = buf("breaking", str(tmp_path / "proto"), "--against", "proto/baseline.binpb")
    assert done.returncode != 0
    assert message in done.stdout


@needs_buf
def test_a_new_field_breaks_nothing(tmp_path):
    shutil.copytree(PROTO, tmp_path / "proto")
    path = tmp_path / "proto/choral/v1/coordinator.proto"
    text = path.read_text()
    path.write_text(text.replace("message Ack {", "message Ack {\n  bytes audit_head = 2;\n"))
    done = buf("breaking", str(tmp_path / "proto"), "--against", "proto/baseline.binpb")
    assert (done.returncode, done.stdout) == (0, "")


METHODS = [
    method
    for module in (coordinator_pb2, admin_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_message_carries_the_version_of_the_protocol(method):
    for message in (method.input_type, method.output_type):
        raw = message is transfer_pb2.Frame.DESCRIPTOR
        first = transfer_pb2.TransferHeader.DESCRIPTOR if raw else message
        assert first.fields_by_number[1].name == "protocol_version"
    assert PROTOCOL_VERSION == 1


def test_the_package_says_which_version_it_is():
    assert coordinator_pb2.DESCRIPTOR.package == f"choral.v{PROTOCOL_VERSION}"


def test_nothing_on_the_wire_is_code():
    """No message has a place for pickled objects or names of classes."""
    fields = [
        field.full_name.lower()
        for module in (coordinator_pb2, admin_pb2, transfer_pb2)
        for message in module.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    ]
    assert fields
    assert not [name for name in fields if re.search("pickle|module|class_|_class|import", name)]
