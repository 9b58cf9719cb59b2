"""Runs with transformers 5 on the path: ``make FOLDER`` saves a small model there, ``read FOLDER`` loads one.

Both save the model's logits of ``IDS`` there.
"""

import sys
from pathlib import Path

import torch
from transformers import EsmConfig, EsmForMaskedLM

IDS = torch.tensor([[0, 20, 15, 11, 32, 5, 19, 12, 2]])


def make(folder: Path) -> EsmForMaskedLM:
    """Saves a model of two layers whose rotary base is none of ESM2's."""
    torch.manual_seed(1)
    config = EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
        position_embedding_type="rotary", layer_norm_eps=1e-5, token_dropout=True, emb_layer_norm_before=False,
        rope_theta=5000.0,
    )  # fmt: skip
    model = EsmForMaskedLM(config)
    model.save_pretrained(folder)
    return model


if __name__ == "__main__":
    mode, folder = sys.argv[1], Path(sys.argv[2])
    model = (make(folder) if mode == "make" else EsmForMaskedLM.from_pretrained(folder)).eval()
    with torch.no_grad():
        torch.save(model(IDS).logits, folder / "logits.pt")
