"""The fine-tuning loop: mined lists in, a folder that loads through the re-ranker's own class out."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vstore.errors import InvalidInput
from vstore.progress import Report, progress_of
from vstore.rerank import metrics
from vstore.rerank.torch_parts import import_torch
from vstore.rerank.train import checkpoint
from vstore.rerank.train.batches import Batch, Sampler, listwise_loss
from vstore.rerank.train.checkpoint import Progress
from vstore.rerank.train.mining import Mined, mine
from vstore.rerank.train.queries import Searched, TrainQuery, check_queries, split
from vstore.rerank.train.settings import TrainSettings
from vstore.rerank.train.trainable import Trainable, trainable_of, with_lora
from vstore.rerank.train.views import Augment
from vstore.settings import require
from vstore.types import Candidate

EVAL_PAIRS = 64
"""Pairs of a forward pass of the measurements."""
REPORT = "training.json"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What `fine_tune` did. `folder` loads through the re-ranker's class once `finished`."""

    folder: Path
    finished: bool
    n_steps: int
    """Steps done, over all calls."""
    n_queries: int
    """Trained on."""
    n_skipped: int
    """Queries without a wrong document under their filter: nothing to tell apart."""
    n_held_out: int
    n_unreadable: int
    """Documents that could not be read, in this call."""
    ndcg_first: float
    """nDCG@10 of the first stage on the held-out queries; NaN without any."""
    ndcg_best: float
    """Of the weights that were kept."""
    best_step: int
    history: tuple[tuple[int, float, float], ...]
    """(step, mean loss, nDCG@10 of the held-out queries) of each measurement."""
    seconds: float
    """Of training and measuring, over all calls."""


