"""Numbers are read exactly, whatever their size."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.tasks.numerals import canonical_number, number_key, parse_number

SHORT_FORMS = {
    "42": "42", "42.": "42", "1,000": "1000", "1,000.50": "1000.5", "1{,}000": "1000", r"10,\!080": "10080",
    "$18.00": "18", r"\$18.90": "18.9", "-$5": "-5", "−5": "-5", "007": "7", "-0.0": "0", ".5": "0.5", "2/4": "1/2",
    "-3/4": "-3/4", r"\frac{3}{4}": "3/4", "2 1/2": "5/2", "25%": "25", "1e6": "1000000", "1.5e-3": "3/2000",
    "½": "1/2", "2½": "5/2", r"2\frac{1}{2}": "5/2", r"\frac12": "1/2", "70 000": "70000", "70'000": "70000",
    "1,00,000": "100000", "1.234.567": "1234567", r"1.5 \times 10^6": "1500000", "6.02×10²³": "602" + "0" * 21,
    "10^{-3}": "1/1000", "2^{10}": "1024", "2 million": "2000000", "- 5": "-5", "negative 5": "-5", "٧٢": "72",
    "７２": "72", "0^{-1}": "0^{-1}", "10^{999}": "10^{999}", r"3\cdot10^{999}": r"3\cdot10^{999}",
}  # fmt: skip
NOT_ONE_NUMBER = ["", "abc", "1,2,3,", "3 apples", "12/0", "1 2", "x2", "1,00", "--5", "1/0,5"]


@pytest.mark.parametrize(("text", "short"), SHORT_FORMS.items())
def test_short_form(text: str, short: str) -> None:
    assert canonical_number(text) == short


@pytest.mark.parametrize("text", NOT_ONE_NUMBER)
def test_not_one_number(text: str) -> None:
    assert canonical_number(text) is None
    assert parse_number(text) is None


@given(st.fractions())
def test_every_fraction_is_read_back(value: Fraction) -> None:
    assert parse_number(str(value)) == value


@given(st.integers(), st.sampled_from(["{:,}", "{}", "{}.0", "${:,}.00", "{}%"]))
def test_every_spelling_of_an_integer_has_one_key(value: int, spelling: str) -> None:
    assert number_key(spelling.format(value).replace("$-", "-$")) == str(value)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_decimals_are_exact(value: object) -> None:
    assert parse_number(f"{value:f}") == Fraction(str(value))


def test_a_million_digits_do_not_stall() -> None:
    started = time.process_time()
    huge = "9" * 1_000_000
    assert number_key(huge) == number_key("0" + huge + ".0")
    assert number_key(huge) != number_key(huge[:-1] + "8")
    assert number_key(f"1/{huge}") != number_key(f"2/{huge}")
    assert parse_number(huge) is None
    assert time.process_time() - started < 2
