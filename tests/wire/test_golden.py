"""Frozen bytes: what is on the wire today must be read, and written, the same for ever.

`golden/NAME.hex` has the bytes of each entry of `MESSAGES` and `OTHERS`, 32 a line. A new message
gets a new file; a file that is there is never changed, since somebody may have sent those bytes. A
message that grows gets a second entry.
"""

import hashlib
import textwrap
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import Message

from choral.core.aggregation import Plain, RingGrid, Secure
from choral.core.errors import TooLarge
from choral.core.exact import Contribution, Encoding
from choral.core.params import Spec
from choral.core.plan import Local, Plan
from choral.crypto.ring import Ring
from choral.data import Column, Schema
from choral.wire.contributions import (
    contribution_blocks,
    contribution_from_bytes,
    masked_blocks,
    masked_from_bytes,
)
from choral.wire.errors import to_status
from choral.wire.frames import Header, Kind, chunk_frame, end_frame, header_frame, read_frame
from choral.wire.plans import plan_from_json, plan_to_json
from choral.wire.receipts import receipt_from_proto
from choral.wire.v1 import admin_pb2 as admin
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.v1 import error_pb2, run_pb2, transfer_pb2

GOLDEN = Path(__file__).parent / "golden"
MODULES = (admin, pb, error_pb2, run_pb2, transfer_pb2)

DIGEST, OTHER = "a1" * 32, "b2" * 32
TOKEN = b"\x01token"
SPEC = Spec.of({"w": np.zeros(3, np.float32)})
ENCODING = Encoding(16.0, 512.0, 4096.0)
GRID = RingGrid(4.0, 1000.0, 18, 24, (("loss", 8.0),))
VECTOR = np.array([1, -2, 2**31 - 1], np.int32)
MASKED = Ring(24).zeros(6)
MASKED[:] = [1, 2, 3, 4, 5, 2**24 - 1]


def plan(aggregation, encoding, local):
    return Plan(
        run_id="heart-1",
        round=3,
        attempt=2,
        task="heart_task:task",
        model_sha256=DIGEST,
        spec_digest=OTHER,
        local=local,
        mu=0.25,
        weighting="examples",
        aggregation=aggregation,
        encoding=encoding,
        goal=4,
        quorum=3,
        deadline_s=600.0,
        arguments='{"input_dim":10}',
        test_fraction=0.25,
        split_seed=7,
        key="ab" * 32,
    )


PLAIN_PLAN = plan(Plain(), ENCODING, Local(2, None, None, 0.05, False))
SECURE_PLAN = plan(
    Secure("full", 3, 0.1, 0.2, 24, 2, {"name": "trimmed_mean", "trim": 0.2}), GRID, Local(steps=7)
)
RECEIPT = transfer_pb2.Receipt(
    run_id="heart-1", round=3, attempt=2, client_id="cleveland", sha256=DIGEST, size_bytes=1234,
    audit_head=b"\xee" * 32, signature=b"\x99" * 64,
)  # fmt: skip
ASSIGNMENT = pb.Assignment(
    run_id="heart-1", round=3, attempt=2, token=TOKEN, plan_json=plan_to_json(SECURE_PLAN),
    model_sha256=DIGEST, model_bytes=1 << 33, deadline_s=600.0, secure=True,
    states=[pb.Blob(name="drift", sha256=OTHER, size_bytes=77)],
)  # fmt: skip
EVALUATION_TASK = pb.EvaluationTask(
    token=TOKEN, plan_json=plan_to_json(PLAIN_PLAN), model_sha256=DIGEST, model_bytes=99,
    final=True, deadline_s=60.0,
)  # fmt: skip
COME_BACK = pb.ComeBack(after_s=1.5, window_s=30.0, reason="waiting for 2 more clients")
GOODBYE = pb.Goodbye(run_id="heart-1", status=run_pb2.RUN_STATUS_COMPLETED, reason="15 rounds")
SCHEMA = Schema(
    (Column("age", "number", "years"), Column("sex", "category", None, ("f", "m")),
     Column("ill", "integer")), "ill", 2,
)  # fmt: skip
HEADER = Header(Kind.MASKED, TOKEN, DIGEST, size_bytes=1 << 33, offset=1 << 32, chunk_bytes=2 << 20)
SUMMARY = admin.RunSummary(
    run_id="heart-1", name="heart", status=run_pb2.RUN_STATUS_PAUSED, round=3, rounds=15,
    created_s=1764000000.5, reason="no quorum",
)  # fmt: skip
CLIENT = admin.ClientSummary(
    client_id="cleveland", tasks=["heart_task:task"], schema_version="2",
    strata={"region": "north", "size": "small"}, last_seen_s=1764000001.5, connected=True,
    refusal="cohort_below_floor",
)  # fmt: skip

