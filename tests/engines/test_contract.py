"""The contract of engines, for the transformers engine: with shared trunks, and in plain batches."""

from __future__ import annotations

import copy

import pytest
from engine_contract import EngineContract

from forkpoint.engines import Engine


class TestTrunks(EngineContract):
    EXACT = True

    @pytest.fixture
    def engine(self, lab: Engine) -> Engine:
        return lab


class TestPlainBatches(EngineContract):
    EXACT = True

    @pytest.fixture
    def engine(self, lab: Engine) -> Engine:
        plain = copy.copy(lab)
        plain.trunk_refusal = "this test wants plain batches"  # type: ignore[attr-defined]
        return plain
