r"""One spelling for the many ways to write the same mathematical answer, without computer algebra.

`clean` goes through tables: characters, commands, rules, words; last it puts every argument in braces. What carries
no meaning in an answer goes (spacing, \left and \right, colour, thousands separators, currency, degree signs, units:
"5 cm", "5" and "5 m" are one answer); what does stays (percent as a factor of 1/100, the kind of brackets, number
bases). Nothing is glued: words stay where a quantity follows ("5 out of 36", "3 hours 20 minutes"), and so does every
unit where an answer has several ("5 feet, 3 inches").
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from forkpoint.tasks.brackets import braced, in_braces
from forkpoint.tasks.numerals import MAX_DIGITS, SCALES, vulgar

CHARACTERS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∙": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ",
    "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ",
    "∖": r"\setminus ", "∈": r"\in ", "∨": r"\lor ", "∧": r"\land ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "√": r"\sqrt ", "∛": r"\sqrt[3]",
    "∠": r"\angle ", "△": r"\triangle ", "⟨": "(", "⟩": ")", "°": r"^\circ ", "º": r"^\circ ", "′": "'", "’": "'",
    "€": "", "£": "", "₹": "", "¥": "", "（": "(", "）": ")", "，": ",", "；": ";", "⁄": "/", "∕": "/",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "θ": r"\theta ", "λ": r"\lambda ",
    "μ": r"\mu ", "ρ": r"\rho ", "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ", "Δ": r"\Delta ",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\x00": "",
}  # fmt: skip
_TRANSLATION = str.maketrans(CHARACTERS)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

COMMANDS = {
    # decoration
    **dict.fromkeys(("left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "middle"), ""),
    **dict.fromkeys(("displaystyle", "textstyle", "limits", "rm", "bf", "it", "boxed", "fbox", "mathbf", "bm"), ""),
    **dict.fromkeys(("boldsymbol", "underline", "ensuremath", "mathit", "mathsf", "mathstrut", "hfill"), ""),
    **dict.fromkeys(("quad", "qquad", "thinspace", "enspace", "newline"), " "),
    # text
    **dict.fromkeys(("textbf", "textit", "textrm", "texttt", "textsf", "textnormal", "mbox", "hbox"), r"\text"),
    **dict.fromkeys(("mathrm", "mathtt", "operatorname"), r"\text"),
    # one name a symbol
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac"),
    **dict.fromkeys(("dbinom", "tbinom"), r"\binom"),
    **dict.fromkeys(("leq", "leqslant", "leqq"), r"\le "),
    **dict.fromkeys(("geq", "geqslant", "geqq"), r"\ge "),
    **dict.fromkeys(("varnothing", "O"), r"\emptyset "),
    **dict.fromkeys(("backslash", "smallsetminus"), r"\setminus "),
    **dict.fromkeys(("lvert", "rvert", "vert", "mid"), "|"),
    "lt": "<", "gt": ">", "neq": r"\ne ", "lbrace": r"\{", "rbrace": r"\}", "langle": "(", "rangle": ")",
    "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "cdotp": r"\cdot ", "ast": "*", "colon": ":",
    "bmod": r"\mod ", "vee": r"\lor ", "wedge": r"\land ", "degree": r"^\circ ", "degrees": r"^\circ ",
    "prime": "'", "infinity": r"\infty ", "R": r"\mathbb{R}", "Reals": r"\mathbb{R}", "imath": "i", "lg": r"\log_{10}",
    "thickapprox": r"\approx ", "approxeq": r"\approx ", "simeq": r"\approx ", "doteq": "=", "coloneqq": "=",
    "dollar": "", "pounds": "", "euro": "",
}  # fmt: skip

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_FUNCTION = r"arcsin|arccos|arctan|sin|cos|tan|cot|csc|sec|log|ln|exp|sqrt"
_ARRAY = r"\\begin\{(?:array|smallmatrix|matrix)\}(?:\s*\{[^{}]*\})?"
_END_ARRAY = r"\\end\{(?:array|smallmatrix|matrix)\}"
_CIRC = r"\s*\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})"


def _text_of_math(match: re.Match[str]) -> str:
    """\\textbf{15x - 80} and \\text{5 cm} are mathematics; other words, and units behind a number, stay text."""
    math = re.search(r"[0-9+=]| - ", match[1]) and not re.search("[A-Za-z]{2}", match[1])
    behind = re.search(r"[0-9}]\s*$", match.string[: match.start()])
    return f" {match[1]} " if (math or re.match(r"\s*[-+]?[0-9]", match[1])) and not behind else match[0]


def _repeating(match: re.Match[str]) -> str:
    """0.1\\overline{6} as \\frac{15}{90}."""
    whole, fixed, period = match[1], match[2], match[3]
    value = int(f"0{whole}{fixed}{period}") - int(f"0{whole}{fixed}")
    return rf"\frac{{{value}}}{{{'9' * len(period)}{'0' * len(fixed)}}}"


RULES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [  # (pattern, replacement), in this order
    (r"\\\\\[-?[0-9.]+ ?[a-z]+\]", r"\\\\"),  # \\[4pt] in a matrix
    (r"(?<!\\)\\\\(?=(?:[dt]?frac|sqrt|pi|text|left|infty)(?![a-z]))", r"\\"),  # \\frac in JSON
    (r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}"),
    (r"(?<=[0-9A-Za-z)}])\*\*(?=[-0-9A-Za-z({])", "^"),  # 2**3: Python's power
    (r"\*\*|`|\\[()]|(?<!\\)\\\[|(?<!\\)\\\](?!\s*\\)", ""),  # **5**, \(5\), \[5\]
    (r"(?<=[0-9])(?:,\s?\\!\s?|\{,\}|\\,|\\ |~)(?=[0-9]{3}(?![0-9]))", ""),  # 10,\!080
    (r"(?<![0-9.,^_/])[1-9][0-9]{0,2}(?: [0-9]{3})+(?![0-9]|\s?[/.,])", lambda m: m[0].replace(" ", "")),  # 70 000
    (r"(?<=[0-9])\{,\}(?=[0-9])", "."),  # 3{,}14
    (r"\\?\$|\\!", ""),  # $5$, \$5
    (r"\\[,;:>]|(?<!\\)\\(?=\s|$)|~|(?<![\\0-9])&(?==)", " "),
    (r"\\(?:textcolor|color)\s*\{[^{}]*\}|\\[hv]space\*?\{[^{}]*\}", ""),  # \color{red}{5}
    (r"\\text\s*\{([^{}]*)\}", _text_of_math),
    (r"\\text\s*\{\s*([-+ei]?)\s*\}", r" \1 "),  # \mathrm{i}
    (r"\s*\\text\s*\{\s*\(?(?:in )?base[- ]?([0-9]+)\)?\s*\}", r"_{\1}"),  # 52\text{ (base 8)}
    (r"\s*\(?(?:\\text\s*\{\s*)?(?:in )?base[-\s]*\}?\s*([0-9]+)\)?|_\s*\{?\(([0-9]+)\)\}?", r"_{\1\2}"),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"!=|\\not\s*=", r"\\ne "),
    (r"\\\{\s*\\\}", r"\\emptyset "),
    (rf"[(\[]?\s*{_ARRAY}|\\begin\{{bmatrix\}}", r"\\begin{pmatrix}"),
    (rf"{_END_ARRAY}\s*[)\]]?|\\end\{{bmatrix\}}", r"\\end{pmatrix}"),
    (rf"(?<![\\A-Za-z])(?<!text\{{)({_FUNCTION})(?=\s*[({{0-9\\^_]|\s[A-Za-z](?![A-Za-z]))", r"\\\1 "),  # sqrt(2)
    (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    (r"(?<![\\A-Za-z])(?:infinity|infty|oo)(?![A-Za-z])", r"\\infty "),
    # \tan 60^\circ: an angle of a function is in radians; elsewhere it is its number
    (
        rf"(\\(?:sin|cos|tan|cot|sec|csc)(?:\s*\^\{{?-?[0-9]\}}?)?\s*[({{]?\s*)(-?{_NUMBER}){_CIRC}",
        r"\1(\\frac{\2\\pi}{180})",
    ),
    (rf"{_CIRC}\s*(?:\\text\{{\s*[CF]\s*\}}|[CF](?![A-Za-z]))?", " "),
    (rf"({_NUMBER})[eE]([+-]?[0-9]+)(?![0-9A-Za-z.])", r"\1\\cdot 10^{\2}"),  # 1.5e-6
    (r"(?<![0-9.)}^_])([0-9]+) +([0-9]+)/([0-9]+)(?![0-9.])", r"\1\\frac{\2}{\3}"),  # 1 4/5
    (r"(?<![0-9.])([0-9]*)\.([0-9]*)\s*\\(?:overline|bar|dot)\s*\{?([0-9]+)\}?", _repeating),  # 0.\overline{3}
    (r"(?<![0-9.])([0-9]*)\.([0-9]{0,6}?)([0-9]{1,6}?)\3{2,}(?:\.\.\.|\\[lc]?dots|…)", _repeating),  # 0.1666...
    (r"(?<![^-])([0-9]*)\.([0-9]*)\(([0-9]+)\)$", _repeating),  # 0.(3)
    (r"(^|\\cup|\\in)\s*\](?=[^\[\]]*[,;])", r"\1("),  # ]2,3] is (2,3]
    (r"([,;][^\[\]]*)\[\s*(?=$|\\cup)", r"\1)"),  # [2,3[ is [2,3)
    (r"(\\mathbb\{R\}\s*)-\s*(?=\\\{)", r"\1\\setminus "),
    (r"\(([0-9]+)\)(?=_)", r"\1"),  # (1011)_2
    (r"^(\s*(?:\(|\[|\\\{)[^;()]*(?:;[^;()]*)+)(?=[)\]}])", lambda m: m[0].replace(";", ",")),  # (2;3) is (2,3)
]

_SHORT_WORDS = "out of one two six ten odd yes no not none all any the per lbs hrs USD"
_SHORT_UNITS = "cm|mm|km|kg|mg|ml|mL|ft|in|yd|lbs?|oz|hrs?|min|sec|mph|pts"
_PLAIN = re.compile(  # after what is no plain text: a word of the list, or four letters that are no product "abcd"
    rf"""
    \\text\{{[^{{}}]*\}} | \\(?:begin|end|mathbb|mathcal)\s*\{{\w+\}} | \\[A-Za-z]+
    | (?<![A-Za-z])(?P<word>(?:and|or|{_SHORT_WORDS.replace(" ", "|")})(?![A-Za-z])
      | (?:(?<=[0-9}}]\s)|(?<=\\pi\s)|(?<=\\pi\s\s))(?:{_SHORT_UNITS})(?![A-Za-z])
      | (?<=[0-9])(?:cm|mm|km|kg|mph)(?![A-Za-z])
      | (?=[A-Za-z]*[aeiouyAEIOUY])[A-Za-z]{{4,}})
    """,
    re.VERBOSE,
)
_ADJACENT = re.compile(r"\\text\{([^{}]*)\}\s*\\text\{([^{}]*)\}")
_SIGNS = [  # (text, sign)
    (r"percent(?:age)?|per cent|pct", r"\\%"),
    (r",?\s*or(?: else)?", r"\\lor "),
    (r",?\s*and", r"\\land "),
    (r"degrees?(?: (?:celsius|fahrenheit))?", " "),
    (r"approximately|about|approx\.?", r"\\approx "),
    (r"out of", "/"),
    (r"dozen", r"\\cdot 12"),
    *((word, rf"\\cdot 10^{{{power}}}") for word, power in SCALES.items()),
    (r"all (?:real numbers|reals)|(?:the )?(?:set of )?(?:all )?real numbers", r"\\mathbb{R}"),
    (r"(?:no (?:real )?solutions?|(?:the )?empty set)", r"\\emptyset "),
]
_SIGN_PATTERNS = [(re.compile(rf"\\text\{{\s*(?i:{words})[\s,]*\}}"), sign) for words, sign in _SIGNS]
_UNIT = r"\\text\{[^{}0-9()]*(?:\^[0-9][^{}0-9()]*)?\}\s*(?:\^\s*(?:\{\s*-?[0-9]\s*\}|-?[0-9]))?"
_UNITS = re.compile(
    rf"(?:(?<=[0-9)}}!.])|(?<=[0-9][A-Za-z])|(?<=\\pi))\s*(?P<unit>{_UNIT}(?:\s*(?:/|\\cdot)?\s*{_UNIT})*)"
    r"\s*(?=$|[.,+\-=<>)\]&;]|\\(?:le|ge|ne|in|cup|cap|land|lor|approx|pm|mp|cdot|times)(?![A-Za-z])|\\\\|\\\})"
)
_NO_UNIT = re.compile(r"\b(?:to|than|least|most|not|if|mod|out|or|and|a\.?m|p\.?m)\b|^\\text\{\s*\}$", re.IGNORECASE)
_BETWEEN = re.compile(r"[0-9)}]\s*\\text\{")
_TEXT = re.compile(r"\\text\{\s*([^{}]*?)[\s.]*\}")

_COMMAND = re.compile(r"\\([A-Za-z]+)")
_LEADING = re.compile(r"^\s*(?:=|\\approx(?![A-Za-z])|:)\s*")
_GROUPED = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")


@lru_cache(maxsize=4096)
def clean(answer: str, *, percent: str = "/100") -> str:
    """The answer in its one spelling, a percent sign as `percent`; callers bound its length."""
    text = re.sub(r"\\(?:left|right)\s*\.", "", _characters(answer)).strip()
    text = _COMMAND.sub(lambda m: COMMANDS.get(m[1], m[0]), text)
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    text = _LEADING.sub("", text)
    while in_braces(text.strip()):
        text = text.strip()[1:-1]
    text = _without_units(text, percent).strip().rstrip(".,;: \n")
    text = braced(_LEADING.sub("", text))
    in_brackets = re.search(r"[(\[]|\\\{", text)  # there a comma may also separate
    return text if in_brackets else _GROUPED.sub(lambda m: m[0].replace(",", ""), text)


def _characters(text: str) -> str:
    """ASCII: x⁴ is x^{4}, ½ is \\frac{1}{2}."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: f"^{{{m[0].translate(_RAISED)}}}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: f"_{{{m[0].translate(_LOWERED)}}}", text)
    text = re.sub("[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]", lambda m: r"\frac{{{}}}{{{}}}".format(*vulgar(m[0]).as_integer_ratio()), text)
    return text.translate(_TRANSLATION)


