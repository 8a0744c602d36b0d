"""Read pickles as data: nothing that a pickle names is imported or called.

Classes and functions become `Global` names, and the objects that they would make become
`PickledObject`. The opcodes are those of the module pickletools of Python, up to
protocol 5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from ensembles.checkpoints.formats.pytorch_files.objects import (
    Global,
    Malformed,
    PickledObject,
    checked_key,
)

HIGHEST_PROTOCOL = 5
SPARE = 160 << 20  # bytes of memory that any pickle may need


class _End(Exception):
    """The opcode STOP."""


class Unpickler:
    """Reads one pickle after the other from bytes.

    Parameters
    ----------
    data : bytes
        Bytes that contain the pickles.
    known : mapping of Global to callable
        Functions of ours that are called in place of the classes and functions of the
        pickle that have these names; they raise `TypeError` or `ValueError` for wrong
        arguments.
    persistent_load : callable or None, default=None
        Called with each persistent id, for its object; None refuses them.
    memory : int, default=0
        Bytes of memory that the objects may take, beyond 160 MiB; for example the size
        of the file.
    start : int, default=0
        Position of the first pickle.

    Attributes
    ----------
    position : int
        Position behind the last pickle that was read.
    """

    def __init__(
        self,
        data: bytes,
        known: Mapping[Global, Callable[..., Any]],
        *,
        persistent_load: Callable[[Any], Any] | None = None,
        memory: int = 0,
        start: int = 0,
    ) -> None:
        self.position = start
        self._bytes = data
        self._data = memoryview(data)
        self._known = known
        self._persistent_load = persistent_load
        self._left = SPARE + memory
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Read the pickle at the current position.

        Returns
        -------
        object
            Plain values and containers, `Global`, `PickledObject`, and results of the
            functions in ``known``.

        Raises
        ------
        Malformed
            If the pickle is damaged, or its objects take more memory than allowed.
        """
        self._stack, self._marks, self._memo = [], [], {}
        begin, data = self.position, self._bytes
        try:
            while True:
                opcode = data[self.position]
                self.position += 1
                OPCODES[opcode](self)
        except _End:
            pass
        except Malformed:
            raise
        except KeyError as error:
            raise self._malformed(f"unknown opcode or memo entry {error}") from None
        except (
            *(ArithmeticError, AttributeError, IndexError, TypeError, ValueError),
            *(struct.error, RecursionError),
        ) as error:
            reason = (
                str(error) if not isinstance(error, IndexError) else "it ends early"
            )
            raise self._malformed(reason) from None
        if self._marks or len(self._stack) != 1:
            raise Malformed(
                f"the pickle at byte {begin} must describe one object, found "
                f"{len(self._stack)}"
            )
        return self._stack.pop()

    def _malformed(self, reason: str) -> Malformed:
        return Malformed(
            f"the pickle is malformed at byte {self.position}: {reason:.200}"
        )

    def _spend(self, n_bytes: int) -> None:
        """Count the memory of a new object."""
        self._left -= n_bytes
        if self._left < 0:
            raise Malformed("the pickle describes more objects than fit into the file")

    def _take(self, size: int) -> memoryview:
        """The next bytes of the pickle."""
        begin, end = self.position, self.position + size
        if size < 0 or end > len(self._data):
            raise Malformed(
                f"the pickle is malformed at byte {begin}: {size} bytes must follow, "
                f"found {len(self._data) - begin}"
            )
        self.position = end
        return self._data[begin:end]

    def _byte(self) -> int:
        value = self._bytes[self.position]
        self.position += 1
        return value

    def _integer(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self) -> bytes:
        """The next bytes up to a line feed, for opcodes of protocol 0."""
        begin = self.position
        end = self._bytes.find(b"\n", begin)
        if end < 0:
            raise self._malformed("a line must end with a line feed")
        self.position = end + 1
        return self._bytes[begin:end]

    def _push(self, value: Any, n_bytes: int = 0) -> None:
        self._left -= n_bytes  # not by a call: most opcodes push
        if self._left < 0:
            self._spend(0)
        self._stack.append(value)

    def _push_text(self, data: memoryview) -> None:
        self._push(str(data, "utf-8", "surrogatepass"), 64 + len(data))

    def _push_bytes(self, data: memoryview | bytes) -> None:
        self._push(bytes(data), 64 + len(data))

    def _push_old_text(self, data: bytes) -> None:
        """Push a string of Python 2, which may be text or bytes."""
        self._push(data.decode("utf-8", "replace"), 64 + len(data))

    def _pop_mark(self) -> list[Any]:
        """The objects since the last mark."""
        objects = self._stack
        self._stack = self._marks.pop()
        return objects

    def _mark(self) -> None:
        self._spend(64)
        self._marks.append(self._stack)
        self._stack = []

    def _stop(self) -> None:
        raise _End

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _protocol(self) -> None:
        protocol = self._integer(1)
        if protocol > HIGHEST_PROTOCOL:
            raise self._malformed(
                f"protocol must be at most {HIGHEST_PROTOCOL}, found {protocol}"
            )

    def _tuple(self, size: int) -> None:
        values = tuple(self._stack[-size:]) if size else ()
        if len(values) < size:
            raise self._malformed("a tuple must have its elements on the stack")
        if size:
            del self._stack[-size:]
        self._push(values, 48 + 8 * size)

    def _marked_tuple(self) -> None:
        values = self._pop_mark()
        self._push(tuple(values), 48 + 8 * len(values))

    def _marked_list(self) -> None:
        values = self._pop_mark()
        self._push(values, 64 + 8 * len(values))

    def _marked_dict(self) -> None:
        values = self._pop_mark()
        self._push({}, 64)
        self._set(values)

    def _frozenset(self) -> None:
        values = self._pop_mark()
        self._push(PickledObject(Global("builtins", "frozenset"), elements=values), 400)

    def _append(self) -> None:
        value = self._stack.pop()
        self._extend([value])

    def _extend(self, values: list[Any]) -> None:
        """Append values to the list, or add them to the set, on top of the stack."""
        self._spend(16 * len(values))
        target = self._stack[-1]
        if isinstance(target, PickledObject):
            target.elements.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise self._malformed(f"{type(target).__name__} cannot have elements")

    def _set_one(self) -> None:
        pair = self._stack[-2:]
        del self._stack[-2:]
        self._set(pair)

    def _set(self, values: list[Any]) -> None:
        """Set keys and values, in turn, in the mapping on top of the stack."""
        self._spend(100 * len(values))
        target = self._stack[-1]
        if isinstance(target, PickledObject):
            target = target.entries
        if not isinstance(target, dict):
            raise self._malformed(f"{type(target).__name__} cannot have entries")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[checked_key(key)] = value

    def _memoize(self, index: int) -> None:
        self._spend(80)
        self._memo[index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        self._push(self._memo[index], 8)

    def _named(self, module: str, name: str) -> None:
        self._push(Global(module, name), 200 + len(module) + len(name))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise self._malformed("a class must be named by two strings")
        self._named(module, name)

    def _old_object(self, function: Any, args: list[Any]) -> None:
        """Make an object by INST or OBJ."""
        self._make(function, tuple(args), {})

    def _make(self, function: Any, args: Any, kwargs: Any) -> None:
        """Push the object that a call of ``function`` would make, without the call."""
        if not (isinstance(args, tuple) and isinstance(kwargs, dict)):
            raise self._malformed("arguments of a call must be a tuple and a dict")
        if isinstance(function, Global):
            make = self._known.get(function)
            if make is not None:
                self._push(make(*args, **kwargs), 200)
                return
            self._push(PickledObject(function, args, kwargs), 400)
            return
        if not isinstance(function, PickledObject):
            raise self._malformed(f"{type(function).__name__} cannot be called")
        self._push(PickledObject(function.type, (function, *args), kwargs), 400)

    def _reduce(self) -> None:
        args = self._stack.pop()
        self._make(self._stack.pop(), args, {})

    def _reduce_with_keywords(self) -> None:
        kwargs, args = self._stack.pop(), self._stack.pop()
        self._make(self._stack.pop(), args, kwargs)

    def _build(self) -> None:
        """Set the state of an object; containers have none that is of use."""
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, PickledObject):
            target.state = state

    def _persistent(self, persistent_id: Any) -> None:
        if self._persistent_load is None:
            raise self._malformed("it refers to objects outside of the pickle")
        self._push(self._persistent_load(persistent_id), 200)

    def _extension(self, size: int) -> None:
        """A class by its number in the registry of the program that wrote it."""
        self._named("copyreg", f"extension {self._integer(size)}")


