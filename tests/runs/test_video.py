from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import imageio.v2
import numpy as np
import pytest
from painted import PUSHED, configure, headless, registered, supervised  # noqa: F401

from rlkit_es.errors import UserError
from rlkit_es.runs.playing import make_env
from rlkit_es.runs.video import Video, frame_of, frames_per_second
from rlkit_es.runs.window import WindowClosed


def explode(_: int) -> Any:
    raise RuntimeError("no paint\nat all")


@pytest.mark.parametrize(
    ("paint", "message"),
    [
        (lambda _: None, r"its render\(\) gives no \(height, width, 3\) of uint8"),
        (lambda _: np.zeros((4, 4), np.uint8), "gives no"),
        (lambda _: np.zeros((4, 4, 3)), "gives no"),
        (explode, "^the environment cannot be drawn: no paint$"),
    ],
)
def test_an_environment_that_draws_no_picture_is_refused(paint: Callable[[int], Any], message: str) -> None:
    with closing(supervised("ToyPainted-v0", paint=paint)) as env:
        env.reset(seed=0)
        with pytest.raises(UserError, match=message):
            frame_of(env)


def test_frames_have_even_sides_and_their_own_rate() -> None:
    with closing(make_env(configure("ToyPainted-v0"), PUSHED, "rgb_array")) as env:
        env.reset(seed=0)
        assert frame_of(env).shape == (4, 6, 3)
        assert frames_per_second(env) == 12
    with closing(supervised("ToyWalk-v0")) as env:
        assert frames_per_second(env) == 30


def test_a_video_has_every_frame() -> None:
    with Video(Path("v.mp4"), 12.5) as video:
        for number in range(30):
            video.append(np.full((32, 48, 3), (8 * number, 0, 0), np.uint8))
            assert not Path("v.mp4").exists()
    assert video.frames == 30
    assert [path.name for path in Path().iterdir()] == ["v.mp4"]
    with closing(imageio.v2.get_reader("v.mp4")) as reader:
        described = reader.get_meta_data()
        pictures = list(reader.iter_data())
    assert (described["size"], described["fps"]) == ((48, 32), 12.5)
    reds = [picture[..., 0].mean() for picture in pictures]
    np.testing.assert_allclose(reds, 8 * np.arange(30), atol=12)


def record(path: Path, *frames: np.ndarray | type[BaseException]) -> None:
    """A video of the frames, up to where an error is in the place of one."""
    with Video(path, 30) as video:
        for frame in frames:
            if not isinstance(frame, np.ndarray):
                raise frame
            video.append(frame)


SQUARE, WIDE = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 48, 3), np.uint8)


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt, WindowClosed])
def test_half_a_video_is_none(error: type[BaseException]) -> None:
    Path("v.mp4").write_text("from before")
    with pytest.raises(error):
        record(Path("v.mp4"), SQUARE, error)
    assert [path.name for path in Path().iterdir()] == ["v.mp4"]
    assert Path("v.mp4").read_text() == "from before"


def test_a_frame_of_another_size_is_an_error_of_one_line() -> None:
    with pytest.raises(UserError, match=r"^cannot write v\.mp4: "):
        record(Path("v.mp4"), SQUARE, WIDE)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("path", ["no/such/v.mp4", "directory.mp4"])
def test_where_nothing_can_be_written_is_an_error_of_one_line(path: str) -> None:
    Path("directory.mp4").mkdir()
    with pytest.raises(UserError, match=f"^cannot write {path}: "):
        Video(Path(path), 30)
    assert [found.name for found in Path().iterdir()] == ["directory.mp4"]


@pytest.mark.parametrize("missing", ["imageio.v2", "imageio_ffmpeg"])
def test_what_is_missing_for_video_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        UserError, match=r"^video needs imageio with ffmpeg: pip install 'rlkit_es\[video\]'$"
    ):
        Video(Path("v.mp4"), 30)
    assert list(Path().iterdir()) == []
