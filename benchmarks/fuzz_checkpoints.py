"""Whether a damaged or hostile checkpoint can do anything but be refused in one line.

    python benchmarks/fuzz_checkpoints.py

Valid checkpoints are mutated, some with the checksum made to fit again, and each is loaded in a process
of bounded memory that is watched: it may open nothing but the file, import and run nothing, and leave
every directory as it was. What loads must predict, and must be what was saved if the checksum is the
saved one's. A mutation is a function of the seed and its index, so that each can be made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import random
import re
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from command_line import Parser, count
from machine import REPOSITORY, save
from torch import Tensor

import rlkit_es
from rlkit_es.errors import UserError
from rlkit_es.runs import checkpoint_file
from rlkit_es.runs.checkpoint_file import FORMAT, read_checkpoint
from rlkit_es.training.checkpoint import Checkpoint

RESULTS = REPOSITORY / "benchmarks" / "results" / "fuzz_checkpoints.json"
MEMORY_MB = 1024
LONGEST_SECONDS = 10
LONGEST_MESSAGE = 1000

NO_END = "no end"
DIED = "process died"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, print and save; returns the exit code: 1 where something else than a refusal happened."""
    parser = Parser(description=__doc__)
    parser.add_argument("--mutations", type=count, default=10_000)
    parser.add_argument("--seed", type=count, default=1)
    parser.add_argument("--first", type=count, help="index of the first mutation, to see it again")
    parser.add_argument("--output", type=Path, help="default: the results; with --first none")
    options = parser.parse_args(arguments)
    output = options.output or (RESULTS if options.first is None else None)
    first = options.first or 0
    indices = range(first, first + options.mutations)
    report = fuzz(options.seed, indices)
    save(output, report)
    print(
        f"{len(indices):,} mutations: {report['outcomes']}\n"
        f"slowest {report['slowest']}\nmemory {report['memory']}\n"
        f"{report['violations']} violations {report['violations by category'] or ''}"
    )
    for example in report["examples of violations"]:
        print(f"  {example['kind']}: {example['what']}")
        print(f"    --seed {options.seed} --first {example['index']} --mutations 1")
    return 1 if report["violations"] else 0


