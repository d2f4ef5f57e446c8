"""Go's regular expressions (RE2) on Python's `re`: the syntax that both have, with Go's meaning.

The differences that matter: `$` is the very end (no newline is excused), `\\d \\w \\s \\b` are ASCII, and
look-around and back-references do not exist. What RE2 would not compile, or solo does not translate, is a
LanguageError.
"""

from __future__ import annotations

import re
from functools import lru_cache

from solo.events.grammar import LanguageError

_FLAGS = re.compile(r"\(\?([is]+)\)")
_LITERAL = r"\\[\x00-/:-@\[-`{-\x7f]"  # Go lets any ASCII character but letters and digits be escaped
_PIECES = re.compile(
    rf"""(?P<escape>\\[dDwWsSbB]|\\[nrtfv]|{_LITERAL}|\\x[0-9a-fA-F]{{2}})
      | (?P<anchor>\^|\$|\\A|\\z)
      | (?P<set>\[\^?(?:\\[dDwWsSnrtfv]|{_LITERAL}|[^\\\[\]])+\])
      | (?P<group>\(\?:|\(\?P<\w+>|\((?!\?)|\)|\|)
      | (?P<repeat>(?:[*+?]|\{{\d{{1,3}}(?:,\d{{0,3}})?\}})\??(?![*+?{{]))
      | (?P<char>[^\\^$\[\]()*+?{{}}|])""",
    re.VERBOSE,
)


@lru_cache(1024)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Raises LanguageError."""
    flags, start = re.ASCII, 0
    if match := _FLAGS.match(pattern):
        start = match.end()
        flags |= (re.IGNORECASE if "i" in match[1] else 0) | (re.DOTALL if "s" in match[1] else 0)
    out = []
    while start < len(pattern):
        piece = _PIECES.match(pattern, start)
        if piece is None:
            raise LanguageError(f"pattern '{pattern}': solo does not read it from column {start + 1} on")
        # `--`, `&&`, `~~`, `||` in a set are literal in Go and reserved in Python
        text = re.sub(r"([&~|])", r"\\\1", piece[0]) if piece.lastgroup == "set" else piece[0]
        out.append({"$": r"\Z", r"\z": r"\Z"}.get(text, text))
        start = piece.end()
    try:
        return re.compile("".join(out), flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise LanguageError(f"pattern '{pattern}': {error}") from None


def replace_all(pattern: str, text: str, replacement: str) -> str:
    """Go's ReplaceAllString, for replacements of plain text, `${1}` and `$$`. Raises LanguageError."""
    parts = re.split(r"(\$\$|\$\{\d+\})", replacement)
    if any("$" in part for part in parts[::2]):
        raise LanguageError(f"replacement '{replacement}': write ${{1}} for a group and $$ for a dollar sign")
    compiled = compile_pattern(pattern)

    def expand(match: re.Match[str]) -> str:
        return "".join(part if not part.startswith("$") else _group(match, part) for part in parts)

    return compiled.sub(expand, text)


def _group(match: re.Match[str], reference: str) -> str:
    if reference == "$$":
        return "$"
    number = int(reference[2:-1])
    return (match[number] or "") if number <= match.re.groups else ""
