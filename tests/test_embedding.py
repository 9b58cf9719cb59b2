"""Embeddings against transformers'."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, EsmModel

from plm_composer.embedding import embed, save_embeddings
from plm_composer.errors import UserError
from plm_composer.loading import load_model

PROTEINS = [b"MKVLLA", b"M", b"ACDEFGHIKLMNPQRSTVWYXBZ", b"GGG"]


def test_embeddings_are_those_of_transformers_in_the_order_given(finished_run) -> None:
    folder = finished_run.folder / "export"
    reference, tokenizer = EsmModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model = load_model(folder).model
    means = embed(model, PROTEINS, batch_tokens=12)
    residues = embed(model, PROTEINS, per_residue=True)
    for protein, mean, each in zip(PROTEINS, means, residues, strict=True):
        with torch.no_grad():
            hidden = reference(**tokenizer(protein.decode(), return_tensors="pt")).last_hidden_state[0, 1:-1].numpy()
        np.testing.assert_allclose(each, hidden, atol=1e-4)
        np.testing.assert_allclose(mean, hidden.mean(0), atol=1e-4)


def test_files_read_back(tmp_path: Path) -> None:
    names = ["a", "b é"]
    means = [np.ones(4, np.float32), np.zeros(4, np.float32)]
    residues = [np.ones((2, 4), np.float32), np.zeros((3, 4), np.float32)]
    save_embeddings(tmp_path / "mean.npz", names, means)
    save_embeddings(tmp_path / "each.npz", names, residues)
    save_embeddings(tmp_path / "each.safetensors", names, residues)
    mean, each = np.load(tmp_path / "mean.npz"), np.load(tmp_path / "each.npz")
    assert mean["names"].tolist() == names
    assert mean["embeddings"].tolist() == [[1] * 4, [0] * 4]
    assert each["1"].shape == (3, 4)
    with safe_open(tmp_path / "each.safetensors", "np") as file:
        assert file.metadata()["names"].split("\n") == names
        assert file.get_tensor("1").shape == (3, 4)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        save_embeddings(tmp_path / "none" / "a.npz", ["a"], [np.ones(4, np.float32)])
