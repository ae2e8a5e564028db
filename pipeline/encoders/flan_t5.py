"""FLAN-T5 embeddings of class labels: AudioLDM-2's second conditional input (paper section 4.1.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from common.errors import WeightsError
from pipeline.encoders.base import Encoder, Precision, check_precision
from pipeline.encoders.settings import FlanT5Config


def byte_tokenizer(max_tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer of 256 bytes with pad 0, end 1 and unknown 2: no vocabulary file, no unseen text."""
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[symbol] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=max_tokens,
    )


class FlanT5(Encoder):
    """Labels -> token embeddings and mask."""

    name = "flan_t5"
    config: FlanT5Config
    tokenizer: Any

    def __init__(self, config: FlanT5Config):
        super().__init__(config)
        self.model = T5EncoderModel(
            T5Config(
                d_model=config.width,
                d_ff=config.mlp,
                num_layers=config.layers,
                num_heads=config.heads,
                d_kv=config.head_width,
                vocab_size=config.vocabulary,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            )
        )
        self.tokenizer = byte_tokenizer(config.max_tokens)

    def set_precision(self, precision: Precision) -> None:
        """As of every encoder, but float16 overflows in T5's feed-forward: there all of it stays in float32."""
        check_precision(precision)
        super().set_precision("float32" if precision == "float16" else precision)

    def load(self, paths: Mapping[str, Path]) -> None:
        """Folders of the diffusers repository, read without asking a hub."""
        try:
            model, info = T5EncoderModel.from_pretrained(
                paths["text_encoder_2"],
                local_files_only=True,
                output_loading_info=True,
                torch_dtype=torch.float32,
            )
            self.tokenizer = AutoTokenizer.from_pretrained(paths["tokenizer_2"], local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise WeightsError(f"{paths['text_encoder_2']} is not a FLAN-T5 encoder: {error}") from error
        if info["missing_keys"] or model.config.d_model != self.config.width:
            raise WeightsError(
                f"{paths['text_encoder_2']}: width {model.config.d_model} (wanted {self.config.width}), "
                f"missing {sorted(info['missing_keys'])[:5]}"
            )
        self.model = model

    @torch.inference_mode()
    def encode(self, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Labels -> embeddings (B, L, 1024) float32 and mask (B, L) int64, L the longest label's tokens.

        An empty label is the empty prompt: one end token.
        """
        tokens = self.tokenizer(
            list(labels),
            padding=True,
            truncation=True,
            max_length=self.config.max_tokens,
            return_tensors="pt",
        )
        padded = not bool(tokens.attention_mask.all())  # asked here: transformers would ask the device, and wait
        tokens = tokens.to(self.device)
        with self.autocast():
            output = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask if padded else None)
        return output.last_hidden_state.float(), tokens.attention_mask

    def encode_labels(self, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Each label alone, as one that is padded differs in the last digits."""
        rows = [self.encode([label])[0][0].cpu() for label in labels]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(
            [len(row) for row in rows], dtype=torch.int32
        )