def fuzz(seed: int, indices: range) -> dict[str, Any]:
    """Load the mutations of those indices, one after the other; returns what came of them."""
    bases = make_bases()
    originals = {identity(base) for base in bases}
    outcomes: Counter[str] = Counter()
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: list[float] = []
    violations: list[dict[str, Any]] = []
    largest = {"MB more than before": 0.0, "kind": "", "index": -1}
    with Jail(load_and_predict, pack(bases[0])) as jail:
        for done, index in enumerate(indices, start=1):
            mutant = mutate(bases, seed, index)
            attempt = jail.attempt(mutant.content)
            outcomes[attempt.outcome] += 1
            by_kind[mutant.kind][attempt.outcome] += 1
            seconds.append(attempt.seconds)
            if attempt.megabytes > largest["MB more than before"]:
                largest = {
                    "MB more than before": round(attempt.megabytes, 1),
                    "kind": mutant.kind,
                    "index": index,
                }
            violations += [
                {"index": index, "kind": mutant.kind, "what": what}
                for what in judge(attempt, mutant, originals)
            ]
            if done % max(len(indices) // 10, 1) == 0:
                print(f"{done:,} of {len(indices):,}: {len(violations)} violations", flush=True)
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    return {
        "seed": seed,
        "first": indices.start,
        "mutations": len(indices),
        "allowed": {"MB": MEMORY_MB, "seconds": LONGEST_SECONDS, "characters": LONGEST_MESSAGE},
        "outcomes": dict(outcomes.most_common()),
        "violations": len(violations),
        "violations by category": dict(Counter(map(_category, violations)).most_common(50)),
        "examples of violations": _examples(violations),
        "seconds": {"median": round(statistics.median(seconds), 4), "sum": round(sum(seconds), 1)},
        "slowest": {"seconds": round(seconds[slowest], 3), "index": indices[slowest]},
        "memory": largest,
        "outcomes by kind": {kind: dict(by_kind[kind].most_common()) for kind in sorted(by_kind)},
    }


def _category(violation: Mapping[str, Any]) -> str:
    """What was wrong, without what differs from one to the next."""
    first, *rest = violation["what"].split(":")
    return re.sub(r"[\d,]+", "N", ":".join([first, *rest[:1]]) if first.endswith("Error") else first)


def _examples(violations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first two of each category."""
    seen: Counter[str] = Counter()
    chosen = []
    for violation in violations:
        seen[_category(violation)] += 1
        if seen[_category(violation)] <= 2:
            chosen.append(violation)
    return chosen[:50]


# Valid checkpoints


def make_bases() -> list[Checkpoint]:
    """Of small agents with a little training: continuous, discrete and without normalisers."""
    small = {"num_envs": 2, "rollout_steps": 32, "minibatch_size": 32, "critic_epochs": 2, "compile": "off"}
    bases = []
    for kind, env, settings in (
        (rlkit_es.PPO, "Pendulum-v1", {"hidden_sizes": (6,), "epochs": 2}),
        (rlkit_es.TRPO, "CartPole-v1", {"hidden_sizes": (5, 4)}),
        (rlkit_es.R2VPO, "CartPole-v1", {"hidden_sizes": (), "normalize_observations": False}),
    ):
        agent = kind(env, **small, **settings, backend="gymnasium").learn(128)
        agent.close()
        with tempfile.TemporaryDirectory() as directory:
            base = read_checkpoint(agent.save(Path(directory) / "agent"))
        # How fast it was, and the order of a file's tensors, are not a function of the seed.
        base.state["progress"]["wall_seconds"] = 1.0
        base.state["metrics"] |= {"wall_seconds": 1.0, "steps_per_second": 128.0}
        bases.append(Checkpoint({name: base.tensors[name] for name in sorted(base.tensors)}, base.state))
    return bases


def identity(checkpoint: Checkpoint) -> str:
    """The same for all that load to the same."""
    digest = hashlib.sha256(json.dumps(checkpoint.state).encode())
    for name in sorted(checkpoint.tensors):
        tensor = checkpoint.tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


# How files are written: not by safetensors, whose order of metadata is not fixed

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}


def pack(checkpoint: Checkpoint) -> bytes:
    """As a file with a checksum that fits."""
    return pack_text(checkpoint.tensors, json.dumps(checkpoint.state))


def pack_text(tensors: Mapping[str, Tensor], state: str) -> bytes:
    """`pack` for a state that need not be JSON."""
    return join(*parts(tensors, state))


def parts(tensors: Mapping[str, Tensor], state: str) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a file."""
    checksum = checkpoint_file._checksum(tensors, state)
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "sha256": checksum, "state": state}}
    data = bytearray()
    for name, tensor in tensors.items():
        begin = len(data)
        data += _bytes(tensor)
        offsets = [begin, len(data)]
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
    return header, bytes(data)


