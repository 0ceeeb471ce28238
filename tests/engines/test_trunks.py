"""Grouping of requests on trunks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forkpoint.engines.local.trunks import MAX_OWN, group_requests
from forkpoint.types import Request

prefixes = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=20).map(tuple), min_size=1, max_size=30)


@given(prefixes)
def test_every_request_is_a_branch_of_exactly_one_trunk(them):
    requests = [Request(str(i), prefix) for i, prefix in enumerate(them)]
    groups = group_requests(requests)
    branches = [(group, branch) for group in groups for branch in group.branches]
    assert sorted(b.request.key for _, b in branches) == sorted(r.key for r in requests)
    for group, branch in branches:
        assert group.trunk[: branch.depth] + branch.own == branch.request.prefix
        assert branch.depth <= len(group.trunk)
        assert 1 <= len(branch.own) <= MAX_OWN


def test_rollouts_from_many_depths_share_one_trunk():
    trajectory = tuple(range(100, 160))
    requests = [Request(f"{d}/{i}", (*trajectory[:d], 7)) for d in range(60) for i in range(5)]
    assert len(group_requests(requests)) == 1


def test_first_tokens_of_a_prompt_share_it():
    prompts = [tuple(range(i, i + 30)) for i in (0, 1000, 2000)]
    groups = group_requests([Request(f"{p[0]}/{v}", (*p, v)) for p in prompts for v in range(10)])
    assert sorted(g.trunk for g in groups) == sorted(prompts)
    assert all(len(g.branches) == 10 for g in groups)
