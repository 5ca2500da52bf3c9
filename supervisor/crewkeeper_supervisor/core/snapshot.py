"""Snapshot: any part of the core's state as bytes, and back; whether to believe such bytes is for others to know.

Theory of operation. The state is a graph of objects that refer to each other, and who refers to the same thing as whom
is part of it. So everything that can change gets a number at its first mention and is written once, whole; everything
else is written where it stands. An object is written by its fields, whatever they are: a new field is in the snapshot
from the day on which it is in the class. Equal states give equal bytes: numbers are given in the order of mention, sets
are sorted, and nothing depends on where in memory anything is.

Bytes are read by the very code that wrote them, or not at all; the caller sees to that. Only plain data and classes of
the core and the bus are written and read, objects are made from their fields without running anything of theirs, and
whatever else is met refuses the whole.
"""

from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct

from crewkeeper_bus import conditions, facts, message_base, messages, subjects, tool_messages
from crewkeeper_supervisor import core
from crewkeeper_supervisor.core.nodes import NO_MESSAGES, NO_TICKETS

OBJECTS_MAX: Final = 2_000_000
"""Things that can change; more are not written."""
_CORE: Final = f"{core.__name__}."
_BUS: Final = {each.__name__: each for each in (conditions, facts, message_base, messages, subjects, tool_messages)}
"""Modules of the bus whose objects the state may hold."""
_LEFT_OUT: Final = {"crewkeeper_supervisor.core.gate_state:GateState": frozenset(("_make", "rules"))}
"""Fields that are no state: how rules are made, and the rules, which are made anew and told what they knew."""
_UNORDERED: Final = {"crewkeeper_supervisor.core.drift:DriftModel": frozenset(("_known",))}
"""Dicts whose order means nothing, and depends on that of sets."""
_SHARED: Final[Mapping[str, object]] = {"no messages": NO_MESSAGES, "no tickets": NO_TICKETS, "unset": UNSET}
"""Constants that are told apart from their equals."""
_SHARED_BY_ID: Final = {id(each): name for name, each in _SHARED.items()}
_ATOMS: Final = frozenset((str, float, bool, bytes, type(None)))
_CONTAINERS: Final = frozenset((list, dict, set, deque))
_BUILT_IN: Final = (int, float, str, bytes, tuple, list, dict, set, frozenset, deque)
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1


class _As:
    """How an array in a value is to be read; what is no array stands for itself."""

    REF, TUPLE, FROZENSET, STRUCT, ENUM, RAW, INT, CONSTANT, NAMED = range(9)


class _Thing:
    """What a numbered thing is."""

    LIST, DICT, SET, DEQUE, OBJECT = range(5)


class SnapshotError(ValueError):
    """Something cannot be written, or bytes are no snapshot; nothing was changed."""


class _Shape(Struct, frozen=True):
    """How the objects of one class are written."""

    number: int
    fields: tuple[str, ...]
    """In their order; objects with a dict of their own have more, by name."""
    has_dict: bool
    is_value: bool
    """A frozen struct: it is written where it stands."""
    left_out: frozenset[str] = frozenset()
    unordered: frozenset[str] = frozenset()


class _Written(Struct):
    classes: list[str]
    root: Any
    objects: list[Any]


def encode(root: object) -> bytes:
    """Everything that `root` leads to.

    Raises:
        SnapshotError: It leads to something that is neither plain data nor of the core or the bus, or to too much.
    """
    writer = _Writer()
    try:
        written = writer.value(root)
        objects = writer.rest()
    except (RecursionError, AttributeError) as error:
        raise SnapshotError(f"it cannot be written: {type(error).__name__}: {str(error)[:200]}") from None
    return msgspec.msgpack.encode(_Written(list(writer.classes), written, objects))


def decode(data: bytes) -> Any:
    """What `encode` was given, made anew.

    Raises:
        SnapshotError: These bytes are none of `encode`, or of other code.
    """
    try:
        return _Reader(msgspec.msgpack.decode(data, type=_Written)).read()
    except SnapshotError:
        raise
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SnapshotError(f"it cannot be read: {type(error).__name__}: {str(error)[:200]}") from None


def _class_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


