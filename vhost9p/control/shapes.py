"""What the objects of an answer look like (answers/), for those who read them.

A daemon may be of another version, or be no daemon at all but some user's process that root asks.
So an object is looked at before it is used: its keys, and the kinds of their values. More keys than
these do no harm.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from vhost9p.control import Object

Shape = Callable[[Any], bool]
"""Whether a value has it."""
NUMBER_MAX = 2**64


def text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def flag(value: Any) -> bool:
    """True or false; in C's numbers, too."""
    return value in (0, 1)


def whole(value: Any) -> bool:
    """A number such as C has."""
    return isinstance(value, int) and abs(value) <= NUMBER_MAX


def real(value: Any) -> bool:
    """A number with a fraction, which may be none (NaN)."""
    return isinstance(value, float) or whole(value)


def maybe(shape: Shape) -> Shape:
    """Null, or this."""
    return lambda value: value is None or shape(value)


def each(shape: Shape) -> Shape:
    """A list of such."""
    return lambda value: isinstance(value, list) and all(map(shape, value))


def of_errnos(value: Any) -> bool:
    """Counts by the numbers of errors, which are strings in JSON."""
    return isinstance(value, dict) and all(
        key.isascii() and key.isdecimal() and len(key) < 6 and whole(count)
        for key, count in value.items()
    )


def an(may: Mapping[str, Shape] = MappingProxyType({}), /, **fields: Shape) -> Shape:
    """An object with these keys, and those that it may have."""

    def fits(value: Any) -> bool:
        if not isinstance(value, dict):
            return False
        return all(key in value and shape(value[key]) for key, shape in fields.items()) and all(
            shape(value[key]) for key, shape in may.items() if key in value
        )

    return fits


_QUOTA = an(bytes=maybe(whole), inodes=maybe(whole))
_EXPORT = an(
    name=text, path=text, security_model=text, readonly=flag, throttled=flag, quota=maybe(_QUOTA)
)
_VIEW = dict.fromkeys(("msize", "fids", "inflight", "dead"), whole)
_MOUNTED = an(dialect=text, **_VIEW)
_NOTIFY = an(watched=text, lacks=each(text))
_ANY_DEVICE = an(
    {**_VIEW, "broken": flag, "notify": maybe(_NOTIFY)},
    tag=text,
    state_dir=text,
    msize_max=whole,
    connected=flag,
    mounted=flag,
    exports=each(_EXPORT),
)


def _device(value: Any) -> bool:
    return _ANY_DEVICE(value) and (not value["mounted"] or _MOUNTED(value))


VM_NAMES = an(vm=text, config=maybe(text), sockets=each(text))
_VM_STATUS = an(
    state=text,
    worker=maybe(an(memory=whole, descriptors=maybe(whole))),
    deaths=an(count=whole, at=real, last=text),
    confinement=an(level=text, lacks=each(text)),
    devices=each(_device),
)


def vm(value: Any) -> bool:
    """What there is to say of a VM."""
    return VM_NAMES(value) and _VM_STATUS(value)


daemon = an(daemon=whole, version=text)
_TYPE = an(type=whole, requests=whole, seconds=real, buckets=each(whole))
counts = an(
    vm=text,
    tag=text,
    export=text,
    counts=an(
        read=whole,
        written=whole,
        throttled=whole,
        waited=real,
        errors=of_errnos,
        types=each(_TYPE),
    ),
)

ANSWERS: dict[str, tuple[Shape, ...]] = {
    # One line each, so that changes of several do not meet.
    "counts": (vm, counts),
    "list": (VM_NAMES,),
    "reload": (an(line=text), an(succeeded=flag)),
    "status": (daemon, vm),
    "trace": (an({"format": whole}, devices=each(an(tag=text, exports=each(text)))),),
}
"""What the objects may be that answer a command."""


def fits(command: str, value: Object) -> bool:
    """Whether an answer to a command may have this object. Of an unknown one any may be."""
    shapes = ANSWERS.get(command)
    return shapes is None or any(shape(value) for shape in shapes)