def join(header: Any, data: bytes) -> bytes:
    """A file of a header, whatever it holds."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _bytes(tensor: Tensor) -> bytes:
    raw: bytes = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return raw


# Mutations


class Mutant(NamedTuple):
    """A file, and whether its checksum was made to fit."""

    kind: str
    content: bytes
    sealed: bool


_BASES = Sequence[Checkpoint]
_INTEGERS = (
    *(0, 1, -1, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**12),
    *(2**1024, 10**400, -(10**400)),
)
_FLOATS = (0.0, -0.0, 1.5, 5e-324, 1e308, -1e308, math.nan, math.inf, -math.inf)
_TEXTS = (
    *("", "0", "nan", "None", "x" * 100_000, "\0", "a\0b", "a\nb", "\x1b[2J", "\u2028", "\ud800"),
    *("../../x", "..", "/", "/etc/passwd", "/dev/zero", "~/x", "C:\\x", "file:///etc/passwd", "%s%n{0}"),
    *("os:system", "trojan:Horse-v0", "__import__('os').system('touch x')", "torch.load", "cuda:0", "meta"),
)


def _hostile(rng: random.Random, old: Any = None) -> Any:
    """A value that does not belong where ``old`` was."""
    choices: list[Callable[[], Any]] = [
        lambda: rng.choice((None, True, False)),
        lambda: rng.choice(_INTEGERS),
        lambda: rng.choice(_FLOATS),
        lambda: rng.choice(_TEXTS),
        lambda: rng.choice(([], {}, [[]], [None], [old], {"": old}, [old, old], {"__class__": "dict"})),
        lambda: [rng.choice((0, 1, 1.5, -1, "a", None, 2**40, old))] * rng.choice((1, 2, 5, 1000, 100_000)),
        lambda: _nested(rng.choice((2, 50, 500))),
        lambda: [rng.choice(_INTEGERS) for _ in range(rng.randint(1, 4))],
        lambda: str(old)[:1000],
    ]
    if isinstance(old, int | float) and not isinstance(old, bool) and abs(old) < 2**60:
        near = (old + 1, old - 1, -old, 2 * old, 1000 * old, float(old), int(old), old + 0.5)
        choices += [lambda: rng.choice(near), lambda: rng.choice(near), lambda: rng.choice(_INTEGERS)] * 2
    if isinstance(old, list) and old:
        choices += [lambda: old[:-1], lambda: [*old, old[-1]], lambda: old[::-1], lambda: old * 3]
    return rng.choice(choices)()


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _number(rng: random.Random) -> int:
    return rng.choice(_INTEGERS) if rng.random() < 0.7 else rng.randrange(2 ** rng.randint(1, 70))


def _somewhere(rng: random.Random, value: Any) -> tuple[Any, Any] | None:
    """A container within ``value`` and one of its keys, not too often deep within the largest."""
    found = None
    while isinstance(value, dict | list) and value and (found is None or rng.random() < 0.75):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        found = value, rng.choice(keys)
        value = value[found[1]]
    return found


def _change(rng: random.Random, value: dict[str, Any]) -> None:
    """Put something else at one place."""
    if (place := _somewhere(rng, value)) is not None:
        container, key = place
        container[key] = _hostile(rng, container[key])


def _change_keys(rng: random.Random, value: dict[str, Any]) -> None:
    """Take a key away, add one, or exchange two values."""
    container, key = _somewhere(rng, value) or (value, "")
    what = rng.randrange(4)
    if what == 0 and value:
        del container[key]
    elif what == 1 and isinstance(container, dict):
        container[rng.choice(_TEXTS)] = _hostile(rng)
    elif what == 2 and isinstance(container, dict):
        container[rng.choice(_TEXTS)] = container.pop(key, None)
    elif isinstance(container, dict) and container:
        other = rng.choice(list(container))
        container[key], container[other] = container[other], container.get(key)


def flipped_bits(rng: random.Random, bases: _BASES) -> bytes:
    """One bit or a few, half the time of the header."""
    content = bytearray(pack(rng.choice(bases)))
    end = len(content) if rng.random() < 0.5 else 8 + int.from_bytes(content[:8], "little")
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        content[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(content)


def truncated(rng: random.Random, bases: _BASES) -> bytes:
    """The beginning alone."""
    content = pack(rng.choice(bases))
    return content[: rng.choice((rng.randrange(len(content)), rng.randrange(200), len(content) - 1))]


def inserted(rng: random.Random, bases: _BASES) -> bytes:
    """Bytes that do not belong there."""
    content = pack(rng.choice(bases))
    at, length = rng.choice((0, 8, rng.randrange(len(content)), len(content))), rng.choice((1, 8, 64, 4096))
    new = rng.choice((rng.randbytes(length), bytes(length), b" " * length, content[at : at + length]))
    return content[:at] + new + content[at:]


def removed(rng: random.Random, bases: _BASES) -> bytes:
    """Bytes are missing."""
    content = pack(rng.choice(bases))
    at = rng.randrange(len(content))
    return content[:at] + content[at + rng.choice((1, 8, 64, 4096)) :]


def overwritten(rng: random.Random, bases: _BASES) -> bytes:
    """Other bytes in the place of some."""
    content = bytearray(pack(rng.choice(bases)))
    at, length = rng.randrange(len(content)), rng.choice((1, 4, 8, 64, 4096))
    length = min(length, len(content) - at)
    new = rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length, b'"' * length))
    content[at : at + length] = new
    return bytes(content)


def spliced_files(rng: random.Random, bases: _BASES) -> bytes:
    """The beginning of one file and the end of another."""
    one, other = (pack(base) for base in rng.sample(list(bases), 2))
    at = rng.randrange(len(one))
    return one[:at] + other[rng.choice((at, rng.randrange(len(other)))) :]


def header_length(rng: random.Random, bases: _BASES) -> bytes:
    """The first eight bytes, which say how long the header is."""
    content = pack(rng.choice(bases))
    length = int.from_bytes(content[:8], "little") + rng.choice((-9, -8, -1, 1, 8, 64))
    length = rng.choice((length, _number(rng), 100_000_000, len(content), len(content) - 8))
    return (length % 2**64).to_bytes(8, "little") + content[8:]


def header_numbers(rng: random.Random, bases: _BASES) -> bytes:
    """Shapes and offsets."""
    base = rng.choice(bases)
    header, data = parts(base.tensors, json.dumps(base.state))
    for _ in range(rng.choice((1, 1, 2, 4))):
        tensor = header[rng.choice(list(base.tensors))]
        numbers = tensor[rng.choice(("shape", "data_offsets"))]
        if numbers and rng.random() < 0.8:
            numbers[rng.randrange(len(numbers))] = _number(rng)
        else:
            numbers += [_number(rng) for _ in range(rng.randint(1, 9))]
    return join(header, data)


def header_names(rng: random.Random, bases: _BASES) -> bytes:
    """Names of tensors, of types and of metadata."""
    base = rng.choice(bases)
    header, data = parts(base.tensors, json.dumps(base.state))
    name = rng.choice(list(base.tensors))
    what = rng.randrange(4)
    if what == 0:
        header[rng.choice((*_TEXTS, *base.tensors))] = header.pop(name)
    elif what == 1:
        header[name]["dtype"] = rng.choice((*_TEXTS, *_DTYPES.values(), "F8_E4M3", "F4", "U64", "f32"))
    elif what == 2:
        header["__metadata__"][rng.choice(("format", "sha256", "state", "more"))] = rng.choice(_TEXTS)
    else:
        header["__metadata__"][rng.choice(_TEXTS)] = header["__metadata__"].pop(
            rng.choice(list(header["__metadata__"]))
        )
    return join(header, data)


def header_structure(rng: random.Random, bases: _BASES) -> bytes:
    """Any value or key of the header."""
    base = rng.choice(bases)
    header, data = parts(base.tensors, json.dumps(base.state))
    for _ in range(rng.choice((1, 1, 3))):
        rng.choice((_change, _change_keys))(rng, header)
    return join(rng.choice((header, header, header, [header], _hostile(rng))), data)


def state_values(rng: random.Random, bases: _BASES) -> bytes:
    """Any value of the state."""
    base = rng.choice(bases)
    state = json.loads(json.dumps(base.state))
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        _change(rng, state)
    return pack(Checkpoint(base.tensors, state))


def state_keys(rng: random.Random, bases: _BASES) -> bytes:
    """Any key of the state."""
    base = rng.choice(bases)
    state = json.loads(json.dumps(base.state))
    for _ in range(rng.choice((1, 1, 3))):
        _change_keys(rng, state)
    return pack(Checkpoint(base.tensors, state))


def state_settings(rng: random.Random, bases: _BASES) -> bytes:
    """Values of settings."""
    base = rng.choice(bases)
    config = dict(base.state["config"])
    for name in rng.sample(sorted(config), rng.choice((1, 1, 2, 4))):
        config[name] = _hostile(rng, config[name])
    return pack(Checkpoint(base.tensors, {**base.state, "config": config}))


def state_sizes(rng: random.Random, bases: _BASES) -> bytes:
    """Sizes that go with each other."""
    base = rng.choice(bases)
    size = rng.choice((0, 0, 0, 1, 2, 1000, 10**6, 2**31 - 1, 2**31, 10**12))
    width, depth = rng.choice((1, 2, 1000, 10**5, 2**31)), rng.choice((0, 0, 0, 1, 2, 100, 10**5))
    discrete = rng.random() < 0.5
    bounds = 0 if discrete else min(size, 10**5)
    action = {
        "size": size,
        "discrete": discrete,
        "low": [-1.0] * bounds,
        "high": [1.0] * bounds,
        "shape": [] if discrete else [size],
        "start": rng.choice(_INTEGERS),
    }
    config = {**base.state["config"], "hidden_sizes": [width] * depth}
    if rng.random() < 0.3:
        config["num_envs"] = rng.choice((1000, 10**6, 10**7, 10**9, 10**12))
    state = {**base.state, "config": config}
    if rng.random() < 0.6:
        state["action"] = action
    if rng.random() < 0.6:
        sizes = (0, 1, 10**5, 10**7, 2**31 - 1, 2**31 - 1, 10**12)
        state["observation"] = [rng.choice(sizes) for _ in range(rng.choice((1, 1, 3)))]
    return pack(Checkpoint(base.tensors, state))


def state_text(rng: random.Random, bases: _BASES) -> bytes:
    """JSON that is none, or that no one writes."""
    base = rng.choice(bases)
    text = json.dumps(base.state)
    at = rng.randrange(len(text))
    new = rng.choice(
        (
            *("[" * rng.choice((1, 100, 100_000)), '{"a":' * 100_000, "9" * 5000, "1e99999", "-", "\\u0000"),
            *('"', ",", "}", "]", "NaN", " " * 100_000, '"config": {}, ', "\ufeff", "[1,2,3]", "{},"),
        )
    )
    text = rng.choice((text[:at] + new + text[at:], text[:at] + new, text[:at] + text[at + 1 :], new))
    return pack_text(base.tensors, text)


def tensor_shapes(rng: random.Random, bases: _BASES) -> bytes:
    """Tensors of other shapes, up to a million numbers."""
    base = rng.choice(bases)
    tensors = dict(base.tensors)
    for name in rng.sample(sorted(tensors), rng.choice((1, 1, 3))):
        x = tensors[name]
        tensors[name] = rng.choice(
            (
                *(x[None], x.flatten(), x.reshape(-1, 1), x.t() if x.dim() == 2 else x[None, None]),
                *(x.flatten()[:0], x.flatten()[:-1], x.repeat(2, *[1] * max(x.dim() - 1, 0))),
                x.new_zeros(rng.choice((1, 1000, 1_000_000))),
            )
        )
    return pack(Checkpoint(tensors, base.state))


def tensor_dtypes(rng: random.Random, bases: _BASES) -> bytes:
    """Tensors of other types."""
    base = rng.choice(bases)
    tensors = dict(base.tensors)
    for name in rng.sample(sorted(tensors), rng.choice((1, 1, 3, len(tensors)))):
        tensors[name] = tensors[name].to(rng.choice(list(_DTYPES)))
    return pack(Checkpoint(tensors, base.state))


def tensor_names(rng: random.Random, bases: _BASES) -> bytes:
    """Tensors that are missing, are too many, or are another's."""
    base = rng.choice(bases)
    tensors = dict(base.tensors)
    names = (*_TEXTS[:4], *_TEXTS[5:])
    for name in rng.sample(sorted(tensors), rng.choice((1, 1, 3))):
        what, other = rng.randrange(4), rng.choice(sorted(tensors))
        if what == 0:
            del tensors[name]
            break
        if what == 1:
            tensors[_utf8(rng.choice(names))] = tensors.pop(name)
            break
        if what == 2:
            tensors[f"{rng.choice(('policy', 'learner', 'generator', ''))}.{_utf8(rng.choice(names))}"] = (
                tensors[name]
            )
        else:
            tensors[name], tensors[other] = tensors[other], tensors[name]
    return pack(Checkpoint(tensors, base.state))


