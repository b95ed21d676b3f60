"""Knights and knaves: knights tell the truth, knaves lie; who is what? A puzzle with one solution,
found by cases.

A: B knave, B: A B differ     <think>A knight
                              B knight no
                              B knave no
                              A knave
                              B knight yes</think><answer>A knave B knight</answer>
"""

import random
from collections.abc import Mapping, Sequence
from itertools import permutations, product

from seekjax.tasks.task import Grade, Problem, Solution, words_in

NAMES = "ABCDEFGH"
KINDS = ("knave", "knight")  # of False and True
WORDS = {"en": {"no": "no", "yes": "yes"}}

# A claim is JSON-serialisable: the speaker, a relation, and whom it is about. One of
#   [0, "is", 1, True]                   1 is a knight
#   [0, "same", 1, 2], "differ"          1 and 2 are of the same kind, or of different kinds
#   [0, "or", 1, True, 2, False], "and"  1 is a knight or (and) 2 is a knave
Claim = list
COMPARISONS = ("same", "differ")


class Knights:
    """Level 1 has two people, 2 three, 3 four; each makes one claim.

    Level 1 has a few dozen puzzles in all: a warm-up, not a measure.
    """

    name = "knights"
    levels = range(1, 4)

    def make(self, rng: random.Random, level: int) -> Problem:
        """Draw claims until they have exactly one solution."""
        people = level + 1
        while True:
            claims = [_draw_claim(rng, speaker, people) for speaker in range(people)]
            solutions = _solutions(claims, people)
            if len(solutions) == 1:
                break

        names = rng.sample(NAMES, people)
        order = rng.sample(range(people), people)
        prompt = ", ".join(_claim_text(claims[speaker], names) for speaker in order)
        kinds = list(solutions[0])
        data = {"names": names, "claims": claims, "kinds": kinds, "order": order}
        return Problem(self.name, level, prompt, _key(claims, people), data)

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Give reward 1 if everyone is named once, with the right kind, in any order."""
        expected = dict(zip(problem.data["names"], problem.data["kinds"]))
        words = answer.split()
        given = dict(zip(words[::2], words[1::2]))

        names_all = len(words) == 2 * len(expected) and given.keys() == expected.keys()
        if not names_all or not set(given.values()) <= set(KINDS):
            form = " ".join(f"{name} knight" for name in sorted(expected))
            return Grade(0.0, f"not of the form {form}")

        for name in sorted(expected):
            if given[name] != KINDS[expected[name]]:
                return Grade(0.0, f"{name} is not a {given[name]}")
        return Grade(1.0, "right")

    def solve(
        self,
        problem: Problem,
        rng: random.Random,
        language: str = "en",
    ) -> Solution:
        """Search by cases: suppose each person in turn a knight, then a knave.

        A line ends with "no" if a claim whose truth is already decided does not fit the kind of
        its speaker.
        """
        words = words_in(self.name, WORDS, language)
        names = problem.data["names"]
        claims = problem.data["claims"]
        order = sorted(range(len(names)), key=names.__getitem__)
        lines: list[str] = []

        def search(kinds: dict[int, bool]) -> bool:
            """Extend a consistent assignment to everybody, and return whether that is possible."""
            if len(kinds) == len(order):
                return True
            person = order[len(kinds)]
            for kind in (True, False):
                extended = {**kinds, person: kind}
                line = f"{names[person]} {KINDS[kind]}"
                fails = _contradicts(claims, extended)
                if fails:
                    line += f" {words['no']}"
                elif len(extended) == len(order):
                    line += f" {words['yes']}"
                lines.append(line)

                if not fails and search(extended):
                    return True
            return False

        search({})
        kinds = problem.data["kinds"]
        answer = [f"{names[person]} {KINDS[kinds[person]]}" for person in order]
        return "\n".join(lines), " ".join(answer)


def _draw_claim(
    rng: random.Random,
    speaker: int,
    people: int,
) -> Claim:
    """Draw a claim about another person, or about two people of whom the speaker may be one."""
    if rng.random() < 0.5:
        other = rng.choice([person for person in range(people) if person != speaker])
        return [speaker, "is", other, rng.random() < 0.5]

    p, q = sorted(rng.sample(range(people), 2))
    relation = rng.choice(("same", "differ", "or", "and"))
    if relation in COMPARISONS:
        return [speaker, relation, p, q]
    return [speaker, relation, p, rng.random() < 0.5, q, rng.random() < 0.5]


def _solutions(claims: list[Claim], people: int) -> list[tuple[bool, ...]]:
    """Return every assignment of kinds in which each claim fits its speaker."""
    solutions = []
    for kinds in product((False, True), repeat=people):
        if all(_holds(claim, kinds) for claim in claims):
            solutions.append(kinds)
    return solutions


def _contradicts(claims: list[Claim], kinds: Mapping[int, bool]) -> bool:
    """Return whether a claim about people of known kinds does not fit its speaker."""
    decided = [claim for claim in claims if _people_in(claim) <= kinds.keys()]
    return not all(_holds(claim, kinds) for claim in decided)


def _holds(claim: Claim, kinds: Sequence[bool] | Mapping[int, bool]) -> bool:
    """Return whether the speaker's kind would make this claim: a knight if and only if it is true.

    `kinds[person]` is True for a knight.
    """
    speaker, relation, *about = claim
    if relation == "is":
        is_true = kinds[about[0]] == about[1]
    elif relation in COMPARISONS:
        is_same = kinds[about[0]] == kinds[about[1]]
        is_true = is_same == (relation == "same")
    else:
        first = kinds[about[0]] == about[1]
        second = kinds[about[2]] == about[3]
        is_true = (first and second) if relation == "and" else (first or second)
    return is_true == kinds[speaker]


def _people_in(claim: Claim) -> set[int]:
    """Return the people whose kinds decide whether a claim fits its speaker."""
    speaker, relation, *about = claim
    others = about if relation in COMPARISONS else about[::2]
    return {speaker, *others}


def _claim_text(claim: Claim, names: list[str]) -> str:
    """Return a claim as in the prompt: "A: B knave or C knight"."""
    speaker, relation, *about = claim
    if relation in COMPARISONS:
        text = f"{names[about[0]]} {names[about[1]]} {relation}"
    else:
        facts = []
        for person, kind in zip(about[::2], about[1::2]):
            facts.append(f"{names[person]} {KINDS[kind]}")
        text = f" {relation} ".join(facts)
    return f"{names[speaker]}: {text}"


def _key(claims: list[Claim], people: int) -> str:
    """Return the least text of the claims over all numberings of the people.

    It does not depend on names, on the order of the claims, or on the order within one.
    """
    texts = []
    for numbers in permutations(range(people)):
        renumbered = sorted(_renumbered(claim, numbers) for claim in claims)
        texts.append(", ".join(renumbered))
    return min(texts)


def _renumbered(claim: Claim, numbers: tuple[int, ...]) -> str:
    """Return a claim under other numbers of the people, whom it is about in sorted order."""
    speaker, relation, *about = claim
    facts = []
    if relation in COMPARISONS:
        for person in about:
            facts.append(str(numbers[person]))
    else:
        for person, kind in zip(about[::2], about[1::2]):
            facts.append(f"{numbers[person]}{KINDS[kind]}")
    return f"{numbers[speaker]} {relation} {' '.join(sorted(facts))}"
