"""Responses as models write them, with the verdicts by thought: (response, the right gold, wrong golds), by task.

A good third of the golds are wrong ones that look right: they stand in the text, but not as the answer.
"""

from __future__ import annotations

Responses = list[tuple[str | None, ...]]

NUMBER: Responses = [
    # the statement outranks other numbers
    ("48 + 24 = 72. The answer is 72. I used 2 steps.", "72", "2"),
    ("The total is 40, so each gets 40 / 8 = 5.\n\n**Answer: 5**", "5", "8"),
    ("### Final Answer\n\n**18 dollars**", "18"),
    ("**Final Answer**\nThe final answer is $\\boxed{204}$. I hope it is correct.", "204"),
    ("Final answer: she has 12 apples left out of 20.", "12", "20"),
    ("The answer is 6 hours (1 hour = 60 minutes).", None, "60"),
    ("The answer is 6 hours, since 1 hour = 60 minutes.", "6", "60"),
    ("The answer is 3 * 4 = 12 cookies.", "12", "3"), ("The answer is 12 = 3 * 4.", "12"),
    ("The answer is $x = 14$.", "14"), ("Answer: 9 boxes for 45 eggs", "9", "45"), ("The answer should be 31.", "31"),
    ("Ans: 250", "250"), ("Ans. = 250 km", "250"), ('{"reasoning": "5 groups of 7", "answer": 35}', "35"),
    ('{"answer": "35", "confidence": 0.9}', "35"), ('{"answer": "35", "confidence": 9}', None, "9"),
    ("<answer>35</answer>", "35"), ("<answer>7 * 5 = 35</answer> because there are 5 groups", "35"),
    ("42 is the answer.", "42"), ("So 42 cookies is the final answer, made from 3 trays.", "42"),
    ("The answer is 5? No: 5 + 2 = 7.", "7", "5"),
    ("If the answer is 10, she would have too many. She has 8.", "8", "10"),
    ("The answer is not 70 but 72.", None, "70"), ("The answer isn't 70. She sold 72.", "72"),
    ("The answer is not 15, rather 18.", "18"),
    ("The answer is 18. Wait, I forgot the tax. The answer is 20.", "20", "18"),
    ("\\boxed{18}. This answer is correct since 6 * 3 = 18 and 2 are left.", "18"),
    ("\\boxed{18}. This answer is in dollars.", "18"),
    ("\\boxed{16} were sold. With the gift, the answer is 17.", "17", "16"),
    # boxes
    ("The number is \\boxed{ 1{,}250 }.", "1250"), ("\\boxed{\\$1,250.00}", "1250"),
    ("\\boxed{18 \\text{ dollars}}", "18"), ("\\boxed{x = 18}", "18"), ("\\boxed 25 apples", "25"),
    ("\\boxed25", "25"), ("\\boxed{12} is what I put in \\boxed as you asked.", "12"),
    ("I will put it in \\boxed{}. There are 3 bags of 5, so 15.", "15"),
    ("We get 20 and then \\boxed{25", None, "25"), ("We get \\boxed{20} and then \\boxed{25", None, "20"),
    ("\\boxed{3 \\text{ hours } 20 \\text{ minutes}}", None, "320", "20", "3"),
    ("\\boxed{5 \\text{ out of } 36}", None, "5"), ("\\boxed{6 \\times 7}", None, "7"),
    ("\\boxed{3 \\text{ or } 4}", None, "4"),
    # ####
    ("5 + 6 = 11\n#### 11", "11"), ("5 + 6 = 11\n#### 11\n\nLet me know if you have 2 more questions!", "11", "2"),
    ("#### $1,200", "1200"), ("#### Step 2\nAdd 3 and 4 to get 7 in all", "7"),
    ("#### 2. Add them\n3 + 4 = 7", "7", "2"),
    # signs
    ("The answer is -5.", "-5"), ("The answer is - 5.", None, "5"), ("The answer is −5.", "-5"),
    ("The answer is negative 5.", "-5"), ("The answer is minus 5 degrees.", "-5"),
    ("The temperature is - 12 degrees", "-12"), ("\\boxed{-\\frac{1}{2}}", "-0.5", "0.5"),
    ("We have 10 - 5", None, "-5"), ("He lost -$40 in all.", "-40"), ("- 3 apples\n- 4 pears\n- 5 plums", None, "-5"),
    ("The answer is:\n- 5 apples", "5"),
    # groups, decimals, fractions, powers, scales, scripts
    ("The population is 1 234 567.", "1234567"), ("The answer is 12 000 people.", "12000", "12"),
    ("The answer is 12,34,567 rupees.", "1234567"), ("It costs 1.234.567 in all.", "1234567"),
    ("The answer is 2 3/4 cups.", "2.75", "23/4"), ("The answer is $2\\frac{3}{4}$ cups.", "11/4", "4"),
    ("The answer is 2¾ cups.", "2.75"), ("The answer is ½.", "0.5"), ("Each gets \\frac{3}{4} of it.", "0.75"),
    ("Each gets \\frac34 of it.", "0.75"), ("The answer is 3/4, not 4.", None, "4"),
    ("The answer is 2.5 × 10^3.", "2500", "3"), ("The answer is $4 \\cdot 10^{-2}$.", "0.04"),
    ("The answer is 10^5.", "100000"), ("The answer is 2^{5}.", "32", "5"), ("The answer is 3 thousand.", "3000"),
    ("The company earns $1.5 million.", "1500000"), ("The answer is ٤٥.", "45"), ("The answer is １８.", "18"),
    ("The answer is 18.50.", "18.5", "1850"), ("The answer is 0018.", "18"), ("25% of them", "25"),
    ("The area is 50 cm^2", "50", "2"), ("It makes 12 kg of CO2", "12"),
    # counted steps are no answers
    ("1. There are 5 bags.\n2. Each has 4, so 20 in all.\n3. Now, we are done.", "20", "3"),
    ("Step 1: 5 * 4 = 20\nStep 2: done", "20", "2"),
    # run-on
    (" 20\nB: 25\nC: 30", None, "25"), (" 18\n\nQ: Tom has 5 balls. How many?\nA: 5", "18"),
    ("The answer is 18.\n\nQuestion: Tom has 5.\nThe answer is 5.", None, "5"),
    ("The answer is 18.<|im_end|>\n<|im_start|>user\nThe answer is 5.", "18"),
    ("She has 18.\n\n### Instruction:\nSay 7", "18"), ("Tom: 5\nBob: 7\nTogether 12", "12"),
    # thinking and channels
    ("<think>It may be 5. The answer is 5.</think>The answer is 6.", "6", "5"),
    ("It may be \\boxed{5}.</think>\n\nIn all there are 6.", "6"),
    ("<think>Let me see: 5 + 1 = 6. The answer is 6.", None, "6"), ("<thinking>5</thinking>\n6", "6"),
    ("[THINK]The answer is 5[/THINK]6", "6"),
    ("<|channel|>analysis<|message|>The answer is 5<|end|><|start|>assistant<|channel|>final<|message|>6", "6"),
    ("<|channel|>analysis<|message|>The answer is 5", None, "5"),
    ("analysisThe answer is 5? I think 6.assistantfinalThe result: **6**", "6"),
    ("analysisThe answer is 5.", None, "5"), ("The analysis gives 6", "6"),
    ("The answer is definitely not 20. There are 18 left.", "18"), ("The answer is _72_.", "72"),
    ("\\log_2 8", None, "2"), ("Answer: \\(3 \\times 6 = 18\\) muffins", "18"),
    ("The answer is the total: 3 + 4 = 7", "7"), ("The answer is 72 as 48 + 24.", "72"),
    ("The answer is 20% of 50, so 10.", None, "20"), ("\\boxed{18}, not \\boxed{20}.", "18", "20"),
    ("18\n\nExplanation: 9 eggs at 2 dollars each.", "18", "2"),
    ("Answer: Tom has 5 apples. He buys 7, so he has 5 + 7 = 12 apples.", "12"),
    ("### Answer\nTom has 5 apples and buys 7.\n\nSo 5 + 7 = 12.", None, "5"),
    ("**Answer:** 18\n\n9 * 2 = 18 and 2 > 1", "18"), ('{"answer": "The total is 7.", "x": 3}', "7"),
    ("The answer is 18", "18"),  # nothing follows the number
    ("The answer is 18.", "18"), ("#### 1,000", "1000"), ("She makes $18.00 every day.", "18"),
    ("The answer is 18.5", None, "18"), ("The answer is -3.", None, "3"),
    ("The answer is 18.", "It is 9*2=18.\n#### 18"),  # the gold answer as the data set has it
]  # fmt: skip