def _utf8(text: str) -> str:
    """What the checksum can be taken over."""
    return text.encode(errors="replace").decode()


def tensor_values(rng: random.Random, bases: _BASES) -> bytes:
    """Other bits in tensors, the state of generators among them."""
    base = rng.choice(bases)
    tensors = dict(base.tensors)
    generator = np.random.default_rng(rng.randrange(2**32))
    for name in rng.sample(sorted(tensors), rng.choice((1, 1, 3, len(tensors)))):
        x = tensors[name]
        raw = np.frombuffer(_bytes(x), dtype=np.uint8).copy()
        if rng.random() < 0.5:
            raw[:] = generator.integers(0, 256, raw.size) if rng.random() < 0.5 else rng.choice((0, 127, 255))
        elif raw.size:
            begin = rng.randrange(raw.size)
            raw[begin : begin + 8] = generator.integers(0, 256, len(raw[begin : begin + 8]))
        tensors[name] = torch.from_numpy(raw).view(x.dtype).reshape(x.shape)
    return pack(Checkpoint(tensors, base.state))


def spliced_checkpoints(rng: random.Random, bases: _BASES) -> bytes:
    """Parts of one checkpoint in another."""
    one, other = rng.sample(list(bases), 2)
    state = json.loads(json.dumps(one.state))
    for name in rng.sample(sorted(state), rng.randint(1, len(state))):
        state[name] = other.state[name]
    tensors = dict(one.tensors)
    if rng.random() < 0.5:
        tensors |= {name: x for name, x in other.tensors.items() if rng.random() < 0.5}
    return pack(Checkpoint(tensors, state))