def fine_tune(
    reranker: Any,
    collection: Searched,
    queries: Sequence[TrainQuery],
    folder: str | Path,
    *,
    settings: TrainSettings | None = None,
    held_out: float | Sequence[TrainQuery] = 0.2,
    augment: Augment | None = None,
    until: int | None = None,
    progress: bool | Report | None = True,
    clock: Callable[[], float] = time.perf_counter,
) -> TrainResult:
    """Train a re-ranker on a collection's own documents and write it to a folder.

    Negatives are mined by the collection's search under each query's filter (`mine`); the loss is listwise
    (`listwise_loss`); AdamW with warm-up and cosine. Every `eval_every` steps the held-out queries' first
    hits are re-ranked; the weights with the best nDCG@10 are kept. A call that stops, by `until`, an
    interrupt or a crash, is repeated with the same arguments and goes on from the last checkpoint to the same
    weights as one that never stopped (on one device type, with one number of threads).

    Args:
        reranker: a `VisionLanguageReranker` or `CrossEncoderReranker`; it is trained in place.
        collection: the documents; searched and read through its public face.
        queries: with positives.
        folder: for the checkpoint, then for the model; made if it is not there.
        settings: the dials.
        held_out: queries that stop the training early and choose the weights, or which share of `queries`.
        augment: makes versions of the documents' images, as `PhotoAugment`.
        until: stop this call at that step, with a checkpoint.
        progress: True for a bar on a terminal, or a function of (steps done, of all).
        clock: seconds, for the report.

    Raises:
        InvalidInput: queries that cannot be used, or a folder with a finished training.
        InvalidSetting: a model that cannot be trained, or a checkpoint of another training.
        MissingDependency: torch, transformers or, for LoRA, peft cannot be imported.
    """
    torch, _ = import_torch("fine_tune")
    settings = settings or TrainSettings()
    require(until is None or until >= 1, f"until is {until!r}; it must be a step from 1 on")
    check_queries(queries, "fine_tune")
    folder = Path(folder)
    if (folder / REPORT).exists():
        raise InvalidInput(f"{folder} holds a finished training; give another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    trained, held = split(queries, held_out, settings.seed)
    depth = max(settings.mine_depth, settings.eval_depth)
    with progress_of(progress if progress is True else None, "mining", "queries") as report:
        mined = mine(collection, trained, depth=settings.mine_depth, guard=settings.guard, progress=report)
        judged = mine(collection, held, depth=depth, guard=None) if held else []
    usable = [each for each in mined if each.negatives]
    if not usable:
        raise InvalidInput(
            f"none of the {len(mined)} queries has a wrong document among its first {settings.mine_depth} "
            "hits; give a wider filter, a greater mine_depth, or guard=None"
        )
    made = trainable_of(reranker, settings, augment)
    with _own_random(torch, made.device):
        run = _Run(torch, made, usable, judged, settings, folder, augment is not None)
        with progress_of(progress, "training", "steps") as report:
            finished = run.go(until, report, clock)
        if finished:
            run.finish()
    reranker.forget()
    result = run.result(finished, len(mined) - len(usable))
    if finished:
        _write(result, settings, folder)
        (folder / checkpoint.FILE).unlink(missing_ok=True)
    return result


class _Run:
    """One training between its start or checkpoint and its end or stop."""

    def __init__(
        self,
        torch: Any,
        made: Trainable,
        mined: Sequence[Mined],
        judged: Sequence[Mined],
        settings: TrainSettings,
        folder: Path,
        augmented: bool,
    ) -> None:
        self._torch, self._made, self._settings, self._folder = torch, made, settings, folder
        self._mined, self._judged = mined, judged
        torch.manual_seed(settings.seed)
        self._adapter = with_lora(made, settings)
        self._weights = _trained_weights(made, settings)
        self._optimizer = _optimizer(torch, self._weights, settings)
        self._sampler = Sampler(mined, made, settings, augmented)
        shapes = [f"{name} {tuple(weight.shape)}" for name, weight in self._weights.items()]
        self._mark = checkpoint.fingerprint(made.path, settings, mined, judged, [*shapes, str(augmented)])
        found = checkpoint.load(torch, folder, self._mark, self._weights, self._optimizer)
        self.progress = found or Progress()
        averaged = self.progress.averaged
        self.progress.averaged = {name: each.to(made.device) for name, each in averaged.items()}
        self._torn = False
        self._ahead: tuple[int, Future[Batch]] | None = None

    def go(self, until: int | None, report: Report, clock: Callable[[], float]) -> bool:
        """Train; return whether it is over, rather than stopped."""
        settings, at = self._settings, self.progress
        end = settings.n_steps if until is None else min(until, settings.n_steps)
        began = clock() - at.seconds
        saved = at.step
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        try:
            # A stop may have come between a step and its measurement.
            self._measure_if_due()
            while at.step < end and not self._stale():
                self._step()
                self._measure_if_due()
                at.seconds = clock() - began
                report(at.step, settings.n_steps)
                if at.step % settings.checkpoint_every == 0:
                    self._save()
                    saved = at.step
        finally:
            self._preparing.shutdown(cancel_futures=True)
            self._ahead = None
            # Weights of which an interrupt left half updated are no place to go on from.
            if at.step > saved and not self._torn:
                self._save()
        return at.step >= settings.n_steps or self._stale()

    def finish(self) -> None:
        """Put the best weights into the model and write it."""
        self._put(self.progress.best_weights or self.progress.averaged)
        self._train_mode(False)
        adapter = self._adapter
        if adapter is not None and self._settings.lora is not None and self._settings.lora.merge:
            self._made.modules[""] = adapter.merge_and_unload()
            adapter = None
        self._made.save(self._folder, adapter)

    def result(self, finished: bool, n_skipped: int) -> TrainResult:
        """Return the figures."""
        at = self.progress
        firsts = [_ndcg(each, [c.id for c in each.ranked]) for each in self._judged]
        return TrainResult(
            folder=self._folder,
            finished=finished,
            n_steps=at.step,
            n_queries=len(self._mined),
            n_skipped=n_skipped,
            n_held_out=len(self._judged),
            n_unreadable=len(self._sampler.unreadable),
            ndcg_first=float(np.mean(firsts)) if firsts else math.nan,
            ndcg_best=at.best_ndcg if at.best_ndcg >= 0 else math.nan,
            best_step=at.best_step if at.best_weights else at.step,
            history=tuple(at.history),
            seconds=at.seconds,
        )

    def _step(self) -> None:
        settings, torch = self._settings, self._torch
        self._train_mode(True)
        self._optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in range(settings.accumulate):
            number = self.progress.step * settings.accumulate + part
            # Dropout too follows from the seed and the pass, wherever the training goes on.
            torch.manual_seed(settings.seed * 1_000_003 + number)
            batch = self._batch(number)
            if not batch.pairs:
                continue
            with self._precision():
                logits = self._made.logits(batch.pairs)
            loss = listwise_loss(torch, logits.float(), batch, settings.temperature)
            self._look_ahead(number + 1)
            if loss is not None:
                (loss / settings.accumulate).backward()
                total += float(loss.detach()) / settings.accumulate
        torch.nn.utils.clip_grad_norm_(list(self._weights.values()), settings.max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(self.progress.step, settings)
        self._torn = True
        self._optimizer.step()
        self._average()
        self.progress.losses.append(total)
        self.progress.step += 1
        self._torn = False

    def _batch(self, number: int) -> Batch:
        """Return a forward pass, the one that was made ahead where it is that."""
        known, self._ahead = self._ahead, None
        if known is not None and known[0] == number:
            return known[1].result()
        return self._preparing.submit(self._sampler.batch, number).result()

    def _look_ahead(self, number: int) -> None:
        """Begin to make a forward pass. Passes follow from their numbers alone, so it changes nothing.

        It runs beside the gradients, which torch works out without the interpreter. Beside a forward pass it
        would take turns with each of its calls: a step of a small model took a quarter more.
        """
        self._ahead = (number, self._preparing.submit(self._sampler.batch, number))

    def _settled(self) -> None:
        """Wait for what is made ahead: images are kept for one reader at a time."""
        if self._ahead is not None:
            self._ahead[1].exception()

    def _average(self) -> None:
        at, decay = self.progress, self._settings.average
        if decay is None:
            return
        if not at.averaged:
            at.averaged = {name: weight.detach().clone() for name, weight in self._weights.items()}
        # Early on the random start is forgotten faster.
        share = 1 - min(decay, (1 + at.step) / (10 + at.step))
        with self._torch.no_grad():
            for name, weight in self._weights.items():
                at.averaged[name].lerp_(weight, share)

    def _put(self, weights: dict[str, Any]) -> None:
        with self._torch.no_grad():
            for name, value in weights.items():
                self._weights[name].copy_(value)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Have the averaged weights in the model for a while, where there are any."""
        if not self.progress.averaged:
            yield
            return
        trained = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._put(self.progress.averaged)
        try:
            yield
        finally:
            self._put(trained)

    def _measure_if_due(self) -> None:
        at, settings = self.progress, self._settings
        known = at.history[-1][0] if at.history else 0
        due = at.step % settings.eval_every == 0 or at.step == settings.n_steps
        if due and at.step > known:
            self._measure()

    def _measure(self) -> None:
        at = self.progress
        found = math.nan
        if self._judged:
            self._settled()
            self._train_mode(False)
            with self._averaged():
                found = float(np.mean([_ndcg(each, self._ranked(each)) for each in self._judged]))
                if found > at.best_ndcg:
                    at.best_ndcg, at.best_step, at.n_stale = found, at.step, 0
                    at.best_weights = {
                        name: weight.detach().cpu().clone() for name, weight in self._weights.items()
                    }
                else:
                    at.n_stale += 1
        at.history.append((at.step, float(np.mean(at.losses)), found))
        at.losses.clear()

    def _ranked(self, mined: Mined) -> list[Any]:
        """Return ids in the model's order; what cannot be read stays behind, and deeper hits behind that."""
        depth = self._settings.eval_depth
        head, tail = mined.ranked[:depth], mined.ranked[depth:]
        good, pairs = [], []
        for candidate in head:
            try:
                pairs.append(self._made.prepare(mined.query.document, candidate, 0))
                good.append(candidate)
            except InvalidInput:
                self._sampler.unreadable.add(candidate.id)
        scores = []
        with self._torch.no_grad(), self._precision():
            for start in range(0, len(pairs), EVAL_PAIRS):
                scores += self._made.logits(pairs[start : start + EVAL_PAIRS]).float().tolist()
        order = np.argsort(-np.array(scores), kind="stable")
        ranked: list[Candidate] = [good[i] for i in order]
        kept = {candidate.id for candidate in ranked}
        return [c.id for c in [*ranked, *(c for c in head if c.id not in kept), *tail]]

    def _stale(self) -> bool:
        return 0 < self._settings.patience <= self.progress.n_stale

    def _save(self) -> None:
        checkpoint.save(self._torch, self._folder, self._mark, self.progress, self._weights, self._optimizer)

    def _train_mode(self, on: bool) -> None:
        for module in self._made.modules.values():
            module.train(on)

    def _precision(self) -> Any:
        device, torch = self._made.device.type, self._torch
        asked = self._settings.precision
        if asked == "auto":
            asked = "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"
        return torch.autocast(device, dtype=torch.bfloat16, enabled=asked == "bfloat16")


def rate(step: int, settings: TrainSettings) -> float:
    """Return the share of the learning rate at a step: a linear rise, then half a cosine down to 0."""
    rising = settings.warmup * settings.n_steps
    if step < rising:
        return (step + 1) / rising if rising >= 1 else 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(settings.n_steps - rising, 1)))


