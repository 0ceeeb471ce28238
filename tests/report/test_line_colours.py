"""The colours of lines are told apart by every eye, on white and turned over on dark paper, and are the viewer's."""

from __future__ import annotations

import itertools
import re
from importlib import resources

import numpy as np
import pytest

from forkpoint.report.figures.drawing import LINES
from forkpoint.report.figures.dynamics_figure import _STYLES
from forkpoint.scores.dynamics import CLASSES

COLOURS = [color for color, _, _ in LINES]
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
EYES = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
HALF_TURN = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])  # CSS, hue-rotate(180deg)
DARK = np.array([0x16, 0x18, 0x1C]) / 255


def rgb(color: str) -> np.ndarray:
    """From 0 to 1."""
    return np.frombuffer(bytes.fromhex(color[1:]), np.uint8) / 255


def linear(value: np.ndarray) -> np.ndarray:
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab_of(value: np.ndarray, eye: str) -> np.ndarray:
    """[L, a, b] of CIELAB as this eye sees it."""
    seen = np.clip(np.asarray(EYES[eye]) @ linear(value), 0, 1)
    t = XYZ @ seen / XYZ.sum(1)
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(value: np.ndarray, paper: np.ndarray) -> float:
    """WCAG 2.2."""
    low, high = sorted(float(XYZ[1] @ linear(v)) for v in (value, paper))
    return (high + 0.05) / (low + 0.05)


def turned_over(color: str) -> np.ndarray:
    """As base.css shows it on dark paper: inverted, its hue kept, then screened."""
    return 1 - (1 - np.clip(HALF_TURN @ (1 - rgb(color)), 0, 1)) * (1 - DARK)


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("shown", [rgb, turned_over])
def test_any_two_are_far_apart(eye, shown):
    seen = [lab_of(shown(color), eye) for color in COLOURS]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 20


def test_each_stands_out_from_its_paper_and_has_a_grey_of_its_own():
    for color in COLOURS:
        assert contrast(rgb(color), np.ones(3)) >= 3
        assert contrast(turned_over(color), DARK) >= 3
    greys = sorted(lab_of(rgb(color), "all cones")[0] for color in COLOURS)
    assert min(np.diff(greys)) >= 5


def test_classes_of_token_dynamics_have_the_colours_of_their_lines():
    css = (resources.files("forkpoint.report") / "templates" / "viewer.css").read_text()
    light, dark, printed = ([
        tuple(map(int, hue)) for hue in re.findall(r"--c[0-3]: (\d+), (\d+), (\d+);", line)
    ] for line in css.splitlines() if "--c0:" in line)  # fmt: skip
    lines = [_STYLES[name][0] for name in CLASSES]
    assert light == printed == [tuple(bytes.fromhex(color[1:])) for color in lines]
    assert np.abs(np.array(dark) - [255 * turned_over(color) for color in lines]).max() <= 1