_MUTATIONS = Callable[[random.Random, _BASES], bytes]
UNSEALED: tuple[_MUTATIONS, ...] = (
    *(flipped_bits, truncated, inserted, removed, overwritten, spliced_files),
    *(header_length, header_numbers, header_names, header_structure),
)
SEALED: tuple[_MUTATIONS, ...] = (
    *(state_values, state_keys, state_settings, state_sizes, state_text),
    *(tensor_shapes, tensor_dtypes, tensor_names, tensor_values, spliced_checkpoints),
)


def mutate(bases: _BASES, seed: int, index: int) -> Mutant:
    """Number ``index`` of those with that seed; every kind has its turn."""
    kinds = (*UNSEALED, *SEALED)
    kind = kinds[index % len(kinds)]
    return Mutant(kind.__name__, kind(random.Random(f"{seed} {index}"), bases), kind in SEALED)


# Loading, watched


class Attempt(NamedTuple):
    """What came of one file."""

    outcome: str  # loaded, or the type of the error, or how the process ended
    message: str = ""
    loaded: str = ""  # `identity` of what was loaded
    seconds: float = 0.0
    megabytes: float = 0.0  # of resident memory, at most, more than before
    touched: tuple[str, ...] = ()  # what it did beside reading the file


def load_and_predict(path: Path) -> str:
    """Raises only what loading raises: an agent that was loaded can predict."""
    agent = rlkit_es.load(path)
    try:
        size = agent.spaces.observation.size
        actions = agent.predict(np.zeros((2, size), np.float32))
        agent.predict(np.zeros((2, size), np.float32), deterministic=False)
    except Exception as error:
        raise AssertionError(f"loaded, but cannot predict: {type(error).__name__}: {error}") from error
    assert len(actions) == 2
    return identity(read_checkpoint(path))


