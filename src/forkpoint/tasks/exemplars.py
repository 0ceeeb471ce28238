"""The worked exemplars of few-shot prompts, written for this project: eight word problems, four of each other
kind.

Each is a problem and its solution, which ends in "The answer is ...". A test checks every "a + b = c" in them
and that our own extraction reads each one's answer.
"""

from __future__ import annotations

from forkpoint.types import AnswerKind, Problem

Exemplar = tuple[Problem, str]


def _number(question: str, solution: str, answer: str) -> Exemplar:
    return Problem("exemplar", question, answer, "number"), f"{solution} The answer is {answer}."


def _math(question: str, solution: str, answer: str) -> Exemplar:
    return Problem("exemplar", question, answer, "math"), f"{solution} The answer is $\\boxed{{{answer}}}$."


def _option(question: str, options: tuple[str, ...], solution: str, answer: str) -> Exemplar:
    return Problem("exemplar", question, answer, "option", options), f"{solution} The answer is ({answer})."


def _yesno(question: str, solution: str, answer: str) -> Exemplar:
    return Problem("exemplar", question, answer, "yesno"), f"{solution} The answer is {answer}."


_NUMBER = (
    _number(
        "A bakery fills 6 trays with 14 rolls each. By noon 53 rolls are sold. How many rolls are left?",
        "The bakery made 6 * 14 = 84 rolls. After the sales, 84 - 53 = 31 rolls are left.",
        "31",
    ),
    _number(
        "Noor reads 18 pages on Monday and twice as many on Tuesday. Her book has 120 pages. How many pages"
        " does she still have to read?",
        "On Tuesday she reads 2 * 18 = 36 pages. Together that is 18 + 36 = 54 pages. She still has 120 -"
        " 54 = 66 pages to read.",
        "66",
    ),
    _number(
        "A ticket for the ferry costs $7 for an adult and $3 for a child. What do 4 adults and 9 children"
        " pay together?",
        "The adults pay 4 * 7 = 28 dollars. The children pay 9 * 3 = 27 dollars. Together they pay 28 + 27"
        " = 55 dollars.",
        "55",
    ),
    _number(
        "Three friends share the cost of a boat for 5 hours. The boat costs $24 an hour. How much does each"
        " friend pay?",
        "The boat costs 5 * 24 = 120 dollars. Each of the 3 friends pays 120 / 3 = 40 dollars.",
        "40",
    ),
    _number(
        "A tank holds 250 liters and is full. It loses 8 liters a day for 12 days, then 30 liters are"
        " added. How many liters are in it now?",
        "In 12 days it loses 8 * 12 = 96 liters. That leaves 250 - 96 = 154 liters. With the added water it"
        " holds 154 + 30 = 184 liters.",
        "184",
    ),
    _number(
        "Ivan has 45 stamps. Lea has 17 fewer than Ivan, and Pia has as many as the two of them together."
        " How many stamps does Pia have?",
        "Lea has 45 - 17 = 28 stamps. Pia has 45 + 28 = 73 stamps.",
        "73",
    ),
    _number(
        "A coat costs $90. In a sale its price drops by 20%. Marta pays with a $100 bill. How many dollars"
        " does she get back?",
        "The price drops by 90 * 20 / 100 = 18 dollars. The coat now costs 90 - 18 = 72 dollars. She gets"
        " back 100 - 72 = 28 dollars.",
        "28",
    ),
    _number(
        "A machine folds 35 boxes in 7 minutes. At this rate, how many boxes does it fold in an hour?",
        "It folds 35 / 7 = 5 boxes a minute. In the 60 minutes of an hour it folds 5 * 60 = 300 boxes.",
        "300",
    ),
)

