"""The records of the page of the wire format: bytes to dictionaries and back, and statements."""

import math
import struct

from secagg_primitives import check, frame, hashed, number, sha256, statement, unframe

BAD = "malformed_message"

REASONS = [
    "malformed_message",
    "check_failed",
    "out_of_order",
    "bad_server_signature",
    "unknown_version",
    "suite_not_allowed",
    "other_run",
    "other_model",
    "other_plan",
    "other_encoding",
    "other_authority",
    "sum_could_overflow",
    "cohort_below_floor",
    "weak_parameters",
    "attempt_already_answered",
    "another_attempt_was_joined",
    "too_many_sums_on_one_model",
    "changed_context",
    "not_enrolled",
    "bad_signature",
    "bad_public_key",
    "repeated_id",
    "repeated_key",
    "own_entry_missing_or_changed",
    "bad_inclusion_proof",
    "wrong_neighbourhood",
    "wrong_beacon",
    "changed_roster",
    "more_clients_than_invited",
    "too_few_share_dealers",
    "not_a_neighbour",
    "sealed_share_does_not_open",
    "share_does_not_match_its_hash",
    "changed_dealers",
    "second_masked_vector",
    "wrong_vector",
    "survivor_without_shares",
    "own_vector_left_out",
    "too_few_survivors",
    "too_few_survivors_on_one_side",
    "a_later_attempt_was_entered",
    "two_survivor_sets",
    "too_few_consents",
    "consent_of_an_outsider",
    "not_counted",
]

H = ("bytes", 32)
SIGNATURE = ("bytes", 0, 64)
PROOF = ("block", H)

RECORDS = {
    "encoding": [
        ("size", "natural"),
        ("modulus_bits", "natural"),
        ("bits", "natural"),
        ("clip", "real"),
        ("noise_headroom", "natural"),
        ("generator", "natural"),
        ("weight_at", "natural"),
    ],
    "parameters": [
        ("suite", ("word", "full", "graph", "semi_honest")),
        ("clients", "natural"),
        ("k", "natural"),
        ("t", "natural"),
        ("corrupt", "real"),
        ("dropout", "real"),
        ("sigma", "natural"),
        ("beacon", "flag"),
    ],
    "choral secagg context v1": [
        ("version", "natural"),
        ("run_id", "text"),
        ("round", "natural"),
        ("attempt", "natural"),
        ("models", ("list", H)),
        ("plan", H),
        ("encoding", ("record", "encoding")),
        ("min_cohort", "natural"),
        ("parameters", ("record", "parameters")),
        ("authority", H),
        ("deadline", "natural"),
    ],
    "secagg invitation": [
        ("context", ("record", "choral secagg context v1")),
        ("signature", SIGNATURE),
    ],
    "secagg advertise": [
        ("client", "text"),
        ("transport", H),
        ("mask", H),
        ("verify_key", ("bytes", 0, 32)),
        ("enrolment", SIGNATURE),
        ("signature", SIGNATURE),
    ],
    "secagg roster": [
        ("count", "natural"),
        ("root", H),
        ("beacon", ("bytes", *range(257))),
        ("members", ("list", ("row", "member"))),
        ("signature", SIGNATURE),
    ],
    "secagg bundle": [
        ("client", "text"),
        ("commitment", H),
        ("hashes", ("block", ("packed", "hashes"))),
        ("sealed", ("block", ("bytes", 152))),
        ("signature", SIGNATURE),
    ],
    "secagg deliveries": [("deliveries", ("list", "delivery"))],
    "secagg masked": [
        ("client", "text"),
        ("digest", H),
        ("dealers", H),
        ("signature", SIGNATURE),
    ],
    "secagg survivors": [
        ("count", "natural"),
        ("root", H),
        ("standings", ("list", ("row", "standing"))),
    ],
    "secagg consent": [("client", "text"), ("signature", SIGNATURE)],
    "secagg consents": [("consents", ("list", ("row", "consent")))],
    "secagg unmask": [
        ("client", "text"),
        ("revealed", ("table", "revealed")),
        ("signature", SIGNATURE),
    ],
    "secagg result": [
        ("h1", H),
        ("root", H),
        ("count", "natural"),
        ("weight", "natural"),
        ("total", H),
        ("signature", SIGNATURE),
    ],
    "secagg complaint": [
        ("client", "text"),
        ("reason", ("word", *REASONS)),
        ("about", "text"),
        ("ends", "flag"),
        ("signature", SIGNATURE),
    ],
}
ROWS = {
    "member": [
        ("index", "natural"),
        ("advertise", ("record", "secagg advertise")),
        ("proof", PROOF),
    ],
    "standing": [("index", "natural"), ("alive", "flag"), ("proof", PROOF)],
    "consent": [("client", "text"), ("signature", SIGNATURE)],
}
PACKED = {
    "hashes": [("self_mask", H), ("mask_key", H)],
    "revealed": [("kind", ("word", "b", "s")), ("salt", H), ("share", ("bytes", 36))],
    "delivery": [
        ("place", "natural"),
        ("commitment", H),
        ("root", H),
        ("hashes", ("packed", "hashes")),
        ("sealed", ("bytes", 152)),
    ],
}
SIZES = {"hashes": 64, "revealed": 69, "delivery": 288}
KEYS = {"revealed": "dealer"}
MESSAGES = [label for label in RECORDS if label.startswith("secagg ")]


