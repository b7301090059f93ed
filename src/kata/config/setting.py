"""The row of the settings table, and the section that its rows make.

A section is a class whose fields are declared with `setting`: the row holds everything that is
known of a key, so the loader, the shipped file, the reference page and the annotation gate have no
second list to keep. Rows are cheap on purpose: `dataclasses` costs 20 ms here (15 to import, 5 to
compile a class of this size), and the shim pays for every one of them at each start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, Self, TypeVar, cast, dataclass_transform

from kata.config.errors import RefusalError
from kata.config.kinds import KIND_OF, Kind

T = TypeVar("T")


class Setting:
    """One key: its default, its help, what it accepts, and whether it is implemented.

    Frozen by convention: rows are made when their module is imported and never change.
    """

    name: str
    kind: Kind
    default: object
    help: str
    unit: str
    implemented: bool
    annotation: bool | str
    choices: tuple[object, ...]
    planned: tuple[object, ...]
    minimum: float | None
    maximum: float | None
    allowed_by: str
    aliases: tuple[str, ...]
    separator: str
    combine: Callable[[Any, Any], object] | None
    asset: bool
    shown: str
    __slots__ = tuple(__annotations__)

    def __init__(self, **facts: Any) -> None:
        for name, value in facts.items():
            setattr(self, name, value)
        self.kind = KIND_OF[type(facts["default"])]

    def __set_name__(self, owner: type[Section], name: str) -> None:
        self.name = name
        if self.annotation is True:
            self.annotation = name

    def check(self, value: object) -> object:
        """Return a value that TOML gave, in the form that sections hold.

        Raises `RefusalError` for a value of another kind, out of range, not among the choices, or of a
        setting that is not implemented yet and therefore only takes its default.
        """
        if not self.implemented:
            return self._only_the_default(value)
        accepted = self.kind.accept(value)
        if accepted in self.planned:
            raise RefusalError(
                f"= {self.render(accepted)} is not implemented yet", self.expectation()
            )
        if self.choices and accepted not in self.choices:
            raise RefusalError(f"cannot be {self.render(accepted)}", self.expectation())
        if isinstance(accepted, (int, float)) and not self._holds(accepted):
            raise RefusalError(f"= {self.render(accepted)} is out of range", self.expectation())
        return accepted

    def parse(self, text: str) -> object:
        """Return the value that an annotation's text stands for; raises as `check` does."""
        return self.check(self.kind.parse(text, self.unit, self.separator))

    def render(self, value: object) -> str:
        """Write a value of this setting as TOML."""
        return self.kind.render(value)

    def expectation(self) -> str:
        """Say in words what is allowed; empty when every value of the kind is."""
        unit = f" {self.unit}" if self.unit else ""
        if self.choices:
            return f"one of {', '.join(map(self.render, self.choices))}"
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum} to {self.maximum}{unit}"
        if self.minimum is not None:
            return f"at least {self.minimum}{unit}"
        return f"at most {self.maximum}{unit}" if self.maximum is not None else ""

    def _holds(self, number: float) -> bool:
        low, high = self.minimum, self.maximum
        return (low is None or number >= low) and (high is None or number <= high)

    def _only_the_default(self, value: object) -> object:
        try:
            if self.kind.accept(value) == self.default:
                return self.default
        except RefusalError:
            pass  # of whatever kind it is, it is not the default
        raise RefusalError(
            "is not implemented yet",
            f"remove it, or leave it at its default, {self.render(self.default)}: {self.help}",
        )


def setting(
    *,
    default: T,
    help: str,  # noqa: A002  the word that every reader of the table expects
    unit: str = "",
    implemented: bool = True,
    annotation: bool | str = False,
    choices: tuple[T, ...] = (),
    planned: tuple[T, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    allowed_by: str = "",
    aliases: tuple[str, ...] = (),
    separator: str = ",",
    combine: Callable[[T, T], T] | None = None,
    asset: bool = False,
    shown: str = "",
) -> T:
    """Declare one key of a section; its kind is the type of its default.

    `annotation` is the name a pod may set it by, or True for the key's own. `planned` are choices
    of upstream's that are refused with that reason. `allowed_by` names the list of globs that an
    annotation's value must match. `combine` makes the new value of the old one and an
    annotation's. An `asset` is always written to the shipped file; `shown` stands for a default
    that depends on the machine.
    """
    return cast("T", Setting(**locals()))


def later(
    *,
    default: T,
    help: str,  # noqa: A002  as above
    unit: str = "",
    annotation: bool | str = False,
) -> T:
    """Declare a key of upstream's that is known, and only takes its default until implemented."""
    return setting(default=default, help=help, unit=unit, annotation=annotation, implemented=False)


@dataclass_transform(
    eq_default=True,
    kw_only_default=True,
    frozen_default=True,
    field_specifiers=(setting, later),
)
class Section:
    """The values of one TOML table: frozen, one attribute for each key.

    `table` is its dotted name, `accepted_as` are other names of the same table, and `settings`
    its rows in the order of declaration. The constructor takes the keys as keywords and checks
    nothing: values from outside come through `kata.config.load`.
    """

    table: ClassVar[str]
    accepted_as: ClassVar[tuple[str, ...]]
    annotated_as: ClassVar[str]
    settings: ClassVar[Mapping[str, Setting]]
    _defaults: ClassVar[dict[str, object]]

    def __init_subclass__(
        cls, *, table: str, accepted_as: tuple[str, ...] = (), annotated_as: str = ""
    ) -> None:
        rows = {name: row for name, row in vars(cls).items() if isinstance(row, Setting)}
        for name in rows:
            delattr(cls, name)  # a key that an instance lacks must not read as its row
        cls.table = table
        cls.accepted_as = accepted_as
        cls.annotated_as = annotated_as
        cls.settings = MappingProxyType(rows)
        cls._defaults = {name: row.default for name, row in rows.items()}

    def __init__(self, **values: object) -> None:
        unknown = values.keys() - self.settings.keys()
        if unknown:
            raise TypeError(f"[{self.table}] has no key {', '.join(sorted(unknown))}")
        self.__dict__.update(self._defaults)
        self.__dict__.update(values)

    def replace(self, **changes: object) -> Self:
        """Return a copy with other values for some keys; nothing is checked."""
        return type(self)(**{**self.__dict__, **changes})

    def values(self) -> dict[str, object]:
        """Return every key with its value, in the order of the table."""
        return dict(self.__dict__)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: configuration does not change; use replace()")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: configuration does not change")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((self.table, *self.__dict__.values()))

    def __repr__(self) -> str:
        changed = (
            f"{name}={value!r}"
            for name, value in self.__dict__.items()
            if value != self._defaults[name]
        )
        return f"{type(self).__name__}({', '.join(changed)})"
