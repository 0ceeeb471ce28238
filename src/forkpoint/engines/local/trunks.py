"""Which requests share a trunk: plain grouping of token sequences, no tensors.

A trunk is a token sequence whose keys and values are computed once. A request becomes a branch of it: it sees the
trunk's first `depth` tokens and is fed its few `own` tokens one a step (always at least one, whose logits give the
first generated token).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from forkpoint.types import Request, TokenIds

MAX_OWN = 8
_MODULUS = (1 << 61) - 1
_BASE = 1_000_003


@dataclass(frozen=True, slots=True)
class Branch:
    """A request as it hangs on its trunk: `trunk[:depth] + own` is its prefix."""

    request: Request
    depth: int
    own: TokenIds


@dataclass(frozen=True, slots=True)
class Group:
    """A trunk and the branches that leave it."""

    trunk: TokenIds
    branches: tuple[Branch, ...]


def _prefix_hashes(tokens: TokenIds) -> Iterator[int]:
    """A rolling hash of every prefix, the empty one first."""
    value = 0
    yield value
    for token in tokens:
        value = (value * _BASE + token + 1) % _MODULUS
        yield value


def group_requests(requests: Sequence[Request]) -> list[Group]:
    """Requests gathered on as few trunks as MAX_OWN allows, large groups and long trunks first.

    The longest prefixes become trunks; every other request joins the deepest trunk that holds all but at most
    MAX_OWN tokens of its prefix. The result depends only on the requests and their order.
    """
    trunks: list[TokenIds] = []
    members: list[list[Branch]] = []
    home: dict[tuple[int, int], int] = {}  # (length, hash) of a trunk's prefix -> the trunk
    hashes_of: dict[TokenIds, list[int]] = {}
    for request in sorted(requests, key=lambda r: -len(r.prefix)):
        prefix = request.prefix
        hashes = hashes_of.get(prefix) or hashes_of.setdefault(prefix, list(_prefix_hashes(prefix)))
        for depth in range(len(prefix) - 1, max(-1, len(prefix) - 1 - MAX_OWN), -1):
            index = home.get((depth, hashes[depth]))
            if index is not None and trunks[index][:depth] == prefix[:depth]:
                break
        else:
            index, depth = len(trunks), len(prefix) - 1
            trunks.append(prefix[:depth])
            members.append([])
            for length in range(depth + 1):
                home.setdefault((length, hashes[length]), index)
        members[index].append(Branch(request, depth, prefix[depth:]))
    groups = [Group(trunk, tuple(branches)) for trunk, branches in zip(trunks, members, strict=True)]
    return sorted(groups, key=lambda g: (-len(g.branches).bit_length(), -len(g.trunk)))


def by_size(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups apart by the power of two that their number of branches lies under, in the order given.

    Branches meet their trunks in a grid of [trunks, most branches of one]: with sizes alike, half of it is in use.
    """
    alike: dict[int, list[Group]] = {}
    for group in groups:
        alike.setdefault(len(group.branches).bit_length(), []).append(group)
    return list(alike.values())


def response_of(request: Request, generated: Sequence[int]) -> list[int]:
    """The tokens of a request's whole response: those already written, then the generated ones."""
    return [*request.prefix[len(request.prefix) - request.written :], *generated]