def _without_units(text: str, percent: str) -> str:
    """The text with every word as \\text{...}, in lower case, and without its units."""
    text = _PLAIN.sub(lambda m: rf"\text{{{m['word']}}}" if m["word"] else m[0], text)
    text = re.sub(r"\\text\s*\{", r"\\text{", text)
    text = re.sub(r"^\s*\\text\{[^{}]*\b(?i:is|are|equals?|answer):?\s*\}", "", text)  # \text{The answer is } 7
    if re.fullmatch(r"\\text\{[^{}]*\}", text.strip()):
        text = re.sub(r",?\s*\b(?:and|or)\b|,", r"}\\land \\text{", text)  # \text{A, B and C} are three
    for pattern, sign in _SIGN_PATTERNS:
        text = pattern.sub(sign, text)
    while _ADJACENT.search(text):
        text = _ADJACENT.sub(r"\\text{\1 \2}", text)
    for pattern, sign in _SIGN_PATTERNS:
        text = pattern.sub(sign, text)
    text = re.sub(r",\s*(?=\\l(?:or|and)(?![A-Za-z]))", "", text)
    text = re.sub(r"\\text\{\s*%\s*\}|\\?%", lambda _: percent, text)
    units = {re.sub(r"s?\s*\}", "}", " ".join(m["unit"].split())).lower() for m in _UNITS.finditer(text)}
    if len(units) == 1 and not _NO_UNIT.search(units.pop()):
        bare = _UNITS.sub("", text)
        text = text if _BETWEEN.search(bare) else bare
    return _TEXT.sub(_one_spelling, text)


