"""The settings of a run as options of the command line, in groups."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from rlkit_es.commands.arguments import checked
from rlkit_es.errors import UserError
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.training.config import Config, as_settings

# The first setting of each group, in the order of the dataclasses: a new setting is where its source is.
_BEGINS: Mapping[str, str] = {
    "algo": "Experiment",
    "num_envs": "Rollout and advantage",
    "network": "Network",
    "normalize_observations": "Observation, reward and action",
    "eval_episodes": "Evaluation, checkpoint and log",
    "device": "Machine",
    "minibatch_size": "Update",
    "surrogate": "Slot",
    "clip_range": "Deviation and dropout",
    "constraint_limit": "Constraint",
    "cg_iterations": "Natural step",
}


def _object(texts: Sequence[str]) -> Mapping[str, Any]:
    """Raises UserError: the text is no JSON object."""
    (text,) = texts
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        shown = reprlib.repr(text)
        raise UserError(f"""--env-kwargs must be a JSON object, '{{"g": 5.0}}' say, got {shown}""")
    return found


_JSON_OBJECT = PrimitiveConstructorSpec[Mapping[str, Any]](
    nargs=1,
    metavar="JSON",
    instance_from_str=_object,
    is_instance=lambda value: isinstance(value, Mapping),
    str_from_instance=lambda value: [json.dumps(value)],
)


def parse_config(arguments: Sequence[str], defaults: Config, *, prog: str, description: str) -> Config:
    """`parse_settings` as a configuration.

    Raises:
        UserError: a value cannot be used.
    """
    return Config(**parse_settings(arguments, defaults, prog=prog, description=description))


def parse_settings(
    arguments: Sequence[str], defaults: Config, *, prog: str, description: str
) -> dict[str, Any]:
    """``defaults`` with what ``arguments`` say in their place, by name, whether or not they go together.

    Exits after ``--help`` and bad arguments.

    Raises:
        UserError: an option is none, or as of `as_settings`.
    """
    hints = {**get_type_hints(Config), "env_kwargs": Annotated[Mapping[str, Any], _JSON_OBJECT]}
    groups = [_options(title, settings, defaults, hints) for title, settings in grouped_meanings().items()]
    fields = [(f"group_{number}", group, group()) for number, group in enumerate(groups)]
    parsed: Any = tyro.cli(
        dataclasses.make_dataclass("Settings", fields),
        args=checked(arguments, hints),
        prog=prog,
        description=description,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff),
    )
    return as_settings({k: v for group in vars(parsed).values() for k, v in vars(group).items()})


@functools.cache
def grouped_meanings() -> dict[str, dict[str, str]]:
    """What the source says under each field, on one line, by its name, by the title of its group."""
    groups: dict[str, dict[str, str]] = {}
    for name, meaning in {**_documented(Config), **_documented(UpdateConfig)}.items():
        if name in _BEGINS:
            settings = groups.setdefault(_BEGINS[name], {})
        settings[name] = meaning
    return groups


def _options(title: str, settings: Mapping[str, str], defaults: Config, hints: Mapping[str, Any]) -> Any:
    """A dataclass of the fields in ``settings``, each with its meaning, and ``title`` for a name."""
    fields = [
        (name, Annotated[hints[name], tyro.conf.arg(help=meaning)], getattr(defaults, name))
        for name, meaning in settings.items()
    ]
    return Annotated[
        dataclasses.make_dataclass("Group", fields, frozen=True), tyro.conf.arg(name=title.lower())
    ]


def _documented(cls: type) -> dict[str, str]:
    """The string under each annotated field of ``cls`` itself."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(cls)).body if isinstance(node, ast.ClassDef))
    found = {}
    for field, after in itertools.pairwise(body):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                found[name] = " ".join(meaning.split())
    return found
