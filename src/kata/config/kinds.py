"""The kinds of value that a setting holds: how each is read from TOML, from text, and written.

The kinds are those of TOML that Kata's configuration uses. They know nothing of settings: a value
of the wrong kind is a `RefusalError` that says what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping

from kata.config.errors import RefusalError

# TOML 1.0, "String": what must be escaped in a basic string.
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x20), 0x7F)} | {
    ord('"'): '\\"',
    ord("\\"): "\\\\",
    ord("\n"): "\\n",
    ord("\t"): "\\t",
}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
# Size suffixes that an annotation may carry, in MiB.
_MEBIBYTES = {"mib": 1, "mi": 1, "gib": 1024, "gi": 1024, "tib": 1024**2, "ti": 1024**2}


class Kind:
    """One kind of value; `phrase` names it in a sentence, `label` in a table."""

    phrase: str
    label: str

    def accept(self, value: object) -> object:
        """Return a value that TOML gave, in the form the settings hold; else raise `RefusalError`."""
        raise NotImplementedError

    def parse(self, text: str, unit: str, separator: str) -> object:
        """Read a value from an annotation's text; raise `RefusalError` when it is not of this kind."""
        raise NotImplementedError

    def render(self, value: object) -> str:
        """Write a value of this kind as TOML."""
        raise NotImplementedError

    def _mismatch(self, value: object) -> RefusalError:
        return RefusalError(f"must be {self.phrase}, not {phrase_of(value)}")

    def _unreadable(self, text: str) -> RefusalError:
        return RefusalError(f"must be {self.phrase}, not {text!r}")


class Text(Kind):
    """A string."""

    phrase = "a string"
    label = "string"

    def accept(self, value: object) -> str:
        """Return a string; raise `RefusalError` for anything else."""
        if not isinstance(value, str):
            raise self._mismatch(value)
        return value

    def parse(self, text: str, unit: str, separator: str) -> str:
        """Return the text as it stands."""
        del unit, separator
        return text

    def render(self, value: object) -> str:
        """Write a basic string."""
        return f'"{str(value).translate(_ESCAPES)}"'


class Flag(Kind):
    """A boolean."""

    phrase = "true or false"
    label = "boolean"

    def accept(self, value: object) -> bool:
        """Return a boolean; raise `RefusalError` for anything else."""
        if not isinstance(value, bool):
            raise self._mismatch(value)
        return value

    def parse(self, text: str, unit: str, separator: str) -> bool:
        """Read true, false, 1 or 0, whatever the case; raise `RefusalError` for another word."""
        del unit, separator
        try:
            return _TRUTH[text.strip().lower()]
        except KeyError:
            raise self._unreadable(text) from None

    def render(self, value: object) -> str:
        """Write true or false."""
        return "true" if value else "false"


class Integer(Kind):
    """A whole number."""

    phrase = "an integer"
    label = "integer"

    def accept(self, value: object) -> int:
        """Return an integer; raise `RefusalError` for anything else, a boolean included."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._mismatch(value)
        return value

    def parse(self, text: str, unit: str, separator: str) -> int:
        """Read a decimal number; one counted in MiB may also be written as "2 GiB"."""
        del separator
        word, factor = text.strip(), 1
        if unit == "MiB":
            digits = word.rstrip("GMTgmtIiBb")
            suffix = word[len(digits) :].lower()
            if suffix:
                factor = _MEBIBYTES.get(suffix, 0)
                word = digits.rstrip()
        if not factor or not (word.isascii() and word.removeprefix("-").isdigit()):
            raise self._unreadable(text)
        try:
            return int(word) * factor
        except ValueError:  # more digits than the interpreter converts
            raise self._unreadable(text) from None

    def render(self, value: object) -> str:
        """Write a decimal number."""
        return str(value)


class Number(Kind):
    """A number that may have a fraction."""

    phrase = "a number"
    label = "number"

    def accept(self, value: object) -> float:
        """Return a finite float; raise `RefusalError` for anything else."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._mismatch(value)
        try:
            number = float(value)
        except OverflowError:
            raise RefusalError("must be a finite number") from None
        if number - number != 0:  # true for infinities and NaN alone, without importing math
            raise RefusalError("must be a finite number")
        return number

    def parse(self, text: str, unit: str, separator: str) -> float:
        """Read a decimal number; raise `RefusalError` for other text, infinities and NaN."""
        del unit, separator
        try:
            return self.accept(float(text))
        except ValueError:
            raise self._unreadable(text) from None

    def render(self, value: object) -> str:
        """Write a float so that reading it gives the same bits."""
        return repr(float(str(value)))


class Texts(Kind):
    """A list of strings, held as a tuple."""

    phrase = "a list of strings"
    label = "list of strings"

    def accept(self, value: object) -> tuple[str, ...]:
        """Return a tuple of strings; raise `RefusalError` for anything else."""
        if not isinstance(value, (list, tuple)):
            raise self._mismatch(value)
        for item in value:
            if not isinstance(item, str):
                raise RefusalError(f"must be {self.phrase}, and holds {phrase_of(item)}")
        return tuple(value)

    def parse(self, text: str, unit: str, separator: str) -> tuple[str, ...]:
        """Read a JSON list, or words between separators; raise `RefusalError` for broken JSON."""
        del unit
        if text.lstrip().startswith("["):
            import json

            try:
                return self.accept(json.loads(text))
            except json.JSONDecodeError:
                raise self._unreadable(text) from None
        return tuple(word.strip() for word in text.split(separator) if word.strip())

    def render(self, value: object) -> str:
        """Write an array of basic strings on one line."""
        return f"[{', '.join(map(TEXT.render, self.accept(value)))}]"


TEXT = Text()
FLAG = Flag()
INTEGER = Integer()
NUMBER = Number()
TEXTS = Texts()

# A setting's kind follows from the type of its default.
KIND_OF: Mapping[type, Kind] = {
    str: TEXT,
    bool: FLAG,
    int: INTEGER,
    float: NUMBER,
    tuple: TEXTS,
}


def phrase_of(value: object) -> str:
    """Name the kind of a value that TOML gave, for the end of a sentence."""
    if isinstance(value, bool):
        return Flag.render(FLAG, value)
    if isinstance(value, (str, int, float)):
        return {str: "a string", int: "an integer", float: "a float"}[type(value)]
    if isinstance(value, (list, tuple)):
        return "a list"
    return "a table" if isinstance(value, Mapping) else f"a {type(value).__name__}"
