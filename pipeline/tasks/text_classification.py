"""Text in, one of several classes out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from calibration.errors import InputError
from pipeline.classification import Classification

if TYPE_CHECKING:
    import numpy as np
    import tokenizers
    import torch

    from pipeline.data import Table


@dataclass(frozen=True, kw_only=True)
class TextClassification(Classification):
    """max_length: tokens of the model's input, the special ones included; longer texts are cut at the end."""

    max_length: int = 128

    columns: ClassVar[tuple[str, ...]] = ("text", "label")
    distributions: ClassVar[tuple[str, ...]] = ("tokenizers",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < 3:
            raise InputError(f"max_length: {self.max_length} leaves no room for text", "give at least 3")

    def encode(self, table: "Table", tokenizer: Path | None) -> "dict[str, np.ndarray]":
        """int64 [n, max_length] "input_ids" and "attention_mask"."""
        import numpy as np

        texts = table.columns["text"].tolist()
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"{table.where(i)}: the text is a {type(text).__name__}", "give text, in quotes")
        encoded = self._tokenizer(tokenizer).encode_batch_fast(texts)
        return {
            "input_ids": np.array([e.ids for e in encoded], dtype=np.int64).reshape(-1, self.max_length),
            "attention_mask": np.array([e.attention_mask for e in encoded], dtype=np.int64).reshape(
                -1, self.max_length
            ),
        }

    def assets(self, tokenizer: Path | None) -> dict[str, str]:
        """tokenizer.json: cuts and pads to max_length, so that it gives the model's input by itself."""
        return {"tokenizer.json": self._tokenizer(tokenizer).to_str()}

    def rules(self) -> list[str]:
        """How texts are brought to one length."""
        return [f"texts are tokenized by the teacher's tokenizer, cut and padded to {self.max_length} tokens"]

    def preprocessing(self, data: Path) -> dict[str, Any]:
        """Token ids are the model's inputs."""
        return {
            "kind": "text",
            "inputs": ["input_ids", "attention_mask"],
            "max_length": self.max_length,
            "tokenizer": "tokenizer.json",
        }

    def augment(self, inputs: "dict[str, torch.Tensor]", view: int) -> "dict[str, torch.Tensor]":
        """In a view above 0 about a tenth of the tokens, never the first, is hidden from the attention.

        Which ones depends on the token, its position and the view alone, so a sample's view is the same in any batch.
        """
        if view == 0:
            return inputs
        import torch

        ids = inputs["input_ids"]
        position = torch.arange(ids.shape[1], device=ids.device)
        # Knuth's multiplicative hash: products of odd constants spread over the upper bits.
        mixed = (ids * 2654435761 + position * 2246822519 + view * 3266489917) % 2**32 >> 16
        hidden = (mixed % 10 == 0) & (position > 0)
        return inputs | {"attention_mask": inputs["attention_mask"].masked_fill(hidden, 0)}

    def _tokenizer(self, folder: Path | None) -> "tokenizers.Tokenizer":
        import tokenizers

        if folder is None:
            raise InputError(
                "text needs a tokenizer, and the teacher has none", "give teacher.folder, a Hugging Face folder"
            )
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise InputError(
                f"there is no {file}",
                "save the tokenizer with AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
            )
        content = json.dumps(_json(file))
        try:
            tokenizer = tokenizers.Tokenizer.from_str(content)
        except Exception as error:
            if type(error) is not Exception:  # tokenizers raises nothing more precise
                raise
            raise InputError(f"{file} is no tokenizer: {error}", "save the tokenizer again") from error
        pad = _pad_token(folder, tokenizer)
        tokenizer.enable_truncation(self.max_length)
        tokenizer.enable_padding(length=self.max_length, pad_id=tokenizer.token_to_id(pad) or 0, pad_token=pad)
        return tokenizer


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{file} cannot be read: {error}", "save the tokenizer again") from error


def _pad_token(folder: Path, tokenizer: "tokenizers.Tokenizer") -> str:
    """The token that tokenizer.json or tokenizer_config.json names, or the usual one."""
    if tokenizer.padding is not None:
        return tokenizer.padding["pad_token"]
    config = folder / "tokenizer_config.json"
    settings = _json(config) if config.is_file() else {}
    if not isinstance(settings, dict):
        raise InputError(f"{config} holds no settings", "save the tokenizer again")
    named = settings.get("pad_token")
    name = named["content"] if isinstance(named, dict) else named or "[PAD]"
    if tokenizer.token_to_id(name) is None:
        raise InputError(
            f"{folder / 'tokenizer.json'} has no padding token {name!r}", "set pad_token and save the tokenizer again"
        )
    return name
