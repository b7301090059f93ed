"""How containerd names the files of a process's streams: a path, or a scheme and a path."""

from dataclasses import dataclass
from typing import Self


class StdioError(Exception):
    """A stream that cannot be opened; the text names it and says why."""


class StdioSchemeError(StdioError):
    """A kind of stream that nobody knows."""


@dataclass(frozen=True, slots=True)
class StreamUri:
    """A stream's name in parts; a plain path has the scheme of what it usually names, "fifo"."""

    text: str
    scheme: str
    path: str
    query: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str, *schemes: str) -> Self:
        """Take a name apart; raises `StdioSchemeError` unless its scheme is one of `schemes`."""
        if "://" not in text:
            return cls(text, "fifo", text)
        from urllib.parse import parse_qsl, unquote, urlsplit  # half a MiB that few streams need

        parts = urlsplit(text)
        if parts.scheme not in schemes:
            known = ", ".join(f"{scheme}://" for scheme in schemes)
            raise StdioSchemeError(
                f"cannot open {text}: a stream of scheme {parts.scheme}:// is not known here; "
                f"use a path, {known}"
            )
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        return cls(text, parts.scheme, unquote(parts.path), query)
