"""Text for people: one-line messages, valid names, durations."""

import difflib
import json
import re
from collections.abc import Iterable

MAX_NAME_BYTES = 100  # file systems allow 255, and reports add endings
_NOT_IN_NAMES = re.compile(r'[/\\<>:"|?*]')
_WINDOWS_DEVICES = {"", "CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}


def nearest(name: object, valid: Iterable[str]) -> str:
    """Return ' (did you mean "x"?)' for the closest of the valid names, or an empty string if none is close."""
    lowered = {candidate.lower(): candidate for candidate in sorted(valid)}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.55)
    return f' (did you mean "{lowered[close[0]]}"?)' if close else ""


def join_names(names: Iterable[str], limit: int = 12) -> str:
    """Return `a, b, c`, sorted, and cut after `limit` names."""
    ordered = sorted(names)
    more = f", ... ({len(ordered) - limit} more)" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more


def valid_names(name: object, valid: Iterable[str], limit: int = 12) -> str:
    """Return the valid names, with the one that is nearest to a wrong `name`."""
    names = list(valid)
    return f"{join_names(names, limit)}{nearest(name, names)}"


def unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    """Return the message about a name that is not among the valid ones."""
    return f'unknown {kind} "{name}"; valid: {valid_names(name, valid)}'


def one_line(text: str, limit: int = 1000) -> str:
    """Return the text with control characters escaped and, if it is too long, without its middle."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = limit // 2
    return line if len(line) <= limit else f"{line[:half]} ... {line[-half:]}"


def show(value: object, limit: int = 60) -> str:
    """Return a value for a message as YAML has it: `"text"`, `true`, `null`, `[1, 2]`."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def check_name(name: str) -> str:
    """Return the name itself if it can be the name of a file on any system. Raises ValueError.

    Grids, profiles and printed tables have the names of their files, and reports write files of these names.
    """
    plain = name.isprintable() and not _NOT_IN_NAMES.search(name) and name == name.strip(" .")
    device = name.partition(".")[0].upper() in _WINDOWS_DEVICES
    if not plain or device or len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        allowed = f'up to {MAX_NAME_BYTES} letters, digits, "-" and "_" always are one'
        raise ValueError(f"{show(name)} is no plain name; {allowed}")
    return name


def format_duration(seconds: float) -> str:
    """Return `1m35s` for 95."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
