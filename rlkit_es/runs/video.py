"""Frames of an environment, and the MP4 file that they are written into."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from rlkit_es.envs.supervised import SupervisedEnv
from rlkit_es.errors import UserError, first_line
from rlkit_es.runs.drawing import reason
from rlkit_es.runs.files import TEMPORARY, writing

_USUAL_FPS = 30.0


def frame_of(env: SupervisedEnv) -> np.ndarray:
    """What there is to see now, (H, W, 3) uint8, each side even, which video needs.

    Raises:
        UserError: the environment cannot draw itself.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the window system, before the error that it leads to
            frame: Any = env.render()
    except Exception as error:  # whatever its renderer does
        raise UserError(f"the environment cannot be drawn: {reason(error)}") from error
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape[2:] != (3,):
        raise UserError("the environment cannot be drawn: its render() gives no (height, width, 3) of uint8")
    height, width = frame.shape[:2]
    return frame[: height - height % 2, : width - width % 2]


def frames_per_second(env: SupervisedEnv) -> float:
    """Of the environment at its own speed, as far as it says so."""
    fps = env.metadata.get("render_fps")
    usable = isinstance(fps, int | float) and math.isfinite(fps) and fps > 0
    return float(fps) if usable else _USUAL_FPS  # type: ignore[arg-type]


class Video:
    """An MP4 file that is there once the block is left, and not at all where that was by an error.

    Args:
        path: of the file; its directory exists.
        fps: frames per second.

    Raises:
        UserError: a package is missing, or the file cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.frames = 0
        # imageio goes by the suffix.
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}{TEMPORARY}.mp4")
        get_writer = _video_writer()
        with writing(path):
            if path.is_dir():
                raise IsADirectoryError(None, "it is a directory")
            self._temporary.touch()
        self._writer = get_writer(
            self._temporary,
            format="FFMPEG",
            fps=fps,
            macro_block_size=1,  # no scaling: the frames stay as they are
            ffmpeg_log_level="error",
        )

    def __enter__(self) -> Self:
        return self

    def append(self, frame: np.ndarray) -> None:
        """Write one more frame (H, W, 3) uint8, of the same size as the others.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self._writer.append_data(frame)
        except (OSError, ValueError) as error:  # ValueError: of another size
            raise UserError(f"cannot write {self.path}: {first_line(error)}") from error
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with (
                writing(self.path),
                contextlib.nullcontext() if kind is None else contextlib.suppress(Exception),
            ):
                self._writer.close()
                if kind is None:
                    self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def _video_writer() -> Callable[..., Any]:
    try:
        importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
        writer: Callable[..., Any] = importlib.import_module("imageio.v2").get_writer
    except (ImportError, RuntimeError) as error:
        raise UserError("video needs imageio with ffmpeg: pip install 'rlkit_es[video]'") from error
    return writer
