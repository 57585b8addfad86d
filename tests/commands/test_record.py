from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import imageio.v2
import pytest
import small_runs

from rlkit_es import cli, load
from rlkit_es.errors import UserError
from rlkit_es.runs import drawing, video

EPISODE = re.compile(r"episode (\d+): return (-?[\d.]+) in ([\d,]+) steps")


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_runs.train(tmp_path_factory.mktemp("cartpole") / "run", *small_runs.CARTPOLE)


@pytest.fixture(scope="module")
def cheetah(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arguments = ["--algo", "sd_ppo", "--env", "HalfCheetah-v4", "--total-steps", "128"]
    directory = tmp_path_factory.mktemp("cheetah") / "run"
    return small_runs.train(directory, *arguments, "--eval-episodes", "0")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command sets of it is undone."""
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "SDL_VIDEODRIVER"):
        if name not in os.environ:
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)


@pytest.fixture
def _pygame() -> None:
    pytest.importorskip("pygame")


def record(arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, list[tuple[float, int]], str]:
    """The first line, what each episode gave, and the last line."""
    capsys.readouterr()
    assert cli.main(["record", *arguments.split()]) == 0
    first, *episodes, last = capsys.readouterr().out.splitlines()
    found = [EPISODE.fullmatch(line) for line in episodes]
    assert [int(match[1]) for match in found if match] == list(range(1, len(episodes) + 1))
    results = [(float(match[2]), int(match[3].replace(",", ""))) for match in found if match]
    return first, results, last


def frames_of(path: Path) -> tuple[int, float, tuple[int, int]]:
    """How many there are, how many a second, and their size."""
    with closing(imageio.v2.get_reader(path)) as reader:
        described = reader.get_meta_data()
        return reader.count_frames(), described["fps"], described["size"]


@pytest.mark.usefixtures("_pygame")
def test_what_is_recorded_are_the_episodes_of_an_evaluation(
    cartpole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_runs.copy_of(cartpole, "run")
    for options in ("", "--episodes 3 --seed 4"):
        first, results, last = record(f"run {options}", capsys)
        episodes = options or "--episodes 1"
        assert cli.main(["evaluate", "run", "--output", "e.json", *episodes.split()]) == 0
        evaluation = json.loads(Path("e.json").read_text())
        expected = zip(evaluation["returns"], evaluation["lengths"], strict=True)
        assert sorted(results) == sorted(expected)
        assert first == f"CartPole-v1 espo at {load(run).env_steps:,} steps"
        frames = sum(length + 1 for _, length in results)
        assert last == f"wrote run/video.mp4: {frames:,} frames"
        assert frames_of(run / "video.mp4") == (frames, 50, (600, 400))
    assert not [path for path in run.iterdir() if "tmp" in path.name]


@pytest.mark.usefixtures("_pygame")
def test_length_speed_place_and_checkpoint_may_be_chosen(
    cartpole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = int(small_runs.checkpoints(cartpole)[0].stem.removeprefix("step-"))
    arguments = f"{cartpole} --max-steps 4 --fps 7 --output short --checkpoint {step} --episodes 2"
    first, results, last = record(arguments, capsys)
    assert first == f"CartPole-v1 espo at {step} steps"
    assert results == [(4.0, 4)] * 2
    assert last == "wrote short.mp4: 10 frames"
    assert frames_of(Path("short.mp4"))[:2] == (10, 7)


def test_mujoco_is_recorded_without_a_display(cheetah: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        drawing.choose_gl()
    except UserError as error:
        pytest.skip(str(error))
    # A fresh process: no other test has decided what draws.
    names = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")
    surroundings = {name: value for name, value in os.environ.items() if name not in names}
    surroundings["PYTHONPATH"] = str(Path(cli.__file__).parents[1])
    program = "import sys; from rlkit_es import cli; sys.exit(cli.main(sys.argv[1:]))"
    options = ["--output", "c.mp4", "--max-steps", "6", "--seed", "3"]
    command = [sys.executable, "-c", program, "record", str(cheetah), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^episode 1: return -?[\d.]+ in 6 steps\nwrote c\.mp4: 7 frames$", done.stdout, re.M)
    assert frames_of(Path("c.mp4")) == (7, 20, (480, 480))
    with closing(imageio.v2.get_reader("c.mp4")) as reader:
        assert reader.get_data(6).std() > 10  # there is something in the picture


def test_atari_is_recorded_in_its_own_colours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--algo", "ppo", "--env", "ALE/Breakout-v5", "--backend", "auto", "--total-steps", "128")
    directory = small_runs.train(tmp_path / "run", *arguments, "--eval-episodes", "0")
    assert cli.main(["record", str(directory), "--output", "b.mp4", "--max-steps", "5"]) == 0
    assert "wrote b.mp4: 6 frames" in capsys.readouterr().out
    assert frames_of(Path("b.mp4"))[::2] == (6, (160, 210))
    with closing(imageio.v2.get_reader("b.mp4")) as reader:
        red, _, blue = (reader.get_data(5)[..., channel].astype(int) for channel in range(3))
    assert abs(red - blue).max() > 100  # no grey frame of the network's


@pytest.mark.usefixtures("_pygame")
def test_an_interrupted_recording_leaves_nothing(
    cartpole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = video.frame_of
    frames = []

    def interrupting(env: video.SupervisedEnv) -> object:
        frames.append(shown(env))
        if len(frames) == 5:
            signal.raise_signal(signal.SIGINT)
        return frames[-1]

    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr("rlkit_es.commands.record.frame_of", interrupting)
    assert cli.main(["record", str(cartpole), "--output", "v.mp4"]) == 130
    assert capsys.readouterr().err == "interrupted by SIGINT\n"
    assert len(frames) == 5
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere", "cannot read nowhere: No such file or directory"),
        ("{run} --checkpoint 77", "no checkpoint 77 in "),
        ("{run} --episodes 0", "--episodes must be a whole number of at least 1, got 0"),
        ("{run} --max-steps 0", "--max-steps must be a whole number of at least 1, got 0"),
        ("{run} --fps -3", "--fps must be a whole number of at least 1, got -3"),
        ("{run} --seed -1", "--seed must be a whole number of at least 0, got -1"),
        ("{run} --output video.gif", "--output must end in .mp4, got video.gif"),
        ("{run} --output no/such/video.mp4", "cannot write no/such/video.mp4: No such file or directory"),
        ("{run} --output directory.mp4", "cannot write directory.mp4: "),
    ],
)
def test_bad_input_is_one_error_line_and_exit_code_2(
    cartpole: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("directory.mp4").mkdir()
    assert message in small_runs.the_error(f"record {arguments.format(run=cartpole)}", capsys)
    assert [path.name for path in Path().iterdir()] == ["directory.mp4"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("imageio_ffmpeg", "video needs imageio with ffmpeg: pip install 'rlkit_es[video]'"),
        ("pygame", "the environment cannot be drawn: pygame is not installed, "),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    cartpole: Path,
    missing: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert small_runs.the_error(f"record {cartpole} --output v.mp4", capsys).startswith(message)
    assert list(Path().iterdir()) == []


def test_no_gl_is_one_error_line(
    cheetah: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drawing, "has_display", lambda: False)
    monkeypatch.setattr(drawing, "_succeeds", lambda program, variables: False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    line = small_runs.the_error(f"record {cheetah} --output v.mp4", capsys)
    assert "apt install libegl1" in line
    assert "apt install libosmesa6" in line
