"""The replacement chart: complete, the same each time, and drawn from the numbers."""

from __future__ import annotations

from xml.etree import ElementTree

from forkpoint.report.figures.replacement_figure import replacement_svg


def table(n: int, top: float = 0.9) -> list[dict]:
    return [
        {"k": k, "without": 0.01, "without_ci95": [0.0, 0.05], "with": k / 64, "with_ci95": [0.0, top]}
        for k in range(1, n + 1)
    ]


def test_the_svg_is_one_element_and_repeatable():
    text = replacement_svg(table(64))
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert text == replacement_svg(table(64))
    groups = {e.get("id", "") for e in root.iter()}
    assert {"FillBetweenPolyCollection_1", "FillBetweenPolyCollection_2"} <= groups  # a band a line
    assert text != replacement_svg(table(64, top=0.8))


def test_any_number_of_rollouts_can_be_drawn():
    for n in (1, 2, 7, 64):
        points = ElementTree.fromstring(replacement_svg(table(n))).iter("{http://www.w3.org/2000/svg}use")
        assert sum(1 for _ in points) >= 2 * n.bit_length()
