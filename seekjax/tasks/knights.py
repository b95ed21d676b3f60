"""Knights and knaves: knights tell the truth, knaves lie; who is what? A puzzle with one solution,
found by cases.

A: B knave, B: A B differ     <think>A knight
                              B knight no
                              B knave no
                              A knave
                              B knight yes</think><answer>A knave B knight</answer>
"""

import random
from itertools import permutations, product

from seekjax.tasks.task import Grade, Problem, speak

NAMES = "ABCDEFGH"
KINDS = ("knave", "knight")  # of False and True
WORDS = {"en": {"no": "no", "yes": "yes"}}
# of speaker, relation, and what it says of whom: (0, "is", 1, True), (0, "same", 1, 2), (0, "or",
# 1, True, 2, False)
Claim = list


class Knights:
    """Level 1 has two people, 2 three, 3 four; each says one thing. Level 1 has a few dozen puzzles
    in all: a warm-up, no measure.
    """

    name = "knights"
    levels = range(1, 4)

    def make(self, rng: random.Random, level: int) -> Problem:
        """A problem that has an answer, and but one."""
        people, claims, found = level + 1, [], []
        while len(found) != 1:
            claims = [_claim(rng, speaker, people) for speaker in range(people)]
            found = [
                kinds
                for kinds in product((False, True), repeat=people)
                if all(_holds(claim, kinds) for claim in claims)
            ]
        names = rng.sample(NAMES, people)
        order = rng.sample(range(people), people)
        prompt = ", ".join(_say(claims[speaker], names) for speaker in order)
        return Problem(
            self.name,
            level,
            prompt,
            _key(claims, people),
            {"names": names, "claims": claims, "kinds": list(found[0]), "order": order},
        )

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Right where everyone is told, once, and truly; in any order."""
        words, right = answer.split(), dict(zip(problem.data["names"], problem.data["kinds"]))
        said = dict(zip(words[::2], words[1::2]))
        if (
            len(words) != 2 * len(right)
            or set(said) != set(right)
            or not set(said.values()) <= set(KINDS)
        ):
            return Grade(
                0.0, f"not of the form {' '.join(f'{name} knight' for name in sorted(right))}"
            )
        wrong = [name for name in sorted(right) if said[name] != KINDS[right[name]]]
        return Grade(0.0, f"{wrong[0]} is no {said[wrong[0]]}") if wrong else Grade(1.0, "right")

    def solve(self, problem: Problem, rng: random.Random, language: str = "en") -> tuple[str, str]:
        """One person after another is supposed a knight, then a knave; "no" where someone who can
        be judged says what one of their kind would not.
        """
        words, lines = speak(self.name, WORDS, language), []
        names, claims = problem.data["names"], problem.data["claims"]
        order = sorted(range(len(names)), key=names.__getitem__)

        def suppose(kinds: dict[int, bool]) -> bool:
            if len(kinds) == len(order):
                return True
            person = order[len(kinds)]
            for kind in (True, False):
                new = {**kinds, person: kind}
                fails = any(
                    _about(claim) <= set(new) and not _holds(claim, new) for claim in claims
                )
                end = words["no"] if fails else words["yes"] if len(new) == len(order) else ""
                lines.append(f"{names[person]} {KINDS[kind]} {end}".strip())
                if not fails and suppose(new):
                    return True
            return False

        suppose({})
        return "\n".join(lines), " ".join(
            f"{names[person]} {KINDS[problem.data['kinds'][person]]}" for person in order
        )


def _claim(rng: random.Random, speaker: int, people: int) -> Claim:
    """Of others alone, or of two people of whom the speaker may be one."""
    if rng.random() < 0.5:
        return [
            speaker,
            "is",
            rng.choice([p for p in range(people) if p != speaker]),
            rng.random() < 0.5,
        ]
    p, q = sorted(rng.sample(range(people), 2))
    relation = rng.choice(("same", "differ", "or", "and"))
    return (
        [speaker, relation, p, q]
        if relation in ("same", "differ")
        else [speaker, relation, p, rng.random() < 0.5, q, rng.random() < 0.5]
    )


def _holds(claim: Claim, kinds) -> bool:
    """Whether the speaker's kind would say it."""
    speaker, relation, *about = claim
    if relation == "is":
        true = kinds[about[0]] == about[1]
    elif relation in ("same", "differ"):
        true = (kinds[about[0]] == kinds[about[1]]) == (relation == "same")
    else:
        true = (all if relation == "and" else any)(
            (kinds[about[0]] == about[1], kinds[about[2]] == about[3])
        )
    return true == kinds[speaker]


def _about(claim: Claim) -> set[int]:
    """Everyone whose kind it takes to judge it."""
    speaker, relation, *about = claim
    return {speaker, *(about if relation in ("same", "differ") else about[::2])}


def _say(claim: Claim, names: list[str]) -> str:
    speaker, relation, *about = claim
    if relation in ("same", "differ"):
        said = f"{names[about[0]]} {names[about[1]]} {relation}"
    else:
        said = f" {relation} ".join(
            f"{names[who]} {KINDS[kind]}" for who, kind in zip(about[::2], about[1::2])
        )
    return f"{names[speaker]}: {said}"


def _key(claims: list[Claim], people: int) -> str:
    """The claims under that numbering of the people which gives the least text, each claim's own
    order undone.
    """

    def renumbered(claim: Claim, to: tuple[int, ...]) -> str:
        speaker, relation, *about = claim
        pairs = (
            [f"{to[p]}" for p in about]
            if relation in ("same", "differ")
            else [f"{to[p]}{KINDS[k]}" for p, k in zip(about[::2], about[1::2])]
        )
        return f"{to[speaker]} {relation} {' '.join(sorted(pairs))}"

    return min(
        ", ".join(sorted(renumbered(claim, to) for claim in claims))
        for to in permutations(range(people))
    )