def _old_integer(reader: Unpickler) -> None:
    line = reader._line()
    booleans = {b"00": False, b"01": True}
    reader._push(booleans[line] if line in booleans else int(line), len(line))


def _old_string(reader: Unpickler) -> None:
    """A string of protocol 0: a quoted literal with escape sequences."""
    line = reader._line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise Malformed("a string of protocol 0 must be in quotes")
    reader._push_old_text(
        line[1:-1].decode("unicode_escape").encode("latin-1", "replace")
    )


def _instance(reader: Unpickler) -> None:
    module, name = reader._line().decode(), reader._line().decode()
    reader._old_object(Global(module, name), reader._pop_mark())


def _object(reader: Unpickler) -> None:
    function, *args = reader._pop_mark()
    reader._old_object(function, args)


def _long(size: int) -> Callable[[Unpickler], None]:
    def read(reader: Unpickler) -> None:
        data = reader._take(reader._integer(size))
        reader._push(int.from_bytes(data, "little", signed=True), 32 + len(data))

    return read


def _fixed(size: int, *, signed: bool = False) -> Callable[[Unpickler], None]:
    def read(reader: Unpickler) -> None:
        value = int.from_bytes(reader._take(size), "little", signed=signed)
        reader._push(value, 32)

    return read


def _sized(
    size: int, push: Callable[[Unpickler, Any], None]
) -> Callable[[Unpickler], None]:
    """Opcode with a length of ``size`` bytes, and as many bytes."""
    return lambda reader: push(reader, reader._take(reader._integer(size)))