def _ndcg(mined: Mined, ids: Sequence[Any]) -> float:
    return metrics.ndcg(ids, {candidate.id: 1.0 for candidate in mined.positives})


def _trained_weights(made: Trainable, settings: TrainSettings) -> dict[str, Any]:
    found = {}
    for prefix, module in made.modules.items():
        for name, weight in module.named_parameters():
            if any(part in prefix + name for part in settings.freeze):
                weight.requires_grad_(False)
            if weight.requires_grad:
                found[prefix + name] = weight
    require(bool(found), f"freeze is {settings.freeze!r} and leaves nothing to train")
    return found


def _optimizer(torch: Any, weights: dict[str, Any], settings: TrainSettings) -> Any:
    # Biases and norms are not drawn to zero.
    groups = [
        {"params": [w for w in weights.values() if w.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [w for w in weights.values() if w.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


@contextlib.contextmanager
def _own_random(torch: Any, device: Any) -> Iterator[None]:
    """Leave torch's random state to the caller as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _write(result: TrainResult, settings: TrainSettings, folder: Path) -> None:
    described = {**asdict(result), "folder": folder.name, "settings": asdict(settings)}
    # JSON has no NaN.
    text = json.dumps(described, default=str, indent=2).replace("NaN", "null")
    (folder / REPORT).write_text(text + "\n")
