"""Model folders with the shapes of real models, and seeded random weights with outlier channels as in real models.

    python -m benchmarks.shapes qwen0.5b FOLDER             # 24 blocks, 1 GB
    python -m benchmarks.shapes qwen0.5b FOLDER --blocks 2
    python -m benchmarks.shapes qwen7b FOLDER --config-only

The cost of measuring depends on shapes alone, so such a folder can replace a model that cannot be fetched. Its verdicts
mean nothing. It is loaded like any local folder: `pytest claims --model FOLDER`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from fixtures.models.quiet import quiet
from fixtures.models.resolve import EMBEDDED_FOLDER
from reports.command import Parser
from tools.train_embedded import END_OF_TEXT

OUTLIER_SHARE = 0.005
"""Share of a site's channels that are enlarged, at least one."""
OUTLIER_SIZES = (8.0, 30.0)
"""Smallest and largest factor of enlarged channels; factors are drawn log-uniformly between them."""
BIAS_SIZE = 0.3
"""Standard deviation of the query, key and value biases, which the class initialises to zero."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2 model.

    Attributes:
        hidden: width of the residual stream.
        intermediate: width inside the MLP.
        blocks: number of transformer blocks.
        heads: number of query heads.
        key_value_heads: number of key-value heads.
        vocabulary: number of tokens that the model knows.
        context: largest number of positions.
        tied: whether the output head shares the embeddings' weight.
    """

    hidden: int
    intermediate: int
    blocks: int
    heads: int
    key_value_heads: int
    vocabulary: int = 151_936
    context: int = 32_768
    tied: bool = True

    def config(self) -> Qwen2Config:
        """Make the configuration, with the rope and norms of Qwen2.5."""
        return Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            max_position_embeddings=self.context,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            rms_norm_eps=1e-6,
            tie_word_embeddings=self.tied,
            bos_token_id=0,
            eos_token_id=0,
        )


def scaled(width: int, blocks: int) -> Shape:
    """Make a shape with the proportions of Qwen2.5-0.5B and a small vocabulary, so that blocks dominate the cost.

    Args:
        width: width of the residual stream, a multiple of 64 (the size of a head).
        blocks: number of transformer blocks.

    Raises:
        ValueError: if the width is not a multiple of 64.
    """
    if width % 64:
        raise ValueError(f"width must be a multiple of 64, got {width}")
    heads = width // 64
    key_value_heads = max(count for count in range(1, max(1, heads // 7) + 1) if heads % count == 0)
    intermediate = max(128, round(width * 4864 / 896 / 128) * 128)
    return Shape(width, intermediate, blocks, heads, key_value_heads, vocabulary=1024, context=4096)


SHAPES = {
    "qwen0.5b": Shape(896, 4864, 24, 14, 2),
    "qwen1.5b": Shape(1536, 8960, 28, 12, 2),
    "qwen3b": Shape(2048, 11_008, 36, 16, 2),
    "qwen7b": Shape(3584, 18_944, 28, 28, 4, vocabulary=152_064, context=131_072, tied=False),
    **{f"width{width}": scaled(width, 4) for width in (64, 128, 256, 512, 896)},
}
"""Shapes by name: Qwen2.5's base models, and models of equal proportions and different widths for curves."""


def write_model(folder: Path, shape: Shape, *, seed: int = 0, with_weights: bool = True) -> Path:
    """Write a model folder: configuration, tokenizer, and bfloat16 safetensors.

    Args:
        folder: folder to write.
        shape: sizes of the model.
        seed: seed of weights, biases and outlier channels.
        with_weights: whether to write the weights.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer(shape.context).save_pretrained(folder)
    if not with_weights:
        config = shape.config()
        config.architectures = ["Qwen2ForCausalLM"]
        config.dtype = torch.bfloat16
        config.save_pretrained(folder)
        return folder
    with quiet():
        random_model(shape, seed).to(torch.bfloat16).save_pretrained(folder)
    return folder


def random_model(shape: Shape, seed: int = 0) -> Any:
    """Make a float32 model in evaluation mode, with its class's initial weights, random biases and outlier channels."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: Any = Qwen2ForCausalLM(shape.config())
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for block in model.model.layers:
                for channels in _sources_of_sites(block):
                    _enlarge(channels, generator)
                for name in ("q_proj", "k_proj", "v_proj"):
                    getattr(block.self_attn, name).bias.normal_(0, BIAS_SIZE, generator=generator)
    return model.eval()


def _sources_of_sites(block: Any) -> Iterator[Tensor]:
    """Yield the weights that produce the channels of each input site, one row per channel.

    They are the norms before q and gate, v before o, and up before down.
    """
    yield block.input_layernorm.weight
    yield block.self_attn.v_proj.weight
    yield block.post_attention_layernorm.weight
    yield block.mlp.up_proj.weight


def _enlarge(channels: Tensor, generator: torch.Generator) -> None:
    count = max(1, round(OUTLIER_SHARE * len(channels)))
    chosen = torch.randperm(len(channels), generator=generator)[:count]
    low, high = (torch.tensor(size).log() for size in OUTLIER_SIZES)
    factors = (low + (high - low) * torch.rand(count, generator=generator)).exp()
    channels[chosen] *= factors.view(-1, *[1] * (channels.ndim - 1))


def _tokenizer(context: int) -> PreTrainedTokenizerFast:
    """Make the embedded models' tokenizer, whose 1024 ids all shapes' vocabularies contain."""
    tokenizer = Tokenizer.from_file(str(EMBEDDED_FOLDER / "embedded-small" / "tokenizer.json"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, model_max_length=context)


def main() -> None:
    """Write a model folder from the command line."""
    parser = Parser(prog="python -m benchmarks.shapes", description="Write a model folder with seeded random weights.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", type=int, help="fewer blocks than the real model has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config-only", action="store_true", help="configuration and tokenizer, no weights")
    arguments = parser.parse_args()
    if arguments.blocks is not None and arguments.blocks < 1:
        parser.error(f"--blocks must be at least 1, got {arguments.blocks}")
    shape = SHAPES[arguments.shape]
    shape = replace(shape, blocks=arguments.blocks or shape.blocks)
    write_model(arguments.folder, shape, seed=arguments.seed, with_weights=not arguments.config_only)
    written = sum(path.stat().st_size for path in arguments.folder.iterdir())
    sys.stdout.write(f"{arguments.folder}: {arguments.shape}, {shape.blocks} blocks, {written / 1e6:.0f} MB\n")


if __name__ == "__main__":
    main()
