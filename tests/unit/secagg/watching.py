"""A spy on whole attempts: every secret, every share, and everything that can be seen of them.

`test_canaries.py` and `test_erasure.py` load this file.
"""

import base64
import re
import traceback
from dataclasses import dataclass, is_dataclass

import numpy as np

from choral.crypto.secret import Secret
from choral.crypto.shamir import SHARE_SIZE
from choral.crypto.signatures import SigningKey
from choral.secagg import client as client_module
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg import shares
from choral.secagg.site import Site

VICTIM = "c000"
PUBLIC = {bytes(range(32)), bytes(32)}
"""Values that a `Secret` holds and everybody knows."""
PIECE = 12


# --- searching ------------------------------------------------------------------------------------


def spellings(value):
    """Return how some secret bytes may be printed; for a text and for its bare numbers."""
    texts, numbers = set(), set()
    for piece in {value[:PIECE], value[-PIECE:]}:
        texts |= {
            piece.decode("latin-1"),
            repr(piece)[2:-1],
            piece.hex(),
            piece.hex().upper(),
            piece.hex(" "),
            piece.hex(":"),
            piece[::-1].hex(),
        }
        for skip in range(3):  # base64 of a longer text that holds the piece somewhere
            inside = piece[skip : skip + 9]
            texts |= {f(inside).decode() for f in (base64.b64encode, base64.urlsafe_b64encode)}
        numbers.add(" ".join(map(str, piece)))
    for order in ("little", "big"):
        numbers.add(str(int.from_bytes(value, order)))
    return texts, numbers


class Pile:
    """Everything that was seen of a run, as one text."""

    def __init__(self):
        self._parts = {}  # each part once, in order
        self._whole = None

    def add(self, thing):
        self._whole = None
        if isinstance(thing, bytes | bytearray | memoryview):
            thing = bytes(thing).decode("latin-1")
        self._parts[thing if isinstance(thing, str) else repr(thing)] = None

    @property
    def texts(self):
        if self._whole is None:
            whole = "\n".join(self._parts)
            numbers = " " + re.sub(r"[^0-9]+", " ", whole) + " "
            self._whole = whole, numbers
        return self._whole

    def shows(self, value):
        whole, bare = self.texts
        texts, numbers = spellings(value)
        return any(t in whole for t in texts) or any(f" {n} " in bare for n in numbers)

    def shows_element(self, element):
        return f" {element} " in self.texts[1]


def reachable(root):
    """Return what can be reached from a machine: its own objects, and bytes and arrays in them.

    Ports are the caller's, and a site's signing key stays for ever: neither is entered.
    """
    seen, found, waiting = set(), [], [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, Site | type | int | str | None.__class__):
            continue
        seen.add(id(item))
        found.append(item)
        if isinstance(item, dict):
            waiting.extend([*item.keys(), *item.values()])
        elif isinstance(item, list | tuple | set | frozenset):
            waiting.extend(item)
        elif type(item).__module__.startswith("choral.") and not callable(item):
            names = [n for c in type(item).__mro__ for n in getattr(c, "__slots__", ())]
            names += [*getattr(item, "__dict__", ())]
            ports = {"_source", "_sink", "_rand", "_store", "_expected"}
            waiting.extend(getattr(item, n, None) for n in names if n not in ports)
    return found


def raw_of(root):
    """Return the raw bytes that a machine still holds, as one string of bytes."""
    parts = []
    for item in reachable(root):
        if isinstance(item, bytes | bytearray | memoryview):
            parts.append(bytes(item))
        elif isinstance(item, np.ndarray):
            parts.append(item.tobytes())
    return b"|".join(parts)


# --- spying ---------------------------------------------------------------------------------------


@dataclass
class Kept:
    """A secret that was made, by whom, and its bytes."""

    owner: str
    secret: Secret
    value: bytes


class Spy:
    """Notes every `Secret` and every pair of shares, and whose turn it was."""

    def __init__(self, monkeypatch):
        self.turn = "before"
        self.kept, self.plains = [], set()
        secret_init, held_init = Secret.__init__, shares.Held.__init__
        spy = self

        def secret(self, value):
            secret_init(self, value)
            spy.kept.append(Kept(spy.turn, self, bytes(value)))

        def held(self, dealer, plain):
            held_init(self, dealer, plain)
            spy.plains.add((dealer, bytes(plain)))

        monkeypatch.setattr(Secret, "__init__", secret)
        monkeypatch.setattr(shares.Held, "__init__", held)

    def values(self):
        return {k.value for k in self.kept} - PUBLIC

    def left(self, owner):
        """Return the secrets of a party that were not erased."""
        return [k for k in self.kept if k.owner == owner and not k.secret.erased]


