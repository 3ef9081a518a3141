"""What a module was called with on the calibration tokens, run again on some of them with other weights.

What is compared on the same inputs is called a case: a whole sequence where tokens of a sequence read one another
(attention); else a few tokens that lie far apart, since neighbours and repetitions err alike and a few of each kind
say more than many of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

CASE_TOKENS = 16
"""Tokens in a case, where each token stands for itself."""

BATCH_TOKENS = 4096
"""Tokens that are run at once."""

Call = tuple[tuple[Any, ...], dict[str, Any], Tensor]
"""Positional and keyword arguments, and the output."""


@dataclass(frozen=True)
class Replay:
    """One call to be repeated.

    Attributes:
        module: what is called.
        args: positional arguments.
        kwargs: keyword arguments.
        expected: what the full-precision weights gave.
        cases: `(rows,)`, for each sequence or token its case's place among those that were asked for.
        share: of its case, that each row is.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    expected: Tensor
    cases: np.ndarray
    share: float

    def output(self) -> Tensor:
        """What the module gives now."""
        with torch.no_grad():
            return output_of(self.module(*self.args, **self.kwargs))

    def add_losses(self, losses: np.ndarray) -> None:
        """Add the mean squared change of the output, with whatever weights the module has now, to its cases' losses."""
        self.add((self.output() - self.expected).float().square(), losses)

    def add(self, squared: Tensor, losses: np.ndarray) -> None:
        """Add the means of squared changes, `(rows, ...)` or with a leading one, to the losses `(cases,)`."""
        means = squared.reshape(len(self.cases), -1).mean(dim=1, dtype=torch.float64)  # (rows,)
        losses += np.bincount(self.cases, means.cpu().numpy() * self.share, minlength=len(losses))


class Calls(Protocol):
    """The calls of one module.

    Attributes:
        cases: how many there are; the mean of their losses is the mean over all tokens.
    """

    cases: int

    def replays(self, chosen: np.ndarray) -> Iterator[Replay]:
        """The calls to be repeated for some cases, given by their indices `(n,)`."""
        ...


class SequenceCalls:
    """Whole sequences: each is a case.

    Args:
        module: what was called.
        calls: with some of the sequences each, in order.
    """

    def __init__(self, module: nn.Module, calls: list[Call]) -> None:
        self.module = module
        self.calls = calls
        self.cases = sum(len(output) for _, _, output in calls)

    def replays(self, chosen: np.ndarray) -> Iterator[Replay]:
        """The calls to be repeated for some sequences."""
        start = 0
        for args, kwargs, output in self.calls:
            mine = np.flatnonzero((chosen >= start) & (chosen < start + len(output)))
            if len(mine):
                rows = torch.as_tensor(chosen[mine] - start, device=output.device)
                some = _selecting(rows, output)
                named = {name: some(value) for name, value in kwargs.items()}
                yield Replay(self.module, tuple(map(some, args)), named, output[rows], mine, 1.0)
            start += len(output)


class TokenCalls:
    """Tokens that do not read one another: a case is `CASE_TOKENS` of them, spread over the whole text.

    Args:
        module: what was called; its arguments are hidden states alone.
        calls: with some of the tokens each; emptied, so that nothing is kept twice.
    """

    def __init__(self, module: nn.Module, calls: list[Call]) -> None:
        self.module = module
        self.lead = calls[0][2].ndim - 2  # dimensions before the tokens, where sequences are told apart
        self.expected = torch.cat([output.flatten(0, -2) for _, _, output in calls])  # (T, width)
        count = len(calls[0][0])
        self.args = [torch.cat([args[index].flatten(0, -2) for args, _, _ in calls]) for index in range(count)]
        self.kwargs = {name: torch.cat([kwargs[name].flatten(0, -2) for _, kwargs, _ in calls]) for name in calls[0][1]}
        calls.clear()
        self.tokens = len(self.expected)
        self.cases = -(-self.tokens // CASE_TOKENS)

    def replays(self, chosen: np.ndarray) -> Iterator[Replay]:
        """The calls to be repeated for some cases: every so manieth token, beginning with the case's own index."""
        members = [np.arange(case, self.tokens, self.cases) for case in chosen]
        tokens = np.concatenate(members)
        cases = np.repeat(np.arange(len(chosen)), [len(member) for member in members])
        for start in range(0, len(tokens), BATCH_TOKENS):
            part = slice(start, start + BATCH_TOKENS)
            rows = torch.as_tensor(tokens[part], device=self.expected.device)
            args = tuple(self._some(value, rows) for value in self.args)
            kwargs = {name: self._some(value, rows) for name, value in self.kwargs.items()}
            # The last cases may be a token short; with this share their mean is still that over all tokens.
            share = self.cases / self.tokens
            yield Replay(self.module, args, kwargs, self._some(self.expected, rows), cases[part], share)

    def _some(self, value: Tensor, rows: Tensor) -> Tensor:
        return value[rows][(None,) * self.lead]


def is_of_tokens(calls: list[Call]) -> bool:
    """Whether every argument of a module is hidden states: `(..., tokens, width)` like its output."""
    return bool(calls) and all(
        isinstance(value, Tensor) and value.shape[:-1] == output.shape[:-1]
        for args, kwargs, output in calls
        for value in (*args, *kwargs.values())
    )


def output_of(output: Any) -> Tensor:
    """A module's output without what may come beside it (attention weights, router scores)."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _selecting(rows: Tensor, output: Tensor) -> Callable[[Any], Any]:
    """Takes some of the sequences out of a module's argument.

    Hidden states have as many dimensions as the output; masks and positions have others, and hold for every sequence.
    """

    def some(value: Any) -> Any:
        of_sequences = isinstance(value, Tensor) and value.ndim == output.ndim and len(value) == len(output)
        return value[rows] if of_sequences else value

    return some