class _Writer:
    def __init__(self) -> None:
        self.classes: dict[str, int] = {}
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._shapes: dict[type, _Shape] = {}

    def rest(self) -> list[Any]:
        """Every numbered thing; writing one may number more."""
        written: list[Any] = []
        objects = self._objects
        while len(written) < len(objects):
            written.append(self._thing(objects[len(written)]))
        return written

    def value(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is int:
            return value if _INT_MIN <= value <= _INT_MAX else [_As.INT, str(value)]
        if kind in _CONTAINERS:
            return [_As.REF, self._number(value)]
        if kind is tuple:
            return [_As.TUPLE, *map(self.value, value)]
        if kind is frozenset:
            return [_As.FROZENSET, *self._sorted(value)]
        if kind is Raw:
            return [_As.RAW, bytes(value)]
        if (name := _SHARED_BY_ID.get(id(value))) is not None:
            return [_As.CONSTANT, name]
        shape = self._shapes.get(kind) or self._shape(kind)
        if not shape.is_value:
            return [_As.REF, self._number(value)]
        if isinstance(value, Enum):
            return [_As.ENUM, shape.number, self.value(value.value)]
        if isinstance(value, tuple):
            return [_As.NAMED, shape.number, *map(self.value, value)]
        return [_As.STRUCT, shape.number, *[self.value(getattr(value, name)) for name in shape.fields]]

    def _number(self, thing: Any) -> int:
        number = self._numbers.get(id(thing))
        if number is None:
            number = self._numbers[id(thing)] = len(self._objects)
            if number >= OBJECTS_MAX:
                raise SnapshotError(f"the state has more than {OBJECTS_MAX} parts")
            self._objects.append(thing)  # held on to: while it is there, its place in memory is its own
        return number

    def _thing(self, thing: Any) -> list[Any]:
        kind, value = type(thing), self.value
        if kind is dict:
            found: list[Any] = [_Thing.DICT]
            for key, each in thing.items():
                found += (value(key), value(each))
            return found
        if kind is list:
            return [_Thing.LIST, *map(value, thing)]
        if kind is deque:
            return [_Thing.DEQUE, thing.maxlen, *map(value, thing)]
        if kind is set:
            return [_Thing.SET, *self._sorted(thing)]
        shape = self._shapes[kind]
        found = [_Thing.OBJECT, shape.number, *[value(getattr(thing, name)) for name in shape.fields]]
        if shape.has_dict:
            for name, each in vars(thing).items():
                if name in shape.unordered:
                    found += (name, value(dict(sorted(each.items()))))
                elif name not in shape.left_out:
                    found += (name, value(each))
        return found

    def _sorted(self, values: Any) -> list[Any]:
        return sorted(map(self.value, values), key=msgspec.msgpack.encode)

    def _shape(self, cls: type) -> _Shape:
        name = _class_name(cls)
        if not cls.__module__.startswith(_CORE) and cls.__module__ not in _BUS:
            raise SnapshotError(f"the state leads to a {name}, which is no plain data")
        number = self.classes.setdefault(name, len(self.classes))
        shape = self._shapes[cls] = _shape_of(cls, number)
        return shape


def _shape_of(cls: type, number: int) -> _Shape:
    name = _class_name(cls)
    if issubclass(cls, Struct):
        return _Shape(number, cls.__struct_fields__, has_dict=False, is_value=bool(cls.__struct_config__.frozen))
    if issubclass(cls, Enum) or (issubclass(cls, tuple) and hasattr(cls, "_fields")):
        return _Shape(number, (), has_dict=False, is_value=True)
    slots = (getattr(each, "__slots__", ()) for each in reversed(cls.__mro__))
    fields = tuple(field for each in slots for field in each if field[:2] != "__")
    has_dict = bool(cls.__dictoffset__)
    if issubclass(cls, _BUILT_IN) or not (fields or has_dict):
        raise SnapshotError(f"the state leads to a {name}, whose fields are not known")
    left_out, unordered = _LEFT_OUT.get(name, frozenset()), _UNORDERED.get(name, frozenset())
    return _Shape(number, fields, has_dict=has_dict, is_value=False, left_out=left_out, unordered=unordered)


class _Reader:
    def __init__(self, written: _Written) -> None:
        self._written = written
        self._classes = [_class(name) for name in written.classes]
        self._shapes = [_shape_of(cls, number) for number, cls in enumerate(self._classes)]
        self._things = [self._shell(thing) for thing in written.objects]

    def read(self) -> Any:
        for thing, written in zip(self._things, self._written.objects, strict=True):
            self._fill(thing, written)
        return self._value(self._written.root)

    def _shell(self, written: list[Any]) -> Any:
        match written[0]:
            case _Thing.LIST:
                return []
            case _Thing.DICT:
                return {}
            case _Thing.SET:
                return set()
            case _Thing.DEQUE:
                return deque(maxlen=written[1])
            case _Thing.OBJECT:
                cls = self._classes[written[1]]
                if issubclass(cls, Struct):
                    return cls(**dict.fromkeys(cls.__struct_fields__))
                return object.__new__(cls)
        raise SnapshotError("it holds a thing of no kind")

    def _fill(self, thing: Any, written: list[Any]) -> None:
        value = self._value
        match written[0]:
            case _Thing.LIST:
                thing.extend(map(value, written[1:]))
            case _Thing.DICT:
                thing.update(zip(map(value, written[1::2]), map(value, written[2::2]), strict=True))
            case _Thing.SET:
                thing.update(map(value, written[1:]))
            case _Thing.DEQUE:
                thing.extend(map(value, written[2:]))
            case _:
                shape = self._shapes[written[1]]
                count = 2 + len(shape.fields)
                for name, each in zip(shape.fields, written[2:count], strict=True):
                    setattr(thing, name, value(each))
                if shape.has_dict:
                    vars(thing).update(zip(written[count::2], map(value, written[count + 1 :: 2]), strict=True))
                elif len(written) != count:
                    raise SnapshotError("it holds an object with fields that its class does not have")

    def _value(self, written: Any) -> Any:
        if type(written) is not list:
            return written
        match written[0]:
            case _As.REF:
                return self._things[written[1]]
            case _As.TUPLE:
                return tuple(map(self._value, written[1:]))
            case _As.FROZENSET:
                return frozenset(map(self._value, written[1:]))
            case _As.STRUCT:
                cls = self._classes[written[1]]
                fields = zip(self._shapes[written[1]].fields, map(self._value, written[2:]), strict=True)
                return cls(**dict(fields))
            case _As.ENUM:
                return self._classes[written[1]](self._value(written[2]))
            case _As.RAW:
                return Raw(written[1])
            case _As.INT:
                return int(written[1])
            case _As.CONSTANT:
                return _SHARED[written[1]]
            case _As.NAMED:
                return self._classes[written[1]](*map(self._value, written[2:]))
        raise SnapshotError("it holds a value of no kind")


def _class(name: str) -> type:
    """A class of the core or the bus that is loaded."""
    module, _, path = name.partition(":")
    found: Any = _BUS.get(module)
    if module.startswith(_CORE):
        found = vars(core).get(module.removeprefix(_CORE))
    for part in path.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    if not isinstance(found, type) or _class_name(found) != name:
        raise SnapshotError(f"it holds a {name[:100]}, which this program does not have")
    return found
