"""llama-nemotron-rerank-vl: a checkpoint with model and processor code of its own, run only when trusted."""

from __future__ import annotations

from typing import Any

from vstore.errors import InvalidSetting
from vstore.rerank.images import ImageReader
from vstore.rerank.torch_parts import check_loaded, named_error
from vstore.rerank.vision_prompts import Parts
from vstore.rerank.vision_qwen import VisionSettings
from vstore.types import Float32s

TILE_TOKENS = 256
"""Tokens of one image tile, as the model card says; for sorting pairs into batches only."""
MAX_TILES = 6
TILE_PIXELS = 512 * 512
_PROCESS = "process_queries_documents_crossencoder"


class RemoteVisionScorer:
    """A checkpoint whose own processor has `process_queries_documents_crossencoder(examples)`.

    Raises:
        InvalidSetting: it cannot be opened, or its processor has no such method.
    """

    def __init__(
        self,
        path: str,
        torch: Any,
        transformers: Any,
        *,
        device: Any,
        settings: VisionSettings,
        reader: ImageReader,
    ) -> None:
        self._torch, self._device, self._reader = torch, device, reader
        self.max_length = settings.max_length
        try:
            model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                path,
                dtype=getattr(torch, settings.dtype),
                attn_implementation=settings.attention,
                trust_remote_code=True,
                output_loading_info=True,
            )
            check_loaded(path, info)
            self._processor = transformers.AutoProcessor.from_pretrained(
                settings.processor or path,
                trust_remote_code=True,
                max_input_tiles=MAX_TILES,
                use_thumbnail=True,
                rerank_max_length=settings.max_length,
            )
        except Exception as error:
            raise named_error(path, "a re-ranker with code of its own", error) from error
        if not callable(getattr(self._processor, _PROCESS, None)):
            raise InvalidSetting(
                f"the processor of {path!r} has no {_PROCESS}(examples); it is no such re-ranker"
            )
        self.model = model.eval().to(device)

    def measure(self, query: Parts, document: Parts) -> tuple[int, dict[str, Any]]:
        """Return an estimate of the pair's tokens and the pair.

        Raises:
            InvalidDocument: its image is missing, refused or unreadable, or the query has one.
        """
        text, image = document
        n_tokens = (len(query[0] or "") + len(text or "")) // 4 + 8
        if image is not None:
            width, height = self._reader.open(image).size
            n_tokens += TILE_TOKENS * (1 + min(max(width * height // TILE_PIXELS, 1), MAX_TILES))
        return n_tokens, {
            "question": query[0] or "",
            "doc_text": text or "",
            "doc_image": "" if image is None else image,
        }

    def decode(self, pair: dict[str, Any]) -> dict[str, Any]:
        """Return the pair with its image decoded."""
        image = pair["doc_image"]
        return (
            pair
            if isinstance(image, str) and not image
            else {**pair, "doc_image": self._reader.decode(image)}
        )

    def forward(self, pairs: list[dict[str, Any]]) -> Float32s:
        """Return float32[n], raw logits."""
        inputs = getattr(self._processor, _PROCESS)(pairs)
        with self._torch.inference_mode():
            tensors = {
                name: tensor.to(self._device)
                for name, tensor in inputs.items()
                if isinstance(tensor, self._torch.Tensor)
            }
            logits = self.model(**tensors).logits
            scores: Float32s = logits.float().reshape(len(pairs), -1)[:, -1].cpu().numpy()
        return scores