_MATH = (
    _math(
        "What is the sum of the solutions of $x^2 - 9x + 14 = 0$?",
        "Since $2 + 7 = 9$ and $2 * 7 = 14$, the left side is $(x - 2)(x - 7)$, so the solutions are $2$"
        " and $7$. Their sum is $2 + 7 = 9$.",
        "9",
    ),
    _math(
        "A bag holds 3 red and 5 blue balls. Two balls are drawn without putting the first one back. What"
        " is the probability that both are red? Give a common fraction.",
        "The first ball is red with probability $\\frac{3}{8}$. Then 2 of the 7 balls that are left are"
        " red. The product has the numerator $3 * 2 = 6$ and the denominator $8 * 7 = 56$, and"
        " $\\frac{6}{56} = \\frac{3}{28}$.",
        "\\frac{3}{28}",
    ),
    _math(
        "Find the distance between the points $(1, 2)$ and $(7, 5)$ in simplest radical form.",
        "The differences of the coordinates are $7 - 1 = 6$ and $5 - 2 = 3$. The square of the distance is"
        " $36 + 9 = 45$, and $45 = 9 \\cdot 5$, so the distance is $\\sqrt{45} = 3\\sqrt{5}$.",
        "3\\sqrt{5}",
    ),
    _math(
        "For which real numbers $x$ is $3x - 4 < 11$? Give your answer in interval notation.",
        "Adding $4$ gives $3x < 15$, because $11 + 4 = 15$. Dividing by $3$ gives $x < 5$, because $15 / 3 = 5$.",
        "(-\\infty,5)",
    ),
)

_OPTION = (
    _option(
        "A train covers 180 km in 3 hours. How far does it get in 5 hours at the same speed?",
        ("240 km", "300 km", "320 km", "360 km", "900 km"),
        "Its speed is 180 / 3 = 60 km per hour. In 5 hours it covers 60 * 5 = 300 km.",
        "B",
    ),
    _option(
        "The average of four numbers is 15. Three of them are 12, 14 and 16. What is the fourth?",
        ("15", "16", "17", "18", "19"),
        "The sum of the four numbers is 4 * 15 = 60. The three known ones add up to 12 + 14 + 16 = 42. The"
        " fourth is 60 - 42 = 18.",
        "D",
    ),
    _option(
        "A shop buys a lamp for $40 and sells it for $50. What is its profit as a percentage of the buying price?",
        ("25%", "20%", "10%", "50%", "80%"),
        "The profit is 50 - 40 = 10 dollars. As a percentage of 40 dollars that is 10 * 100 / 40 = 25.",
        "A",
    ),
    _option(
        "The sides of a rectangle are in the ratio 2 : 3 and its perimeter is 70 cm. How long is the longer side?",
        ("7 cm", "14 cm", "21 cm", "28 cm", "35 cm"),
        "The two sides together are 70 / 2 = 35 cm long. One of the 2 + 3 = 5 parts is 35 / 5 = 7 cm. The"
        " longer side is 3 * 7 = 21 cm long.",
        "C",
    ),
)

_YESNO = (
    _yesno(
        "Can 37 people cross a lake in 4 boats that carry 9 people each?",
        "The boats carry 4 * 9 = 36 people. There are 37 people, and 37 - 36 = 1 of them has no seat.",
        "no",
    ),
    _yesno(
        "A coin lies heads up. Ana turns it over. Ben turns it over. Is it heads up again?",
        "The coin is turned over 1 + 1 = 2 times. That is an even number of turns, so it lies as at the start.",
        "yes",
    ),
    _yesno(
        "Is 91 divisible by 7?",
        "We have 13 * 7 = 91, so 91 is a multiple of 7.",
        "yes",
    ),
    _yesno(
        "Does a meeting that starts at 10 o'clock and takes 150 minutes end before 12 o'clock?",
        "From 10 to 12 o'clock there are 2 * 60 = 120 minutes. The meeting takes 150 - 120 = 30 minutes more.",
        "no",
    ),
)

EXEMPLARS: dict[AnswerKind, tuple[Exemplar, ...]] = {
    "number": _NUMBER,
    "math": _MATH,
    "option": _OPTION,
    "yesno": _YESNO,
}