MESSAGES = {
    "ack": pb.Ack(protocol_version=1),
    "assignment": ASSIGNMENT,
    "assignment_audit_head": pb.Assignment(
        run_id="heart-1", round=3, attempt=2, token=TOKEN, audit_head=b"\xee" * 40
    ),
    "assignment_without_crc": pb.Assignment(
        run_id="heart-1", round=3, attempt=2, token=TOKEN, without_crc=True
    ),
    "blob": pb.Blob(name="drift", sha256=OTHER, size_bytes=77),
    "chunk": transfer_pb2.Chunk(crc32=0, offset=0, data=b""),
    "client_summary": CLIENT,
    "come_back": COME_BACK,
    "come_back_refusals": pb.ComeBack(
        window_s=30.0, reason="nothing to do yet", refusals=["run heart-1: refused: no"]
    ),
    "create_run_request": admin.CreateRunRequest(
        protocol_version=1, federation_json=b'{"name":"heart"}', request_id="0f" * 16
    ),
    "create_run_response": admin.CreateRunResponse(protocol_version=1, run_id="heart-1"),
    "error_detail": error_pb2.ErrorDetail(
        code="no_quorum", message="1 of 3 clients", hint="wait", retryable=True
    ),
    "evaluation": pb.Evaluation(
        protocol_version=1, token=TOKEN, metrics={"accuracy": 0.75, "loss": -0.5}, examples=40
    ),
    "evaluation_task": EVALUATION_TASK,
    "failure_report": pb.FailureReport(
        protocol_version=1, token=TOKEN, code="not_finite", message="tensor `w` holds NaN"
    ),
    "frame_chunk": transfer_pb2.Frame(
        chunk=transfer_pb2.Chunk(crc32=0x3AD06B16, offset=1 << 32, data=b"some bytes")
    ),
    "get_model_request": pb.GetModelRequest(
        protocol_version=1, token=TOKEN, sha256=DIGEST, offset=1 << 32
    ),
    "get_model_request_without_crc": pb.GetModelRequest(
        protocol_version=1, token=TOKEN, sha256=DIGEST, without_crc=True
    ),
    "get_run_request": admin.GetRunRequest(protocol_version=1, run_id="heart-1"),
    "get_run_response": admin.GetRunResponse(protocol_version=1, result_json=b'{"rounds":[]}'),
    "goodbye": GOODBYE,
    "join_request": pb.JoinRequest(
        protocol_version=1, min_protocol_version=1, client_id="cleveland",
        tasks=["heart_task:task", "other:task"], schema_version="2", schema_fingerprint=OTHER,
        examples_bucket=9, strata={"region": "north", "size": "small"}, capabilities=["secure"],
        wait_s=30.0, available_s=3600.0,
    ),
    "join_request_schema": pb.JoinRequest(
        protocol_version=1, min_protocol_version=1, client_id="cleveland", tasks=["*"],
        schema_version="2", schema_fingerprint=SCHEMA.fingerprint, schema_json=SCHEMA.to_json(),
    ),
    "join_response_assignment": pb.JoinResponse(protocol_version=1, assignment=ASSIGNMENT),
    "join_response_come_back": pb.JoinResponse(protocol_version=1, come_back=COME_BACK),
    "join_response_evaluation": pb.JoinResponse(protocol_version=1, evaluation=EVALUATION_TASK),
    "join_response_goodbye": pb.JoinResponse(protocol_version=1, goodbye=GOODBYE),
    "list_clients_request": admin.ListClientsRequest(protocol_version=1),
    "list_clients_response": admin.ListClientsResponse(protocol_version=1, clients=[CLIENT]),
    "list_runs_request": admin.ListRunsRequest(protocol_version=1),
    "list_runs_response": admin.ListRunsResponse(protocol_version=1, runs=[SUMMARY]),
    "open_round_request": admin.OpenRoundRequest(protocol_version=1, run_id="heart-1"),
    "open_round_response": admin.OpenRoundResponse(protocol_version=1),
    "protocol_message": pb.ProtocolMessage(
        protocol_version=1, token=TOKEN, sequence=2, body=b"\x00body", wait_s=10.0,
        received=3, ended=True,
    ),
    "receipt": RECEIPT,
    "run_event": admin.RunEvent(
        protocol_version=1, sequence=300, kind="Committed", body_json=b'{"round":3}'
    ),
    "run_summary": SUMMARY,
    "stop_run_request": admin.StopRunRequest(
        protocol_version=1, run_id="heart-1", reason="enough"
    ),
    "stop_run_response": admin.StopRunResponse(
        protocol_version=1, status=run_pb2.RUN_STATUS_STOPPED
    ),
    "transfer_end": transfer_pb2.TransferEnd(sha256=DIGEST),
    "transfer_header": transfer_pb2.Frame.FromString(header_frame(HEADER)).header,
    "update_ack": pb.UpdateAck(protocol_version=1, receipt=RECEIPT),
    "upload_request": pb.UploadRequest(protocol_version=1, token=TOKEN, sha256=DIGEST),
    "upload_status": pb.UploadStatus(
        protocol_version=1, offset=1234, complete=True, receipt=RECEIPT
    ),
    "watch_run_request": admin.WatchRunRequest(
        protocol_version=1, run_id="heart-1", from_sequence=300
    ),
}  # fmt: skip