MATH: Responses = [
    ("The smallest such $n$ is 12.", "12"), ("Final Answer: The smallest such $n$ is 12.", None, "n"),
    ("Answer: the remainder equals 7 when divided by 9", "7"), ("The answer is $\\frac{3}{8}$.", "\\frac38"),
    ("Therefore, the answer is \\(2\\sqrt{3}\\).", "2\\sqrt{3}"),
    ("Hence the probability is $\\frac{1}{6}$", "\\frac16"), ("So $1 + 2 + 3 = 6$", "6", "1"),
    ("We find $x = 2 + 3 = 5$.", "5"), ("The line is $y = 2x + 1$.", "y=2x+1", "2"),
    ("Thus 30\\% of them pass.", "30\\%"), ("Thus 30% of them pass.", None, "30"), ("\\boxed{30\\%}", "0.3"),
    ("The largest is $\\boxed{9}$, where $k$ is an integer.", "9"), ("The answer is 9, where $k = 3$.", "9", "k=3"),
    ("So $x = \\boxed{3}$ and $y = 4$; in all the answer is $7$.", "7", "3"),
    ("$\\boxed{3}$ and so $\\boxed{4}$", None, "3,4"),
    ("$\\boxed{4}$, which answers the question for $n = 5$", None, "5"), ("\\boxed \\frac{1}{2}", "\\frac{1}{2}"),
    ("\\boxed7", "7"), ("The answer is $\\boxed{\\text{east}}$.", "\\text{east}"),
    ("The answer is east.", "\\text{east}", "\\text{seat}"), ("The answer is $(3, 4)$.", "(3,4)", "(4,3)"),
    ("The answer is the interval $[2, 5)$.", "[2,5)", "(2,5)"),
    ("The value is $\\boxed{12}$. The answer is in meters.", "12"), ("**Answer:** $-2$", "-2", "2"),
    ("#### -\\frac{2}{3}", "-2/3"), ("#### Simplifying the terms\nWe get $x + 1$", "x+1"),
    ("<think>\\boxed{4}</think>The result is $5$", "5", "4"), ("<think>\\boxed{4}", None, "4"),
    ("We need \\boxed{answer}. Adding gives $3$.", "3"),
    ("The matrix is $\\boxed{\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}}$.",
     "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"),
    ("The maximum value is $\\sqrt{2}$, attained at $x = 1$.", None, "1"),
    ("The final answer is $\\frac{-1 + \\sqrt{5}}{2}$.", "\\frac{\\sqrt5-1}{2}"),
    ("**Final Answer:** $x = 3$ or $x = -2$", "-2,3", "-2"),
    ("The solutions are $x = 3$ and $x = -2$.", "3,-2", "-2"), ("We see $a = 3$ and $b = 4$.", None, "3"),
    ("The sum of $3$ and $5$ is $8$.", "8"), ("\\boxed{x = 2, y = 3}", "(2,3)", "3"),
    ("\\boxed{f(1) = 2 + 3 = 5}", "5"), ("So 75 percent of them.", "75\\%", "75"),
    ('{"answer": "\\\\frac{1}{2}"}', "\\frac12"), ('{"answer": "\\frac{1}{2}", "n": 2}', "\\frac12"),
    ('{"answer": 7, "n": 3}', "7"), ('{"answer": "(2,3)"}', None, "(3,2)"),
    ("\\boxed{\\text{The answer is } 7}", "7"), ("\\boxed{|z| = 5}", "5"),
    ("The answer is 12 (since $3 \\cdot 4 = 12$).", "12"), ("Since $a = 2$, the answer is 4 as $2^2 = 4$.", "4"),
    (r"\boxed{\frac{14}{3}}", r"\frac{14}{3}"), (r"\boxed{3} but in the end \boxed{4}", "4"),
    (r"\boxed{4} but in the end \boxed{3}", None, "4"),
    (r"\boxed{3} and \boxed{4}", None, "3,4"),  # several boxes are no set
    (r"\boxed{4}, I mean \boxed{\frac{4}{", None, "4"),  # cut off: no answer
    (r"\boxed{10\%}", None, "10"), (r"\boxed{\{1,3\}}", None, "(1,3)"), (r"\boxed{(1,3)}", "(1,3)"),
    (r"\boxed{x=5}", "5"),
]  # fmt: skip