def write_field(kind, value):
    if kind == "natural":
        return number(value)
    if kind == "real":
        return struct.pack("<d", 0.0 if value == 0 else value)
    if kind == "flag":
        return bytes([value])
    if kind == "text":
        return value.encode("utf-8")
    if kind == "delivery":
        body = write_packed(kind, value) + value["signature"]
        return frame(value["dealer"], body, write_field(PROOF, value["proof"]))
    match kind[0]:
        case "word":
            return value.encode("utf-8")
        case "list":
            return frame(*(write_field(kind[1], item) for item in value))
        case "block":
            return b"".join(write_field(kind[1], item) for item in value)
        case "record":
            return write(kind[1], value)
        case "row":
            return frame(*(write_field(k, value[name]) for name, k in ROWS[kind[1]]))
        case "packed":
            return write_packed(kind[1], value)
        case "table":
            keys = frame(*(row[KEYS[kind[1]]] for row in value))
            return frame(keys, b"".join(write_packed(kind[1], row) for row in value))
    return value


def write_packed(name, value):
    return b"".join(write_field(kind, value[field]) for field, kind in PACKED[name])


def read_packed(name, raw):
    check(len(raw) == SIZES[name], BAD)
    value, at = {}, 0
    for field, kind in PACKED[name]:
        size = size_of(kind)
        value[field] = read_field(kind, raw[at : at + size])
        at += size
    return value


def size_of(kind):
    if kind == "natural":
        return 8
    if kind[0] == "word":
        return len(kind[1])
    return SIZES[kind[1]] if kind[0] == "packed" else kind[1]


def cut(raw, size):
    check(len(raw) % size == 0, BAD)
    return [raw[at : at + size] for at in range(0, len(raw), size)]


def read_delivery(raw):
    parts = unframe(raw)
    check(len(parts) == 3, BAD)
    dealer, body, proof = parts
    size = SIZES["delivery"]
    value = {"dealer": read_field("text", dealer), **read_packed("delivery", body[:size])}
    value["proof"] = read_field(PROOF, proof)
    value["signature"] = read_field(SIGNATURE, body[size:])
    return value


def read_row(name, raw):
    parts = unframe(raw)
    check(len(parts) == len(ROWS[name]), BAD)
    pairs = zip(ROWS[name], parts, strict=True)
    return {field: read_field(kind, part) for (field, kind), part in pairs}


def read_table(name, raw):
    parts = unframe(raw)
    check(len(parts) == 2, BAD)
    keys = read_field(("list", "text"), parts[0])
    rows = [read_packed(name, part) for part in cut(parts[1], SIZES[name])]
    check(len(keys) == len(rows), BAD)
    return [{KEYS[name]: key, **row} for key, row in zip(keys, rows, strict=True)]


