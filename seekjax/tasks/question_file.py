"""Questions and answers from a file as a task: find_task("jsonl:problems.jsonl").

Each line of the file is a JSON object with the two texts:

    {"question": "What is the capital of France?", "answer": "Paris"}

An answer is right if it equals the given one after `normalise`. The hash of the question decides
whether a row is held out. There is one level, and the file has no worked solutions.
"""

import json
import random
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from seekjax.data.tokenizer import find_special_token
from seekjax.errors import DataError
from seekjax.tasks.answer import Invalid, parse, wrap
from seekjax.tasks.task import Grade, Problem, Solution

MAX_SHOWN = 40  # characters of an answer in a reason


class Row(NamedTuple):
    """A question with its expected answer, and the line that they stand on."""

    question: str
    answer: str
    line: int


class QuestionFile:
    """The task of one file. Raises DataError with file and line for an unusable row."""

    levels = range(1, 2)

    def __init__(self, path: str):
        self.name = f"jsonl:{path}"
        self.rows = read_rows(path)

    def make(self, rng: random.Random, level: int) -> Problem:
        """Draw a row of the file."""
        row = rng.choice(self.rows)
        data = {"answer": row.answer, "line": row.line}
        return Problem(self.name, level, row.question, normalise(row.question), data)

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Give reward 1 if the normalised answer is the normalised expected one."""
        if normalise(answer) == normalise(problem.data["answer"]):
            return Grade(1.0, "right")
        return Grade(0.0, f"{ascii(answer[:MAX_SHOWN])[:MAX_SHOWN]} is not the expected answer")

    def solve(
        self,
        problem: Problem,
        rng: random.Random,
        language: str = "en",
    ) -> Solution:
        """Return the answer with a thought that only states it.

        Raises DataError in a language other than English.
        """
        if language != "en":
            raise DataError(f"{self.name} has solutions in en, not in {language!r}.")
        return plain_solution(problem.data["answer"])


@cache
def open_question_file(path: str) -> QuestionFile:
    """Return the task of a file, read once in this process. Raises DataError."""
    return QuestionFile(path)


def normalise(text: str) -> str:
    """Return a text in canonical Unicode, case-folded, with single spaces and none around it."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def plain_solution(answer: str) -> Solution:
    """Return (thought, answer) for an answer that comes without a derivation."""
    return f"It is {answer}.", answer


def read_rows(path: str) -> list[Row]:
    """Return the rows of a file. Raises DataError with file and line for an unusable row."""
    rows: list[Row] = []
    first: dict[str, Row] = {}  # normalised question to the first row that has it
    try:
        with Path(path).expanduser().open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                row = read_row(line, f"{path} line {number}", number)
                earlier = first.setdefault(normalise(row.question), row)
                if normalise(earlier.answer) != normalise(row.answer):
                    raise DataError(
                        f"{path} line {number} gives the question of line {earlier.line} another "
                        "answer: keep one of them."
                    )
                rows.append(row)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): name a file of questions and answers."
        ) from error

    if not rows:
        raise DataError(
            f'{path} is empty: write one {{"question": ..., "answer": ...}} object a line.'
        )
    return rows


def read_row(line: bytes, where: str, number: int) -> Row:
    """Return the row of one line. Raises DataError."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
        raise DataError(f"{where} is not valid JSON ({error}): repair or delete it.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is a JSON {type(record).__name__}, not an object.")

    question = text_field(record, "question", where)
    answer = text_field(record, "answer", where)
    special = find_special_token(question)
    if special:
        raise DataError(f"{where} has a question that contains the special token {special}.")

    # A right answer must be possible: it is written between tags.
    parsed = parse(wrap(*plain_solution(answer)))
    if isinstance(parsed, Invalid):
        raise DataError(f"{where} has an answer that no completion can give: {parsed.reason}.")
    return Row(question, answer, number)


def text_field(
    record: dict[str, Any],
    key: str,
    where: str,
) -> str:
    """Return a text of a record, without whitespace around it. Raises DataError."""
    if key not in record:
        raise DataError(f'{where} has no "{key}": each row needs "question" and "answer".')
    text = record[key]
    if not isinstance(text, str):
        raise DataError(f'{where} has "{key}" of type {type(text).__name__}: write it as text.')
    if not text.strip():
        raise DataError(f'{where} has an empty "{key}".')
    try:
        text.encode()
    except UnicodeEncodeError as error:  # "\ud800": JSON can write it, and UTF-8 cannot
        raise DataError(f'{where} has half a character in "{key}": repair it.') from error
    return text.strip()