def judge(attempt: Attempt, mutant: Mutant, originals: set[str]) -> list[str]:
    """What must not be, in words."""
    wrong = []
    message = attempt.message
    if attempt.outcome not in ("loaded", "CheckpointError", "UserError"):
        wrong.append(f"{attempt.outcome}: {message[:200]}")
    elif attempt.outcome != "loaded" and len(message.splitlines()) != 1:
        wrong.append(f"a message of {len(message.splitlines())} lines: {message[:200]!r}")
    elif len(message) > LONGEST_MESSAGE:
        wrong.append(f"a message of {len(message):,} characters: {message[:200]}")
    if attempt.outcome == "loaded" and not mutant.sealed and attempt.loaded not in originals:
        wrong.append("the checksum did not notice that something else was loaded")
    if attempt.outcome != NO_END and attempt.seconds > LONGEST_SECONDS:
        wrong.append(f"took {attempt.seconds:.1f} s")
    return wrong + [f"touched {what}" for what in attempt.touched]


class Jail:
    """A process that loads one file after another; one that ends is replaced.

    Args:
        load: picklable; takes a path and returns what was loaded.
        valid: a file to begin with, so that what is imported late is imported.
        seconds: that one file may take.
    """

    def __init__(self, load: Callable[[Path], str], valid: bytes, seconds: float = LONGEST_SECONDS) -> None:
        self._load, self._valid, self._seconds = load, valid, seconds
        self._directory = tempfile.TemporaryDirectory()
        self._root = Path(self._directory.name).resolve()
        self._path = self._root / "deep" / "er" / "work" / "checkpoint.safetensors"
        for directory in (self._path.parent, self._root / "home", self._root / "temporary"):
            directory.mkdir(parents=True)
        for place in (self._root, self._path.parents[1], self._path.parents[2]):
            (place / "x").write_text("to be left as it is")
        self._process: Any = None

    def __enter__(self) -> Jail:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._directory.cleanup()

    def attempt(self, content: bytes) -> Attempt:
        """Load a file of that content."""
        if self._process is None:
            self._start()
        self._path.write_bytes(content)
        before = self._files()
        self._connection.send(None)
        try:
            if self._connection.poll(self._seconds):
                attempt: Attempt = self._connection.recv()
            else:
                self._end()
                attempt = Attempt(NO_END, f"in {self._seconds} s", seconds=self._seconds)
        except (EOFError, ConnectionResetError):
            self._process.join()
            attempt = Attempt(DIED, f"exit code {self._process.exitcode}")
            self._end()
        changed = {str(path) for path, _ in before.items() ^ self._files().items()}
        touched = (place.removeprefix(f"{self._root}/") for place in (*attempt.touched, *sorted(changed)))
        message = attempt.message.replace(f"{self._root}/", "")
        return attempt._replace(message=message, touched=tuple(touched))

    def _start(self) -> None:
        self._path.write_bytes(self._valid)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, self._load, self._path, self._root)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None

    def _files(self) -> dict[str, tuple[int, int, int]]:
        found = {}
        for directory, _, names in os.walk(self._root):
            for path in (directory, *(os.path.join(directory, name) for name in names)):
                status = os.lstat(path)
                found[path] = status.st_ino, status.st_size, status.st_mtime_ns
        return found


