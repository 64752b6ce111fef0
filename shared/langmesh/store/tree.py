"""Items by namespace, in memory: what is below a prefix, in the order of its creation."""

from __future__ import annotations

from collections.abc import Iterator

from langmesh.store.entries import Entry


class _Space:
    """One namespace: its items, and the namespaces below it."""

    __slots__ = ("below", "entries", "in_order", "last")

    def __init__(self) -> None:
        self.below: dict[str, _Space] = {}
        self.entries: dict[str, Entry] = {}
        self.in_order = True
        self.last = 0

    def ordered(self) -> dict[str, Entry]:
        if not self.in_order:
            self.entries = dict(sorted(self.entries.items(), key=lambda pair: pair[1].order))
            self.in_order = True
            self.last = next(reversed(self.entries.values())).order
        return self.entries


class Tree:
    """Holds the last entry of each subject.

    Attributes:
        size: Estimated bytes of memory.
    """

    def __init__(self) -> None:
        self._root = _Space()
        self._by_subject: dict[str, Entry] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._by_subject)

    def put(self, entry: Entry) -> None:
        """Add an entry, or replace the one on its subject."""
        former = self._by_subject.get(entry.subject)
        if former is not None:
            if former.order == entry.order:
                self._space(entry.namespace).entries[entry.key] = entry
                self._by_subject[entry.subject] = entry
                self.size += entry.size - former.size
                return
            self.remove(entry.subject)
        space = self._space(entry.namespace)
        if entry.order < space.last:
            # A put keeps an item's place, but moves its message to the end of the stream.
            space.in_order = False
        space.last = max(space.last, entry.order)
        space.entries[entry.key] = entry
        self._by_subject[entry.subject] = entry
        self.size += entry.size

    def remove(self, subject: str) -> None:
        """Forget the entry on a subject, if there is one."""
        entry = self._by_subject.pop(subject, None)
        if entry is None:
            return
        self.size -= entry.size
        path = [self._root]
        for label in entry.namespace:
            path.append(path[-1].below[label])
        del path[-1].entries[entry.key]
        if not path[-1].entries:
            path[-1].in_order, path[-1].last = True, 0
        for label, space in zip(reversed(entry.namespace), reversed(path[:-1]), strict=True):
            child = space.below[label]
            if child.entries or child.below:
                break
            del space.below[label]

    def below(self, prefix: tuple[str, ...]) -> list[Entry]:
        """The entries of a namespace and of those below it.

        Namespaces come in the order of their oldest items, items of one in the order of their
        creation.
        """
        spaces = [space.ordered() for _, space in self._walk(prefix)]
        spaces.sort(key=lambda entries: next(iter(entries.values())).order)
        return [entry for entries in spaces for entry in entries.values()]

    def namespaces(self, prefix: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """The namespaces from a prefix on down that hold an item themselves."""
        return (namespace for namespace, _ in self._walk(prefix))

    def _walk(self, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], _Space]]:
        start: _Space | None = self._root
        for label in prefix:
            start = start.below.get(label) if start is not None else None
        pending = [(prefix, start)] if start is not None else []
        while pending:
            namespace, space = pending.pop()
            if space.entries:
                yield namespace, space
            pending.extend(((*namespace, label), child) for label, child in space.below.items())

    def _space(self, namespace: tuple[str, ...]) -> _Space:
        space = self._root
        for label in namespace:
            space = space.below.setdefault(label, _Space())
        return space