def _constant(value: Any) -> Callable[[Unpickler], None]:
    return lambda reader: reader._push(value, 8)


R = Unpickler
OPCODES: dict[int, Callable[[Unpickler], None]] = {
    ord(opcode): run
    for opcode, run in {
        "(": R._mark,
        ".": R._stop,
        "0": R._pop,
        "1": R._pop_mark,
        "2": lambda r: r._push(r._stack[-1], 8),
        "\x80": R._protocol,
        "\x95": lambda r: r._take(8),
        # Constants and numbers
        "N": _constant(None),
        "\x88": _constant(True),
        "\x89": _constant(False),
        "F": lambda r: r._push(float(r._line()), 32),
        "G": lambda r: r._push(struct.unpack(">d", r._take(8))[0], 32),
        "I": _old_integer,
        "J": _fixed(4, signed=True),
        "K": lambda r: r._push(r._byte(), 8),
        "M": _fixed(2),
        "L": lambda r: r._push(int(r._line().rstrip(b"L")), 32),
        "\x8a": _long(1),
        "\x8b": _long(4),
        # Strings and bytes
        "S": _old_string,
        "T": _sized(4, lambda r, data: r._push_old_text(bytes(data))),
        "U": _sized(1, lambda r, data: r._push_old_text(bytes(data))),
        "V": lambda r: r._push_old_text(
            r._line().decode("raw_unicode_escape").encode("utf-8", "surrogatepass")
        ),
        "X": _sized(4, R._push_text),
        "\x8c": _sized(1, R._push_text),
        "\x8d": _sized(8, R._push_text),
        "B": _sized(4, R._push_bytes),
        "C": _sized(1, R._push_bytes),
        "\x8e": _sized(8, R._push_bytes),
        "\x96": _sized(8, R._push_bytes),
        "\x98": lambda r: None,
        # Containers
        ")": lambda r: r._tuple(0),
        "\x85": lambda r: r._tuple(1),
        "\x86": lambda r: r._tuple(2),
        "\x87": lambda r: r._tuple(3),
        "t": R._marked_tuple,
        "]": lambda r: r._push([], 64),
        "l": R._marked_list,
        "a": R._append,
        "e": lambda r: r._extend(r._pop_mark()),
        "}": lambda r: r._push({}, 64),
        "d": R._marked_dict,
        "s": R._set_one,
        "u": lambda r: r._set(r._pop_mark()),
        "\x8f": lambda r: r._push(PickledObject(Global("builtins", "set")), 400),
        "\x90": lambda r: r._extend(r._pop_mark()),
        "\x91": R._frozenset,
        # Memo
        "p": lambda r: r._memoize(int(r._line())),
        "q": lambda r: r._memoize(r._byte()),
        "r": lambda r: r._memoize(r._integer(4)),
        "\x94": lambda r: r._memoize(len(r._memo)),
        "g": lambda r: r._recall(int(r._line())),
        "h": lambda r: r._recall(r._byte()),
        "j": lambda r: r._recall(r._integer(4)),
        # Classes, functions and objects
        "c": lambda r: r._named(r._line().decode(), r._line().decode()),
        "\x93": R._stack_global,
        "\x82": lambda r: r._extension(1),
        "\x83": lambda r: r._extension(2),
        "\x84": lambda r: r._extension(4),
        "R": R._reduce,
        "\x81": R._reduce,
        "\x92": R._reduce_with_keywords,
        "i": _instance,
        "o": _object,
        "b": R._build,
        "P": lambda r: r._persistent(r._line().decode()),
        "Q": lambda r: r._persistent(r._stack.pop()),
    }.items()
}
