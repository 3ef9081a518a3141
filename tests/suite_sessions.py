"""Sessions of the whole suite, as its user starts them, on a tiny random model with a text of invented sentences."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

# pytester forgets the modules that a session inside it imported first, and numpy refuses to be loaded twice:
# what those sessions need is imported here, before the first of them.
import claims.support.deviations  # noqa: F401
import reports.plugin  # noqa: F401
from claims.support.catalogue import whole_catalogue
from tests.tiny_models import write_model

whole_catalogue()

ROOT = Path(__file__).resolve().parent.parent
QUICK_CLAIMS = ("claims/test_concentration.py",)
EVERY_CLAIM = tuple(f"claims/{path.name}" for path in sorted((ROOT / "claims").glob("test_*.py")))
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
WORDS = ("quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "seven", "wizards", "boil", "green", "soup")


def text(words: int, seed: int) -> str:
    """Words drawn at random: no two seeds share a document."""
    generator = random.Random(seed)
    return " ".join(generator.choice(WORDS) for _ in range(words))


@dataclass(frozen=True)
class Material:
    """What the sessions measure, and the cache that they share."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "models" / "tiny"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def texts(self) -> list[str]:
        return [f"--{name}-text={self.folder / name}.txt" for name in ("calibration", "heldout")]


def write_material(folder: Path) -> Material:
    """Write the model, its texts, and an empty cache."""
    material = Material(folder)
    write_model(material.model, **SHAPE)
    for seed, (name, words) in enumerate({"calibration": 500, "heldout": 300}.items()):
        (folder / f"{name}.txt").write_text(text(words, seed), encoding="utf-8")
    return material


def pytest_arguments(claims: tuple[str, ...] = QUICK_CLAIMS) -> list[str]:
    """What makes a pytest that was started elsewhere run the project's own claims."""
    return [
        *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider"),
        *(str(ROOT / path) for path in claims),
    ]


class Suite:
    """Runs sessions inside this process; figures are not drawn, everything else is real."""

    def __init__(self, pytester: pytest.Pytester, material: Material) -> None:
        self.pytester = pytester
        self.material = material
        self.output = pytester.path / "out"
        self.plugins: list[object] = []  # of every session

    def run(
        self,
        *options: str | Path,
        model: str | Path | None = None,
        claims: tuple[str, ...] = QUICK_CLAIMS,
        texts: bool = True,
    ) -> pytest.RunResult:
        """A session on the tiny model, or on another.

        Args:
            options: further ones.
            model: value of `--model`; empty for no such option.
            claims: files or node ids, relative to the project.
            texts: whether the material's texts are given.
        """
        chosen = self.material.model if model is None else model
        return self.pytester.runpytest_inprocess(
            *pytest_arguments(claims),
            *(["--model", str(chosen)] if chosen != "" else []),
            *(self.material.texts if texts else []),
            f"--output={self.output}",
            *("-p", "no:hypothesispytest"),
            *map(str, options),
            no_reraise_ctrlc=True,
            plugins=self.plugins,
        )


def everything(result: pytest.RunResult) -> str:
    """All that a session wrote."""
    return result.stdout.str() + "\n" + result.stderr.str()


def assert_no_traceback(result: pytest.RunResult) -> None:
    """Neither Python's own nor pytest's, which ends in a line of the source."""
    for sign in ("Traceback", "INTERNALERROR", "\nE  "):
        assert sign not in everything(result)