def spoken(text: str) -> str:
    """A cleaned answer as words: "\\text{east}" and "east" are one, "3\\text{ }20" and "320" are not."""
    return " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).split())


def _one_spelling(match: re.Match[str]) -> str:
    """\\text{East.} as \\text{east}; one letter as the letter, \\text{(c)} as \\text{(C)}."""
    words = " ".join(match[1].split())
    if re.fullmatch(r"[A-Za-z]", words):
        return words
    option = re.match(r"\(\s*([A-Za-z])\s*\)(.*)", words)
    return rf"\text{{({option[1].upper()}){option[2].casefold()}}}" if option else rf"\text{{{words.casefold()}}}"


_VALUE = re.compile(
    rf"""
    (?P<sign>[+-]*) (?:
      (?P<whole>[0-9]*) \\frac\{{(?P<top>-?{_NUMBER})\}}\{{(?P<bottom>-?{_NUMBER})\}}
    | (?P<number>{_NUMBER}) (?:/(?P<divisor>{_NUMBER}))? (?:(?:\\times|\\cdot|\*)10\^\{{(?P<power>-?[0-9]{{1,3}})\}})?
    ) (?P<percent>/100)?""",
    re.VERBOSE,
)


def rational(text: str) -> Fraction | None:
    r"""The exact value of a cleaned answer that is one number: 3, -1/2, 1\frac{4}{5}, 6.02\cdot10^{23}; else None."""
    match = _VALUE.fullmatch(text)
    if not match or len(text) > MAX_DIGITS:
        return None
    top, bottom = match["top"] or match["number"], match["bottom"] or match["divisor"] or "1"
    denominator = Fraction(bottom.rstrip("."))
    power = int(match["power"] or 0)
    if not denominator or abs(power) > MAX_DIGITS:
        return None
    value = Fraction(top.rstrip(".")) / denominator * Fraction(10) ** power
    if match["whole"]:
        if not 0 < value < 1:  # 2\frac{3}{2} is a product
            return None
        value += int(match["whole"])
    value /= 100 if match["percent"] else 1
    return -value if match["sign"].count("-") % 2 else value