def _serve(connection: Connection, load: Callable[[Path], str], path: Path, root: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.chdir(path.parent)
    os.environ |= {"HOME": str(root / "home"), "TMPDIR": str(root / "temporary")}
    load(path)
    with contextlib.suppress(UserError):
        rlkit_es.load(path.parent / "absent")
    watch = Watch(path)
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = own + MEMORY_MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send(None)
    while True:
        try:
            connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        outcome, message, loaded = "loaded", "", ""
        before, begun = _reset_peak(), time.perf_counter()
        with watch:
            try:
                loaded = load(path)
            except BaseException as error:
                outcome, message = type(error).__name__, str(error)
        seconds = time.perf_counter() - begun
        megabytes = (_peak() - before) / 1024
        touched = tuple(sorted(watch.events))
        connection.send(Attempt(outcome, message, loaded, seconds, megabytes, touched))


def _reset_peak() -> int:
    """Let the peak of memory be what is in use now; in KB."""
    with contextlib.suppress(OSError):  # it is then the peak since the process began
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1])


class Watch:
    """What Python's audit events tell of the time within ``with``."""

    _forbidden = (
        *(
            "os.",
            "subprocess.",
            "shutil.",
            "socket.",
            "pickle.",
            "ctypes.",
            "pty.",
            "tempfile.",
            "webbrowser.",
        ),
        *("code.", "gc.", "signal.", "syslog.", "urllib.", "sqlite3.", "winreg.", "mmap."),
    )
    _allowed = frozenset({"os.listdir", "os.scandir", "os.walk", "os.putenv"})

    def __init__(self, path: Path) -> None:
        self.events: set[str] = set()
        self._path = str(path)
        self._on = False
        self._known = {name.split(".")[0] for name in sys.modules}
        sys.addaudithook(self._see)

    def __enter__(self) -> None:
        self.events = set()
        self._on = True

    def __exit__(self, *_: object) -> None:
        self._on = False

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            code = str(arguments[0]).endswith((".py", ".pyc", ".so"))
            if writes or (str(arguments[0]) != self._path and not code):
                self.events.add(f"open {arguments[0]}")
        elif event == "import":
            if arguments[0].split(".")[0] not in self._known:
                self.events.add(f"import {arguments[0]}")
        elif event.startswith(self._forbidden) and event not in self._allowed:
            self.events.add(f"{event} {str(arguments)[:100]}")


if __name__ == "__main__":
    sys.exit(main())
