"""Trees against published roots and a recursive reference; proofs that hold and that do not."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.errors import ConfigError, Refused
from choral.crypto.merkle import Tree, verify_inclusion


def sha(data):
    return hashlib.sha256(data).digest()


def root_of(leaves):
    """RFC 6962 as it is written: split at the largest power of two below the count."""
    if not leaves:
        return sha(b"")
    if len(leaves) == 1:
        return sha(b"\x00" + leaves[0])
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha(b"\x01" + root_of(leaves[:split]) + root_of(leaves[split:]))


def leaves_of(count):
    return [bytes([i % 256]) * (i % 5) + i.to_bytes(2, "big") for i in range(count)]


def test_published_roots(vectors):
    data = vectors("merkle")
    leaves = [bytes.fromhex(text) for text in data["leaves"]]
    for v in data["vectors"]:
        assert Tree(leaves[: v["size"]]).root.hex() == v["root"]
    assert Tree([]).root == sha(b"")


@pytest.mark.parametrize("count", [*range(20), 31, 32, 33, 100])
def test_roots_and_proofs_of_every_leaf(count):
    leaves = leaves_of(count)
    tree = Tree(leaves)
    assert tree.size == count
    assert tree.root == root_of(leaves)
    for index, leaf in enumerate(leaves):
        proof = tree.proof(index)
        assert len(proof) <= (count - 1).bit_length()
        verify_inclusion(leaf, index=index, size=count, proof=proof, root=tree.root)


@given(st.integers(2, 40), st.data())
def test_what_is_not_there_is_refused(count, data):
    index = data.draw(st.integers(0, count - 1))
    leaves = leaves_of(count)
    tree = Tree(leaves)
    proof = tree.proof(index)
    other = data.draw(st.integers(0, count - 1).filter(lambda i: i != index))
    place = data.draw(st.integers(0, len(proof) - 1))
    changed = [*proof[:place], sha(proof[place]), *proof[place + 1 :]]
    for leaf, where, path, root in (
        (leaves[other], index, proof, tree.root),
        (leaves[index], other, proof, tree.root),
        (leaves[index], index, changed, tree.root),
        (leaves[index], index, proof[:-1], tree.root),
        (leaves[index], index, (*proof, bytes(32)), tree.root),
        (leaves[index], index, proof, bytes(32)),
    ):
        with pytest.raises(Refused):
            verify_inclusion(leaf, index=where, size=count, proof=path, root=root)


def test_a_node_does_not_pass_for_a_leaf():
    """Without prefixes, the two hashes of a node would be a leaf one level up."""
    leaves = leaves_of(4)
    tree = Tree(leaves)
    left = sha(b"\x00" + leaves[0]) + sha(b"\x00" + leaves[1])
    right = tree.proof(0)[1]
    assert sha(b"\x01" + sha(b"\x01" + left) + right) == tree.root
    with pytest.raises(Refused):
        verify_inclusion(left, index=0, size=2, proof=[right], root=tree.root)


def test_a_proof_too_short_for_the_count_is_refused():
    """The root of one leaf is that leaf's hash; it proves nothing about two leaves."""
    with pytest.raises(Refused, match="does not lead"):
        verify_inclusion(b"a", index=0, size=2, proof=(), root=Tree([b"a"]).root)


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_such_leaf(index):
    tree = Tree(leaves_of(3))
    with pytest.raises(ConfigError, match="leaf"):
        tree.proof(index)
    with pytest.raises(Refused, match="no such leaf"):
        verify_inclusion(b"", index=index, size=3, proof=(), root=tree.root)


def test_order_counts():
    assert Tree([b"a", b"b"]).root != Tree([b"b", b"a"]).root
    assert Tree([b"a", b"b", b"b"]).root != Tree([b"a", b"b"]).root


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 8, 13, 64, 100])
def test_all_proofs_at_once_are_those_of_each(size):
    tree = Tree([bytes([i]) for i in range(size)])
    assert tree.proofs() == [tree.proof(i) for i in range(size)]
