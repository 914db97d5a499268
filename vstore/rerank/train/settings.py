"""The dials of fine-tuning, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vstore.settings import require

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class LoRA:
    """Train low-rank differences of the weights instead of the weights (Hu et al. 2021), by peft.

    Raises:
        InvalidSetting: a value outside its limits.
    """

    rank: int = 8
    alpha: int = 16
    """The difference is B A * alpha / rank."""
    dropout: float = 0.0
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Ends of module names, as "q_proj"."""
    merge: bool = False
    """Write whole weights instead of an adapter, which needs its base model beside it."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, f"rank is {self.rank!r}; it must be 1 or more")
        require(self.alpha > 0, f"alpha is {self.alpha!r}; it must be above 0")
        require(0 <= self.dropout < 1, f"dropout is {self.dropout!r}; it must be from 0 to below 1")
        require(len(self.targets) > 0, "targets is empty; name modules, or say 'all-linear'")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How `fine_tune` trains.

    Raises:
        InvalidSetting: a value outside its limits.
    """

    n_steps: int = 1000
    """Updates of the weights."""
    learning_rate: float = 2e-5
    """Its greatest value, of AdamW (Loshchilov & Hutter 2019)."""
    warmup: float = 0.1
    """Share of the steps over which it rises; then it falls along a cosine to 0."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    batch_queries: int = 4
    """Queries of a forward pass, all of one filter."""
    accumulate: int = 1
    """Forward passes of a step: gradients add up."""
    n_positives: int = 1
    n_negatives: int = 7
    """Drawn for each query and pass from what was mined."""
    in_batch: bool = True
    """The documents of the other queries of a pass count too: all of a pass have one filter."""
    temperature: float = 1.0
    """Divides the scores under the softmax."""
    mine_depth: int = 100
    """Hits of the first stage that negatives are drawn from."""
    guard: float | None = 0.95
    """Against false negatives: hits nearer than this share of the way from the lowest hit's score to the best
    positive's are left out. None keeps them."""
    average: float | None = None
    """Decay a step of the moving average of the weights that is measured and kept (Polyak & Juditsky 1992),
    such as 0.999; None keeps the weights themselves."""
    freeze: tuple[str, ...] = ()
    """Weights with any of these in their name keep their values."""
    lora: LoRA | None = None
    """None trains the weights themselves."""
    precision: Precision = "auto"
    """Of the forward pass: "auto" is bfloat16 on a GPU that has it, else float32."""
    eval_every: int = 100
    """Steps between measurements on the held-out queries."""
    eval_depth: int = 50
    """Hits that are re-ranked there."""
    patience: int = 5
    """Measurements without a better nDCG@10 that end the training; 0 never ends it early."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    n_views: int = 4
    """Augmented versions of each image, made once and kept; only with `augment`."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "n_steps", "batch_queries", "accumulate", "n_positives", "n_negatives", "mine_depth",
            "eval_every", "eval_depth", "checkpoint_every", "n_views",
        ):  # fmt: skip
            value = getattr(self, name)
            require(
                isinstance(value, int) and not isinstance(value, bool) and value >= 1,
                f"{name} is {value!r}; it must be a whole number of 1 or more",
            )
        for name in ("learning_rate", "max_grad_norm", "temperature"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)!r}; it must be above 0")
        for name in ("weight_decay", "patience", "seed"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)!r}; it must be 0 or more")
        require(0 <= self.warmup <= 1, f"warmup is {self.warmup!r}; it must be a share from 0 to 1")
        require(
            self.guard is None or 0 < self.guard <= 1,
            f"guard is {self.guard!r}; it must be a share above 0 and at most 1, or None",
        )
        require(
            self.average is None or 0 < self.average < 1,
            f"average is {self.average!r}; it must be above 0 and below 1, or None",
        )
        require(
            self.precision in ("auto", "float32", "bfloat16"),
            f"precision is {self.precision!r}; it must be auto, float32 or bfloat16",
        )
        require(
            not isinstance(self.freeze, str),
            f"freeze is {self.freeze!r}; it must be a tuple of parts of names",
        )