def read_field(kind, raw):
    if kind in ("natural", "real"):
        check(len(raw) == 8, BAD)
        if kind == "natural":
            return int.from_bytes(raw, "little")
        (value,) = struct.unpack("<d", raw)
        check(math.isfinite(value) and not (value == 0 and raw != bytes(8)), BAD)
        return value
    if kind == "flag":
        check(raw in (b"\0", b"\1"), BAD)
        return raw == b"\1"
    if kind == "delivery":
        return read_delivery(raw)
    if kind == "text":
        check(len(raw) <= 256 and is_utf8(raw), BAD)
        return raw.decode("utf-8")
    match kind[0]:
        case "word":
            words = {word.encode(): word for word in kind[1:]}
            check(raw in words, BAD)
            return words[raw]
        case "list":
            return [read_field(kind[1], part) for part in unframe(raw)]
        case "block":
            return [read_field(kind[1], part) for part in cut(raw, size_of(kind[1]))]
        case "record":
            return read(kind[1], raw)
        case "row":
            return read_row(kind[1], raw)
        case "packed":
            return read_packed(kind[1], raw)
        case "table":
            return read_table(kind[1], raw)
    check(len(raw) in kind[1:], BAD)
    return raw


def is_utf8(raw):
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def write(label, values):
    return frame(label, *(write_field(kind, values[name]) for name, kind in RECORDS[label]))


def read(label, raw):
    parts = unframe(raw)
    fields = RECORDS[label]
    check(len(parts) == len(fields) + 1 and parts[0] == label.encode(), BAD)
    pairs = zip(fields, parts[1:], strict=True)
    return {name: read_field(kind, part) for (name, kind), part in pairs}


def read_message(raw):
    """The label of a message and its fields."""
    parts = unframe(raw)
    check(bool(parts) and parts[0] in [m.encode() for m in MESSAGES], BAD)
    label = parts[0].decode()
    return label, read(label, raw)


# --- hashes and statements ------------------------------------------------------------------------


def h0_of(context):
    return hashed("choral secagg h0 v1", write("choral secagg context v1", context))


def h1_of(h0, count, root, beacon):
    return hashed("choral secagg h1 v1", h0, number(count), root, beacon)


def graph_seed(h0, count, root, beacon):
    return hashed("choral secagg graph v1", h0, number(count), root, beacon)


def authority_id(public):
    return hashed("choral enrolment authority v1", public)


def commitment(h1, seed):
    return hashed("choral secagg b v1", h1, seed)


def share_hash(h1, dealer, holder, kind, salt, share):
    return hashed("choral secagg share hash v1", h1, dealer, holder, kind, salt, share)


def standing_leaf(client, alive):
    return frame("choral secagg standing v1", client, bytes([alive]))


def say_enrolment(client, public):
    return statement("secagg enrolment", client, public)


def say_invitation(h0):
    return statement("secagg invitation", h0)


def say_advertise(h0, m):
    fields = (m["client"], m["transport"], m["mask"], m["verify_key"], m["enrolment"])
    return statement("secagg advertise", h0, *fields)


def say_roster(h0, count, root, beacon):
    return statement("secagg roster", h0, number(count), root, beacon)


def say_shares(h1, dealer, commitment, root):
    return statement("secagg shares", h1, dealer, commitment, root)


def dealers_digest(h1, names):
    named = sorted(name.encode("utf-8") for name in names)
    return hashed("choral secagg dealers v1", h1, *named)


def say_masked(h1, m):
    return statement("secagg masked", h1, m["client"], m["digest"], m["dealers"])


def say_survivors(h1, count, root):
    return statement("secagg survivors", h1, number(count), root)


def say_unmask(h1, m):
    revealed = write_field(("table", "revealed"), m["revealed"])
    return statement("secagg unmask", h1, m["client"], sha256(revealed))


def say_result(m):
    numbers = (number(m["count"]), number(m["weight"]))
    return statement("secagg result", m["h1"], m["root"], *numbers, m["total"])


def say_complaint(h0, m):
    fields = (m["client"], m["reason"], m["about"], bytes([m["ends"]]))
    return statement("secagg complaint", h0, *fields)