OTHERS = {
    "bytes_contribution": b"".join(
        contribution_blocks(Contribution(VECTOR, 5, {"loss": -7, "accuracy": 2**62}))
    ),
    "bytes_masked": b"".join(masked_blocks(MASKED, GRID)),
    "bytes_plan_plain": plan_to_json(PLAIN_PLAN),
    "bytes_plan_secure": plan_to_json(SECURE_PLAN),
    "bytes_receipt_statement": bytes(receipt_from_proto(RECEIPT).stated()),
    "frame_by_hand": chunk_frame(1 << 32, [b"some ", b"bytes"]),
    "frame_without_crc": chunk_frame(1 << 32, [b"some ", b"bytes"], crc=False),
    "frame_end": end_frame(DIGEST),
    "frame_header": header_frame(HEADER),
    "metadata_error": to_status(TooLarge("9 bytes, expected 8", hint="less"))[1][0][1],
}


def golden(name):
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


def written(message):
    return message if isinstance(message, bytes) else message.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", [*MESSAGES, *OTHERS])
def test_what_is_written_today_is_what_was_frozen(name):
    raw = written((MESSAGES | OTHERS)[name])
    path = GOLDEN / f"{name}.hex"
    lines = "\n".join(textwrap.wrap(raw.hex(), 64)) + "\n"
    assert path.exists(), f"a new message: write {path.name} with\n{lines}"
    assert raw == golden(name)


@pytest.mark.parametrize("name", MESSAGES)
def test_frozen_bytes_are_read_and_written_again(name):
    message: Message = type(MESSAGES[name]).FromString(golden(name))
    assert message == MESSAGES[name]
    assert written(message) == golden(name)


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_and_values_of_a_later_version_are_tolerated(name):
    """An unknown field changes no known one, and is kept."""
    later = golden(name) + b"\xc2\x3e\x05later"  # field 1000, five bytes
    message = type(MESSAGES[name]).FromString(later)
    assert message.SerializeToString(deterministic=True) == later
    message.DiscardUnknownFields()
    assert message == MESSAGES[name]


def test_an_unknown_value_of_an_enumeration_is_kept():
    assert pb.Goodbye.FromString(b"\x10\x63").status == 99
    assert pb.Goodbye.FromString(b"\x10\x63").SerializeToString() == b"\x10\x63"


def test_every_message_has_frozen_bytes_with_every_field_set():
    frozen = {}
    for message in MESSAGES.values():
        fields = frozen.setdefault(message.DESCRIPTOR.name, set())
        fields |= {field.name for field, _ in message.ListFields()}
    frozen["Frame"] |= {
        field.name
        for raw in (OTHERS["frame_header"], OTHERS["frame_end"])
        for field, _ in transfer_pb2.Frame.FromString(raw).ListFields()
    }
    declared = {
        name: {field.name for field in message.fields}
        for module in MODULES
        for name, message in module.DESCRIPTOR.message_types_by_name.items()
    }
    assert frozen == declared


def test_no_file_is_left_over():
    assert {path.stem for path in GOLDEN.iterdir()} == {*MESSAGES, *OTHERS}


def test_frozen_plans_are_read():
    for name, there in (("plain", PLAIN_PLAN), ("secure", SECURE_PLAN)):
        raw = golden(f"bytes_plan_{name}")
        assert plan_from_json(raw, digest=hashlib.sha256(raw).hexdigest()) == there


def test_frozen_vectors_are_read():
    found = contribution_from_bytes(golden("bytes_contribution"), SPEC, ENCODING)
    assert found.vector.tolist() == VECTOR.tolist()
    assert (found.weight, found.metrics) == (5, {"accuracy": 2**62, "loss": -7})
    assert masked_from_bytes(golden("bytes_masked"), SPEC, GRID).tolist() == MASKED.tolist()


def test_frozen_frames_are_read():
    assert read_frame(golden("frame_header")) == HEADER
    assert read_frame(golden("frame_end")).sha256 == DIGEST
    chunk = read_frame(golden("frame_by_hand"))
    assert (chunk.offset, bytes(chunk.data)) == (1 << 32, b"some bytes")
    assert read_frame(golden("frame_without_crc"), without_crc=True) == chunk
    frame = transfer_pb2.Frame.FromString(golden("frame_chunk"))
    frame.chunk.crc32 = transfer_pb2.Frame.FromString(golden("frame_by_hand")).chunk.crc32
    assert frame.SerializeToString(deterministic=True) == golden("frame_by_hand")
