"""Names chosen by strangers, made safe to print."""

MOST_NAMES = 40
MOST_CHARACTERS = 150  # of one name


def listed(names_of: dict[str, list[str]], most: int = MOST_NAMES) -> str:
    """Return "2 missing: a, b; 1 unknown: c", each list quoted and cut after `most` names."""
    clauses = []
    for what, names in names_of.items():
        if not names:
            continue
        shown = [quoted(name) for name in names[:most]]
        if len(names) > most:
            shown.append("...")
        clauses.append(f"{len(names)} {what}: {', '.join(shown)}")
    return "; ".join(clauses)


def quoted(text: object, most: int = MOST_CHARACTERS) -> str:
    """Return a stranger's text without control characters and not too long for a terminal."""
    plain = ascii(text)
    if isinstance(text, str):
        plain = plain[1:-1]
    return plain if len(plain) <= most else plain[:most] + "..."
