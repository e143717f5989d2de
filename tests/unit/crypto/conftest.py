"""Published and frozen vectors, scripted randomness, and a slow reference to compare with."""

import hashlib
import json
from pathlib import Path

import pytest

P = 2**31 - 1


@pytest.fixture(scope="session")
def vectors():
    """Return a function of a file's name that gives its contents."""

    def load(name):
        path = Path(__file__).parent / "vectors" / f"{name}.json"
        return json.loads(path.read_text())

    return load


class Stream:
    """A Rand whose bytes are one long stream from a name."""

    def __init__(self, name):
        self._name = name.encode()
        self._used = 0

    def token(self, size):
        end = self._used + size
        # A prefix of a longer SHAKE output is the shorter output.
        out = hashlib.shake_256(self._name).digest(end)[self._used :]
        self._used = end
        return out


class Script:
    """A Rand that gives exactly these tokens, in order."""

    def __init__(self, *tokens):
        self.tokens = list(tokens)

    def token(self, size):
        return self.tokens.pop(0)


@pytest.fixture(scope="session")
def stream():
    return Stream


@pytest.fixture(scope="session")
def script():
    return Script


class SlowShamir:
    """Shamir with Python integers over any prime, as the text of the specification reads."""

    @staticmethod
    def limbs(secret):
        number = int.from_bytes(secret, "little")
        return [(number >> (30 * i)) % 2**30 for i in range(9)]

    @staticmethod
    def secret(limbs):
        number = sum(limb << (30 * i) for i, limb in enumerate(limbs))
        return number.to_bytes(32, "little")

    @staticmethod
    def evaluate(coefficients, x, p=P):
        return sum(c * x**j for j, c in enumerate(coefficients)) % p

    @staticmethod
    def at_zero(points, p=P):
        total = 0
        for x, value in points:
            top = bottom = 1
            for y, _ in points:
                if y != x:
                    top, bottom = top * y % p, bottom * (y - x) % p
            total += value * top * pow(bottom, -1, p)
        return total % p

    @staticmethod
    def coefficients(points, p=P):
        """Return the polynomial through these points, lowest coefficient first."""
        result = [0] * len(points)
        for x, value in points:
            basis, bottom = [1], 1
            for y, _ in points:
                if y != x:
                    raised, lowered = [0, *basis], [-y * c for c in basis] + [0]
                    basis = [(a + b) % p for a, b in zip(raised, lowered, strict=True)]
                    bottom = bottom * (x - y) % p
            scale = value * pow(bottom, -1, p)
            result = [(r + scale * b) % p for r, b in zip(result, basis, strict=True)]
        return result


@pytest.fixture(scope="session")
def slow():
    return SlowShamir