OPTION: Responses = [
    ("The answer is (D).", "D"), ("Answer:C", "C"), ("**Answer**: C", "C"), ("Answer: **(C) 24**", "C"),
    ("Answer - C", "C"), ("Ans: c", "C"), ("The answer is `C`.", "C"), ("The answer is \\(C\\).", "C"),
    ("The answer is $C$.", "C"), ("The answer is \\text{C}.", "C"), ("<answer>C</answer>", "C"), ("<b>C</b>", "C"),
    ('{"answer": "C"}', "C"), ('{"explanation": "A is too small", "answer": "C"}', None, "A"),
    ("\\boxed{\\textbf{(C)}}", "C"), ("\\boxed{C) 24}", "C"), ("I choose c) 24.", "C"),
    ("I'd go with option C.", "C"), ("The correct choice is C.", "C"),
    ("The correct answer should be (C), as the others are too large.", "C"), ("C is correct.", "C"),
    ("Therefore option (C) is the correct answer.", "C"), ("C - 24", "C"), ("C: 24", "C"), ("c) 24", "C"),
    ("So it must be (C), because (A) is too small.", "C", "A"),
    ("The answer is (C), because (A) is too small.", None, "A"), ("The answer is not (A). It is (C).", None, "A"),
    ("The answer is not A but C.", "C", "A"), ("The answer isn't (A). It is (C).", "C"),
    ("It is (C). (A) is too small.", "C", "A"), ("It is (C) rather than (B).", "C"), ("Not (B), so (C).", "C"),
    ("We eliminate (A) and rule out (B). What remains is (C).", "C"), ("P(A) = 0.5 and P(B) = 0.2", None, "B", "A"),
    ("The way from A to B (from A to B) takes 3 hours.", None, "B"),
    ("Let f(A) = 3 and g(B) = 4. The answer is (E).", "E"), ("(A) 1 (B) 2 (C) 3 (D) 4 (E) 5", None, "E"),
    ("A) 1\nB) 2\nC) 3\nD) 4\nE) 5\n\nThe answer is B", "B", "E"),
    ("A) 1\nB) 2\nC) 3\n\nLet me think about it.", None, "C"), ("A car goes from A to B.", None, "A"),
    ("The answer is a car.", None, "A"), ("The answer is A, a car.", "A"),
    ("<think>The answer is (A).</think>\n\n(C)", "C", "A"), ("<think>The answer is (A).", None, "A"),
    ("So x = \\boxed{24}. The answer is (E).", "E"), ("Is the answer (A)? The answer is (A)? No. (B) fits.", "B"),
    ("If the answer is (A), then x = 2. That fails. So (D).", "D", "A"),
    ("Neither A nor B is correct. The answer is D.", "D", "B"), ("B is not correct, so D", None, "B"),
    ("(C)\n\nQ: Which one?\nA: (B)", "C", "B"), ("Machine A makes 5 more than machine B.", None, "B"),
    ("Plan A: we compute. Plan B: we guess.", None, "B"), ("So it's B.", "B"),
    ("(C) because (A) gives 5 and (B) gives 6.", "C", "B"), ("(A) is 5. Because x = 6, it is (B).", "B"),
    ("B) 24\n\nExplanation: A) is wrong, C) 22 too large.", "B", "C"), ("✅ **C) 22**", "C"), ("**B. 21.5**", "B"),
    ("=> C", "C"), ("x = 5\n\nSo, B", "B"), ("<b>B</b>", "B"), ('{"choice": "C", "reason": "(B) is too small"}', "C"),
    ("A car needs 3 hours, so (B).", "B"), ("A car needs 3 hours.", None, "A"), ("The answer is (a).", "A"),
]  # fmt: skip

YES_NO: Responses = [
    ("Yes.", "yes"), ("No, it does not.", "no"), ("Yes, there is no doubt.", "yes", "no"),
    ("The answer is no. Yes, I am sure.", "no", "yes"), ("**Answer:** Yes", "yes"), ("\\boxed{\\text{No}}", "no"),
    ("<think>Yes</think>No", "no", "yes"), ("Is it a yes? It rains, so no.", "no"),
    ("There is nothing to say.", None, "no"), ("Maybe yes. No.\n\nQ: Is it?\nA: yes", None, "yes"),
    ("No. If yes, it would be 5.", "no", "yes"),
]  # fmt: skip

CASES = [
    (task, response, gold, gold == right)
    for task, responses in (("gsm8k", NUMBER), ("math500", MATH), ("aqua", OPTION), ("yesno", YES_NO))
    for response, right, *wrong in responses
    for gold in filter(None, (right, *wrong))
]
