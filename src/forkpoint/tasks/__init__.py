"""Tasks: where problems come from, how prompts are made of them, how an answer is read and judged.

Knows nothing of models. Importing this room imports neither torch nor transformers, datasets or sympy: the Hub is asked
when problems are loaded from it, and algebra runs in processes of its own.
"""

from forkpoint.tasks.answers import answer_key, find_answer, same_answer
from forkpoint.tasks.extract import extract
from forkpoint.tasks.grading import grade, grade_response, grade_span
from forkpoint.tasks.problems import TASKS, TaskSpec, load_problems, task_spec
from forkpoint.tasks.prompts import STYLES, encode, prompt_text, render_chat, render_prompt, stop_strings

__all__ = [
    "STYLES", "TASKS", "TaskSpec", "answer_key", "encode", "extract", "find_answer", "grade", "grade_response",
    "grade_span", "load_problems", "prompt_text", "render_chat", "render_prompt", "same_answer", "stop_strings",
    "task_spec",
]  # fmt: skip