class Watched:
    """A world whose parties are watched from the first draw on."""

    def __init__(self, world, monkeypatch, *, n=4, **options):
        self.spy = Spy(monkeypatch)
        self.w = world(n, **options)
        self.pile = Pile()
        self.breaches = []
        self.revealed = set()
        self.begin()

    def begin(self, attempt=1):
        w = self.w
        rng = np.random.default_rng(attempt)
        for name in w.ids:
            w.vectors[name] = rng.integers(2**30, 2**31, w.size, np.uint32)
        w.begin(attempt)
        self.watch(w.server, "server")
        for name in w.ids:
            self.watch(w.clients[name], name)

    def watch(self, machine, owner):
        inner = machine.receive

        def receive(event):
            before, self.spy.turn = self.spy.turn, owner
            try:
                commands = inner(event)
            except Exception as error:
                self.note_error(error)
                raise
            finally:
                self.spy.turn = before
            for command in commands:
                self.note(command)
            self.print_objects(machine)
            return commands

        machine.receive = receive

    def print_objects(self, machine):
        """Put on the pile what a machine's objects look like while they hold something."""
        for item in reachable(machine):
            module = type(item).__module__
            if module.startswith("choral.") and module != msg.__name__:  # those are there
                self.pile.add(repr(item))
                self.pile.add(f"{item}")

    def note(self, command):
        if isinstance(command, cmd.Stopped):
            self.breaches.append(command.breach)
            self.note_error(command.breach)
        message = getattr(command, "message", None)
        if isinstance(message, msg.Unmask):
            for r in message.revealed:
                self.revealed |= {r.share, r.salt}
        self.pile.add(repr(command))
        self.pile.add(str(command))
        if is_dataclass(message):
            self.pile.add(msg.encode(message))

    def note_error(self, error):
        self.pile.add(repr(error.args))
        self.pile.add(str(error))
        self.pile.add("".join(traceback.format_exception(error)))

    def run(self):
        self.w.run()
        return self.collect()

    def collect(self):
        """Put on the pile what is left to be seen when all is over."""
        w = self.w
        for _, _, raw in w.log:
            self.pile.add(raw)
        for spool in w.spools.values():
            for chunk in spool.chunks:
                self.pile.add(chunk.tobytes())
        for once in w.once.values():
            for value in once.__dict__.values():
                for pair in value.items():
                    self.pile.add(pair)
        for machine in (w.server, *w.clients.values()):
            self.print_objects(machine)
        return self

    def hidden_shares(self):
        """Return shares and salts that nobody was asked for."""
        parts = set()
        for _, plain in self.spy.plains:
            b, s = plain[:SHARE_SIZE], plain[SHARE_SIZE : 2 * SHARE_SIZE]
            salts = plain[2 * SHARE_SIZE :]
            parts |= {b, s, salts[:32], salts[32:]}
        return parts - self.revealed - {bytes(len(p)) for p in parts}

    def assert_nothing_shows(self):
        values, hidden = self.spy.values(), self.hidden_shares()
        assert values
        for value in values | hidden:
            assert not self.pile.shows(value)
        for vector in self.w.vectors.values():
            packed = vector.tobytes()
            for at in range(0, len(packed) - 8, 4):
                assert packed[at : at + 8].decode("latin-1") not in self.pile.texts[0]
            for element in vector.tolist():
                assert not self.pile.shows_element(element)


# --- verdicts -------------------------------------------------------------------------------------


def assert_victim_is_clean(seen):
    """Nothing shows, and no secret of the client whose part is over is left."""
    seen.assert_nothing_shows()
    assert not seen.spy.left(VICTIM)
    held = raw_of(seen.w.clients[VICTIM])
    for kept in seen.spy.kept:
        assert kept.owner != VICTIM or kept.value[:PIECE] not in held
    for _, plain in seen.spy.plains - {(VICTIM, bytes(136))}:
        assert plain[:PIECE] not in held
        assert plain[SHARE_SIZE : SHARE_SIZE + PIECE] not in held


def assert_no_locals_show(seen):
    """Not even a traceback that prints local variables shows a key, a seed or a share.

    A vector's elements may stand there: NumPy prints what a frame holds.
    """
    pile = Pile()
    for breach in seen.breaches:
        printed = traceback.TracebackException.from_exception(breach, capture_locals=True)
        pile.add("".join(printed.format()))
    for value in seen.spy.values() | seen.hidden_shares():
        assert not pile.shows(value)


def blaming(watched, monkeypatch):
    """Run an attempt in which a dealer shares out another secret than it committed to."""
    inner = shares.deal

    def deal(seed, key, *, dealer, **rest):
        if dealer == "c001":
            seed = key = SigningKey.random(rest["rand"])._secret
        return inner(seed, key, dealer=dealer, **rest)

    monkeypatch.setattr(client_module, "deal", deal)
    seen = watched().run()
    assert seen.w.abandoned == cmd.Abandon("bad_dealer", ("c001",))
    return seen
