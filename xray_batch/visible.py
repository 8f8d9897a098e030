"""Text of others, such as the name of a file that was sent, as it can be shown."""


def visible(text: str) -> str:
    """Escape what would not be seen: what a terminal obeys, and what turns the direction of writing (U+202E)."""
    return "".join(part if part.isprintable() else part.encode("unicode_escape").decode() for part in text)
