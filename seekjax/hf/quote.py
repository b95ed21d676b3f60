"""Names chosen by strangers, made safe to print."""


def listed(found: dict[str, list[str]], most: int = 40) -> str:
    """ "2 are missing: a, b; 1 is unknown: c", each list cut after `most` names that a stranger
    chose, hence quoted."""
    return "; ".join(
        f"{len(names)} {what}: "
        f"{', '.join(map(quoted, names[:most]))}{', ...' if len(names) > most else ''}"
        for what, names in found.items()
        if names
    )


def quoted(text: object, most: int = 150) -> str:
    """Somebody else's text without control characters, cut to a length a terminal bears."""
    plain = ascii(text)[1:-1] if isinstance(text, str) else ascii(text)
    return plain if len(plain) <= most else plain[:most] + "..."
