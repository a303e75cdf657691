"""Numbers of bytes as text."""

import math


def parse_size(text: str) -> float:
    """Parses a number of bytes with an optional suffix K, M, G or T, which stands for a power of 1024.

    Args:
        text: a number such as "512M", "1.5G" or "1e9".

    Returns:
        The number of bytes.

    Raises:
        ValueError: if the text is not a finite number of at least 0 with an optional suffix.

    Examples:
        >>> parse_size("1.5K")
        1536.0
    """
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number, unit = (text[:-1], units[text[-1].upper()]) if text and text[-1].upper() in units else (text, 1)
    size = float(number) * unit
    if not 0 <= size < math.inf:
        raise ValueError(f"text must be a finite number of at least 0. Received: text={text!r}")
    return size
