"""The golden table of extraction: what answer a text gives, and which of its characters."""

from __future__ import annotations

from forkpoint.types import AnswerKind

# by kind: (text, value, the characters that the span covers, if others); None: there is no answer
TEXTS: dict[AnswerKind, list[tuple[str | None, ...]]] = {
    "number": [
        # nothing needs to follow them, and punctuation and units do not belong to them
        ("The answer is 42", "42"), ("so it is 42.", "42"), ("#### 18", "18"), ("she has 1,000", "1000", "1,000"),
        ("5 apples", "5"), ("It costs $18.00.", "18", "18.00"), ("x = -5", "-5"),
        ("a change of −5 degrees", "-5", "−5"), ("x = - 5", "-5", "- 5"), ("a loss of -$5.", "-5", "-$5"),
        ("pages 10-3", "3"), ("ages 3–5", "5"), ("3/4 of it", "3/4"), ("2 1/2 cups", "5/2", "2 1/2"), ("25%", "25"),
        (".5", "0.5", ".5"), ("Rs.400", "400"), ("50 m^2", "50"), ("50 cm^{2}", "50"), ("7 kg of CO2", "7"),
        ("first 3, then 4, so 7 in all", "7"), ("eight", None), ("", None),
        # a marker outranks later numbers; in its sentence the result of an equation counts, else the first number
        ("The answer is 18 dollars for 9 eggs. I used 3 steps.", "18"), ("The answer is 9 * 2 = 18 dollars.", "18"),
        ("The final answer is:\n\n42", "42"), ("**Answer:** 7", "7"), ("The answer to the question is 7, not 8", "7"),
        ("The answer is 3. No, the answer is 4.", "4"), ("5 + 3 = 8. The answer is eight.", "8"),
        ("#### Step 2\nAdd 3 and 4 to get 7 in all", "7"),
        # boxes: the last one, and nothing else
        (r"\boxed{5} then \boxed{7}", "7"), (r"\boxed{1,234}", "1234", "1,234"), (r"\boxed{5} then \boxed{7", None),
        (r"so 5. \boxed{}", "5"), (r"so 5. \boxed{\text{five}}", "5"),
        (r"\boxed{\frac{1}{2}}", "1/2", r"\frac{1}{2}"),
    ],
    "math": [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"\boxed{1} or \boxed{ 2 }", "2"),
        (r"\boxed{1} or \boxed{2", None), (r"\boxed{1} or \boxed{\frac{2}{3}", None),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"), (r"\boxed{\left\{1\right.}", r"\left\{1\right."), (r"\fbox{3}", "3"),
        (r"\boxed{\boxed{5}}", "5"), ("\\boxed{}", None), (r"The answer is $\frac{1}{2}$.", r"\frac{1}{2}"),
        (r"The answer is \frac{1}{2}.", r"\frac{1}{2}"), (r"The answer is 11,\! 111,\! 100.", r"11,\! 111,\! 100"),
        ("The answer is $1$ and $-2$.", "$1$ and $-2$"), ("The answer is 3.21.", "3.21"),
        ("The final answer is $42$. I hope it is correct.", "42"), ("The answer is 5, because 2 + 3 = 5", "5"),
        (r"#### 1 \pm \sqrt{19}", r"1 \pm \sqrt{19}"), ("so $x=5$", "x=5"), (r"Thus \[ x = 3 \] holds", "x = 3"),
        (r"that is \(\pi\)", r"\pi"), ("where $x$ is the price. So 42", "42"), ("it costs $18", "18"),
        ("no idea", None),
    ],
    "option": [
        ("(B)", "B"), ("B)", "B"), ("B.", "B"), ("B", "B"), ("c", "C", "c"), ("Answer: B", "B"),
        ("Answer: B) 55 seconds", "B"), ("**Answer: (E) 42**", "E"), ("the answer is (c)", "C", "c"),
        ("the answer is c.", "C", "c"), ("the answer is B, as shown", "B"), ("The answer is **B**", "B"),
        ("The correct option is C because it fits", "C"), ("So option D is right.", "D"),
        (r"\boxed{\text{(D)}}", "D"), (r"\boxed{B}", "B"), (r"(A) seems right. \boxed{C", None),
        ("(A) is wrong and so is (B), hence\nC", "C"), ("The answer is (B), not (A).", "B"),
        ("A car drives on", None), ("The answer is A car", None), ("The answer is a car", None),
        ("where f(a) is D/(M-3)", None), ("(F)", None), ("I cannot say.\nQ: How many?\nA: The answer is", None),
        ("It is (C).\nQ: How many?\nA: Five.", "C"),
    ],
    "yesno": [
        ("Yes, no, yes", "yes"), ("So it is NO.", "no", "NO"), ("The answer is yes. There is no doubt.", "yes"),
        ("I know nothing of eyes", None),
    ],
}  # fmt: skip
CASES = [(kind, text, value, (*covered, value)[0]) for kind, texts in TEXTS.items() for text, value, *covered in texts]
