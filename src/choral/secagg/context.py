"""What all parties of one attempt agree on before the first key.

Every key derivation is salted with a hash that starts from `Context.h0`, and every signature covers
it: a client that is shown another model, plan or cohort derives other keys, and what it sends is
garbage to everybody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from choral.core.errors import ChoralError
from choral.crypto.encoding import digest
from choral.crypto.fixed_point import FixedPoint, check_no_overflow
from choral.crypto.prg import Generator
from choral.crypto.ring import Ring
from choral.secagg.codec import DIGEST, FLAG, NATURAL, REAL, TEXT, Many, Record, Word
from choral.secagg.parameters import Parameters, Suite, verify
from choral.secagg.refusals import Breach, Reason, check

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class RingEncoding:
    """The vector of one client as all must encode it.

    Attributes:
        size: Elements, with secret weight and metrics.
        modulus_bits: m.
        bits: b, with the sign.
        clip: C, the bound of one coordinate.
        noise_headroom: Bits for noise added before masking; 0 without noise.
        generator: Number of the mask generator.
        weight_at: Place of the weight among the elements; `size` where it is withheld.
    """

    size: int
    modulus_bits: int
    bits: int
    clip: float
    noise_headroom: int
    generator: int
    weight_at: int

    @property
    def ring(self) -> Ring:
        """Where the sum lives."""
        return Ring(self.modulus_bits)

    def check(self, clients: int) -> None:
        """Refuse an encoding whose sum over so many clients could wrap around.

        Raises:
            Breach: It could, or a number is out of range.
        """
        try:
            FixedPoint(self.ring, self.bits, self.clip)
            Generator(self.generator)
            check_no_overflow(
                bits=self.bits,
                clients=clients,
                modulus_bits=self.modulus_bits,
                noise_headroom=self.noise_headroom,
            )
        except (ChoralError, ValueError) as error:
            raise Breach(Reason.OVERFLOW, str(error)) from None
        check(self.weight_at <= self.size, Reason.OTHER_ENCODING, "the weight's place is outside")


@dataclass(frozen=True)
class Context:
    """One attempt at one round.

    Attributes:
        version: Of the protocol.
        run_id: The run.
        round: Counted from 1.
        attempt: Counted from 1.
        models: SHA-256 of every base model, 32 bytes each; one but for buffered runs.
        plan: Digest of the plan, 32 bytes.
        encoding: How a vector is encoded.
        min_cohort: n_min: fewest clients in a sum.
        parameters: Suite, n, k, t, γ, δ, σ.
        authority: Digest of the enrolment authority's key, 32 bytes.
        deadline: Seconds since 1970 after which nobody answers; for people and leases.
    """

    version: int
    run_id: str
    round: int
    attempt: int
    models: tuple[bytes, ...]
    plan: bytes
    encoding: RingEncoding
    min_cohort: int
    parameters: Parameters
    authority: bytes
    deadline: int

    @cached_property
    def raw(self) -> bytes:
        """The one byte string of this context."""
        return CONTEXT.write(self)

    @cached_property
    def h0(self) -> bytes:
        """Hash that everything of this attempt is bound to."""
        return digest("choral secagg h0 v1", self.raw)

    @property
    def signed(self) -> bool:
        """Whether messages carry signatures and there is a consistency round."""
        return self.parameters.suite is not Suite.SEMI_HONEST

    @property
    def quorum(self) -> int:
        """Fewest clients at every step: max(t, n_min)."""
        return max(self.parameters.t, self.min_cohort)

    @property
    def serial(self) -> int:
        """Number that grows with round and attempt."""
        return (self.round << 32) + self.attempt

    def check(self) -> None:
        """Refuse a context that no honest server makes, whatever the site's policy.

        Raises:
            Breach: Version, parameters, cohort or encoding are impossible or too weak.
        """
        check(self.version == VERSION, Reason.VERSION, f"version {self.version}, this is {VERSION}")
        check(0 < self.round < 2**31 and 0 < self.attempt < 2**32, Reason.MALFORMED, "round number")
        try:
            verify(self.parameters)
        except ChoralError as error:
            raise Breach(Reason.WEAK_PARAMETERS, str(error)) from None
        check(bool(self.models), Reason.OTHER_MODEL, "no base model is named")
        n = self.parameters.clients
        check(
            2 <= self.min_cohort <= n, Reason.SMALL_COHORT, f"a floor of {self.min_cohort} of {n}"
        )
        self.encoding.check(n)


def h1(h0: bytes, *, count: int, root: bytes, beacon: bytes) -> bytes:
    """Return the hash of context and roster, the salt of every key.

    Args:
        h0: Hash of the context.
        count: |U1|.
        root: Merkle root of U1.
        beacon: Public value, or empty.
    """
    return digest("choral secagg h1 v1", h0, count.to_bytes(8, "little"), root, beacon)


_PARAMETERS: Final = Record(
    "parameters",
    Parameters,
    (Word(Suite), NATURAL, NATURAL, NATURAL, REAL, REAL, NATURAL, FLAG),
)
_ENCODING: Final = Record(
    "encoding", RingEncoding, (NATURAL, NATURAL, NATURAL, REAL, NATURAL, NATURAL, NATURAL)
)
CONTEXT: Final = Record(
    "choral secagg context v1",
    Context,
    (
        NATURAL,
        TEXT,
        NATURAL,
        NATURAL,
        Many(DIGEST),
        DIGEST,
        _ENCODING,
        NATURAL,
        _PARAMETERS,
        DIGEST,
        NATURAL,
    ),
)
"""How a context travels."""
