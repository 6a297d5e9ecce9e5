"""The names of an object's members: which are read, and that every reader reads the same. Pure.

A member that stands twice, or whose name equals one that we read only after case folding (Go's
decoder folds, the long s and the Kelvin sign included) or up to a NUL (C's strings end there), is
another's for some reader: such an object is refused. So is one that spells a member in both of
the ways that protobuf's JSON knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_KEPT: Final = 512  # clients send few shapes of body, again and again
_KEPT_CHARS: Final = 512

Read = tuple[tuple[str, str], ...]
"""Of the members of an object those that are read: the name as it is written, and ours."""


class AmbiguousNamesError(Exception):
    """`param` is the member that could be read in two ways, if it is one of ours."""

    def __init__(self, detail: str, param: str | None) -> None:
        super().__init__(detail)
        self.detail, self.param = detail, param


class Names:
    """The members that are read of an object, some of them with a second spelling."""

    __slots__ = ("_folded", "_kept", "ours")

    def __init__(
        self, names: Iterable[str], spellings: Iterable[tuple[str, str]] = (), inside: str = ""
    ) -> None:
        """`inside`: the name of the object, where it is itself a member of the body."""
        before = f"{inside}." if inside else ""
        self.ours = {name: before + name for name in names}
        for name, other in spellings:
            if name in self.ours:
                self.ours[other] = self.ours[name]
        self._folded = {name.casefold(): ours for name, ours in self.ours.items()}
        self._kept = dict[tuple[str, ...], Read]()

    def read(self, names: tuple[str, ...]) -> Read:
        """What is to be read of an object with these members, in their order.

        Raises AmbiguousNamesError.
        """
        found = self._kept.get(names)
        if found is None:
            found = self._look(names)
            if sum(map(len, names)) < _KEPT_CHARS:
                if len(self._kept) >= _KEPT:
                    self._kept.clear()  # else what one client makes up would keep all others out
                self._kept[names] = found
        return found

    def knows(self, names: tuple[str, ...]) -> bool:
        """Whether these were looked at before, so that reading them costs nothing."""
        return names in self._kept

    def _look(self, names: tuple[str, ...]) -> Read:
        """All names at once, as there may be very many: what folds to one of ours is one of them.

        A name with a NUL falls apart here, so that what stands behind it is looked at too.
        """
        found = tuple((name, self.ours[name]) for name in filter(self.ours.__contains__, names))
        folded = "\0".join(names).casefold().split("\0")
        if (
            len(set(names)) != len(names)
            or sum(map(self._folded.__contains__, folded)) != len(found)
            or len({ours for _, ours in found}) != len(found)
        ):
            self._look_closely(names)
        return found

    def _look_closely(self, names: tuple[str, ...]) -> None:
        seen, found = set[str](), set[str]()
        for name in names:
            ours = self.ours.get(name)
            if name in seen:
                raise AmbiguousNamesError("a member stands in it twice", ours)
            seen.add(name)
            if ours is None:
                self._alike(name)
            elif ours in found:
                raise AmbiguousNamesError(f"`{ours}` stands in it in both of its spellings", ours)
            else:
                found.add(ours)

    def _alike(self, name: str) -> None:
        ours = self._folded.get(name.partition("\0")[0].casefold())
        if ours is not None:
            raise AmbiguousNamesError(
                f"a member's name differs from `{ours}` only in case or in what cannot be seen",
                ours,
            )
