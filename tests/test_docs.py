"""What the documentation says of recipes and presets, held against the code."""

from pathlib import Path

import pytest

from rlkit_es.learners.recipes import RECIPES
from rlkit_es.learners.slots import CONSTRAINTS, MASKS, STOPS, SURROGATES
from rlkit_es.training.config import Config
from rlkit_es.training.presets import PRESETS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = DOCS / "algorithms"


@pytest.mark.parametrize("algo", RECIPES)
def test_every_recipe_has_a_page_and_a_line_in_the_table(algo: str) -> None:
    page = (PAGES / f"{algo}.md").read_text()
    for part in ("**Idea.**", "**When to choose it.**", "**Measured.**", f"--algo {algo}", "arxiv.org/abs/"):
        assert part in page
    recipe = RECIPES[algo]
    (line,) = (x for x in (DOCS / "algorithms.md").read_text().splitlines() if x.startswith(f"| [`{algo}`]"))
    for slot in (recipe.step, recipe.surrogate, recipe.mask):
        assert slot in line
    assert (recipe.stop in line) or recipe.step == "natural"
    assert (recipe.constraint in line) or recipe.constraint == "none"


def test_no_page_is_of_a_recipe_that_does_not_exist() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {*RECIPES, "presets"}


@pytest.mark.parametrize("name", [*SURROGATES, *MASKS, *STOPS, *CONSTRAINTS])
def test_every_function_that_fills_a_slot_is_named_on_some_page(name: str) -> None:
    pages = [path.read_text() for path in (DOCS / "algorithms.md", *PAGES.glob("*.md"))]
    assert any(f"`{name}`" in page for page in pages)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_setting_in_which_a_preset_differs_is_on_its_page(preset: str) -> None:
    page = (PAGES / "presets.md").read_text()
    assert f"`{preset}`" in page
    for algo, settings in PRESETS[preset].items():
        default = Config.for_algorithm(algo)
        for name, value in settings.items():
            if value != getattr(default, name):
                assert f"`{name}`" in page
                shown = (
                    f"{value:,}"
                    if name == "total_steps"
                    else f"{value:g}"
                    if isinstance(value, float)
                    else str(value)
                )
                assert shown in page
